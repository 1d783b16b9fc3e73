"""Reads and writes images in a container engine, dockerd or podman: `docker-daemon:NAME` as a `Place`.

An engine takes and gives an image as a docker archive (`oci.archive`). Where its storage allows, packhorse
sends the archive without the layers that the engine has. An engine does not show the bytes of a config. They
come from the store, which has them by digest, or are written again from what the engine reports, and count
only if their digest is the image ID. Otherwise packhorse reads the config from the saved archive.
`host.wiring` makes a `Daemon`; `oci.engine_client` makes the requests.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.base.go_toml import END
from packhorse.base.threads import prefetch, thread_pool
from packhorse.errors import EngineError, FormatError, InputError, NotFoundError
from packhorse.oci.archive import TarIndex, archive_members, saved_image, stream_tar, tar_length
from packhorse.oci.compress import drain
from packhorse.oci.engine_client import Engine
from packhorse.oci.files import OpenFile
from packhorse.oci.mutate import edit_config
from packhorse.oci.place import JOBS, Image, Layer, Receipt, layer_ids, make_cancellable
from packhorse.oci.reference import Reference, is_image_id
from packhorse.oci.types import Config, JsonNode

_ASKED = 200
"""How many of the newest images packhorse compares to find layers that the engine has."""


class KnownContent(Protocol):
    """Configs and layers on this machine, which need not be read from the engine."""

    def config(self, digest: Digest) -> bytes | None:
        """Returns the bytes of a config, None if it is unknown."""
        ...

    def layer(self, diff_id: Digest) -> Layer | None:
        """Returns a layer, None if it is unknown."""
        ...


class Daemon:
    """The image `name` in an engine. For reading, `name` may be an image ID.

    `spool` is a directory for temporary files. What is `known` is not read from the engine.
    """

    def __init__(self, name: str, engine: Engine, *, spool: Path, known: KnownContent) -> None:
        self._name = name
        self._engine = engine
        self._spool = spool
        self._known = known

    def read(self) -> Image:
        """Reads the image under this name; raises NotFoundError, EngineError, FormatError.

        Unknown layers come from one archive, which the engine saves when the first of them is read.
        """
        answer = self._engine.image(self._name)
        if answer is None:
            raise NotFoundError(
                f"{self._engine} has no image {self._name}", fix="`docker images` lists what it has"
            )
        saved = _SavedImage(self._engine, str(answer["Id"]), self._spool)
        config = self._find_config(answer)
        if config is None:
            try:
                return replace(saved.image(), known_digests=_repository_digests(answer))
            except EngineError as error:
                if _diff_ids(answer):
                    raise
                what = f"{self._engine} does not hand out {self._name}"
                raise EngineError(what, why=f"the image has no layers: {error.why}") from error
        layers = (self._known.layer(diff_id) or saved.layer(diff_id) for diff_id in config.diff_ids)
        return Image(config, tuple(layers), known_digests=_repository_digests(answer))

    def write_layer(self, layer: Layer) -> Layer:
        """Writes a layer without a diff ID to an unnamed file. `write_image` reads the others."""
        if layer.diff_id:
            return replace(layer, descriptor=None, blob=None)
        return self._spool_layer(layer)

    def write_image(self, image: Image) -> Receipt:
        """Loads the image into the engine under this name; raises EngineError, FormatError, InputError."""
        name = _parse_new_name(self._name)
        if not image.layers and JsonNode.parse(image.config.raw, "config").node("rootfs") is None:
            raise FormatError(
                f"{self._engine} cannot take {name.familiar}",
                why="the image has no layers, and its config has no rootfs",
            )
        present = self._count_present(layer_ids(image))
        try:
            self._load(image, name, present)
        except EngineError:
            if present == 0:
                raise
            self._load(image, name, 0)  # somebody may have removed the layers in the meantime
        self._check(image)
        return Receipt(image.id)

    def _load(self, image: Image, name: Reference, present: int) -> None:
        """Sends the image without its lowest `present` layers."""
        unknown = [layer for layer in image.layers[present:] if layer.size is None]
        with thread_pool(JOBS, "layer", timeout=3) as workers:
            measured = iter(
                workers.map(lambda layer: self._spool_layer(make_cancellable(workers, layer)), unknown)
            )
        layers = [
            next(measured) if layer.size is None and place >= present else layer
            for place, layer in enumerate(image.layers)
        ]
        sent = replace(image, layers=tuple(layers))
        entries = list(archive_members(sent, [name], without=present))
        self._engine.load(prefetch(stream_tar(entries), name="archive"), tar_length(entries))

    def _spool_layer(self, layer: Layer) -> Layer:
        """Writes a layer to an unnamed file, because an archive needs its size before its bytes."""
        spool = OpenFile.spool(self._spool)
        return replace(drain(layer, spool.append), tar=spool.chunks)

    def _count_present(self, diff_ids: Sequence[Digest]) -> int:
        """Returns how many of the lowest layers are also the lowest layers of an image in the engine."""
        if not diff_ids or not self._engine.shares_layers():
            return 0
        best = 0
        for name in (self._name, *self._engine.images()[:_ASKED]):
            there = _diff_ids(self._engine.image(name) or {})
            best = max(best, _count_common(there, [str(diff_id) for diff_id in diff_ids]))
            if best == len(diff_ids):
                break
        return best

    def _check(self, image: Image) -> None:
        """Raises EngineError if the engine lacks the image: podman and containerd report few errors."""
        answer = self._engine.image(self._name) or {}
        same = _image_id(answer) == image.id or _diff_ids(answer) == [
            str(item) for item in image.config.diff_ids
        ]
        if not same:
            raise EngineError(
                f"{self._engine} accepted {self._name}, but does not have it",
                why=f"it has {answer['Id'] if answer else 'no image'} under that name, not {image.id}",
            )

    def _find_config(self, answer: Mapping[str, Any]) -> Config | None:
        """Finds the bytes of the config: known here, or written again from the engine's answers; or None."""
        digest = _image_id(answer)
        raw = self._known.config(digest) if digest else None
        if raw is not None:
            return Config.parse(raw)
        try:
            history = self._engine.history(str(answer["Id"]))
        except EngineError:
            return None  # podman fails for a history entry without a time, but can save the image
        for config in _candidate_configs(answer, history):
            if config.digest == digest:
                return config
        return None


class _SavedImage:
    """An image that the engine saves into an unnamed file, once, when it is first read."""

    def __init__(self, engine: Engine, name: str, spool: Path) -> None:
        self._engine = engine
        self._name = name
        self._spool = spool
        self._lock = threading.Lock()
        self._image: Image | None = None

    def image(self) -> Image:
        """Returns the image in the archive; saves the archive first."""
        with self._lock:
            if self._image is None:
                file = OpenFile.spool(self._spool)
                for chunk in self._engine.save(self._name):
                    file.append(chunk)
                self._image = saved_image(TarIndex.of(Path(f"the archive of {self._name}"), file))
        return self._image

    def layer(self, diff_id: Digest) -> Layer:
        """Returns one of its layers. Reading the layer saves the archive."""

        def tar() -> Iterator[bytes]:
            for layer in self.image().layers:
                if layer.diff_id == diff_id:
                    return layer.tar()
            raise FormatError(
                f"{self._engine} saved {self._name} without one of its layers", why=str(diff_id)
            )

        return Layer(tar, diff_id)


def _candidate_configs(answer: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> Iterator[Config]:
    """Yields configs that fit the engine's answers; the digest tells which is the stored one.

    The engine does not tell which history entries belong to empty layers. The candidates are: none of them,
    and those without bytes.
    """
    entries = [_history_entry(item) for item in reversed(history)]
    diff_ids = _diff_ids(answer)
    for empty in (False, True):
        fields = {
            "architecture": answer.get("Architecture") or "",
            "author": answer.get("Author") or "",
            "created": answer.get("Created") or "",
            "docker_version": answer.get("DockerVersion") or "",
            "os": answer.get("Os") or "",
            "os.version": answer.get("OsVersion") or "",
            "variant": answer.get("Variant") or "",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "config": answer.get("Config") or {},
            "history": [
                {**entry, "empty_layer": empty and not item.get("Size")}
                for entry, item in zip(entries, reversed(history), strict=True)
            ],
        }
        try:
            yield edit_config(Config.parse(json.dumps(fields).encode()))
        except (FormatError, RecursionError, ValueError):
            return  # not the config of an image


def _history_entry(item: Mapping[str, Any]) -> dict[str, object]:
    seconds, created = item.get("Created"), ""
    if isinstance(seconds, int) and 0 < seconds < END:
        created = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "created": created,
        "created_by": item.get("CreatedBy") or "",
        "comment": item.get("Comment") or "",
    }


def _parse_new_name(name: str) -> Reference:
    if is_image_id(name):
        raise InputError(f"an image cannot be called {name}", why="that is an image ID", fix="give it a name")
    reference = Reference.parse(name)
    if reference.digest:
        raise InputError(
            f"an image cannot be put into an engine as {name}",
            why="an engine names images by tags",
            fix=f"give it a tag: {reference.familiar_name}:TAG",
        )
    return reference


def _image_id(answer: Mapping[str, Any]) -> Digest | None:
    """Returns the ID of an image, which podman writes without `sha256:`.

    With containerd's image store it is the manifest's digest.
    """
    text = str(answer.get("Id", "")).removeprefix("sha256:")
    return Digest(text) if is_image_id(text) else None


def _repository_digests(answer: Mapping[str, Any]) -> tuple[Digest, ...]:
    """Returns the digests by which the engine pulled an image. It verified them."""
    names = answer.get("RepoDigests")
    texts = [str(name).rpartition("@")[2] for name in names] if isinstance(names, list) else []
    return tuple(Digest(text[7:]) for text in texts if text.startswith("sha256:") and is_image_id(text))


def _diff_ids(answer: Mapping[str, Any]) -> list[str]:
    """Returns the diff IDs of an image's layers; none if the answer has no list of them."""
    root = answer.get("RootFS")
    layers = root.get("Layers") if isinstance(root, dict) else None
    return [str(layer) for layer in layers] if isinstance(layers, list) else []


def _count_common(some: Sequence[str], others: Sequence[str]) -> int:
    count = 0
    for one, other in zip(some, others, strict=False):
        if one != other:
            break
        count += 1
    return count
