"""① → ③ Restores the layers of the last build that this build can use (buildpack.md "Phase #2: Analysis").

`choose_layers` decides, and has the cache prepare the directories. Then the caller opens the build's sandbox,
which shows them, and `restore` writes the TOML and SBOM files there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.tree import NodeKind, TreeEdit, is_directory, read
from packhorse.errors import FormatError, PackhorseError
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.labels import BuildpackRecord, LayerRecord, LayersMetadata
from packhorse.lifecycle.ports import LayerCache, Observer
from packhorse.lifecycle.stages import Analyzed, Detected, Member, Restored
from packhorse.oci.place import Image, Layer
from packhorse.spec.api import CACHED_METADATA, SBOM_LAYER, STORE_AFTER_CLEAR
from packhorse.spec.buildpack_files import LayerToml
from packhorse.tar.reader import TarReader

SBOM_LIMIT = 64 << 20
"""The largest SBOM file restored, in bytes."""

_SBOM = re.compile(r"(?P<buildpack>[^/]+)/(?P<layer>[^/]+)/sbom\.(?P<format>[a-z]+\.json)")
"""The path of a layer's SBOM file below `<layers>/sbom/launch`."""


@dataclass(frozen=True, slots=True)
class Restoration:
    """What is restored: layer `directories` by their paths, and `files` to write beside them.

    `records` has a record for each restored layer, with or without a directory. `has_sboms` tells that the
    cache's SBOM layer is restored too.
    """

    directories: Mapping[str, Digest]
    records: Mapping[str, tuple[Member, LayerRecord]]
    files: Mapping[str, bytes]
    has_sboms: bool


def choose_layers(
    inputs: Inputs, analyzed: Analyzed, detected: Detected, *, cache: LayerCache, observer: Observer
) -> Restoration:
    """Decides what is restored, and has `cache` restore the directories.

    With `skip_restore` only store.toml is restored (P-115), before Platform API 0.10 nothing at all. A layer
    whose bytes are missing is not restored, and `observer` says so.
    """
    metadata = cache.read([str(member.ref) for member in detected.group])
    cached = LayersMetadata() if inputs.skip_restore else LayersMetadata.parse(metadata)
    records: dict[str, tuple[Member, LayerRecord]] = {}
    directories: dict[str, Digest] = {}
    files = _RestoredFiles(observer)
    has_stores = not inputs.skip_restore or inputs.platform_api.has(STORE_AFTER_CLEAR)
    for member in detected.group if has_stores else ():
        before = analyzed.metadata.buildpack(member.ref.id)
        if before is not None and before.store is not None:
            path = f"{inputs.layers_directory(member.ref)}/store.toml"
            files.add(path, f"{member.ref.id}: store.toml", before.store.dump)
    for member in () if inputs.skip_restore else detected.group:
        before, kept = analyzed.metadata.buildpack(member.ref.id), cached.buildpack(member.ref.id)
        for name, record in _choose_records(inputs, before, kept):
            path = f"{inputs.layers_directory(member.ref)}/{name}"
            toml = LayerToml(metadata=record.data)
            if not files.add(f"{path}.toml", f"{member.ref.id}:{name}", toml.dump_metadata):
                continue
            if record.cache:
                diff_id = _cached_diff_id(record, kept, name)
                if diff_id is None or not cache.restore(path, diff_id):
                    observer.say(f"{member.ref.id}:{name} is left behind: its contents are not kept here")
                    files.remove(f"{path}.toml")
                    continue
                directories[path] = diff_id
            records[path] = (member, record)
    sbom = _digest(cached.sbom) if inputs.platform_api.has(SBOM_LAYER) else None
    has_sboms = sbom is not None and cache.restore(f"{inputs.layers}/sbom/cache", sbom)
    return Restoration(directories, records, files.all, has_sboms)


def restore(
    inputs: Inputs, analyzed: Analyzed, chosen: Restoration, *, tree: TreeEdit, observer: Observer
) -> Restored:
    """Writes `<layer>.toml` and SBOM files of the restored layers, and each buildpack's store.toml."""
    for path, data in chosen.files.items():
        tree.write(path, data)
    if not inputs.skip_restore and inputs.platform_api.has(SBOM_LAYER):
        for sbom in read_launch_sboms(inputs, analyzed) if chosen.records else ():
            path = f"{inputs.layers}/{sbom.buildpack}/{sbom.layer}"
            if path in chosen.records:
                tree.write(f"{path}.sbom.{sbom.format}", sbom.data)
        _copy_sboms(inputs, "launch", chosen.records, tree)
    if chosen.has_sboms:
        _copy_sboms(inputs, "cache", chosen.records, tree)
    tree.remove(f"{inputs.layers}/sbom")
    for path in chosen.directories:
        observer.detail(f"restored {path}")
    return Restored(chosen.directories)


def _choose_records(
    inputs: Inputs, before: BuildpackRecord | None, kept: BuildpackRecord | None
) -> Iterator[tuple[str, LayerRecord]]:
    """The layers to restore and their metadata, by the types that they had (B-046 to B-051)."""
    before_layers, kept_layers = (record.layers if record else {} for record in (before, kept))
    for name, record in sorted(before_layers.items()):
        cached = kept_layers.get(name)
        if (record.launch and record.cache and cached is not None and cached.cache) or (
            record.launch and not record.build and not record.cache
        ):
            yield name, record
    for name, record in sorted(kept_layers.items()):
        if not record.cache or (name in before_layers and before_layers[name].launch):
            continue
        if not record.launch or inputs.platform_api.has(CACHED_METADATA):
            yield name, record


def _cached_diff_id(record: LayerRecord, kept: BuildpackRecord | None, name: str) -> Digest | None:
    """The layer's diff ID, if the cache has the same layer as the metadata (B-051)."""
    cached = kept.layers.get(name) if kept else None
    return _digest(record.sha) if cached is not None and cached.sha == record.sha else None


def _digest(text: str) -> Digest | None:
    """The digest in a label; None if the text is not one."""
    try:
        return Digest.parse(text)
    except FormatError:
        return None


class _RestoredFiles:
    """Collects the TOML files to restore. Anybody may have made the image, so its data may not fit TOML."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.all: dict[str, bytes] = {}

    def add(self, path: str, name: str, make: Callable[[], bytes]) -> bool:
        """Adds a file. If it cannot be made, says that `name` is left behind and returns False."""
        try:
            self.all[path] = make()
        except FormatError as error:
            self._observer.say(f"{name} is left behind: {error.what}")
            return False
        return True

    def remove(self, path: str) -> None:
        """Removes a file that was added."""
        del self.all[path]


@dataclass(frozen=True, slots=True)
class LayerSbom:
    """One SBOM file of a launch layer: the names of the directory of its buildpack and of the layer."""

    buildpack: str
    layer: str
    format: str
    data: bytes


def read_launch_sboms(inputs: Inputs, analyzed: Analyzed) -> Iterator[LayerSbom]:
    """Reads the SBOM files of launch layers from the previous image's SBOM layer (B-048).

    Raises FormatError if that layer is no tar.
    """
    layer = _find_layer(analyzed.previous, analyzed.metadata.sbom)
    if layer is None:
        return
    archive = TarReader(layer.tar())
    top = f"{inputs.layers}/sbom/launch/".lstrip("/")
    try:
        for header in archive:
            name = os.fsdecode(header.name).lstrip("/")
            match = _SBOM.fullmatch(name.removeprefix(top)) if name.startswith(top) else None
            if match is None or header.type != b"0" or header.size > SBOM_LIMIT:
                continue
            data = b"".join(piece for _, piece in archive.content())
            yield LayerSbom(match["buildpack"], match["layer"], match["format"], data)
    except FormatError as error:
        raise FormatError("the previous image's SBOM layer is not a tar", why=error.why) from error


def _find_layer(image: Image | None, sha: str) -> Layer | None:
    if image is None or not sha:
        return None
    return next((layer for layer in image.layers if str(layer.diff_id) == sha), None)


def _copy_sboms(
    inputs: Inputs, kind: str, records: Mapping[str, tuple[Member, LayerRecord]], tree: TreeEdit
) -> None:
    """Copies SBOM files from below `<layers>/sbom/KIND`, unless the layer has that file already (B-042).

    `cache` is the cache's SBOM layer, and `launch` what an analyzer of its own left of the previous image's.
    Those of the previous image are copied first.
    """
    for path in records:
        source = f"{inputs.layers}/sbom/{kind}/{path.removeprefix(inputs.layers + '/')}"
        if not is_directory(tree, source):
            continue
        for node in tree.list(source):
            target = f"{path}.{node.name}"
            if node.kind is NodeKind.FILE and node.name.startswith("sbom.") and tree.stat(target) is None:
                try:
                    tree.write(target, read(tree, f"{source}/{node.name}", limit=SBOM_LIMIT) or b"")
                except PackhorseError as error:
                    raise FormatError(f"cannot restore {target}", why=str(error)) from error
