"""Prints what a person sees: phases with durations, buildpack output with a prefix, tables, errors.

A terminal gets colour, unless NO_COLOR or --no-color is given. Names, labels, reasons and output come from
the authors of buildpacks and images, and may be hostile. So of their control characters only line ends, tabs
and (on a terminal) buildpacks' colours are printed: nothing moves the cursor, sets a title or writes the
clipboard (docs/reference/output.md). The console holds only a small part of long output in memory.

A defect of packhorse is reported without the user's secrets. Our own errors contain no values of variables;
from the messages of other exceptions, `Secrets` removes them.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import shutil
import signal
import sys
import time
import traceback
from _thread import RLock
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from typing import TextIO

from packhorse.base.progress import UNWATCHED
from packhorse.errors import HostError, PackhorseError, check_of
from packhorse.linux.processes import PIPE_GONE
from packhorse.version import __version__

_COLOUR = re.compile(r"\x1b\[[0-9;]{0,32}m")
_CONTROL = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # operating system commands (titles, links)
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # cursor movement and the like
    r"|\x1b[@-_]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    # Marks that change the direction of text, so that it reads differently; line separators.
    r"|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
_SUSPECT = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

_WORD, _LINE = 200, 1000  # characters of an error that are printed
_LONG_WORD = re.compile(rf"\S{{{_WORD + 1},}}")


def sanitize(text: str, *, colours: bool = False) -> str:
    """Removes control characters except line ends and tabs; with `colours` keeps colours, and ends them.

    What is not a character (half of a surrogate pair, a byte of a name that is not UTF-8) becomes `?`.
    """
    if _SUSPECT.search(text) is None:
        return text
    text = text.encode(errors="replace").decode()
    if not colours:
        return _CONTROL.sub("", _COLOUR.sub("", text))
    pieces, position = [], 0
    for match in _COLOUR.finditer(text):
        pieces += [_CONTROL.sub("", text[position : match.start()]), match[0]]
        position = match.end()
    pieces.append(_CONTROL.sub("", text[position:]))
    cleaned = "".join(pieces)
    return f"{cleaned}\x1b[0m" if len(pieces) > 1 else cleaned


def escape(text: str) -> str:
    """Replaces the characters that `sanitize` removes by escapes; for strings in double quotes."""
    return _SUSPECT.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def sanitize_line(text: str) -> str:
    """Does what `sanitize` does, and joins lines, because a name with line ends could imitate our lines."""
    return sanitize(" ".join(text.splitlines()) if "\n" in text or "\r" in text else text)


def shorten(line: str) -> str:
    """Cuts the middle out of long words of an error's line, such as paths, and out of a long line.

    Both ends of a path stay, because they say where the file is and what it is.
    """
    return _cut_middle(_LONG_WORD.sub(lambda match: _cut_middle(match[0], _WORD), line), _LINE)


def _cut_middle(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


_SHORTEST = 4
"""The fewest characters of a secret: shorter values occur in every text."""

_LONGEST_TEXT = 500
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
    """Values that must not be printed: of the environment, of the command line, of files."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {value for value in environ.values() if len(value) >= _SHORTEST}

    def add(self, values: Iterable[str]) -> None:
        """Adds values."""
        self._values |= {value for value in values if len(value) >= _SHORTEST}

    def add_words(self, words: Sequence[str]) -> None:
        """Adds every value that a command line may give to a variable: all that stands after a `=`."""
        for word in words:
            name, _, value = word.partition("=")
            self.add([value, value.partition("=")[2]] if name.startswith("-") else [value])

    def redact(self, text: str) -> str:
        """Removes these values, and the passwords in URLs, headers and config files, from a text."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, "…")
        text = _ENTRY.sub(r"\1…", _HEADER.sub(r"\1\2…", text))
        return _QUERY.sub(r"\1…", _USERINFO.sub(r"\1…@", text))


def exhaustion_error(error: BaseException) -> HostError | None:
    """Returns the error for a lack of memory, files or processes; None for any other exception."""
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
    """Lists the causes of an error, one line each; without secrets if they are not errors of packhorse.

    Leaves out an error of packhorse whose words the error before it repeats.
    """
    lines = []
    effect, cause = error, error.__cause__
    while cause is not None:
        ours = isinstance(cause, PackhorseError)
        if not (ours and str(effect).startswith(str(cause))):
            text = str(cause) if ours else secrets.redact(str(cause))[:_LONGEST_TEXT]
            lines.append(f"caused by {type(cause).__name__}: {text}")
        effect, cause = cause, cause.__cause__
    return lines


def defect(error: BaseException, secrets: Secrets, *, verbose: bool) -> PackhorseError:
    """Makes the error for a defect of packhorse: where it is, by functions and lines, and how to report it.

    With `verbose` it also has the exception's message, without secrets, and the frames of other code.
    """
    import platform as machine  # imported here, because only a defect needs it

    frames = traceback.extract_tb(error.__traceback__)
    where = [
        f"{_module(frame.filename)}:{frame.lineno} {frame.name}"
        for frame in frames
        if verbose or "/packhorse/" in frame.filename
    ]
    versions = f"packhorse {__version__}, Python {machine.python_version()}, Linux {machine.release()}"
    messages = [secrets.redact(str(error))[:_LONGEST_TEXT], *causes(error, secrets)] if verbose else []
    return PackhorseError(
        f"packhorse itself went wrong: {type(error).__name__}",
        why="\n".join((*(line for line in messages if line), *where, versions)),
        fix="this is a defect of packhorse; please report it with the lines above"
        + ("" if verbose else " (--verbose says more)"),
    )


def _module(filename: str) -> str:
    """Returns the part of a file's path that is the same on every machine."""
    for package in ("/packhorse/", "/site-packages/", "/lib/"):
        _, found, rest = filename.rpartition(package)
        if found:
            return f"packhorse/{rest}" if package == "/packhorse/" else rest
    return filename.rpartition("/")[2]


_LINE_LIMIT = 1 << 16  # the most characters of an unfinished line that are held back
_UNSAID_LIMIT = 200  # lines of buildpacks' output that --quiet keeps, to print them before an error
_UNSAID_LENGTH = 4096  # the most characters of such a line

_INDENT = "     "
_ERASE = "\r\x1b[K"
_RETURN = "\r"
_BLOCK = 64 << 10  # the fewest characters of a long document that are written at once


class Level(IntEnum):
    """How much is printed: only results, what happens, or everything."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class Console:
    """Writes messages to stderr and results to stdout. Implements the lifecycle's Observer."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.level = Level.NORMAL
        self._out: TextIO = sys.stdout
        self._err: TextIO = sys.stderr
        self._terminal = self._err.isatty()
        self._colour = self._terminal and not environ.get("NO_COLOR")
        self._drawn = False
        self._spoke = time.monotonic()
        self._lock = RLock()
        self._unread: PackhorseError | SystemExit | None = None
        self.meter = UNWATCHED
        self._step = ExitStack()
        self.secrets = Secrets(environ)
        self._pending: dict[str, str] = {}
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}
        self._unsaid: deque[str] = deque(maxlen=_UNSAID_LIMIT)

    def adjust(self, *, quiet: bool, verbose: bool, no_color: bool) -> None:
        """Applies the options that may stand before and after a command; False changes nothing."""
        if quiet or verbose:
            self.level = Level.QUIET if quiet else Level.VERBOSE
        self._colour = self._colour and not no_color

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Prints a heading, and with --verbose the time that the phase took."""
        self._line(self._style("1;36", f"===> {sanitize_line(name)}"))
        started = time.monotonic()
        with self.meter.task(name):
            yield
        self._flush()
        self.detail(f"{name} took {time.monotonic() - started:.2f} s")

    @contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """Names the work of the block, which is printed with its time if it takes long."""
        with self.meter.task(name):
            try:
                yield
            finally:
                self._begin_step("")

    def say(self, text: str) -> None:
        """Prints one line, unless --quiet."""
        self._flush()
        self._line(f"{_INDENT}{sanitize_line(text)}")

    def say_raw(self, text: str) -> None:
        """Prints one line, unless --quiet, on a terminal in raw mode, where a line must end with CR LF."""
        if not self._terminal:
            self.say(text)
        elif self.level is not Level.QUIET:
            _put(self._err, f"\r{_INDENT}{sanitize_line(text)}\r\n")

    def progress(self, text: str) -> None:
        """Prints what is going on: on a terminal the next line replaces it, elsewhere each is a line."""
        if not self._terminal or self.level is not Level.NORMAL:
            self.say(text)
        else:
            self._draw(text)
        self._begin_step(text)

    def _begin_step(self, name: str) -> None:
        """Ends the task of the last `progress` and begins one named `name`; none for ""."""
        with self._lock:
            self._step.close()
            if name:
                self._step.enter_context(self.meter.task(name))

    @property
    def is_live(self) -> bool:
        """Whether progress is one line that is redrawn."""
        return self._terminal and self.level is Level.NORMAL

    def wait(self, text: str, *, silence: float) -> bool:
        """Prints how far work is, if nothing was printed for `silence` seconds. Returns whether it printed.

        Called by the thread of `waiting`.
        """
        with self._lock:
            if self.level is Level.QUIET or self._unread is not None:
                return False
            if not self._drawn and time.monotonic() - self._spoke < silence:
                return False
            try:
                if self.is_live:
                    self._draw(text)
                else:
                    self._line(f"{_INDENT}{sanitize_line(text)}")
            except (PackhorseError, SystemExit) as error:
                self._unread = error  # the main thread raises it with its next line
                return False
            return True

    def _draw(self, text: str) -> None:
        with self._lock:
            width = shutil.get_terminal_size().columns
            _put(self._err, f"{_ERASE}{_INDENT}{sanitize_line(text)}"[: width + len(_ERASE) - 1])
            self._drawn = True

    def detail(self, text: str) -> None:
        """Prints lines, with --verbose only."""
        if self.level is Level.VERBOSE:
            self._flush()
            for line in text.splitlines():
                self._line(self._style("2", f"{_INDENT}{sanitize(line)}"))

    def output(self, source: str, data: bytes) -> None:
        """Prints a buildpack's output: complete lines at once, the rest when its line ends."""
        decoder = self._decoders.setdefault(source, codecs.getincrementaldecoder("utf-8")("replace"))
        text = self._pending.pop(source, "") + decoder.decode(data)
        *lines, rest = text.replace("\r\n", "\n").split("\n")
        # A progress bar rewrites its line, so only the last text of the line counts.
        rest = rest[:-1].rpartition("\r")[2] + rest[-1:]
        if len(rest) > _LINE_LIMIT:
            lines, rest = [*lines, rest], ""
        self._buildpack_lines(source, lines)
        if rest:
            self._pending[source] = rest

    def result(self, text: str) -> None:
        """Prints one line of the result on stdout, at every level."""
        self.document(sanitize_line(text))

    def document(self, text: str) -> None:
        """Prints a result of several lines on stdout, such as JSON."""
        self._flush()
        self._erase()
        _write(self._out, sanitize(text))

    def stream(self, pieces: Iterable[str]) -> None:
        """Prints a document on stdout that is too large for memory. No piece may end in a control code."""
        self._flush()
        self._erase()
        waiting, length = [], 0
        for piece in pieces:
            waiting.append(piece)
            length += len(piece)
            if length >= _BLOCK:
                _put(self._out, sanitize("".join(waiting)))
                waiting, length = [], 0
        _write(self._out, sanitize("".join(waiting)))

    def table(
        self, heading: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()
    ) -> None:
        """Prints columns on stdout; `right` has the indexes of the columns that are aligned to the right."""
        for line in format_table(heading, rows, right=right):
            self.result(line)

    def notes(self, lines: Sequence[str]) -> None:
        """Prints lines without indentation, unless --quiet."""
        self._flush()
        for line in lines:
            self._line(sanitize_line(line))

    def help(self, text: str) -> None:
        """Prints the help of a group that was called without a command: on stderr, at every level."""
        self._erase()
        _write(self._err, sanitize(text))

    def error(self, error: PackhorseError) -> None:
        """Prints what happened, why, and what to do; with --verbose also the causes, and whole paths.

        With --quiet, the last lines of the buildpacks' output come first.
        """
        self._flush()
        what, *more = [sanitize_line(error.what), *map(sanitize, error.why.splitlines())]
        if self.level is not Level.VERBOSE:
            what, *more = map(shorten, (what, *more))
        lines = [*self._unsaid, f"{self._style('1;31', 'error:')} {what}"]
        # The fix may be a command, which must be whole.
        lines += [f"  {line}" for line in (*more, *map(sanitize, error.fix.splitlines()))]
        check = check_of(error)
        if check:
            lines.append(f"  see packhorse doctor {check}")
        if self.level is Level.VERBOSE:
            for text in causes(error, self.secrets):
                lines += [f"  {sanitize(line)}" for line in text.splitlines()]
        self._erase()
        _write(self._err, "\n".join(lines))

    def _buildpack_lines(self, source: str, lines: Sequence[str]) -> None:
        if not lines:
            return
        if self.level is Level.QUIET:
            lines = [line[:_UNSAID_LENGTH] for line in lines[-_UNSAID_LIMIT:]]
        prefix = self._style("2", f"{_INDENT}[{sanitize_line(source).rpartition('/')[2]}]")
        shown = [
            f"{prefix} {sanitize(line.rstrip(_RETURN).rpartition(_RETURN)[2], colours=self._colour)}".rstrip()
            for line in lines
        ]
        if self.level is Level.QUIET:
            self._unsaid.extend(shown)
        self._line("\n".join(shown))

    def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        for source, line in pending.items():
            self._buildpack_lines(source, [line])

    def _line(self, text: str) -> None:
        if self.level is not Level.QUIET:
            with self._lock:
                if self._unread is not None:
                    raise self._unread
                self._erase()
                _write(self._err, text)
                self._spoke = time.monotonic()

    def _erase(self) -> None:
        """Erases the line of progress."""
        with self._lock:
            if self._drawn:
                _put(self._err, _ERASE)
                self._drawn = False
                self._spoke = time.monotonic()

    def _style(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def _write(stream: TextIO, text: str) -> None:
    """Writes a line and flushes it."""
    _put(stream, f"{text}\n")


def _put(stream: TextIO, text: str) -> None:
    """Writes text and flushes it. Raises SystemExit with SIGPIPE's exit code if nobody reads it any more."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        explained = lost_output_error(stream, error)
        if error.errno == errno.EIO and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            return  # the terminal is gone, and the process was started to go on without it (nohup)
        raise explained from error


def find_write_error(stream: TextIO) -> PackhorseError | None:
    """Flushes what other code wrote to a stream. Returns the error if that fails, else None."""
    try:
        stream.flush()
    except OSError as error:
        return lost_output_error(stream, error)
    return None


def lost_output_error(stream: TextIO, error: OSError) -> PackhorseError:
    """Returns the error for a failed write. The stream discards everything from now on.

    Raises SystemExit for a broken pipe.
    """
    # Otherwise Python would try at exit to write the rest of the buffer.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    if isinstance(error, BrokenPipeError):
        raise SystemExit(PIPE_GONE) from error
    return PackhorseError("the output cannot be written", why=error.strerror or "")


def format_table(
    heading: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()
) -> list[str]:
    """Formats a table as lines. Each column is as wide as its widest cell."""
    lines = [list(heading), *([sanitize_line(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(heading))]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def format_size(count: int) -> str:
    """Formats a number of bytes for people, in powers of ten, as docker does."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")
