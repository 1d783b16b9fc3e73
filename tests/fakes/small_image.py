"""Small images to write and read: layers from bytes in memory, a config that names them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.oci.compress import stored_layer
from packhorse.oci.mutate import add_layers, edit_config, empty_config
from packhorse.oci.place import Image, Layer
from packhorse.oci.types import Config, Descriptor, History, Manifest, MediaType

EPOCH = "1980-01-01T00:00:01Z"


class Tape:
    """Bytes that count how often somebody started to read them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.passes = 0

    def __call__(self) -> Iterator[bytes]:
        self.passes += 1
        return (self.data[start : start + 999] for start in range(0, len(self.data), 999))


def tar_of(files: Mapping[str, bytes], *, mode: int = 0o755) -> bytes:
    """A tar with these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def config_of(*tars: bytes, target: Target | None = None, **fields: Any) -> Config:
    """A config for layers with these bytes; `fields` as for `oci.mutate.edit_config`."""
    layers = [(Digest.of(tar), History(created_by=f"layer {number}")) for number, tar in enumerate(tars)]
    base = add_layers(empty_config(target or Target()), layers, created=EPOCH, keep_history=True)
    return edit_config(base, **fields)


def fresh_image(*tars: bytes, **fields: Any) -> Image:
    """An image nobody has read yet: no diff IDs, no sizes, no blobs."""
    return Image(config_of(*tars, **fields), tuple(Layer(Tape(tar)) for tar in tars))


@cache
def _gzip(tar: bytes) -> bytes:
    return gzip.compress(tar, 9, mtime=7)


def stored_image(*tars: bytes, media_type: str = MediaType.OCI_MANIFEST, **fields: Any) -> Image:
    """An image as another program would have pushed it: other gzip, odd white space in the manifest."""
    config = config_of(*tars, **fields)
    docker = media_type == MediaType.DOCKER_MANIFEST
    layer_type = MediaType.DOCKER_LAYER_GZIP if docker else MediaType.OCI_LAYER_GZIP
    config_type = MediaType.DOCKER_CONFIG if docker else MediaType.OCI_CONFIG
    layers = []
    for tar in tars:
        blob = _gzip(tar)
        descriptor = Descriptor(layer_type, Digest.of(blob), len(blob))
        layers.append(stored_layer(Tape(blob), descriptor, Digest.of(tar)))
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": Descriptor(config_type, config.digest, len(config.raw)).fields(),
        "layers": [layer.descriptor.fields() for layer in layers if layer.descriptor],
        "x-unknown": True,
    }
    manifest = Manifest.parse(json.dumps(document, indent=3).encode())
    return Image(config, tuple(layers), manifest)


def forged_image(claimed: bytes, actual: bytes, *others: bytes, **fields: Any) -> Image:
    """An image whose config names the layer `claimed`, and whose manifest has `actual` in its place."""
    honest = stored_image(claimed, *others, **fields)
    [descriptor] = [layer.descriptor for layer in stored_image(actual).layers]
    assert descriptor is not None and honest.manifest is not None
    forged = stored_layer(Tape(_gzip(actual)), descriptor, Digest.of(claimed), where="the forged image")
    document = json.loads(honest.manifest.raw)
    document["layers"][0] = descriptor.fields()
    manifest = Manifest.parse(json.dumps(document).encode())
    return Image(honest.config, (forged, *honest.layers[1:]), manifest)
