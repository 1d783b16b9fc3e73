"""How a command ends that nothing foresaw, and what of a user's secrets may be said then: nothing.

Called by `main` and `output`. Errors of ours name no values; what other code's exceptions say is looked
through here.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence

from packhorse.errors import HostError, PackhorseError
from packhorse.version import __version__

_SHORTEST = 4
"""Characters of a value that is looked for: shorter ones are in every text."""

_LONGEST = 500
_USERINFO = re.compile(r"(://)[^/@\s]+@")
_QUERY = re.compile(r"(://[^\s?]+\?)[^\s'\"]+")
_HEADER = re.compile(r"\b(Basic|Bearer|X-Identity)(\s+)[\w.~+/=-]+", re.IGNORECASE)
_ENTRY = re.compile(r"""(["'](?:auth|\w*password|\w*token|secret)["']\s*:\s*["'])[^"']*""", re.IGNORECASE)
_EXHAUSTED = {
    errno.EMFILE: "files: see `ulimit -n`",
    errno.ENFILE: "files on this machine",
    errno.ENOMEM: "memory",
    errno.EAGAIN: "processes: see `ulimit -u`",
}
_NO_THREAD = "can't start new thread"


class Secrets:
    """Values that are not to be printed: the environment's, those of a command line, those of files."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {value for value in environ.values() if len(value) >= _SHORTEST}

    def add(self, values: Iterable[str]) -> None:
        """Adds values."""
        self._values |= {value for value in values if len(value) >= _SHORTEST}

    def add_words(self, words: Sequence[str]) -> None:
        """Adds what a command line's words may give to variables: all that is behind a `=`."""
        for word in words:
            name, _, value = word.partition("=")
            self.add([value, value.partition("=")[2]] if name.startswith("-") else [value])

    def redact(self, text: str) -> str:
        """The text without these values, and without what URLs, headers and files have of passwords."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, "…")
        text = _ENTRY.sub(r"\1…", _HEADER.sub(r"\1\2…", text))
        return _QUERY.sub(r"\1…", _USERINFO.sub(r"\1…@", text))


def exhaustion_error(error: BaseException) -> HostError | None:
    """The error for a process that was not given enough of something; None for any other exception."""
    if isinstance(error, MemoryError):
        what = "memory"
    elif isinstance(error, OSError) and error.errno in _EXHAUSTED:
        what = _EXHAUSTED[error.errno]
    elif isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        what = _EXHAUSTED[errno.EAGAIN]
    else:
        return None
    found = HostError("packhorse does not have enough resources", why=f"not enough {what}", check="limits")
    found.__cause__ = error
    return found


def causes(error: BaseException, secrets: Secrets) -> list[str]:
    """The errors behind an error, a line each; ours in their words, others' without secrets."""
    lines = []
    cause = error.__cause__
    while cause is not None:
        text = str(cause) if isinstance(cause, PackhorseError) else secrets.redact(str(cause))[:_LONGEST]
        lines.append(f"caused by {type(cause).__name__}: {text}")
        cause = cause.__cause__
    return lines


def defect(error: BaseException, secrets: Secrets, *, verbose: bool) -> PackhorseError:
    """What a defect of ours prints: where it is, by functions and lines, and how to report it.

    With `verbose` also what the exception said, without secrets, and every frame.
    """
    import platform as machine  # what only a defect needs, nobody else waits for

    frames = traceback.extract_tb(error.__traceback__)
    where = [
        f"{_module(frame.filename)}:{frame.lineno} {frame.name}"
        for frame in frames
        if verbose or "/packhorse/" in frame.filename
    ]
    versions = f"packhorse {__version__}, Python {machine.python_version()}, Linux {machine.release()}"
    said = [secrets.redact(str(error))[:_LONGEST], *causes(error, secrets)] if verbose else []
    return PackhorseError(
        f"packhorse itself went wrong: {type(error).__name__}",
        why="\n".join((*(line for line in said if line), *where, versions)),
        fix="this is a defect of packhorse; please report it with the lines above"
        + ("" if verbose else " (--verbose says more)"),
    )


def _module(filename: str) -> str:
    """A file by what is the same on every machine."""
    for package in ("/packhorse/", "/site-packages/", "/lib/"):
        _, found, rest = filename.rpartition(package)
        if found:
            return f"packhorse/{rest}" if package == "/packhorse/" else rest
    return filename.rpartition("/")[2]
