"""What Go's encoders have in common: the order of a map, how an integer and a moment are written,
text as bytes.

Called by `base.gojson` and `base.gotoml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from packhorse.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime, time

_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class SortedMap(dict[str, object]):
    """A Go map: written in the byte order of its keys. A plain dict inside it is a struct again."""


def members(table: Mapping[str, object]) -> list[tuple[str, object]]:
    """The keys and values of `table` in the order Go writes them: a `SortedMap` by the bytes of its keys."""
    if isinstance(table, SortedMap):
        return sorted(table.items(), key=lambda item: encode_text(item[0]))
    return list(table.items())


def format_integer(value: int) -> str:
    """`value` in decimal digits; FormatError if it does not fit 64 bits."""
    if not -(1 << 63) <= value < 1 << 64:
        raise FormatError(f"the number {value} cannot be written", why="it does not fit 64 bits")
    return str(int(value))


def format_time(value: datetime | time) -> str:
    """`value` as Go's RFC3339Nano: no trailing zeros in the fraction, `Z` for UTC, no zone when local."""
    head, dot, tail = value.isoformat().partition(".")
    if dot:
        fraction = tail[:6].rstrip("0")
        head = f"{head}.{fraction}{tail[6:]}"
    return head[:-6] + "Z" if head.endswith("+00:00") else head


def encode_text(text: str) -> bytes:
    """The bytes of `text`; half a surrogate pair, which JSON can spell, is U+FFFD as soon as Go reads it."""
    return _HALF.sub("\ufffd", text).encode("utf-8", "surrogateescape")
