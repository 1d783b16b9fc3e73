"""What it means when an install script or a `git` fails that a package manager runs: whose it is, and why.

Pure. Called by the modules that explain the failures of a package manager. What a script prints is never
taken for the manager's own words: a network error in it is not the package registry's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from packhorse.errors import BuildpackFailed, NetworkError, PackhorseError
from packhorse.sdk.dataclass import dataclass

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
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class FailedScript:
    """An install script that failed: of `package`, empty for the application's own, with what it printed.

    `command` is empty where the manager does not say it.
    """

    package: str
    command: str
    output: Sequence[str]

    def error(self) -> BuildpackFailed:
        """The error that names the package, its command, and the lines that say why."""
        whose = f"that of {self.package}" if self.package else "one of the application's own"
        ran = [f"it ran: {self.command}"] if self.command else []
        lines = [*ran, *telling_lines(self.output)]
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


def telling_lines(output: Sequence[str]) -> list[str]:
    """The lines of a failed command that say why it failed; its last lines where none can be told apart."""
    lines = [line.rstrip() for line in output if line.strip() and not _NOISE.match(line.strip())]
    errors = [line for line in lines if _ERROR.search(line) or _NETWORK.search(line)]
    if not errors:
        return lines[-_SHOWN:]
    if _NETWORK.search("\n".join(errors)):
        errors = [line for line in lines if line in errors or "://" in line]
    # The first error is the cause; of those that follow the last says what came of it.
    unique = list(dict.fromkeys(errors))
    return unique if len(unique) <= _SHOWN else [*unique[: _SHOWN - 1], unique[-1]]


def address(command: str) -> str:
    """What a git command was to fetch; the command itself where it names no address."""
    found = next((word for word in command.split() if "://" in word or word.startswith("git@")), "")
    return found or command


def git_failed(address: str, said: Sequence[str]) -> PackhorseError:
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
