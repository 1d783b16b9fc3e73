"""Images, layers and trees small enough to be written out, for the tests of the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.oci.compress import tee
from packhorse.oci.place import Image, Layer
from packhorse.oci.types import Config
from packhorse.tar.writer import TarEntry, stream


def plain(content: bytes, name: str = "/file") -> Layer:
    """A layer with one file, of which only the tar is there."""
    data = b"".join(stream([TarEntry.file(name, len(content), lambda: BytesIO(content))]))
    return Layer(lambda: iter([data]), Digest.of(data), len(data))


def gzipped(content: bytes, name: str = "/file") -> Layer:
    """A layer as a registry has it: the compressed blob and its descriptor."""
    layer = plain(content, name)
    chunks: list[bytes] = []
    stored = tee(layer, chunks.append)
    blob = b"".join(chunks)
    return Layer(layer.tar, layer.diff_id, None, stored.descriptor, lambda: iter([blob]))


def unreadable(layer: Layer) -> Layer:
    """The same layer, whose bytes must not be asked for."""

    def refuse() -> Iterator[bytes]:
        raise AssertionError("the layer was read though it is known")

    return Layer(refuse, layer.diff_id, layer.size, layer.descriptor, refuse if layer.blob else None)


def config(*layers: Layer, command: str = "run") -> Config:
    """A config with these layers; another `command` makes another image."""
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": [command]},
        "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]},
    }
    return Config.parse(json.dumps(document).encode())


def image(*layers: Layer, command: str = "run") -> Image:
    """An image of these layers, without a manifest."""
    return Image(config(*layers, command=command), layers)


def restart(store: Path) -> None:
    """Makes a store what it is after the machine was started anew, if everything had come to the disk."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for pattern in ("*/*/*.json", "settled.json"):
        for path in store.glob(pattern):
            path.write_text(path.read_text().replace(boot, "an earlier one"))
