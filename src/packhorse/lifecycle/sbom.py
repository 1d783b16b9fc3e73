"""③ Bills of materials: checked after each buildpack, gathered at the end (B-075 to B-078, P-089, P-108)."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence

from packhorse.base.tree import TreeEdit, TreeView, read
from packhorse.buildpack.descriptor import Descriptor
from packhorse.buildpack.layer import Types
from packhorse.errors import BuildError
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.layer_files import find_layers
from packhorse.lifecycle.stages import Member

MEDIA_TYPES = {
    "cdx.json": "application/vnd.cyclonedx+json",
    "spdx.json": "application/spdx+json",
    "syft.json": "application/vnd.syft+json",
}
"""File name ending to the media type a buildpack declares in `sbom-formats` (B-075, B-078)."""

LIMIT = 64 << 20
"""The largest SBOM file taken, in bytes."""

LEGACY = b"null\n"
"""The bill of materials of before Buildpack API 0.7, which always is empty now (P-090)."""


def check(descriptor: Descriptor, layers: str, tree: TreeView) -> None:
    """Raises BuildError for an SBOM file of a format the buildpack has not declared (B-078)."""
    declared = {entry.partition(";")[0].strip() for entry in descriptor.sbom_formats}
    for name, ending in _files(tree, layers):
        media_type = MEDIA_TYPES.get(ending)
        if media_type is None or media_type not in declared:
            raise BuildError(
                f"{descriptor.ref} wrote {name}.sbom.{ending} and does not declare that format",
                why=f"sbom-formats in its buildpack.toml are {', '.join(sorted(declared)) or 'none'}",
            )


def collect(inputs: Inputs, group: Sequence[Member], tree: TreeEdit) -> None:
    """Copies every SBOM file to its place below `<layers>/sbom`, whose launch part becomes a layer (P-089,
    P-108).
    """
    root = f"{inputs.layers}/sbom"
    tree.remove(root)
    for member in group:
        layers = inputs.layers_directory(member.ref)
        types = {layer.name: layer.toml.types for layer in find_layers(tree, layers)}
        for name, ending in _files(tree, layers):
            data = read(tree, f"{layers}/{name}.sbom.{ending}", limit=LIMIT) or b""
            for target in _targets(name, types):
                tree.write(f"{root}/{target.format(buildpack=member.ref.directory)}/sbom.{ending}", data)
    for kind in ("launch", "build"):
        tree.write(f"{root}/{kind}/sbom.legacy.json", LEGACY)


def add_launchers_own(inputs: Inputs, tree: TreeEdit) -> None:
    """Copies the SBOM files beside the builder's launcher to where the image has them (P-091)."""
    directory = posixpath.dirname(inputs.launcher_path)
    for ending in MEDIA_TYPES:
        data = read(tree, f"{directory}/launcher.sbom.{ending}", limit=LIMIT)
        if data is not None:
            tree.write(f"{inputs.layers}/sbom/launch/buildpacksio_lifecycle/launcher/sbom.{ending}", data)


def _targets(name: str, types: Mapping[str, Types]) -> Iterator[str]:
    """The directories below `<layers>/sbom` that one file belongs in, `{buildpack}` left open."""
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
    """(layer name, or `launch`, or `build`; ending) of each SBOM file. Layer names may have dots, which the
    reference does not foresee.
    """
    if tree.stat(layers) is None:
        return
    for node in tree.list(layers):
        name, found, ending = node.name.partition(".sbom.")
        if found and ending.endswith("json"):
            yield name, ending
