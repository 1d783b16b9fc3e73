"""Finds the images that a phase reads, and the places that it writes to: a registry, an engine, or layouts.

`PhaseImages` is made before the phase gives up root, and reads the credentials for the images that it knows
then, because the files with them may not be readable afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import (
    AnalyzeError,
    EngineError,
    FormatError,
    InputError,
    NetworkError,
    NotFoundError,
    UsageError,
)
from packhorse.host.registries import RegistryOptions
from packhorse.host.wiring import Wiring
from packhorse.lifecycle.inputs import RunImageName
from packhorse.oci.auth import Keychain
from packhorse.oci.place import Image, Layer, Place, Receipt
from packhorse.oci.reference import DEFAULT_REGISTRY, Location, LocationKind, Reference, is_image_id
from packhorse.phases import privileges
from packhorse.phases.options import PhaseOptions

if TYPE_CHECKING:
    from packhorse.oci.engine_client import Engine
    from packhorse.store.store import Store


class PhaseImages:
    """The images of one phase. `options` decide where they are."""

    def __init__(self, options: PhaseOptions, environ: Mapping[str, str]) -> None:
        self._options = options
        self._target = Target.host()
        self._engine = _open_engine(environ) if options.is_set("daemon") else None
        self._keychain = Keychain(dict(environ))
        self._wiring = Wiring(
            _no_store,
            environ=dict(environ),
            registry_options=RegistryOptions(insecure=options.texts("insecure-registry")),
            keychain=self._keychain,
        )

    @property
    def is_daemon(self) -> bool:
        """Whether the app image and its base are in a container engine."""
        return self._options.is_set("daemon")

    @property
    def is_layout(self) -> bool:
        """Whether the app image and its base are in OCI layouts."""
        return self._options.is_set("layout") and not self.is_daemon

    def read_credentials(self, names: Sequence[str]) -> None:
        """Reads the credentials for the registries of images now, while the files can be read."""
        for name in filter(None, names):
            if not is_image_id(name):
                reference = Reference.parse(name)
                self._keychain.find(reference.registry, reference.repository)

    def target(self, name: str, previous: Image | None = None) -> Place:
        """The place to write the app image to. `previous` has layers that a registry may have already."""
        if self.is_daemon:
            return self._daemon(name)
        if self.is_layout:
            return self._layout(name, Reference.parse(name).identifier)
        place = self.registry_place(name)
        return place if previous is None else ReusingPlace(place, previous)

    def registry_place(self, name: str) -> Place:
        """The place of an image in a registry, without mirrors: to write to, or a cache image."""
        location = Location(LocationKind.REGISTRY, "", name)
        return self._wiring.place(location, target=self._target, mirrors=False)

    def source(self, name: str) -> Place:
        """The place to read an image from, by its name or by what `identify` returned."""
        if self.is_daemon:
            return self._daemon(name)
        if self.is_layout:
            return self._layout(name, "")  # a layout of the lifecycle has one image
        return self._wiring.place(Location(LocationKind.REGISTRY, "", name), target=self._target)

    def read(self, name: str) -> Image | None:
        """Reads an image; None if it does not exist. Raises the errors of its place."""
        try:
            return self.source(name).read()
        except NotFoundError:
            return None

    @property
    def is_registry(self) -> bool:
        """Whether the app image and its base are in a registry."""
        return not self.is_daemon and not self.is_layout

    def identify(self, name: str, image: Image) -> str:
        """The reference that analyzed.toml and the label have of an image (P-176).

        A name by digest for a registry, the ID in hex for an engine, the path and the digest for a layout.
        """
        if self.is_daemon:
            return image.id.hex
        if image.manifest is None:
            raise FormatError(f"{name} cannot be identified", why="it has no manifest")
        if self.is_layout:
            return f"{self.layout_path(name)}@{image.manifest.digest}"
        return Reference.parse(name).pinned_name(image.manifest.digest)

    def check_push(self, names: Sequence[str]) -> None:
        """Checks that the user may write to the repositories of images (P-028). Raises NetworkError."""
        self._wiring.check_push([Reference.parse(name) for name in names])

    def choose_run_image(self, name: RunImageName, near: str) -> str:
        """The first of a run image's names that can be read, those in the registry of `near` first (P-148).

        An engine or a layout is not asked. Raises AnalyzeError if none can be read.
        """
        names = (name.image, *name.mirrors)
        registry = Reference.parse(near).registry if near else ""
        ordered = sorted(names, key=lambda each: Reference.parse(each).registry != registry)
        if not self.is_registry:
            return ordered[0]
        failures = []
        for each in ordered:
            try:
                if self._wiring.digest_of(Reference.parse(each)) is not None:
                    return each
                failures.append(f"{each} does not exist")
            except NetworkError as error:
                failures.append(f"{each}: {error.what}: {error.why}")
        raise AnalyzeError("no run image can be read", why="\n".join(failures))

    def layout_path(self, name: str) -> str:
        """The directory of an image's layout below -layout-dir (P-175)."""
        directory = self._options.text("layout-dir")
        if not directory:
            raise UsageError("-layout needs the directory of the layouts: -layout-dir")
        if name == directory or name.startswith(f"{directory}/"):
            return name.partition("@")[0]
        reference = Reference.parse(name)
        registry = reference.registry
        if registry == DEFAULT_REGISTRY:
            registry = f"index.{DEFAULT_REGISTRY}"
        tail = str(reference.digest).replace(":", "/", 1) if reference.digest else reference.identifier
        return f"{directory}/{registry}/{reference.repository}/{tail}"

    def _layout(self, name: str, ref: str) -> Place:
        from packhorse.oci.layout import Layout

        return Layout(Path(self.layout_path(name)), ref)

    def _daemon(self, name: str) -> Place:
        from packhorse.oci.engine import Daemon

        assert self._engine is not None  # `open_engine` makes it for a phase with -daemon
        return Daemon(name, self._engine, spool=Path(tempfile.gettempdir()), known=_Nothing())


class ReusingPlace:
    """A place in a registry that takes layers of the previous image as they are stored there.

    So an unchanged layer is neither compressed nor sent again. As the reference does, it believes what the
    previous image says of its layers: that a stored blob is the layer with a diff ID.
    """

    def __init__(self, place: Place, previous: Image) -> None:
        self._place = place
        self._stored = {layer.diff_id: layer for layer in previous.layers if layer.descriptor}

    def read(self) -> Image:
        """See `oci.place.Place`."""
        return self._place.read()

    def write_layer(self, layer: Layer) -> Layer:
        """Writes the previous image's layer in place of one with the same diff ID."""
        stored = self._stored.get(layer.diff_id) if layer.diff_id else None
        if stored is None or layer.blob is not None:
            return self._place.write_layer(layer)
        return replace(self._place.write_layer(stored), size=layer.size)

    def write_image(self, image: Image) -> Receipt:
        """See `oci.place.Place`."""
        return self._place.write_image(image)


def _open_engine(environ: Mapping[str, str]) -> Engine:
    """The container engine, whose socket stays reachable when this process gives up root. EngineError."""
    from packhorse.oci.engine_client import Engine, find, socket_path

    address = find("", environ)
    if address is None:
        raise EngineError(
            "no container engine was found",
            why="-daemon needs one, and none listens at /var/run/docker.sock",
            fix="give the phase that socket, or leave -daemon out",
        )
    path = socket_path(address)
    if path and privileges.is_root():
        address = replace(address, connector=privileges.SocketOpener(path))
    return Engine(address)


class _Nothing:
    """No content is known beside the engine's."""

    def config(self, digest: Digest) -> bytes | None:
        """Returns None."""
        return None

    def layer(self, diff_id: Digest) -> Layer | None:
        """Returns None."""
        return None


def _no_store() -> Store:
    raise InputError("a phase of the lifecycle has no store", why="this is a defect of packhorse")
