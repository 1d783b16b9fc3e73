"""Writes messages for the user of a buildpack: titles, details below them, warnings and errors.

The SDK uses it. The caller decides whether to use colours, because this folder reads no environment variable.
The command line has its own output (`cli.output`).
"""

from __future__ import annotations

import codecs

from packhorse.base.dataclass import dataclass
from packhorse.errors import PackhorseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

_BOLD, _YELLOW, _RED, _OFF = "\x1b[1m", "\x1b[33m", "\x1b[31m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Log:
    """Writes to two streams: `out` takes information, `err` warnings and errors; each line is flushed."""

    out: TextIO
    err: TextIO
    colour: bool = False

    def title(self, text: str) -> None:
        """Writes a heading at the left margin."""
        self._write(self.out, text, _BOLD)

    def detail(self, text: str) -> None:
        """Writes one or more lines below the last heading."""
        self._write(self.out, _indent(text, "  "), "")

    def warning(self, text: str) -> None:
        """Writes a problem that the user should fix and that does not stop the work."""
        self._write(self.err, _indent(f"warning: {text}", "  "), _YELLOW)

    def error(self, error: PackhorseError) -> None:
        """Writes what happened, why, and what to do."""
        self._write(self.err, f"error: {error.what}", _RED)
        for part in (error.why, error.fix):
            if part:
                self._write(self.err, _indent(part, "  "), "")

    def output(self) -> Output:
        """Returns a sink that indents the raw output of a command below the last detail."""
        return Output(self.out)

    def _write(self, stream: TextIO, text: str, style: str) -> None:
        styled = f"{style}{text}{_OFF}" if style and self.colour else text
        stream.write(f"{styled}\n")
        stream.flush()


class Output:
    """Shows the output of a running command as it arrives, each line indented by four spaces."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_line_start = True

    def feed(self, data: bytes) -> None:
        """Shows `data`, which may end within a line or a character."""
        for line in self._decoder.decode(data).splitlines(keepends=True):
            if self._at_line_start and line.strip():
                self._stream.write("    ")
            self._stream.write(line)
            self._at_line_start = line.endswith("\n")
        self._stream.flush()

    def close(self) -> None:
        """Ends an unfinished last line."""
        if not self._at_line_start:
            self._stream.write("\n")
            self._stream.flush()


def _indent(text: str, margin: str) -> str:
    return "\n".join(margin + line for line in text.splitlines())
