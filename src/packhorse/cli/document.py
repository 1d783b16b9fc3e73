"""Writes the results of commands with `--output` for programs: as JSON, YAML or TOML.

Characters that move the cursor or change the direction of text become escapes. So the result is safe to print
on a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from packhorse.cli.output import escape
from packhorse.errors import FormatError

FORMATS = ("json", "yaml", "toml")


def serialize(fields: Mapping[str, object], form: str) -> str:
    """Writes the fields, in their order, in one of `FORMATS`. TOML has no null, so null values are left out.

    Raises FormatError if the fields are nested too deep.
    """
    try:
        return _serialize(fields, form)
    except RecursionError as error:
        raise FormatError(f"the image cannot be shown as {form}", why="a label is nested too deep") from error


def _serialize(fields: Mapping[str, object], form: str) -> str:
    if form == "yaml":
        import yaml

        text: str = yaml.safe_dump(_replace_surrogates(fields), sort_keys=False, width=1 << 30)
        return text.rstrip("\n")
    if form == "toml":
        import tomli_w

        table = _without_nulls(_replace_surrogates(fields))
        assert isinstance(table, dict)
        return escape(tomli_w.dumps(table).rstrip("\n"))
    return "".join(json_pieces(fields))


def json_pieces(fields: object, indent: str = "") -> Iterator[str]:
    """Yields JSON in pieces, indented by two spaces. Every iterable but a string becomes a list."""
    inner = f"{indent}  "
    if isinstance(fields, Mapping):
        first = "{"
        for key, value in fields.items():
            yield f"{first}\n{inner}{json.dumps(key)}: "
            yield from json_pieces(value, inner)
            first = ","
        yield "{}" if first == "{" else f"\n{indent}}}"
    elif isinstance(fields, Iterable) and not isinstance(fields, str):
        first = "["
        for value in fields:
            yield f"{first}\n{inner}"
            yield from json_pieces(value, inner)
            first = ","
        yield "[]" if first == "[" else f"\n{indent}]"
    else:
        yield json.dumps(fields)


def _replace_surrogates(value: object) -> object:
    """Replaces half surrogate pairs, which JSON can have but YAML and TOML cannot, by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, Mapping):
        return {_replace_surrogates(key): _replace_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_surrogates(item) for item in value]
    return value


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value
