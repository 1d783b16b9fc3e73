"""What differs between two configs, value by value: each has a path, labels that are JSON inside as well.

Called by `comparison`, which itself tells which layers there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from packhorse.base import gojson
from packhorse.base.dataclass import dataclass
from packhorse.image.view import Image
from packhorse.lifecycle import labels

_NAMES = ("key", "id", "type", "name")
"""What tells the entries of a list apart, wherever they stand in it."""

_DEPTH = 50
"""Objects within objects of a label that is told value by value."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_LIFECYCLE = f"labels[{labels.LIFECYCLE}]"
_RESTATED = re.compile(
    rf"{re.escape(_LIFECYCLE)}\.(?:.*\.)?(?:sha|topLayer|reference)|history(?:\..*|\[.*)?|created"
)
_OF_BASE = re.compile(
    rf"{re.escape(_LIFECYCLE)}\.(?:runImage|stack)\b.*|labels\[io\.buildpacks\.(?:base|stack)\..*|created"
    r"|history\b.*"
)


@dataclass(frozen=True, slots=True)
class ValueChange:
    """One value that differs; None is none at all. Those that are `is_derived` follow from layers
    that differ.
    """

    path: str
    before: object
    after: object

    @property
    def is_derived(self) -> bool:
        """Whether it says no more than that a layer is another: a digest, a history entry, a time."""
        return _RESTATED.fullmatch(self.path) is not None

    @property
    def is_bookkeeping(self) -> bool:
        """Whether it is what a lifecycle noted of the layers for the next build, or `is_derived`."""
        return self.is_derived or self.path.startswith(f"{_LIFECYCLE}.")

    @property
    def title(self) -> str:
        """The path, without the label that all bookkeeping is in."""
        return self.path.removeprefix(f"{_LIFECYCLE}.")

    @property
    def is_of_base(self) -> bool:
        """Whether it is about the base image alone, so that a rebase changes it."""
        return _OF_BASE.fullmatch(self.path) is not None


def values(before: Image, after: Image) -> tuple[ValueChange, ...]:
    """The values that differ, by path; numbers are what their digits say."""
    one, other = (dict(_flatten(_document(image), "")) for image in (before, after))
    return tuple(
        ValueChange(path, one.get(path), other.get(path))
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    )


def _document(image: Image) -> dict[str, Any]:
    """The config as JSON without its list of layers; what is in `config` stands at the top, as labels do."""
    document = dict(gojson.loads(image.config.raw))
    rootfs = document.pop("rootfs", None)
    if isinstance(rootfs, dict):
        document["rootfs"] = {key: value for key, value in rootfs.items() if key != "diff_ids"}
    inner = document.pop("config", None)
    inner = dict(inner) if isinstance(inner, dict) else {}
    inner.pop("Labels", None)
    if image.config.labels:
        document["labels"] = {name: _parse_label(text) for name, text in image.config.labels.items()}
    env = inner.pop("Env", None)
    if isinstance(env, list) and env:
        document["env"] = dict(str(entry).partition("=")[::2] for entry in env)
    return {**inner, **document}


def _parse_label(text: str) -> object:
    """A label that is a JSON object or list as what it is, else as its text."""
    if text[:1] in ("{", "["):
        try:
            value = gojson.loads(text)
            return value if _is_shallow(value, _DEPTH) else text
        except (ValueError, RecursionError):
            pass
    return text


def _is_shallow(value: object, left: int) -> bool:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return left > 0 and all(_is_shallow(item, left - 1) for item in items)


def _flatten(value: object, path: str, left: int = 2 * _DEPTH) -> Iterator[tuple[str, object]]:
    """The values within a value, with their paths; what is nested deeper than anybody's is one value."""
    if not left:
        yield path, "nested too deep"
    elif isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(item, _join_path(path, key), left - 1)
    elif isinstance(value, list) and value:
        for key, item in _entries(value):
            yield from _flatten(item, f"{path}[{key}]", left - 1)
    elif value is not None:
        yield path, value


def _join_path(path: str, key: str) -> str:
    if not path:
        return key
    return f"{path}.{key}" if _PLAIN.fullmatch(key) else f"{path}[{key}]"


def _entries(items: list[Any]) -> Iterator[tuple[str, Any]]:
    """The entries of a list by what names them, or where nothing does by their number."""
    for name in _NAMES:
        keys = [item.get(name) if isinstance(item, dict) else None for item in items]
        if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
            return zip(map(str, keys), items, strict=True)
    return ((str(number), item) for number, item in enumerate(items))


def format_value(value: object) -> str:
    """A value as people read it: text as it is, the rest as JSON, nothing as such."""
    if value is None:
        return "(none)"
    return value if isinstance(value, str) else json.dumps(value)


def partition(
    values: Iterable[ValueChange],
) -> tuple[list[ValueChange], list[ValueChange], list[ValueChange]]:
    """What was set, what was noted of layers for the next build, and what follows from the layers."""
    found: tuple[list[ValueChange], list[ValueChange], list[ValueChange]] = ([], [], [])
    for value in values:
        found[2 if value.is_derived else 1 if value.is_bookkeeping else 0].append(value)
    return found
