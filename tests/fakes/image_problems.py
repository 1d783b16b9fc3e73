"""Lists what contradicts itself in an image or an OCI layout, by its bytes; an empty list when all is well.

Reading already refuses what is broken. A test compares the list with [].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.errors import PackhorseError
from packhorse.oci.compress import verify
from packhorse.oci.layout import Directory, blob_name, read_blob, read_entry, read_index
from packhorse.oci.mutate import edit_config
from packhorse.oci.place import Image, Layer
from packhorse.oci.types import (
    CONFIGS,
    INDEXES,
    OCI_LAYERS,
    Config,
    Descriptor,
    Index,
    JsonNode,
    Manifest,
    MediaType,
)

_TAR_BLOCK = 512


def problems_of_image(image: Image) -> list[str]:
    """What is wrong with an image; every layer is read in each of its forms."""
    problems = list(_of_config(image.config))
    if image.config.diff_ids != tuple(layer.diff_id for layer in image.layers):
        problems.append("the config's diff IDs are not those of the layers")
    if image.manifest:
        problems += _of_manifest(image.manifest, image)
    for number, layer in enumerate(image.layers):
        problems += _of_layer(layer, f"layer {number}")
    return problems


def problems_of_layout(path: Path) -> list[str]:
    """What is wrong with an OCI layout directory: its index, each image in it, and every blob."""
    files = Directory(path)
    problems = _attempt(lambda: _of_index(files, read_index(files, str(path))))
    for blob in sorted((path / "blobs/sha256").glob("*")):
        problems += _attempt(partial(_of_blob, files, blob.name))
    return problems


def _of_config(config: Config) -> Iterator[str]:
    if Config.parse(config.raw) != config:
        yield "the config is not what its bytes say"
    if not config.os or not config.architecture:
        yield "the config names no os or no architecture"
    rootfs = JsonNode.parse(config.raw, "config").node("rootfs")
    if rootfs is None or rootfs.text("type") != "layers":
        yield "the config's rootfs is not of type layers"
    if any(not entry.partition("=")[0] or "=" not in entry for entry in config.env):
        yield "the config has an environment entry that is not NAME=value"
    with_layer = sum(not entry.empty_layer for entry in config.history)
    if config.history and with_layer != len(config.diff_ids):
        yield f"the history has {with_layer} layers, the image {len(config.diff_ids)}"
    yield from _attempt(partial(_of_fields, config))


def _of_fields(config: Config) -> list[str]:
    edit_config(config)  # which refuses what Go could not read
    return []


def _of_manifest(manifest: Manifest, image: Image) -> Iterator[str]:
    if Manifest.parse(manifest.raw, manifest.media_type) != manifest:
        yield "the manifest is not what its bytes say"
    if (manifest.config.digest, manifest.config.size) != (image.id, len(image.config.raw)):
        yield "the manifest describes another config"
    if manifest.layers != tuple(layer.descriptor for layer in image.layers):
        yield "the manifest describes other layers"
    if manifest.config.media_type not in CONFIGS:
        yield f"the config has the media type {manifest.config.media_type}"
    for layer in manifest.layers:
        known = OCI_LAYERS.get(layer.media_type)
        if known is None or (manifest.media_type == MediaType.OCI_MANIFEST and known != layer.media_type):
            yield f"a layer has the media type {layer.media_type} in a manifest of {manifest.media_type}"


def _of_layer(layer: Layer, name: str) -> list[str]:
    problems = []
    if layer.blob and layer.descriptor:
        blob, descriptor = layer.blob, layer.descriptor
        problems += _attempt(lambda: _drain(verify(blob(), descriptor.digest, descriptor.size)), name)
    if layer.diff_id:
        diff_id = layer.diff_id
        problems += _attempt(lambda: _of_tar(verify(layer.tar(), diff_id, layer.size)), name)
    return problems


def _of_tar(chunks: Iterator[bytes]) -> list[str]:
    length = sum(map(len, chunks))
    return [f"its tar has {length} bytes, not whole blocks"] if length % _TAR_BLOCK else []


def _of_index(files: Directory, index: Index) -> list[str]:
    problems = []
    for entry in index.manifests:
        problems += _attempt(partial(_of_entry, files, entry), str(entry.digest))
    return problems


def _of_entry(files: Directory, entry: Descriptor) -> list[str]:
    if entry.media_type in INDEXES:
        return _of_index(files, Index.parse(read_blob(files, entry), entry.media_type))
    image = read_entry(files, entry, "the layout")
    problems = problems_of_image(image)
    if entry.target and entry.target != image.config.target:
        problems.append(f"the index says {entry.target}, the config {image.config.target}")
    return problems


def _of_blob(files: Directory, name: str) -> list[str]:
    digest = Digest.parse(f"sha256:{name}")
    return _drain(verify(files.chunks(blob_name(digest)), digest))


def _drain(chunks: Iterator[bytes]) -> list[str]:
    for _ in chunks:
        pass
    return []


def _attempt(check: Callable[[], list[str]], where: str = "") -> list[str]:
    """The problems that `check` finds, or the one that it ran into."""
    try:
        found = check()
    except PackhorseError as error:
        found = [" ".join(str(error).split("\n"))]
    return [f"{where}: {problem}" if where else problem for problem in found]
