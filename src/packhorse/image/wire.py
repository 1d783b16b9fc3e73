"""④ JSON off the wire, read field by field, with the place of every value for the error message.

Called by `image.model`, `image.layout` and the archives. What the fields mean is not here.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NoReturn, Self

from packhorse.base import gojson
from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.errors import FormatError

MANIFEST_LIMIT = 4 << 20
"""The most bytes a manifest, index or config may have (distribution-spec, "Pushing Manifests": 4 MiB)."""

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


@dataclass(frozen=True, slots=True)
class JsonNode:
    """One JSON object and where it stands: `manifest.layers[3]`. A null field counts as absent, as in Go.

    Go also takes a field for another that differs in case; where that leaves two for one it is refused, since
    what is checked here must be what others run.
    """

    fields: dict[str, Any]
    where: str

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Self:
        """Reads a JSON object of at most MANIFEST_LIMIT bytes; raises FormatError for anything else."""
        value = _load(raw, where)
        if not isinstance(value, dict):
            raise FormatError(f"{where} is not a JSON object", why=f"it is {_json_kind(value)}")
        return cls(value, where)

    @classmethod
    def parse_list(cls, raw: bytes, where: str) -> tuple[JsonNode, ...]:
        """Reads a JSON list of objects, otherwise as `parse` does."""
        return cls({where: _load(raw, where)}, "file").nodes(where)

    def fail(self, key: str, why: str) -> NoReturn:
        """Raises FormatError about the field `key`."""
        raise FormatError(f"{self.where}.{key} cannot be used", why=why)

    def text(self, key: str) -> str:
        """The string at `key`, "" when absent."""
        value = self._field(key)
        return "" if value is None else self._string(value, key)

    def texts(self, key: str) -> tuple[str, ...]:
        """The strings of the list at `key`."""
        return tuple(self._string(item, f"{key}[{index}]") for index, item in enumerate(self._list(key)))

    def flag(self, key: str) -> bool:
        """The boolean at `key`, False when absent."""
        value = self._field(key)
        if value is not None and not isinstance(value, bool):
            self.fail(key, f"it is {_json_kind(value)}, not a boolean")
        return bool(value)

    def number(self, key: str) -> int:
        """The 64-bit integer at `key`, 0 when absent."""
        value = self._field(key)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not -1 << 63 <= value < 1 << 63:
            self.fail(key, f"it is {_json_kind(value)}, not a 64-bit integer")
        return value

    def size(self, key: str) -> int:
        """The byte count at `key`, which must be there."""
        if self._field(key) is None or self.number(key) < 0:
            self.fail(key, "a number of bytes is needed")
        return self.number(key)

    def digest(self, key: str) -> Digest:
        """The digest at `key`, which must be there."""
        return self._digest(self.text(key), key)

    def digests(self, key: str) -> tuple[Digest, ...]:
        """The digests of the list at `key`."""
        return tuple(self._digest(text, f"{key}[{index}]") for index, text in enumerate(self.texts(key)))

    def media_type(self, key: str) -> str:
        """The media type at `key`, "" when absent (RFC 6838 grammar)."""
        text = self.text(key)
        if text and not _MEDIA_TYPE.fullmatch(text):
            self.fail(key, f"not a media type: {text[:100]!r}")
        return text

    def mapping(self, key: str) -> dict[str, str]:
        """The object of strings at `key`; a null value counts as "", as in Go."""
        node = self.node(key)
        if node is None:
            return {}
        # Not by `text`: the keys of a map are no fields.
        return {
            name: "" if value is None else node._string(value, name) for name, value in node.fields.items()
        }

    def node(self, key: str) -> JsonNode | None:
        """The object at `key`, None when absent."""
        value = self._field(key)
        return None if value is None else self._node(value, key)

    def nodes(self, key: str) -> tuple[JsonNode, ...]:
        """The objects of the list at `key`."""
        return tuple(self._node(item, f"{key}[{index}]") for index, item in enumerate(self._list(key)))

    def _field(self, key: str) -> Any:
        if isinstance(self.fields, _CaseCollision):
            folded = key.casefold()
            if other := next((name for name in self.fields if name != key and name.casefold() == folded), ""):
                self.fail(key, f"it is there as {other[:100]!r} as well")
        return self.fields.get(key)

    def _list(self, key: str) -> list[Any]:
        value = self._field(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fail(key, f"it is {_json_kind(value)}, not a list")
        return value

    def _node(self, value: Any, key: str) -> JsonNode:
        if not isinstance(value, dict):
            self.fail(key, f"it is {_json_kind(value)}, not an object")
        return JsonNode(value, f"{self.where}.{key}")

    def _string(self, value: Any, key: str) -> str:
        if not isinstance(value, str):
            self.fail(key, f"it is {_json_kind(value)}, not a string")
        return value

    def _digest(self, text: str, key: str) -> Digest:
        try:
            return Digest.parse(text)
        except FormatError as error:
            raise FormatError(
                f"{self.where}.{key} cannot be used", why=f"{error.what}; {error.why}"
            ) from error


class _CaseCollision(dict[str, Any]):
    """An object that has names which differ in nothing but case."""


def _load(raw: bytes, where: str) -> Any:
    if len(raw) > MANIFEST_LIMIT:
        raise FormatError(f"{where} is too large", why=f"{len(raw)} bytes of at most {MANIFEST_LIMIT}")
    try:
        return gojson.loads(raw, pairs=_object)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else "nested too deep"
        raise FormatError(f"{where} is not JSON", why=why) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, in which every name may stand once: readers differ in which of two they take."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice[:100]!r} is there twice in one object")
    return fields if len({name.casefold() for name in fields}) == len(fields) else _CaseCollision(fields)


def _json_kind(value: Any) -> str:
    kinds = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), "missing")
