"""③ The layers of one buildpack as they lie in its layers directory. Called by build, export and sbom."""

from __future__ import annotations

from packhorse.base.dataclass import dataclass
from packhorse.base.toml import Warn
from packhorse.base.tree import NodeKind, TreeView, read
from packhorse.buildpack.launch import StoreToml
from packhorse.buildpack.layer import RESERVED, LayerToml
from packhorse.errors import BuildError


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """One `<layer>.toml`, and where its directory is or would be."""

    name: str
    path: str
    toml: LayerToml


def find_layers(tree: TreeView, layers: str, *, warn: Warn | None = None) -> list[FoundLayer]:
    """Every layer with a TOML file in `layers` (`/layers/<id>`), in byte order of the names.

    `warn` is told of unknown keys.
    Raises InputError for a TOML file that cannot be used, BuildError for a name that the specification
    reserves (B-065).
    """
    if tree.stat(layers) is None:
        return []
    found = []
    nodes = {node.name: node for node in tree.list(layers)}
    for file_name, node in nodes.items():
        name = file_name.removesuffix(".toml")
        if name in ("", file_name) or name in RESERVED or node.kind is NodeKind.DIRECTORY:
            continue
        path = f"{layers}/{name}"
        data = read(tree, f"{path}.toml")
        if data is not None:
            found.append(FoundLayer(name, path, LayerToml.parse(data, f"{path}.toml", warn=warn)))
    for name in sorted(RESERVED):
        if name in nodes and nodes[name].kind is NodeKind.DIRECTORY and f"{name}.toml" in nodes:
            raise BuildError(
                f"{layers} has a layer named {name!r}",
                why=f"{name}.toml is not a layer's file, so no layer can have that name",
            )
    return sorted(found, key=lambda layer: layer.name.encode(errors="surrogateescape"))


def read_store(tree: TreeView, layers: str, *, warn: Warn | None = None) -> StoreToml | None:
    """A buildpack's store.toml, or None when it has none (B-091)."""
    data = read(tree, f"{layers}/store.toml")
    return None if data is None else StoreToml.parse(data, f"{layers}/store.toml", warn=warn)
