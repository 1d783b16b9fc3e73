"""Explains why a package manager failed, from the codes and words that it printed.

Imported only when a command has failed. Called by the managers and by `registry`. Codes of npm and Node.js
have the same meaning for every manager. Output of an install script is never taken for the manager's own
words: a network error there is not an error of the package registry. If a package or an address is missing,
the error names the manifests that ask for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from packhorse import sdk
from packhorse.errors import (
    BuildpackFailed,
    FormatError,
    InputError,
    NetworkError,
    NotFoundError,
    PackhorseError,
)
from packhorse.sdk.dataclass import dataclass

from .project import DEPENDENCIES, Project, read_json
from .workspace import Workspace

# What node-gyp and make print of their progress and surroundings, and stack frames.
_NOISE = re.compile(
    r"gyp (?:info|http|verb)\b|gyp ERR! (?:(?:stack )?at |System|command|cwd|node(?:-gyp)? -v|not ok|\$npm_)"
    r"|\s*at \S|\S*make(?:\[\d+\])?: (?:Entering|Leaving)|\s*(?:CXX|CC|SOLINK_MODULE|SOLINK|AR|COPY|TOUCH)\("
    r"|\s*(?:errno|code|syscall|hostname): |node -v|\(node:\d+\)|\(Use `node "
)
_ERROR = re.compile(
    r"\berror:|\berror\[|\bERR!|: \*\*\*|undefined reference|cannot find -l|\b[A-Z]\w*Error\b|^Error\b"
    r"|\bnot found\b|No such file|Permission denied|Killed\b|\bfailed\b"
)
_NETWORK = re.compile(
    r"\b(?:EAI_AGAIN|ECONNREFUSED|ECONNRESET|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|ETIMEDOUT"
    r"|ERR_SOCKET_TIMEOUT|UND_ERR_CONNECT_TIMEOUT)\b|Could not resolve host|network connectivity"
)
_GIT_NETWORK = re.compile(
    r"Could not resolve host|Connection refused|Connection timed out|Failed to connect|unreachable"
)
_HEADER = re.compile(r"fatal error: ([^\s:]+): No such file or directory")
_LIBRARY = re.compile(r"cannot find -l(\S+)")
_NO_PROGRAM = re.compile(
    r"(?:not found: (\S+)|(?:^|[\s:])(?!Error:)([\w.+-]+): (?:command )?not found|command not found: (\S+))"
)
_NO_PYTHON = re.compile(r"gyp ERR! find Python|Could not find any Python")
_COMPILER = re.compile(r"\berror: |make(?:\[\d+\])?: \*\*\*|gyp ERR! build error")
_SHOWN_LINES = 8


@dataclass(frozen=True, slots=True)
class FailedScript:
    """An install script of `package` that failed, with its output; `package` is empty for the application's.

    `command` is empty if the manager does not print it.
    """

    package: str
    command: str
    output: Sequence[str]

    def error(self) -> BuildpackFailed:
        """The error with the package, its command, and the lines that say why."""
        whose = f"that of {self.package}" if self.package else "one of the application's own"
        ran = [f"it ran: {self.command}"] if self.command else []
        lines = [*ran, *error_lines(self.output)]
        return BuildpackFailed(
            f"an install script failed: {whose}",
            why="\n".join(lines) or "its output is above",
            fix=self._remedy("\n".join(self.output)),
        )

    def _remedy(self, output: str) -> str:
        package = self.package or "the application"
        if _NO_PYTHON.search(output):
            return f"node-gyp needs Python to compile {package}: use a builder whose build image has python3"
        if header := _HEADER.search(output):
            return (
                f"the build image has no {header[1]}: use a builder with the development package of that "
                f"library, or a version of {package} that comes compiled or does not need it"
            )
        if library := _LIBRARY.search(output):
            return f"the build image has no library {library[1]}: use a builder that has it"
        if program := _NO_PROGRAM.search(output):
            name = program[1] or program[2] or program[3]
            return f"the build image has no {name}: use a builder that has it, or add the package with it"
        if _NETWORK.search(output):
            return (
                f"{package} loads something by itself, from no package registry: let the build reach that "
                "address (HTTPS_PROXY), or set another one as the package's documentation says"
            )
        if _COMPILER.search(output):
            return (
                f"this version of {package} may not support this Node.js: take a newer one, or ask for "
                "another Node.js in package.json engines.node"
            )
        return ""


def error_lines(output: Sequence[str]) -> list[str]:
    """The lines of a failed command that say why it failed; its last lines if none do."""
    lines = [line.rstrip() for line in output if line.strip() and not _NOISE.match(line.strip())]
    errors = [line for line in lines if _ERROR.search(line) or _NETWORK.search(line)]
    if not errors:
        return lines[-_SHOWN_LINES:]
    if _NETWORK.search("\n".join(errors)):
        errors = [line for line in lines if line in errors or "://" in line]
    # The first error is the cause, and the last is the result.
    unique = list(dict.fromkeys(errors))
    return unique if len(unique) <= _SHOWN_LINES else [*unique[: _SHOWN_LINES - 1], unique[-1]]


def git_address(command: str) -> str:
    """The address in a git command; the command itself without one."""
    found = next((word for word in command.split() if "://" in word or word.startswith("git@")), "")
    return found or command


def git_error(address: str, said: Sequence[str]) -> PackhorseError:
    """The error for a dependency that `git` could not fetch from `address`."""
    what = f"a dependency cannot be fetched with git: {address}"
    why = "\n".join(line.strip() for line in said if line.strip())
    if _GIT_NETWORK.search(why) or "ssh: " in why:
        return NetworkError(
            what,
            why=why,
            fix="let the build reach that host (git takes HTTPS_PROXY, and ssh needs a key), or depend on a "
            "published version",
        )
    if "spawn git" in why:
        return BuildpackFailed(what, why=why, fix="the build image has no git: use a builder that has it")
    return BuildpackFailed(
        what, why=why, fix="check the address and the credentials, or depend on a published version"
    )


_ADDRESS = re.compile(r"https?://([^\s/'\"`]+)(/[^\s'\"`,;)]*)?")
_LOOKUP = re.compile(r"getaddrinfo \w+ (\S+)")
_SHORT = re.compile(r"(?:(github|gitlab|bitbucket):)?([\w.-]+/[\w.-]+)")
_HOSTS = {"github": "github.com", "gitlab": "gitlab.com", "bitbucket": "bitbucket.org"}


def unreachable_host_error(code: str, why: str, *, client: str, root: Path) -> NetworkError | None:
    """The error for an unreachable host that a manifest names; None if `why` names no such host."""
    for place, name, range_ in list_requirements(root):
        host, path = _split_url(range_)
        if host and _mentions(why, f"{name}@{range_}", host, path):
            return NetworkError(
                f"{client} cannot fetch {name} from {host} ({code})",
                why=f"asked for by: {place} ({range_})\n{why}",
                fix=f"let the build reach {host} (HTTPS_PROXY), or depend on a published version",
            )
    return None


def _mentions(why: str, descriptor: str, host: str, path: str) -> bool:
    """Whether the manager's message names a dependency: by name and address, or only by host."""
    if descriptor in why:
        return True
    addresses = _ADDRESS.findall(why)
    if addresses:
        return any(_is_host_or_below(found, host) and path in (way or "") for found, way in addresses)
    return any(_is_host_or_below(found, host) for found in _LOOKUP.findall(why))


def _is_host_or_below(found: str, host: str) -> bool:
    """Whether a host is `host` or a subdomain, such as GitHub's for archives."""
    return found == host or found.endswith(f".{host}")


def _split_url(range_: str) -> tuple[str, str]:
    """Host and path of a range that is an address; else empty."""
    if short := _SHORT.fullmatch(range_.partition("#")[0]):
        return _HOSTS[short[1] or "github"], short[2].removesuffix(".git")
    _, is_address, rest = range_.partition("#")[0].partition("://")
    if not is_address:
        return "", ""
    host, _, path = rest.partition("/")
    return host.rpartition("@")[2].partition(":")[0], path.removesuffix(".git")


def list_requirements(root: Path) -> Iterator[tuple[str, str, str]]:
    """All dependencies in the manifests below `root`: place, name, and range or address."""
    try:
        workspace = Workspace.read(root, "")
    except PackhorseError:
        return
    projects: dict[str, Project] = {"": workspace.root, **workspace.members}
    for path, project in projects.items():
        for table in (*DEPENDENCIES, "devDependencies"):
            for name, range_ in project.manifest.get(table, {}).items():
                yield f"{path}/package.json {table}".removeprefix("/"), name, str(range_)


_QUOTED = re.compile(r"""requested resource '([^'\n]+)'|find package "([^"\n]+)\"""")
_NOT_FOUND_URL = re.compile(r"GET (\S+) - 404")
_RANGES = (
    re.compile(r"No matching version found for (?P<name>@?[^@\s]+)@(?P<range>[^\s]+)"),
    re.compile(r'find any versions for "(?P<name>[^"\n]+)" that matches "(?P<range>[^"\n]+)"'),
    re.compile(r'No version matching "(?P<range>[^"\n]+)" found for specifier "(?P<name>[^"\n]+)"'),
)
# The word before these is the package.
_BEFORE = (" is not in the npm registry", ": No candidates found", ": Package not found")
_INSTALL = {"npm": "npm install", "Yarn": "yarn install", "pnpm": "pnpm install", "Bun": "bun install"}


def missing_package_error(
    code: str, why: str, *, client: str, lock: str, settings: str, root: Path | None
) -> NotFoundError:
    """The error for a package or version that the registry does not have, with what asks for it.

    `why` is the client's message. `root` is the directory of the manifests and the lockfile, if it is known.
    """
    name, range_ = _missing_package(why)
    what = f"the package registry does not have {f'the package {name}' if name else 'a package'} ({code})"
    if name and code == "ETARGET":
        wanted = range_ or "the range"
        what = f"the package registry has no version of {name} that matches {wanted} ({code})"
    if root is None:
        return NotFoundError(what, why=why, fix=f"check its name, its version and the registry in {settings}")
    again = f"run `{_INSTALL[client]}` and commit {lock}"
    elsewhere = f"if another registry has it, name that one and its credentials in {settings}"
    if not name:
        return NotFoundError(
            what, why=why, fix=f"correct its name or version in package.json and {again}; {elsewhere}"
        )
    asks = ", ".join(_requirers(root, name))
    if not asks:
        asks = f"{lock}, or a package in it" if (root / lock).is_file() else "a package that is needed"
    if code == "ETARGET":
        fix = f"ask for an existing version (`npm view {name} versions` lists them), then {again}"
    else:
        fix = f"correct the name, or remove it, and {again}; {elsewhere}"
    return NotFoundError(what, why=f"asked for by: {asks}\n{why}", fix=fix)


def _missing_package(why: str) -> tuple[str, str]:
    """The name and range of the missing package, if the message has them."""
    for pattern in _RANGES:
        if found := pattern.search(why):
            return found["name"], found["range"].rstrip(".,")
    if found := _QUOTED.search(why):
        return _split_descriptor(found[1] or found[2])
    for words in _BEFORE:
        before, is_there, _ = why.partition(words)
        if is_there and before.split():
            return _split_descriptor(before.split()[-1].strip("'\""))
    found = _NOT_FOUND_URL.search(why)
    return _split_descriptor(_package_of_url(found[1])) if found else ("", "")


def _package_of_url(address: str) -> str:
    """The package of an address such as `…/@a/b` or `…/ms/-/ms-2.1.3.tgz`."""
    *_, scope, name = ("", "", *address.partition("/-/")[0].split("/"))
    return f"{scope}/{name}" if scope.startswith("@") else name


def _split_descriptor(descriptor: str) -> tuple[str, str]:
    """Name and range of `ms`, `ms@^2`, `@a/b@npm:^2` or `%40a%2fb`."""
    plain = descriptor.replace("%2f", "/").replace("%2F", "/").replace("%40", "@")
    name, _, range_ = plain[1:].partition("@")
    return plain[:1] + name, range_.removeprefix("npm:")


def _requirers(root: Path, name: str) -> Iterator[str]:
    """The tables of manifests with the package: `package.json dependencies (^99)`."""
    return (f"{place} ({range_})" for place, found, range_ in list_requirements(root) if found == name)


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
"""The codes of npm and Node.js without digits that `error_for_code` knows."""

_BUSY = re.compile(r"E(?:5\d\d|429)")
_LOCKS = ("npm-shrinkwrap.json", "package-lock.json")
_LINE = re.compile(r"^[ \t]*npm (?:ERR!|error) ?(.*)$", re.MULTILINE)
# Advice, mostly for installing one package by name.
_ADVICE = (
    "404 Note that you can",
    "404 tarball, folder",
    "notarget In most cases",
    "notarget a package version",
)
# What npm puts before each line of some errors.
_PREFIX = re.compile(r"^(?:notarget|network|engine|40[134])(?: |$)")
# About npm's logs, which a build does not keep.
_LOGS = ("A complete log", "Log files were not written")
_BANNER = re.compile(r"^[ \t]*> .*$", re.MULTILINE)
_OUT_OF_SYNC = re.compile(r"^(?:Missing|Invalid): .*$", re.MULTILINE)
_SHOWN = 5


def npm_error(failure: sdk.CommandFailed, root: Path | None = None) -> PackhorseError:
    """The error for a failed npm command, by the code that npm printed; `root` has the manifests."""
    lines = _LINE.findall(failure.output)
    code = next((line.removeprefix("code ").strip() for line in lines if line.startswith("code ")), "")
    said = [
        _PREFIX.sub("", line)
        for line in lines
        if not line.lstrip().startswith(("at ", "code ", "errno ", "syscall ", *_LOGS, *_ADVICE))
    ]
    why = "\n".join([line.strip() for line in said if line.strip()][:_SHOWN])
    if meaning := _command_error(lines, failure.output):
        return meaning
    if meaning := error_for_code(code, why, client="npm", lock="package-lock.json", root=root):
        return meaning
    if code == "EUSAGE" and "in sync" in failure.output:
        return out_of_sync_error(
            _OUT_OF_SYNC.findall("\n".join(lines)), lock="package-lock.json", command="npm install"
        )
    if code == "EUSAGE" and "existing package-lock.json" in failure.output and root is not None:
        return _unreadable_lock_error(root)
    return BuildpackFailed(failure.what, why=why or failure.why or "its output is above")


def _command_error(lines: Sequence[str], output: str) -> PackhorseError | None:
    """The error for an install script or git that npm ran and that failed; None without one.

    npm prints their output in its own error lines, after the command. Only the application's own scripts
    print at once.
    """
    is_command = [line.startswith("command ") and line != "command failed" for line in lines]
    if True not in is_command:
        return None
    at = is_command.index(True)
    command, printed = lines[at].removeprefix("command "), lines[at + 1 :]
    printed = [line for line in printed if not line.startswith(_LOGS)]
    if "git dep preparation failed" in lines[:at]:
        return FailedScript("a git dependency", command, printed).error()
    if command.startswith("git "):
        return git_error(git_address(command), printed)
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
    return FailedScript(package, command, printed).error()


def _unreadable_lock_error(root: Path) -> InputError:
    """The error for a lockfile that npm cannot read."""
    name = next((name for name in _LOCKS if (root / name).is_file()), _LOCKS[-1])
    try:
        read_json(root / name, name)
    except InputError as error:
        return error
    return InputError(f"{name} is not a lock that npm can read", fix=f"run `npm install` and commit {name}")


def error_for_code(
    code: str, why: str, *, client: str, lock: str, settings: str = ".npmrc", root: Path | None = None
) -> PackhorseError | None:
    """The error for a code of npm or Node.js, which any `client` may print; None for other codes.

    `lock` is the client's lockfile, and `settings` the file with its registry and credentials. `root` is the
    directory of the manifests, if it is known.
    """
    if code in _UNREACHABLE:
        if root is not None and (named := unreachable_host_error(code, why, client=client, root=root)):
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
            "a downloaded package is not the requested one (EINTEGRITY)",
            why=why,
            fix=f"the registry or a proxy altered it, or {lock} is wrong: "
            "compare with another registry before you make the lockfile again",
        )
    if _BUSY.fullmatch(code):
        return NetworkError(
            f"the package registry answered with an error ({code})",
            why=why,
            fix=f"build again in a while; if that does not help, check the registry set in {settings}",
        )
    if code in ("E404", "ETARGET"):
        return missing_package_error(code, why, client=client, lock=lock, settings=settings, root=root)
    return None


def out_of_sync_error(differences: Sequence[str], *, lock: str, command: str) -> InputError:
    """The error for a lockfile that does not match the manifests."""
    shown = list(differences[:_SHOWN])
    if len(differences) > _SHOWN:
        shown.append(f"and {len(differences) - _SHOWN} more")
    return InputError(
        f"{lock} does not match package.json", issues=shown, fix=f"run `{command}` and commit {lock}"
    )
