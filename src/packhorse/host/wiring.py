"""Chooses the adapters: the place for a location that a user writes, and the sandbox for a runtime.

No other module does so. One `Wiring` serves one command, so that all its work with a registry
shares connections, tokens and the knowledge of existing blobs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from packhorse.base.dataclass import replace
from packhorse.base.installation import find_program
from packhorse.base.progress import UNWATCHED, Meter
from packhorse.base.target import Target
from packhorse.errors import EngineError, InputError
from packhorse.host.registries import RegistryConnections, RegistryOptions
from packhorse.oci.place import Place
from packhorse.oci.reference import Location, LocationKind, Reference

if TYPE_CHECKING:
    from packhorse.base.digest import Digest
    from packhorse.http.client import Client
    from packhorse.linux.userns import Namespace
    from packhorse.oci.auth import Credentials, Keychain, Lookup
    from packhorse.oci.engine_client import Engine
    from packhorse.oci.layout import LayoutName
    from packhorse.oci.registry.client import Registry
    from packhorse.oci.registry.place import RegistryName
    from packhorse.sandbox.runner import Runtime, SandboxRunner, TeardownQueue
    from packhorse.store.store import Store

BUBBLEWRAP = "bubblewrap"
"""The runtime that packhorse includes."""


class Wiring:
    """The adapters of one command over a store. Each is imported on first use. Safe for several threads."""

    def __init__(
        self,
        store: Store | Callable[[], Store],
        *,
        environ: Mapping[str, str] = MappingProxyType({}),
        docker_host: str = "",
        registry_options: RegistryOptions | None = None,
        keychain: Keychain | None = None,
    ) -> None:
        """`environ` (the user's) and `docker_host` name the container engine; see `oci.engine_client`.

        `keychain` has the credentials, by default the user's.
        """
        self._store = store
        self._environ = environ
        self._docker_host = docker_host
        self._engine: Engine | None = None
        self._network = RegistryConnections(registry_options)
        self._keychain = keychain
        self._lock = threading.RLock()

    @property
    def store(self) -> Store:
        """The store. If `Wiring` got a function that opens it, the first use calls it."""
        with self._lock:
            if callable(self._store):
                self._store = self._store()
            return self._store

    @property
    def meter(self) -> Meter:
        """The meter that shows the progress of long work; it shows nothing before the store is open."""
        with self._lock:
            return UNWATCHED if callable(self._store) else self._store.meter

    def place(
        self,
        location: Location,
        *,
        target: Target | None = None,
        compression: str = "gzip",
        mirrors: bool = True,
        without: frozenset[Digest] = frozenset(),
        check: bool = False,
    ) -> Place:
        """The place at a location; raises EngineError if there is no engine.

        `compression` is for layers that have no compressed form yet. A layout is written `without` the blobs
        of these layers. With `check` the store verifies what it has of an image that is copied to it, and
        replaces damaged parts. Without `mirrors` the registry itself is asked, because the copy in a mirror
        may be older than the image that is replaced.
        """
        if location.kind is LocationKind.STORE:
            return self.store.place(location.name, check=check)
        if location.kind is LocationKind.REGISTRY and not mirrors:
            return self._registry_target(
                self.push_reference(location.reference), target or Target.host(), compression
            )
        if location.kind is LocationKind.REGISTRY:
            return self.registry(location.reference, target or Target.host(), compression=compression)
        if location.kind is LocationKind.DAEMON:
            return self.daemon(location.name)
        from packhorse.oci.archive import DockerArchive, OciArchive
        from packhorse.oci.compress import Compression
        from packhorse.oci.layout import Layout

        path = Path(location.path)
        if location.kind is LocationKind.OCI:
            how = Compression(compression)
            return Layout(path, location.name, target=target, compression=how, without=without)
        if location.kind is LocationKind.OCI_ARCHIVE:
            return OciArchive(path, location.name, target=target, compression=Compression(compression))
        return DockerArchive(path, location.reference if location.name else None)

    def names(self, location: Location) -> tuple[str, ...]:
        """The names of the images in a layout or an archive; "" for an image without a name.

        Raises NotFoundError, FormatError.
        """
        from packhorse.oci.archive import DockerArchive
        from packhorse.oci.layout import NamedLayout

        place = self.place(location)
        assert isinstance(place, NamedLayout | DockerArchive)  # other kinds of places have one name
        return place.names()

    def index_place(
        self, location: Location, *, writes: bool = False, mirrors: bool = True
    ) -> RegistryName | LayoutName:
        """A place for all images under one name; raises InputError for a kind with one image per name.

        `mirrors` is as for `place`.
        """
        if location.kind is LocationKind.REGISTRY:
            return self._name(location.reference, mirrors=mirrors and not writes)
        path = Path(location.path)
        if location.kind is LocationKind.OCI:
            from packhorse.oci.layout import Directory, Layout, LayoutName

            layout = Layout(path, location.name)
            return LayoutName(Directory(path), location.name, str(path), layout=layout)
        if location.kind is LocationKind.OCI_ARCHIVE and not writes:
            from packhorse.oci.archive import archive_files
            from packhorse.oci.layout import LayoutName

            return LayoutName(archive_files(path), location.name, str(path))
        raise InputError(
            f"{location} {'takes' if writes else 'has'} one image per name",
            why="only registries and OCI layouts have images for several targets, and referrers",
            fix="name them as docker://NAME and oci:DIR:REF, or leave --all and --referrers out",
        )

    def registry(self, reference: Reference, target: Target, *, compression: str = "gzip") -> Place:
        """The place of a name in a registry, with its mirrors. An open store remembers what is pushed."""
        place = self._registry_target(self.push_reference(reference), target, compression)
        mirrors = [self._registry_target(each, target, compression) for each in self._mirrors(reference)]
        if not mirrors:
            return place
        from packhorse.oci.registry.mirrors import MirroredPlace

        return MirroredPlace(place, mirrors)

    def _name(self, reference: Reference, *, mirrors: bool) -> RegistryName:
        from packhorse.oci.registry.place import RegistryName

        there = self.push_reference(reference)
        others = [
            RegistryName(each, self.host(each.registry))
            for each in (self._mirrors(reference) if mirrors else ())
        ]
        if not others:
            return RegistryName(there, self.host(there.registry))
        from packhorse.oci.registry.mirrors import MirroredName

        return MirroredName(there, self.host(there.registry), others)

    def _mirrors(self, reference: Reference) -> list[Reference]:
        """The names of an image at its mirrors, in the order of registries.conf."""
        rule = self._network.rule(reference)
        if rule is None:
            return []
        return [
            rule.rewrite(mirror, reference)
            for mirror in rule.mirrors
            if mirror.pulls in ("all", "digest-only" if reference.digest else "tag-only")
        ]

    def _registry_target(self, reference: Reference, target: Target, compression: str) -> Place:
        from packhorse.oci.compress import Compression
        from packhorse.oci.registry.place import RegistryPlace

        registry = self.host(reference.registry)
        with self._lock:
            store = None if callable(self._store) else self._store
        how = Compression(compression)
        if store is None:
            return RegistryPlace(reference, registry, target=target, compression=how)
        from packhorse.host.deduping import DedupingRegistryPlace

        return DedupingRegistryPlace(reference, registry, store, target=target, compression=how)

    def push_reference(self, reference: Reference) -> Reference:
        """The name under which an image is written: registries.conf may replace it."""
        rule = self._network.rule(reference)
        return reference if rule is None else rule.rewrite(rule.source, reference)

    def check_push(self, names: Sequence[Reference]) -> None:
        """Checks that the user may write to each repository: begins an upload and abandons it (P-028).

        Raises NetworkError, NotFoundError.
        """
        from packhorse.oci.registry.push import start_upload

        for name in {replace(name, tag=None, digest=None): name for name in names}.values():
            there = self.push_reference(name)
            session = start_upload(self.host(there.registry), there.repository)
            if session is not None:
                session.abandon()

    def digest_of(self, reference: Reference) -> Digest | None:
        """The digest that a name has now in its registry, without mirrors; None if it does not exist."""
        there = self.push_reference(reference)
        found = self.host(there.registry).resolve(there.repository, there.identifier)
        return found.digest if found else None

    def remove(self, reference: Reference) -> str:
        """Removes a tag, or an image by its digest, from its registry; returns its name there.

        Raises NotFoundError, RegistryError, NetworkError.
        """
        from packhorse.oci.registry.listing import remove

        there = self.push_reference(reference)
        registry = self.host(there.registry)
        remove(registry, there.repository, there.identifier)
        return registry.name(there.repository, there.identifier)

    @property
    def http(self) -> Client:
        """The HTTP client, with the user's certificates and choice of encryption."""
        return self._network.client

    def host(self, name: str) -> Registry:
        """A registry, HOST or HOST:PORT, with this user's credentials."""
        return self._network.registry(name, self._credentials)

    def _credentials(self, host: str) -> Lookup:
        return partial(self._find_credentials, host)

    def _find_credentials(self, host: str, repository: str) -> Credentials:
        """The user's credentials. Called only if a registry asks for them, which most never do."""
        with self._lock:
            if self._keychain is None:
                from packhorse.oci.auth import user_keychain

                self._keychain = user_keychain()
        return self._keychain.find(host, repository)

    def daemon(self, name: str) -> Place:
        """The place of a name in the container engine; raises EngineError if there is no engine."""
        from packhorse.oci.engine import Daemon

        engine = self.require_engine()
        return Daemon(name, engine, spool=self.store.path, known=self.store)

    def check_engine(self) -> None:
        """Raises EngineError if there is no engine, or it does not answer."""
        self.require_engine().check()

    def require_engine(self) -> Engine:
        """The container engine; raises EngineError if there is none."""
        engine = self.engine()
        if engine is None:
            raise EngineError(
                "no container engine was found",
                why="nothing listens where engines do, and no DOCKER_HOST or docker context names one",
                fix="start dockerd or `podman system service`, or name an engine with --docker-host",
            )
        return engine

    def engine(self) -> Engine | None:
        """The user's container engine; None if there is none. Raises InputError."""
        if self._engine is None:
            from packhorse.oci.engine_client import Engine, find

            address = find(self._docker_host, self._environ)
            self._engine = Engine(address) if address else None
        return self._engine


def cgroups_directory(store: Store) -> Path:
    """The directory with records of the control groups of this user's steps."""
    return store.path.parent / "groups"


def mount_points_directory(store: Store) -> Path:
    """The directory with the mount points of this user's steps."""
    return store.path.parent / "mount-points"


def remove_leftovers(store: Store) -> None:
    """Removes what killed commands left, and what was not used for long. Each build calls this first."""
    from packhorse.host.folders import sweep_scratch
    from packhorse.sandbox import cgroup
    from packhorse.sandbox.mounts import remove_unused

    store.remove_leftovers()
    cgroup.sweep(cgroups_directory(store))
    remove_unused(mount_points_directory(store))
    with store.meter.task("removing what earlier commands have left"):
        sweep_scratch(store.remove_tree)


def make_runner(
    namespace: Namespace,
    scratch: Path,
    *,
    runtime: str = "",
    loopback: Sequence[int] = (),
    terminal: Path | None = None,
    groups: Path | None = None,
    points: Path | None = None,
    parting: TeardownQueue | None = None,
) -> SandboxRunner:
    """Makes the runner of steps, with bubblewrap or with the OCI runtime `runtime`.

    `sandbox.runner.SandboxRunner` explains the parameters.
    """
    from packhorse.sandbox.runner import SandboxRunner

    return SandboxRunner(
        _runtime(namespace, runtime),
        namespace,
        scratch=scratch,
        loopback=loopback,
        terminal=terminal,
        cgroups=groups,
        mount_points=points,
        teardown=parting,
    )


def check_runtime(name: str) -> None:
    """Raises SandboxError for a runtime that cannot be used, before anything is made for it."""
    if name not in ("", BUBBLEWRAP):
        from packhorse.sandbox.oci import find_runtime

        find_runtime(name)


def _runtime(namespace: Namespace, name: str) -> Runtime:
    init = find_program("init")
    if name in ("", BUBBLEWRAP):
        from packhorse.sandbox.bubblewrap import Bubblewrap

        return Bubblewrap(namespace, init=init)
    from packhorse.sandbox.oci import OciRuntime, find_runtime

    return OciRuntime(namespace, runtime=find_runtime(name), init=init)
