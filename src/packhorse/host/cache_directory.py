"""Keeps the layers of builds in a directory, in the form in which the Go lifecycle keeps them in a volume.

So a CI system can carry the directory from one machine to another, and pack can use it too. The option is
`--cache type=build;format=bind`. `build.layers` and `phases.layer_cache` read it as they read a cache image.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from packhorse.base import files
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import InputError, PackhorseError
from packhorse.lifecycle.ports import Observer
from packhorse.oci.place import Layer

METADATA = "io.buildpacks.lifecycle.cache.metadata"
"""The file with the metadata of the layers, beside one tar for each layer: `<diff ID>.tar`."""

_METADATA_LIMIT = 64 << 20
_CHUNK = 1 << 20


class CacheDirectory:
    """The cache at `path`, which may not exist yet. A directory that cannot be read counts as empty.

    Its files may come from anywhere, so a layer counts only after its diff ID was verified. New content
    is written to `staging`, which then replaces `committed`, as in the lifecycle.
    """

    def __init__(self, path: Path, observer: Observer) -> None:
        self._path = path
        self._observer = observer
        self._committed = path / "committed"
        self._broken: set[Digest] = set()

    @property
    def metadata(self) -> bytes:
        """The metadata of the kept layers; b"" if there is none."""
        file = self._committed / METADATA
        if not files.is_file(file):
            return b""
        try:
            return files.read(file, limit=_METADATA_LIMIT).strip()
        except InputError as error:
            self._observer.say(f"the cache {self._path} cannot be read: {error.why or error.what}")
            return b""

    def layer(self, diff_id: Digest) -> Layer | None:
        """The layer whose file is named after a diff ID. Its content is not verified."""
        file = self._tar(diff_id)
        return Layer(partial(_read_chunks, file), diff_id) if files.is_file(file) else None

    def note_fetched(self, diff_id: Digest, *, is_intact: bool) -> None:
        """Records whether a layer that was read has the diff ID that it claims."""
        if not is_intact:
            self._broken.add(diff_id)

    def write(self, metadata: bytes, layers: tuple[Layer, ...], target: Target) -> bool:
        """Writes the layers of a build, unless the directory has exactly them.

        Tars that it has already are hard-linked. Returns False, with a message, if it cannot be written.
        """
        tars = {layer.diff_id: layer for layer in layers if layer.diff_id}
        names = {METADATA, *(self._tar(diff_id).name for diff_id in tars)}
        try:
            known = {path.name for path in self._committed.iterdir()} if self._committed.is_dir() else set()
            if not self._broken and known == names and self.metadata == metadata:
                return True
            staging, backup = self._path / "staging", self._path / "committed-backup"
            for directory in (staging, backup):
                shutil.rmtree(directory, ignore_errors=True)
            staging.mkdir(parents=True)
            for diff_id, layer in tars.items():
                self._write_layer(diff_id, layer, staging)
            (staging / METADATA).write_bytes(metadata + b"\n")
            if self._committed.exists():
                self._committed.rename(backup)
            staging.rename(self._committed)
            shutil.rmtree(backup, ignore_errors=True)
        except (OSError, PackhorseError) as error:
            why = error.what if isinstance(error, PackhorseError) else error.strerror or str(error)
            self._observer.say(f"the cache {self._path} is not written: {why}")
            return False
        return True

    def _write_layer(self, diff_id: Digest, layer: Layer, directory: Path) -> None:
        old = self._tar(diff_id)
        if diff_id not in self._broken and files.is_file(old):
            (directory / old.name).hardlink_to(old)
            return
        with (directory / old.name).open("wb") as file:
            file.writelines(layer.tar())

    def _tar(self, diff_id: Digest) -> Path:
        return self._committed / f"{diff_id}.tar"


def _read_chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            yield chunk
