"""Text of other people's as it may be shown: it moves no cursor, sets no title, writes no clipboard.

Called by `output` for everything that is printed. Names of layers, labels and processes, ids, reasons of
errors and what buildpacks print come from whoever made a buildpack or an image (docs/output.md).
"""

from __future__ import annotations

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]{0,32}m")
_CONTROL = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # operating system commands (titles, links)
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # cursor movement and the like
    r"|\x1b[@-_]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    # Marks that turn the direction of what follows, so that it reads other than it is; line separators.
    r"|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
_SUSPECT = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

_WORD, _LINE = 200, 1000  # characters of an error that are printed
_LONG_WORD = re.compile(rf"\S{{{_WORD + 1},}}")


def sanitize(text: str, *, colours: bool = False) -> str:
    """The text without control characters but line ends and tabs; with `colours` those stay, and end with it.

    What is no character (half of a surrogate pair, a byte of a name that is not UTF-8) becomes `?`.
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
    """The text with the characters that `sanitize` would take out as escapes; for strings in double
    quotes.
    """
    return _SUSPECT.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def sanitize_line(text: str) -> str:
    """As `sanitize`, in one line: a name with line ends in it would look like lines of ours."""
    return sanitize(" ".join(text.splitlines()) if "\n" in text or "\r" in text else text)


def shorten(line: str) -> str:
    """A line of an error without the middle of a path, or of anything else, that nobody would read whole.

    Both ends stay: where it is, and what it is.
    """
    return _cut_middle(_LONG_WORD.sub(lambda match: _cut_middle(match[0], _WORD), line), _LINE)


def _cut_middle(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
