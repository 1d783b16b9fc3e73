"""③ Checks the SBOM files of each buildpack, and collects them after the last one.

See B-075 to B-078, P-089 and P-108. Called by `build` and `export`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from packhorse.base.go_json import json_bytes
from packhorse.base.tree import TreeEdit, TreeView, read
from packhorse.errors import BuildError
from packhorse.lifecycle.buildpacks import find_layers
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.labels import Bom, bom_entries
from packhorse.lifecycle.stages import Member
from packhorse.spec.api import LEGACY_BOM_FILE, SBOM_LAYER
from packhorse.spec.buildpack_files import LayerTypes
from packhorse.spec.buildpack_toml import Descriptor

MEDIA_TYPES = {
    "cdx.json": "application/vnd.cyclonedx+json",
    "spdx.json": "application/spdx+json",
    "syft.json": "application/vnd.syft+json",
}
"""Media types, which buildpacks declare in `sbom-formats`, by the ending of the file (B-075, B-078)."""

LIMIT = 64 << 20
"""The largest size of an SBOM file, in bytes."""


def check(descriptor: Descriptor, layers: str, tree: TreeView) -> None:
    """Raises BuildError for an SBOM file in a format that the buildpack does not declare (B-078)."""
    declared = {entry.partition(";")[0].strip() for entry in descriptor.sbom_formats}
    for name, ending in _files(tree, layers):
        media_type = MEDIA_TYPES.get(ending)
        if media_type is None or media_type not in declared:
            raise BuildError(
                f"{descriptor.ref} wrote {name}.sbom.{ending} and does not declare that format",
                why=f"sbom-formats in its buildpack.toml are {', '.join(sorted(declared)) or 'none'}",
            )


def collect(
    inputs: Inputs, group: Sequence[Member], tree: TreeEdit, *, launch: Bom = (), build: Bom = ()
) -> None:
    """Copies every SBOM file to its place below `<layers>/sbom` (P-089, P-108).

    The launch part becomes a layer. Also writes the old bills of materials `launch` and `build` (P-090).
    Older Platform APIs have neither.
    """
    root, api = f"{inputs.layers}/sbom", inputs.platform_api
    tree.remove(root)
    for member in group if api.has(SBOM_LAYER) else ():
        layers = inputs.layers_directory(member.ref)
        types = {layer.name: layer.toml.types for layer in find_layers(tree, layers)}
        for name, ending in _files(tree, layers):
            source = f"{layers}/{name}.sbom.{ending}"
            is_there = tree.stat(source, follow=True) is not None
            for target in _targets(name, types):
                place = f"{root}/{target.format(buildpack=member.ref.directory_name)}/sbom.{ending}"
                if is_there:
                    tree.copy(source, place, limit=LIMIT)
                else:  # a broken link
                    tree.write(place, b"")
    for kind, bom in (("launch", launch), ("build", build)) if api.has(LEGACY_BOM_FILE) else ():
        tree.write(f"{root}/{kind}/sbom.legacy.json", json_bytes(bom_entries(bom) or None) + b"\n")


def add_launcher_sboms(inputs: Inputs, tree: TreeEdit) -> None:
    """Copies the SBOM files of the builder's launcher to where the image has them (P-091)."""
    for ending in MEDIA_TYPES:
        data = read(tree, f"{inputs.launcher_sboms}/launcher.sbom.{ending}", limit=LIMIT)
        if data is not None:
            tree.write(f"{inputs.layers}/sbom/launch/buildpacksio_lifecycle/launcher/sbom.{ending}", data)


def _targets(name: str, types: Mapping[str, LayerTypes]) -> Iterator[str]:
    """Returns the directories below `<layers>/sbom` for a file, with the placeholder `{buildpack}`."""
    if name in ("launch", "build"):
        yield f"{name}/{{buildpack}}"
        return
    found = types.get(name)
    if found is None:
        return
    yield f"{'launch' if found.launch else 'build'}/{{buildpack}}/{name}"
    if found.cache:
        yield f"cache/{{buildpack}}/{name}"


def _files(tree: TreeView, layers: str) -> Iterator[tuple[str, str]]:
    """Yields the name (of a layer, or `launch`, or `build`) and the ending of each SBOM file.

    A layer's name may have dots, which the reference does not support.
    """
    if tree.stat(layers) is None:
        return
    for node in tree.list(layers):
        name, found, ending = node.name.partition(".sbom.")
        if found and ending.endswith("json"):
            yield name, ending
