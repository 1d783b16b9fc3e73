"""Explains failures of Yarn, with the same words as npm's failures. Called by `yarn`.

Yarn 1 prints sentences and no codes. Its successors print both, and for many failures only Node.js's codes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from packhorse import sdk
from packhorse.errors import BuildpackFailed, InputError, PackhorseError

from .. import failures
from ..failures import FailedScript, error_for_code, git_address, git_error
from .yarn_release import NAME

_SHOWN = 5
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_CODED = re.compile(r"^➤ (YN\d{4}): [│·└┌ ]*(.+)$", re.MULTILINE)
_TRACE = re.compile(r"^\s+at |^(?:info|warning) |^\[\d/\d\]|^yarn install v")
_OF_NODE = re.compile(
    r"\b(EAI_AGAIN|ECONNREFUSED|ECONNRESET|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|ETIMEDOUT|ESOCKETTIMEDOUT"
    r"|[A-Z]+_SIGNED_CERT[A-Z_]*|UNABLE_TO_[A-Z_]+|CERT_HAS_EXPIRED|ERR_TLS_CERT_ALTNAME_INVALID)\b"
)
_SENTENCES_OF_NODE = (
    ("unable to get local issuer certificate", "UNABLE_TO_GET_ISSUER_CERT_LOCALLY"),
    ("self-signed certificate", "SELF_SIGNED_CERT_IN_CHAIN"),
    ("self signed certificate", "SELF_SIGNED_CERT_IN_CHAIN"),
    ("unable to verify the first certificate", "UNABLE_TO_VERIFY_LEAF_SIGNATURE"),
    ("socket hang up", "ECONNRESET"),
    ("network connection", "ETIMEDOUT"),
    ("Timeout awaiting", "ETIMEDOUT"),
)
_STATUS = re.compile(r"(?:Request failed \"|Response [Cc]ode:? )(\d{3})")
_BY_STATUS = {"401": "E401", "403": "E403", "404": "E404"}
# What Yarn says → the code that npm has for it.
_SENTENCES = (
    ("Invalid authentication", "E401"),
    ("No authentication configured", "ENEEDAUTH"),
    ("doesn't match the expected checksum", "EINTEGRITY"),
    ("Integrity check failed", "EINTEGRITY"),
    ("the file appears to be corrupt", "EINTEGRITY"),
    ("No candidates found", "ETARGET"),
    ("are quarantined", "ETARGET"),
    ("Couldn't find any versions for", "ETARGET"),
    ("Couldn't find package", "E404"),
    ("Package not found", "E404"),
    ("has been blocked because of your configuration", "ENOTFOUND"),
)
_COMMAND = re.compile(
    r"^error (?:(?P<path>/.*node_modules/[^\n]+): )?Command failed\.\n(?:Exit (?:code|signal): .*\n)*"
    r"(?:Command: (?P<command>.*)\nArguments: (?P<arguments>.*)\nDirectory: .*\n)?(?:Output:\n)?"
    r"(?P<output>(?:(?!info Visit ).*\n?)*)",
    re.MULTILINE,
)
_UNBUILT = re.compile(r"YN0009: [│ ]*([^\s│]+) couldn't be built")
_GIT = re.compile(r"Failed (?:listing refs|cloning[^\n]*)[^\n]*\n[^\n]*Repository URL: (\S+)")
_UNREADABLE = ("YAMLException", "Expected the lockfile entry", "Lockfile.getLocked")
_UNREADABLE_LINE = ("Invalid value", "Unknown token", "Parse error")
_CHANGE = re.compile(r"^➤ YN0028: │ ([-+]\s*\S.*)$", re.MULTILINE)


def classic_error(failure: sdk.CommandFailed, root: Path | None = None) -> PackhorseError:
    """The error that a failed command of Yarn 1 means."""
    output = _COLOR.sub("", failure.output)
    if "Your lockfile needs to be updated" in output:
        return out_of_sync([])
    said = [line.removeprefix("error ").strip() for line in output.splitlines() if line.startswith("error ")]
    if "is incompatible with this module" in output:
        return _engine_error(said)
    return _command_error(output) or _explain(failure, output, said, settings=".npmrc", root=root)


def berry_error(failure: sdk.CommandFailed, root: Path | None = None) -> PackhorseError:
    """The error that a failed command of Yarn 2 or newer means."""
    output = _COLOR.sub("", failure.output)
    coded = [text for code, text in _CODED.findall(output) if code not in ("YN0000", "YN0013")]
    said = coded or [line.strip() for line in output.splitlines() if line.strip() and not _TRACE.match(line)]
    if "YN0028" in output:
        return out_of_sync([line for line in _CHANGE.findall(output) if "checksum:" not in line])
    if "requires a Node version compatible with" in output:
        return _engine_error(said)
    variable = re.search(r"Environment variable not found \((\w+)\)", output)
    if variable:
        return InputError(
            f".yarnrc.yml names a variable that is not set: {variable[1]}",
            fix=f"set it for the build (`--env {variable[1]}`), or give it a default: ${{{variable[1]}:-}}",
        )
    if "Usage Error" in output and (".yarnrc.yml" in output or "<environment>" in output):
        return InputError("Yarn cannot use its settings", why="\n".join(said[:1]), fix="mend .yarnrc.yml")
    if script := _UNBUILT.search(output):
        said_by = f"{script[1]} STD"
        printed = [text.partition(said_by)[2][4:] for _, text in _CODED.findall(output) if said_by in text]
        return FailedScript(_name(script[1]), "", printed).error()
    if git := _GIT.search(output):
        return git_error(git[1], said)
    return _explain(failure, output, said, settings=".yarnrc.yml or .npmrc", root=root)


def out_of_sync(differences: Sequence[str]) -> InputError:
    """The error for a lockfile that lacks something that the manifests ask for."""
    return failures.out_of_sync_error(differences, lock=NAME, command="yarn install")


def _explain(
    failure: sdk.CommandFailed, output: str, said: Sequence[str], *, settings: str, root: Path | None
) -> PackhorseError:
    why = "\n".join(said[:_SHOWN])
    if _is_unreadable(output):
        return InputError(
            f"{NAME} cannot be read", why=why, fix="restore it, or remove it and run `yarn install`"
        )
    code = _code("\n".join(said))
    meaning = error_for_code(code, why, client="Yarn", settings=settings, lock=NAME, root=root)
    return meaning or BuildpackFailed(failure.what, why=why or failure.why or "its output is above")


def _is_unreadable(output: str) -> bool:
    """Whether Yarn could not read the lockfile."""
    lines = (line for line in output.splitlines() if "yarn.lock" in line)
    return any(word in output for word in _UNREADABLE) or any(
        word in line for line in lines for word in _UNREADABLE_LINE
    )


def _code(output: str) -> str:
    """The code that npm would print for the same failure."""
    for sentence, code in _SENTENCES:
        if sentence in output:
            return code
    status = _STATUS.search(output)
    if status and status[1] in _BY_STATUS:
        return _BY_STATUS[status[1]]
    found = _OF_NODE.search(output)
    if found:
        return "ETIMEDOUT" if found[1] == "ESOCKETTIMEDOUT" else found[1]
    return next((code for sentence, code in _SENTENCES_OF_NODE if sentence in output), "")


def _command_error(output: str) -> PackhorseError | None:
    """The error for an install script or a git command of Yarn 1 that failed; None if none failed."""
    failed = _COMMAND.search(output)
    if failed is None:
        return None
    printed, command = failed["output"].splitlines(), failed["command"] or ""
    if command == "git":
        return git_error(git_address(failed["arguments"]), printed)
    if failed["path"]:
        package = failed["path"].rpartition("node_modules/")[2]
        return FailedScript(package, f"{command} {failed['arguments'] or ''}".strip(), printed).error()
    return None


def _name(locator: str) -> str:
    """Name and version of a package as Yarn calls it: `sharp@npm:0.34.1`, `a@virtual:…#npm:1.0.0`."""
    name, _, version = locator[1:].partition("@")
    version = version.rpartition("npm:")[2] if "npm:" in version else ""
    return locator[:1] + (f"{name}@{version}" if version else name)


def _engine_error(said: Sequence[str]) -> InputError:
    return InputError(
        "a package does not support this Node.js",
        why="\n".join(said[:_SHOWN]),
        fix="ask for another Node.js in package.json engines.node, or for another version of the package",
    )
