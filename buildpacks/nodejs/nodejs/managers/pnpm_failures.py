"""Explains failures of pnpm by the codes that it prints; one table for all its versions.

Called by `pnpm`. The words are those of `failures` if npm fails in the same way.
"""

from __future__ import annotations

import re
from pathlib import Path

from packhorse import sdk
from packhorse.errors import BuildpackFailed, InputError, NetworkError, PackhorseError

from ..failures import CODES, FailedScript, error_for_code, git_address, git_error
from .pnpm_release import NAME

# As pnpm 6 to 10, 11 and 12 print codes; a warning has a word before its code.
_CODE = re.compile(r"^[^\w\n]*(?:Error: )?\[?ERR_PNPM_([A-Z0-9_]+)\b\]?:?[ ]*", re.MULTILINE)
_WORD = re.compile(r"\b[A-Z][A-Z_]+\b")
_REASON = re.compile(r"^[^\w\n]*[A-Z]+ (.* failed, reason: .*)$", re.MULTILINE)
_PROGRESS = re.compile(r"(?:Progress|Packages):|\W*$")
_STATUS = re.compile(r"status client error \((\d+)")
_FRAME = re.compile(r"[\u2500-\u257f\u25b6\u00d7]+")
_IGNORED = re.compile(r"Ignored build scripts: (.+?)\.?\s*(?:Run \"pnpm|$)")
# pnpm prints `.../node_modules/a install$ node-gyp rebuild` for a script, then its lines after `… install: `.
_STAGE = r"(?P<path>\S+) (?:(?:pre|post)?install|prepare)"
_STARTED = re.compile(rf"^({_STAGE})\$ (?P<command>.*)$", re.MULTILINE)
_PRINTED = re.compile(rf"^{_STAGE}[:$] .*$", re.MULTILINE)
_OF_GIT = re.compile(r"^\W*(?:fatal|ssh|error): |Failed to resolve git|git ls-remote")
_SCRIPT_FAILED = re.compile(r"\bELIFECYCLE\b|LIFECYCLE_SCRIPT_FAILED")
_CODES = {
    "FETCH_401": "E401",
    "FETCH_403": "E403",
    "FETCH_404": "E404",
    "NO_MATCHING_VERSION": "ETARGET",
    "TARBALL_INTEGRITY": "EINTEGRITY",
}
_STALE = ("OUTDATED_LOCKFILE", "LOCKFILE_CONFIG_MISMATCH", "LOCKFILE_MISSING_DEPENDENCY")
_BROKEN = ("BROKEN_LOCKFILE", "LOCKFILE_BREAKING_CHANGE")
_ANEW = f"run `pnpm install` and commit {NAME}"
_ALLOW = "run `pnpm approve-builds`, which asks for each, and commit what it changes"
_SHOWN = 6


def pnpm_error(failure: sdk.CommandFailed, root: Path | None = None) -> PackhorseError:
    """The error that a failed pnpm command means."""
    text = _FRAME.sub(" ", failure.output)
    if script := _script_error(text):
        return script
    text = _PRINTED.sub("", text)
    found = list(_CODE.finditer(text))
    code = found[0][1] if found else ""
    reason = _REASON.search(text)
    why = _why(text[found[0].end() :]) if found else reason[1].strip() if reason else ""
    if code == "GIT_RESOLVE_FAILED" or (not code and "git ls-remote" in text):
        said = list(dict.fromkeys(line.strip() for line in text.splitlines() if _OF_GIT.search(line)))
        said = [line for line in said if not line.startswith("pnpm: ")]
        return git_error(git_address(" ".join(said).replace('"', " ")), said)
    if not why and text.startswith("Error: "):
        why = _why(text.removeprefix("Error: "))
    known = error_for_code(_npm_code(code, text), why, client="pnpm", lock=NAME, root=root)
    if known:
        return known
    if code.startswith("FETCH_5") or code == "META_FETCH_FAIL":
        return NetworkError(f"the package registry answered with an error ({code})", why=why)
    if code in _STALE:
        return InputError(f"{NAME} does not match package.json", why=_difference(why), fix=_ANEW)
    if code in _BROKEN:
        return InputError(
            f"{NAME} cannot be read",
            why=why,
            fix=f"{_ANEW}; a lock of another pnpm needs that one named in package.json packageManager",
        )
    if code == "IGNORED_BUILDS":
        return InputError(
            f"pnpm was not told whether to run install scripts: {ignored_scripts(text)}", fix=_ALLOW
        )
    return BuildpackFailed(failure.what, why=why or "its output is above")


def ignored_scripts(output: str) -> str:
    """The packages whose install scripts pnpm did not run, as pnpm lists them; empty if there are none."""
    found = _IGNORED.search(" ".join(_FRAME.sub(" ", output).split()))
    return found[1] if found else ""


def ignored_scripts_warning(packages: str) -> str:
    """The warning that some install scripts did not run."""
    return f"pnpm did not run the install scripts of {packages}, since nothing allows it; {_ALLOW}"


def _npm_code(code: str, text: str) -> str:
    """The code of npm or Node.js with the same meaning as pnpm's code."""
    if code in _CODES:
        return _CODES[code]
    if status := _STATUS.search(" ".join(text.split())):
        return f"E{status[1]}"
    if "Connection refused" in text or (code == "META_FETCH_FAIL" and "fetch failed" in text):
        return "ECONNREFUSED"
    if "dns error" in text:
        return "ENOTFOUND"
    return next((word for word in _WORD.findall(text) if word in CODES), "")


def _script_error(text: str) -> PackhorseError | None:
    """The error for an install script that failed; None if none failed."""
    if not _SCRIPT_FAILED.search(text):
        return None
    started = list(_STARTED.finditer(text))
    said_so = [start for start in started if f"{start[1]}: Failed\n" in f"{text}\n"]
    if not started:
        return None
    failed = (said_so or started)[-1]
    path = failed["path"]
    package = path.rpartition("node_modules/")[2] if "node_modules/" in path else ""
    before = f"{failed[1]}: "
    printed = [line.removeprefix(before) for line in text.splitlines() if line.startswith(before)]
    printed = [line for line in printed if line != "Failed"]
    return FailedScript(package, failed["command"], printed).error()


def _why(text: str) -> str:
    """The first lines of pnpm's message after a code."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join([line for line in lines if not _PROGRESS.match(line)][:_SHOWN])


def _difference(why: str) -> str:
    """The difference between lockfile and package.json, without pnpm's advice to make the lockfile again."""
    lines = why.splitlines()
    told = [line for line in lines if line.startswith(("- ", "specifiers in"))]
    return "\n".join(told[-_SHOWN:]) or (lines[0] if lines else "")
