"""Reads and writes JSON as Go's encoding/json does, so that equal configs give equal bytes and image IDs.

A dict stands for a Go struct and keeps its order; a `SortedMap` stands for a Go map. The caller leaves out
what `omitempty` leaves out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from json.encoder import encode_basestring
from typing import Any, NoReturn

from packhorse.base.go_toml import encode_text, format_integer, format_time, members
from packhorse.errors import FormatError

_UNSAFE = re.compile("[<>&\u2028\u2029\udc80-\udcff]")
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


def loads(
    data: str | bytes,
    *,
    parse_int: Callable[[str], object] = int,
    pairs: Callable[[list[tuple[str, Any]]], object] | None = None,
) -> Any:
    """Parses JSON as Go does: UTF-8 only, no NaN, no number outside a double's range; half a surrogate pair
    becomes U+FFFD.

    `pairs` makes an object of its members, in their order. Raises ValueError for invalid JSON and
    RecursionError for JSON that is nested too deeply.
    """
    text = data.decode() if isinstance(data, bytes) else data
    if "\\ud" in text or "\\uD" in text:
        text = _ESCAPE.sub(lambda match: "\\ufffd" if match[1] else match[0], text)
    return json.loads(
        text,
        parse_float=parse_number,
        parse_int=parse_int,
        parse_constant=_refuse_constant,
        object_pairs_hook=pairs,
    )


def json_bytes(value: object) -> bytes:
    """Writes `value` as compact JSON with `<`, `>`, `&`, U+2028 and U+2029 escaped.

    Takes None, bool, int, float, str, list, tuple, dict, `SortedMap` and the date and time types of tomllib.
    A byte that surrogateescape carried in a string becomes `\\ufffd`. Raises FormatError for an integer
    that does not fit 64 bits and for a float that is not finite; TypeError for any other type.
    """
    return _format(value).encode()


def parse_number(text: str) -> float:
    """Parses a number as Go does without a declared type, as a double; ValueError if it is too large."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _format(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _format_string(value)
        case int():
            return format_integer(value)
        case float():
            return _format_float(value)
        case Mapping():
            return (
                "{" + ",".join(f"{_format_string(key)}:{_format(item)}" for key, item in members(value)) + "}"
            )
        case list() | tuple():
            return "[" + ",".join(map(_format, value)) + "]"
        case datetime():
            return f'"{format_time(value)}{"" if value.tzinfo else "Z"}"'
        case date():
            return f'"{value.isoformat()}T00:00:00Z"'
        case time():
            return f'"0000-01-01T{format_time(value)}Z"'
    raise TypeError(f"no JSON for {type(value).__name__}")


def _format_string(text: str) -> str:
    if not text.isascii():
        text = encode_text(text).decode("utf-8", "surrogateescape")
    # encode_basestring escapes what every JSON encoder escapes; Go escapes more.
    return _UNSAFE.sub(_escape_character, encode_basestring(text))


def _escape_character(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":
        return "\\ufffd"
    return f"\\u{ord(character):04x}"


def _format_float(value: float) -> str:
    if not math.isfinite(value):
        raise FormatError(f"the number {value} cannot be written", why="JSON has no infinity and no NaN")
    from decimal import Decimal  # slow to import, and few documents have fractions

    if value == 0 or 1e-6 <= abs(value) < 1e21:
        return format(Decimal(repr(value)), "f").removesuffix(".0")
    return repr(value).replace("e-0", "e-")
