"""doc"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from packhorse import sdk
from packhorse.errors import (
    BuildpackFailed,
    FormatError,
    InputError,
    NetworkError,
    PackhorseError,
)

from . import absent, elsewhere
from .managers import scriptfault
from .project import document

_UNREACHABLE = {
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTUNREACH",
    "ENETUNREACH",
    "ENOTFOUND",
    "ERR_SOCKET_TIMEOUT",
    "ETIMEDOUT",
    "FETCH_ERROR",
    "UND_ERR_CONNECT_TIMEOUT",
}
_UNTRUSTED = {
    "CERT_HAS_EXPIRED",
    "DEPTH_ZERO_SELF_SIGNED_CERT",
    "ERR_TLS_CERT_ALTNAME_INVALID",
    "SELF_SIGNED_CERT_IN_CHAIN",
    "UNABLE_TO_GET_ISSUER_CERT",
    "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
    "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
}
CODES = frozenset({*_UNREACHABLE, *_UNTRUSTED, "ENEEDAUTH", "EINTEGRITY", "ETARGET"})
"""The words of npm and Node.js, without digits, that `explained_code` knows."""

_BUSY = re.compile(r"E(?:5\d\d|429)")
_LOCKS = ("npm-shrinkwrap.json", "package-lock.json")
_LINE = re.compile(r"^[ \t]*npm (?:ERR!|error) ?(.*)$", re.MULTILINE)
# What it advises, mostly to who installs one package by name.
_ADVICE = (
    "404 Note that you can",
    "404 tarball, folder",
    "notarget In most cases",
    "notarget a package version",
)
# What npm puts before each line of some errors.
_PREFIX = re.compile(r"^(?:notarget|network|engine|40[134])(?: |$)")
# What it says of its logs, which no build has.
_LOGS = ("A complete log", "Log files were not written")
_BANNER = re.compile(r"^[ \t]*> .*$", re.MULTILINE)
_OUT_OF_SYNC = re.compile(r"^(?:Missing|Invalid): .*$", re.MULTILINE)
_SHOWN = 5


def explained(failure: sdk.CommandFailed, root: Path | None = None) -> PackhorseError:
    """The error that a failed npm command means, by the code npm prints; `root` has the manifests."""
    lines = _LINE.findall(failure.output)
    code = next((line.removeprefix("code ").strip() for line in lines if line.startswith("code ")), "")
    said = [
        _PREFIX.sub("", line)
        for line in lines
        if not line.lstrip().startswith(("at ", "code ", "errno ", "syscall ", *_LOGS, *_ADVICE))
    ]
    why = "\n".join([line.strip() for line in said if line.strip()][:_SHOWN])
    if meaning := _of_command(lines, failure.output):
        return meaning
    if meaning := explained_code(code, why, client="npm", lock="package-lock.json", root=root):
        return meaning
    if code == "EUSAGE" and "in sync" in failure.output:
        return out_of_sync(
            _OUT_OF_SYNC.findall("\n".join(lines)), lock="package-lock.json", command="npm install"
        )
    if code == "EUSAGE" and "existing package-lock.json" in failure.output and root is not None:
        return _unread(root)
    return BuildpackFailed(failure.what, why=why or failure.why or "its output is above")


def _of_command(lines: Sequence[str], output: str) -> PackhorseError | None:
    """The error for an install script, or a git, that npm ran and that failed; None where it ran none.

    npm prints what these printed in its own error lines, behind their command; only the application's own
    scripts print at once.
    """
    is_command = [line.startswith("command ") and line != "command failed" for line in lines]
    if True not in is_command:
        return None
    at = is_command.index(True)
    command, printed = lines[at].removeprefix("command "), lines[at + 1 :]
    printed = [line for line in printed if not line.startswith(_LOGS)]
    if "git dep preparation failed" in lines[:at]:
        return scriptfault.FailedScript("a git dependency", command, printed).error()
    if command.startswith("git "):
        return scriptfault.git_failed(scriptfault.address(command), printed)
    before = lines[:at]
    if before[-1:] != ["command failed"]:
        return None
    path = next((line.removeprefix("path ") for line in reversed(before) if line.startswith("path ")), "")
    package = path.rpartition("node_modules/")[2] if "node_modules/" in path else ""
    command = command.removeprefix("sh -c ").removeprefix("-- ")
    if not package and not printed:
        # Behind the last banner (`> app@1.0.0 install`, `> node-gyp rebuild`).
        said = output[: first.start()] if (first := _LINE.search(output)) else ""
        printed = _BANNER.split(said)[-1].splitlines()
    return scriptfault.FailedScript(package, command, printed).error()


def _unread(root: Path) -> InputError:
    """The error for a lock that npm takes for none."""
    name = next((name for name in _LOCKS if (root / name).is_file()), _LOCKS[-1])
    try:
        document(root / name, name)
    except InputError as error:
        return error
    return InputError(f"{name} is not a lock that npm can read", fix=f"run `npm install` and commit {name}")


def explained_code(
    code: str, why: str, *, client: str, lock: str, settings: str = ".npmrc", root: Path | None = None
) -> PackhorseError | None:
    """The error that a code of npm or Node.js means, which any `client` may print; None for other codes.

    `lock` is the name of the client's lock, `settings` that of the file with its registry and credentials;
    `root` is the directory of the manifests, where that is known.
    """
    if code in _UNREACHABLE:
        if root is not None and (named := elsewhere.error(code, why, client=client, root=root)):
            return named
        return NetworkError(
            f"{client} cannot reach the package registry ({code})",
            why=why,
            fix=f"check the network, the proxy (HTTPS_PROXY) and the registry set in {settings}, "
            "then build again",
        )
    if code in _UNTRUSTED:
        return NetworkError(
            f"{client} does not trust the certificate of the package registry ({code})",
            why=why,
            fix="name the certificate authority: `cafile` in .npmrc, or NODE_EXTRA_CA_CERTS for the build",
        )
    if code in ("E401", "E403", "ENEEDAUTH"):
        return NetworkError(
            f"the package registry refused access ({code})",
            why=why,
            fix=f"check the credentials in {settings} and that the variables it names are set for the build",
        )
    if code == "EINTEGRITY":
        return FormatError(
            "a downloaded package is not the one that was asked for (EINTEGRITY)",
            why=why,
            fix=f"the registry or a proxy altered it, or {lock} is wrong: "
            "compare with another registry before you make the lock anew",
        )
    if _BUSY.fullmatch(code):
        return NetworkError(
            f"the package registry did not answer as one ({code})",
            why=why,
            fix=f"build again in a while; if that does not help, check the registry set in {settings}",
        )
    if code in ("E404", "ETARGET"):
        return absent.error(code, why, client=client, lock=lock, settings=settings, root=root)
    return None


def out_of_sync(differences: Sequence[str], *, lock: str, command: str) -> InputError:
    """The error for a lock that does not have what the manifests ask for."""
    shown = list(differences[:_SHOWN])
    if len(differences) > _SHOWN:
        shown.append(f"and {len(differences) - _SHOWN} more")
    return InputError(
        f"{lock} does not match package.json", issues=shown, fix=f"run `{command}` and commit {lock}"
    )
