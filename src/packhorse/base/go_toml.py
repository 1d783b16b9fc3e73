"""Writes TOML byte for byte as the Go lifecycle writes it, because some of its files end in a layer.

The lifecycle 0.21.0 writes with BurntSushi/toml 1.5.0 and its defaults: tables indented by two spaces, a
table's simple keys before its sub-tables, arrays on one line. A dict stands for a Go struct and keeps its
order; a `SortedMap` stands for a Go map. `base.toml` reads TOML. A buildpack's detection imports this file,
so it imports as little as it can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from packhorse.errors import FormatError

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from datetime import datetime, time

_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class SortedMap(dict[str, object]):
    """A Go map, which Go writes in the byte order of its keys. A plain dict inside it is a struct again."""


def members(table: Mapping[str, object]) -> list[tuple[str, object]]:
    """Returns the keys and values of `table` in the order in which Go writes them."""
    if isinstance(table, SortedMap):
        return sorted(table.items(), key=lambda item: encode_text(item[0]))
    return list(table.items())


def format_integer(value: int) -> str:
    """Writes `value` in decimal digits; FormatError if it does not fit 64 bits."""
    if not -(1 << 63) <= value < 1 << 64:
        raise FormatError(f"the number {value} cannot be written", why="it does not fit 64 bits")
    return str(int(value))


def format_time(value: datetime | time) -> str:
    """Writes `value` as Go's RFC3339Nano: no trailing zeros in the fraction, `Z` for UTC, none if local."""
    head, dot, tail = value.isoformat().partition(".")
    if dot:
        fraction = tail[:6].rstrip("0")
        head = f"{head}.{fraction}{tail[6:]}"
    return head[:-6] + "Z" if head.endswith("+00:00") else head


def encode_text(text: str) -> bytes:
    """Encodes `text`. Half a surrogate pair, which JSON can express, becomes U+FFFD as in Go."""
    return _HALF.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def sort_maps(value: object) -> object:
    """Turns every dict at any depth into a `SortedMap`, for Go values without a declared type (metadata)."""
    if isinstance(value, Mapping):
        return SortedMap((key, sort_maps(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [sort_maps(item) for item in value]
    return value


END = 253_402_300_800
"""The first second of the year 10000, which RFC 3339, and so an image, cannot express."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_UNSAFE = re.compile(r'["\\\x00-\x1f\x7f]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_Path = tuple[str, ...]


class RawToml(str):
    """A value that is TOML already and is written unchanged, for Go types with their own encoder."""

    __slots__ = ()


def toml_bytes(table: Mapping[str, object]) -> bytes:
    """Writes `table` as a TOML document, without the keys whose value is None.

    Takes bool, int, float, str, `RawToml`, list, tuple, dict, `SortedMap` and the date and time types of
    tomllib. Text that surrogateescape decoded gets its bytes back. Raises FormatError for an array with None
    in it and an integer that does not fit 64 bits; TypeError for any other type.
    """
    out: list[str] = []
    _write_table(out, (), table)
    return "".join(out).encode("utf-8", "surrogateescape")


def _write_table(out: list[str], path: _Path, table: Mapping[str, object]) -> None:
    """Writes the members of the table at `path`, simple keys first: a key belongs to the header above it."""
    indent = "  " * len(path)
    simple, nested = _split_members(table)
    out += (f"{indent}{_format_key(key)} = {_format_value(value)}\n" for key, value in simple)
    for key, value in nested:
        below = (*path, key)
        name = ".".join(map(_format_key, below))
        if isinstance(value, Mapping):
            if out and not path:
                out.append("\n")
            out.append(f"{indent}[{name}]\n")
            _write_table(out, below, value)
        elif isinstance(value, list | tuple):
            for item in value:
                out.append(f"\n{indent}[[{name}]]\n" if out else f"{indent}[[{name}]]\n")
                _write_table(out, below, item)


def _split_members(table: Mapping[str, object]) -> tuple[list[tuple[str, object]], list[tuple[str, object]]]:
    """Splits the members of `table` that have a value into simple ones, and tables and arrays of tables."""
    simple: list[tuple[str, object]] = []
    nested: list[tuple[str, object]] = []
    for key, value in members(table):
        if value is not None:
            (nested if _is_nested(value) else simple).append((key, value))
    return simple, nested


def _is_nested(value: object) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping)


def _format_value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case RawToml():
            return value
        case str():
            return _quote(value)
        case int():
            return format_integer(value)
        case float():
            return _format_float(value)
        case list() | tuple():
            return "[" + ", ".join(map(_format_value, value)) + "]"
        case Mapping():
            simple, nested = _split_members(value)
            return (
                "{"
                + ", ".join(f"{_format_key(key)} = {_format_value(item)}" for key, item in simple + nested)
                + "}"
            )
        case None:
            raise FormatError("an array with an empty element cannot be written", why="TOML has no null")
    return _format_time(value)


def _format_time(value: object) -> str:
    from datetime import date, datetime, time  # slow to import, and no detection needs it

    match value:
        case datetime() | time():
            return format_time(value)
        case date():
            return value.isoformat()
    raise TypeError(f"no TOML for {type(value).__name__}")


def _format_float(value: float) -> str:
    import math
    from decimal import Decimal  # slow to import, and few documents have fractions

    if math.isnan(value):
        return "-nan" if math.copysign(1, value) < 0 else "nan"
    if math.isinf(value):
        return "-inf" if value < 0 else "inf"
    digits = format(Decimal(repr(value)), "f")
    return digits if "." in digits else digits + ".0"


def _format_key(text: str) -> str:
    return text if _BARE.fullmatch(text) else _quote(text)


def _quote(text: str) -> str:
    return f'"{_UNSAFE.sub(_escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    return _SHORT.get(match[0]) or f"\\u{ord(match[0]):04x}"
