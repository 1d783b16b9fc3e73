"""② `<layers>/<layer>.toml`: which types a layer has and what its buildpack noted.

(buildpack.md "Layer Content Metadata".)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from packhorse.base import gojson, gotoml
from packhorse.base.dataclass import dataclass, field
from packhorse.base.toml import Table, Warn

RESERVED = frozenset({"build", "launch", "store"})
"""Names of TOML files beside the layers' that are no layer's (B-065)."""


@dataclass(frozen=True, slots=True)
class LayerTypes:
    """The three layer types; a layer with none of them is ignored (B-045, B-067)."""

    build: bool = False
    launch: bool = False
    cache: bool = False

    def __bool__(self) -> bool:
        return self.build or self.launch or self.cache


@dataclass(frozen=True, slots=True)
class LayerToml:
    """One layer's TOML file; `metadata` is None where the table is absent, which a label tells from an empty
    one.
    """

    types: LayerTypes = field(default_factory=LayerTypes)
    metadata: Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, data: bytes, source: str, *, warn: Warn | None = None) -> Self:
        """Reads what a buildpack wrote; raises InputError (B-044: the types stand in their table, not at the
        top).
        """
        top = Table.read(data, source, warn)
        for key in ("build", "launch", "cache"):
            if key in top.values:
                top.add_issue(f"{key} belongs in the [types] table", key)
        table = top.table("types")
        types = LayerTypes(table.flag("build"), table.flag("launch"), table.flag("cache"))
        # The metadata of a layer that is kept becomes a label.
        is_label = types.launch or types.cache
        metadata = top.mapping("metadata", finite=is_label) if top.has("metadata") else None
        top.finish()
        return cls(types, metadata)

    def dump_metadata(self) -> bytes:
        """The file as a buildpack finds it next time: the metadata alone, never the types (B-079)."""
        return gotoml.dumps({"metadata": gojson.sort_maps(self.metadata)})
