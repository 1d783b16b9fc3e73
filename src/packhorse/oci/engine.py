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
"""How many images are asked which layers they have, the newest first."""


class KnownContent(Protocol):
    """What is here already of the images that an engine has."""

    def config(self, digest: Digest) -> bytes | None:
        """The bytes of a config."""
        ...

    def layer(self, diff_id: Digest) -> Layer | None:
        """A layer whose bytes can be read here."""
        ...


class Daemon:
    """The image called `name` in an engine; `name` may be an image ID for reading.

    `spool` is a directory for what has to lie somewhere on its way; what is `known` is not asked for.
    """

    def __init__(self, name: str, engine: Engine, *, spool: Path, known: KnownContent) -> None:
        self._name = name
        self._engine = engine
        self._spool = spool
        self._known = known

    def read(self) -> Image:
        """The image under this name; raises NotFoundError, EngineError, FormatError.

        Layers that are not known are read from one archive, for which the engine is asked when the first is.
        """
        told = self._engine.image(self._name)
        if told is None:
            raise NotFoundError(
                f"{self._engine} has no image {self._name}", fix="`docker images` lists what it has"
            )
        saved = _SavedImage(self._engine, str(told["Id"]), self._spool)
        config = self._find_config(told)
        if config is None:
            try:
                return replace(saved.image(), known_digests=_repository_digests(told))
            except EngineError as error:
                if _diff_ids(told):
                    raise
                what = f"{self._engine} does not hand out {self._name}"
                raise EngineError(what, why=f"the image has no layers: {error.why}") from error
        layers = (self._known.layer(diff_id) or saved.layer(diff_id) for diff_id in config.diff_ids)
        return Image(config, tuple(layers), known_digests=_repository_digests(told))

    def write_layer(self, layer: Layer) -> Layer:
        """Keeps a layer in a file without a name if nobody knows its diff ID; others wait for the commit."""
        if layer.diff_id:
            return replace(layer, descriptor=None, blob=None)
        return self._spool_layer(layer)

    def write_image(self, image: Image) -> Receipt:
        """Has the engine load the image under this name; raises EngineError, FormatError, InputError."""
        name = _parse_new_name(self._name)
        if not image.layers and JsonNode.parse(image.config.raw, "config").node("rootfs") is None:
            raise FormatError(
                f"{self._engine} cannot take {name.familiar}",
                why="the image has no layers, and its config has no rootfs that says so",
            )
        present = self._count_present(layer_ids(image))
        try:
            self._load(image, name, present)
        except EngineError:
            if present == 0:
                raise
            self._load(image, name, 0)  # what the engine had may have been removed since it was asked
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
        """The layer, whose bytes are in a file now: an archive says how long they are before they come."""
        spool = OpenFile.spool(self._spool)
        return replace(drain(layer, spool.append), tar=spool.chunks)

    def _count_present(self, diff_ids: Sequence[Digest]) -> int:
        """How many of the lowest layers some image in the engine stands on as well."""
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
        """An engine that took an image must show it: podman and containerd tell of little that goes wrong."""
        told = self._engine.image(self._name) or {}
        same = _image_id(told) == image.id or _diff_ids(told) == [str(item) for item in image.config.diff_ids]
        if not same:
            raise EngineError(
                f"{self._engine} took {self._name} and does not have it",
                why=f"it shows {told['Id'] if told else 'no image'} under that name, not {image.id}",
            )

    def _find_config(self, told: Mapping[str, Any]) -> Config | None:
        """The config as it is stored, if it is known here or can be written again."""
        digest = _image_id(told)
        raw = self._known.config(digest) if digest else None
        if raw is not None:
            return Config.parse(raw)
        try:
            history = self._engine.history(str(told["Id"]))
        except EngineError:
            return None  # podman breaks down over an entry without a time, and saves the image all the same
        for config in _candidate_configs(told, history):
            if config.digest == digest:
                return config
        return None


class _SavedImage:
    """An image as the engine saves it, into a file without a name, once, when somebody first needs it."""

    def __init__(self, engine: Engine, name: str, spool: Path) -> None:
        self._engine = engine
        self._name = name
        self._spool = spool
        self._lock = threading.Lock()
        self._image: Image | None = None

    def image(self) -> Image:
        """The image, read from the archive."""
        with self._lock:
            if self._image is None:
                file = OpenFile.spool(self._spool)
                for chunk in self._engine.save(self._name):
                    file.append(chunk)
                self._image = saved_image(TarIndex.of(Path(f"the archive of {self._name}"), file))
        return self._image

    def layer(self, diff_id: Digest) -> Layer:
        """One of its layers, whose bytes are asked for when they are read."""

        def tar() -> Iterator[bytes]:
            for layer in self.image().layers:
                if layer.diff_id == diff_id:
                    return layer.tar()
            raise FormatError(
                f"{self._engine} saved {self._name} without one of its layers", why=str(diff_id)
            )

        return Layer(tar, diff_id)


def _candidate_configs(told: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> Iterator[Config]:
    """What the config may be, by what the engine tells; only its digest says whether it is.

    The engine does not say which entries of the history are of empty layers: none, or those without bytes.
    """
    entries = [_history_entry(item) for item in reversed(history)]
    diff_ids = _diff_ids(told)
    for empty in (False, True):
        fields = {
            "architecture": told.get("Architecture") or "",
            "author": told.get("Author") or "",
            "created": told.get("Created") or "",
            "docker_version": told.get("DockerVersion") or "",
            "os": told.get("Os") or "",
            "os.version": told.get("OsVersion") or "",
            "variant": told.get("Variant") or "",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "config": told.get("Config") or {},
            "history": [
                {**entry, "empty_layer": empty and not item.get("Size")}
                for entry, item in zip(entries, reversed(history), strict=True)
            ],
        }
        try:
            yield edit_config(Config.parse(json.dumps(fields).encode()))
        except (FormatError, RecursionError, ValueError):
            return  # it is of no form that an image has


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


def _image_id(told: Mapping[str, Any]) -> Digest | None:
    """The image ID, which podman writes without `sha256:`; with containerd's store it is a manifest's."""
    text = str(told.get("Id", "")).removeprefix("sha256:")
    return Digest(text) if is_image_id(text) else None


def _repository_digests(told: Mapping[str, Any]) -> tuple[Digest, ...]:
    """The digests by which an engine has pulled an image, which it has checked then."""
    names = told.get("RepoDigests")
    texts = [str(name).rpartition("@")[2] for name in names] if isinstance(names, list) else []
    return tuple(Digest(text[7:]) for text in texts if text.startswith("sha256:") and is_image_id(text))


def _diff_ids(told: Mapping[str, Any]) -> list[str]:
    """The layers that it tells of; what is no list of them tells of none."""
    root = told.get("RootFS")
    layers = root.get("Layers") if isinstance(root, dict) else None
    return [str(layer) for layer in layers] if isinstance(layers, list) else []


def _count_common(some: Sequence[str], others: Sequence[str]) -> int:
    count = 0
    for one, other in zip(some, others, strict=False):
        if one != other:
            break
        count += 1
    return count
