"""What a person sees: phases with their durations, buildpacks' output with a prefix, tables, errors.

Plain lines everywhere; colour on a terminal unless NO_COLOR or --no-color says otherwise. What buildpacks and
images say is hostile: of its control characters only line ends, tabs and (on a terminal) buildpacks' colours
get through, by `clean`. However much it is, little of it is in memory.
"""

from __future__ import annotations

import codecs
import errno
import os
import shutil
import signal
import sys
import time
from _thread import RLock
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from typing import TextIO

from packhorse.base import proc
from packhorse.base.meter import UNWATCHED
from packhorse.cli import report
from packhorse.cli.clean import sanitize, sanitize_line, shorten
from packhorse.cli.report import Secrets
from packhorse.errors import PackhorseError, check_of

_LINE_LIMIT = 1 << 16  # characters of one line without an end that are held back
_UNSAID_LIMIT = 200  # lines of buildpacks' output that --quiet holds back, for the case of a failure
_UNSAID_LENGTH = 4096  # characters of such a line

_INDENT = "     "
_ERASE = "\r\x1b[K"
_RETURN = "\r"
_BLOCK = 64 << 10  # characters of a long document that are written at once


class Level(IntEnum):
    """How much is said: results alone, what happens, or everything."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class Console:
    """Writes to stderr what happens, and to stdout what was asked for. Implements the lifecycle's
    Observer.
    """

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
        """Takes the options that may stand before a command and behind it; what is not given stays."""
        if quiet or verbose:
            self.level = Level.QUIET if quiet else Level.VERBOSE
        self._colour = self._colour and not no_color

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A heading, and the time the phase took when it is over."""
        self._line(self._style("1;36", f"===> {sanitize_line(name)}"))
        started = time.monotonic()
        with self.meter.task(name):
            yield
        self._flush()
        self.detail(f"{name} took {time.monotonic() - started:.2f} s")

    @contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """Work within a phase, or outside of one, whose name and time are shown when it takes long."""
        with self.meter.task(name):
            try:
                yield
            finally:
                self._begin_step("")

    def say(self, text: str) -> None:
        """One line, at normal level."""
        self._flush()
        self._line(f"{_INDENT}{sanitize_line(text)}")

    def say_raw(self, text: str) -> None:
        """One line at normal level, on a terminal that an image has and that does not end lines by itself."""
        if not self._terminal:
            self.say(text)
        elif self.level is not Level.QUIET:
            _put(self._err, f"\r{_INDENT}{sanitize_line(text)}\r\n")

    def progress(self, text: str) -> None:
        """What goes on now: on a terminal a line that the next one replaces, elsewhere lines of their own."""
        if not self._terminal or self.level is not Level.NORMAL:
            self.say(text)
        else:
            self._draw(text)
        self._begin_step(text)

    def _begin_step(self, name: str) -> None:
        """Shows the time of what `progress` has told, in place of what it told before; of nothing for ""."""
        with self._lock:
            self._step.close()
            if name:
                self._step.enter_context(self.meter.task(name))

    @property
    def is_live(self) -> bool:
        """Whether progress is one line that is drawn again and again."""
        return self._terminal and self.level is Level.NORMAL

    def wait(self, text: str, *, silence: float) -> bool:
        """Says how far work is that takes long, if nothing was printed for `silence` seconds; whether it did.

        Called from a thread of its own.
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
                self._unread = error  # for the main thread, which it ends with the next line
                return False
            return True

    def _draw(self, text: str) -> None:
        with self._lock:
            width = shutil.get_terminal_size().columns
            _put(self._err, f"{_ERASE}{_INDENT}{sanitize_line(text)}"[: width + len(_ERASE) - 1])
            self._drawn = True

    def detail(self, text: str) -> None:
        """One line, with --verbose only."""
        if self.level is Level.VERBOSE:
            self._flush()
            for line in text.splitlines():
                self._line(self._style("2", f"{_INDENT}{sanitize(line)}"))

    def output(self, source: str, data: bytes) -> None:
        """What a buildpack wrote: complete lines at once, the rest when its line ends."""
        decoder = self._decoders.setdefault(source, codecs.getincrementaldecoder("utf-8")("replace"))
        text = self._pending.pop(source, "") + decoder.decode(data)
        *lines, rest = text.replace("\r\n", "\n").split("\n")
        # A progress bar rewrites its line: what stands at its end is what a person would see.
        rest = rest[:-1].rpartition("\r")[2] + rest[-1:]
        if len(rest) > _LINE_LIMIT:
            lines, rest = [*lines, rest], ""
        self._buildpack_lines(source, lines)
        if rest:
            self._pending[source] = rest

    def result(self, text: str) -> None:
        """What was asked for, one line on stdout, at every level."""
        self.document(sanitize_line(text))

    def document(self, text: str) -> None:
        """What was asked for in lines that are not ours to divide, such as JSON."""
        self._flush()
        self._erase()
        _write(self._out, sanitize(text))

    def stream(self, pieces: Iterable[str]) -> None:
        """A document that is not all in memory, in pieces that none of ours would divide."""
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
        """Columns on stdout; the numbers in `right` (column indexes) are set to the right."""
        for line in format_table(heading, rows, right=right):
            self.result(line)

    def notes(self, lines: Sequence[str]) -> None:
        """Lines without indentation, at normal level."""
        self._flush()
        for line in lines:
            self._line(sanitize_line(line))

    def help(self, text: str) -> None:
        """How a command is used, for who has named none: on stderr, at every level."""
        self._erase()
        _write(self._err, sanitize(text))

    def error(self, error: PackhorseError) -> None:
        """What happened, why, and what to do; with --verbose also the errors behind it, and whole paths.

        A failure is not quiet: with --quiet the last of the buildpacks' output comes before it.
        """
        self._flush()
        what, *more = [sanitize_line(error.what), *map(sanitize, error.why.splitlines())]
        if self.level is not Level.VERBOSE:
            what, *more = map(shorten, (what, *more))
        lines = [*self._unsaid, f"{self._style('1;31', 'error:')} {what}"]
        # What to do may be a command, which nobody can do without a part of it.
        lines += [f"  {line}" for line in (*more, *map(sanitize, error.fix.splitlines()))]
        check = check_of(error)
        if check:
            lines.append(f"  see packhorse doctor {check}")
        if self.level is Level.VERBOSE:
            for text in report.causes(error, self.secrets):
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
        """Takes the line of progress away."""
        with self._lock:
            if self._drawn:
                _put(self._err, _ERASE)
                self._drawn = False
                self._spoke = time.monotonic()

    def _style(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def _write(stream: TextIO, text: str) -> None:
    """Writes a line at once."""
    _put(stream, f"{text}\n")


def _put(stream: TextIO, text: str) -> None:
    """Writes text at once. Ends the process, as SIGPIPE would, when who reads it has gone."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        explained = lost_output_error(stream, error)
        if error.errno == errno.EIO and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            return  # a terminal that is gone, of which this process was not to take notice
        raise explained from error


def find_write_error(stream: TextIO) -> PackhorseError | None:
    """The error for what somebody else has written to a stream, and what could not be; None if all was."""
    try:
        stream.flush()
    except OSError as error:
        return lost_output_error(stream, error)
    return None


def lost_output_error(stream: TextIO, error: OSError) -> PackhorseError:
    """The error for what a stream did not take, and takes no more of."""
    # What the stream has not taken would be tried again at exit.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    if isinstance(error, BrokenPipeError):
        raise SystemExit(proc.PIPE_GONE) from error
    return PackhorseError("the output cannot be written", why=error.strerror or "")


def format_table(
    heading: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()
) -> list[str]:
    """A table as lines, each column as wide as its widest cell."""
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
    """Bytes as people read them, in powers of ten as docker prints them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")
