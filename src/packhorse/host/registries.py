"""How registries are reached: with which certificates, by which mirrors, encrypted or not.

What a user asks for on the command line goes before containers' own configuration, and that before what
holds for all. Called by `host.wiring` and `cli`.

A registry as a place that remembers what it was pushed: each layer's compressed form, and who has it.

So a layer that was pushed before, by whatever build, is neither read nor compressed again: the registry is
asked whether it has it, and takes it from another of its repositories where it can. A layer that another
program pushed under the same name is not sent again either. Made in `host.wiring`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.errors import RegistryError, StoreError
from packhorse.http.client import HostConfig, find_certificates
from packhorse.oci.place import Image, Layer, Receipt
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.mirrors import Registries, Rule, certificate_directories, user_registries
from packhorse.oci.registry.place import RegistryPlace
from packhorse.oci.registry.push import is_blob_present
from packhorse.store.store import Store

if TYPE_CHECKING:
    from packhorse.http.client import Client
    from packhorse.oci.auth import Lookup
    from packhorse.oci.registry.client import Registry


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """What a user asks for: registries on whose encryption is not insisted, and a directory of certificates
    to use for every registry. `warn` is handed what registries warn of.
    """

    insecure: tuple[str, ...] = ()
    certificates: Path | None = None
    warn: Callable[[str], None] | None = None


class RegistryConnections:
    """The connections of one command, made when they are needed; usable from several threads."""

    def __init__(self, options: RegistryOptions | None = None) -> None:
        self._options = options or RegistryOptions()
        self._registries: dict[str, Registry] = {}
        self._peers: dict[str, HostConfig] = {}
        self._lock = threading.RLock()

    @cached_property
    def client(self) -> Client:
        """What exchanges requests."""
        from packhorse.http.transport import make_client

        return make_client(self.peer)

    @cached_property
    def registries_conf(self) -> Registries:
        """What containers' registries.conf says; raises InputError."""
        return user_registries()

    def registry(self, host: str, credentials: Callable[[str], Lookup]) -> Registry:
        """A registry, the same for every call; `credentials` says who we are to a host."""
        from packhorse.oci.registry.client import Registry, ignore_warning

        with self._lock:
            if host not in self._registries:
                self._registries[host] = Registry(
                    host,
                    self.client,
                    credentials=credentials(host),
                    tell=self._options.warn or ignore_warning,
                )
            return self._registries[host]

    def rule(self, reference: Reference) -> Rule | None:
        """What is configured for a name; raises RegistryError for one that is blocked."""
        rule = self.registries_conf.find(reference)
        if rule is not None and rule.blocked:
            raise RegistryError(
                f"{reference.familiar} is not to be used",
                why=f"{rule.where} blocks {rule.prefix}",
                fix="use another image, or change that file",
            )
        return rule

    def peer(self, host: str) -> HostConfig:
        """What is special about a server."""
        with self._lock:
            if host not in self._peers:
                self._peers[host] = self._read_peer(host)
            return self._peers[host]

    def _read_peer(self, host: str) -> HostConfig:
        insecure = host in self._options.insecure or self.registries_conf.is_insecure(host)
        directory = self._options.certificates or find_certificates(host, certificate_directories())
        return HostConfig.read(directory, insecure=insecure) if directory else HostConfig(insecure=insecure)


class DedupingRegistryTarget:
    """The image with one name in a registry, with the memory of a store.

    Layers that have no stored form are compressed to `media_type` there.
    """

    def __init__(
        self, place: RegistryPlace, reference: Reference, registry: Registry, store: Store, *, media_type: str
    ) -> None:
        self._place = place
        self._reference = reference
        self._registry = registry
        self._store = store
        self._media_type = media_type

    def read(self) -> Image:
        """The image under this name, as the registry has it."""
        return self._place.read()

    def write_layer(self, layer: Layer) -> Layer:
        """Brings one layer; one that was pushed before costs one question."""
        made_here = layer.blob is None and layer.descriptor is None
        if layer.diff_id:
            layer = self._with_known_blob(layer, layer.diff_id)
        if reused := self._reuse_claimed(layer):
            return reused
        brought = self._place.write_layer(layer)
        diff_id, stored = brought.diff_id, brought.descriptor
        # What others have compressed may be another layer than their image says, and is nothing that could
        # be made again of a tar.
        if diff_id and stored and (made_here or self._store.compressed_form(diff_id) == stored):
            # A store that can only be read forgets; nothing but time is lost.
            with suppress(StoreError):
                self._store.remember_compressed(diff_id, stored, repository=self._reference.name)
        return brought

    def write_image(self, image: Image) -> Receipt:
        """Makes the image appear under this name."""
        return self._place.write_image(image)

    def _reuse_claimed(self, layer: Layer) -> Layer | None:
        """A layer in the form that the image under this name has it in, such as one that pack pushed.

        That image only claims that it is this layer. So the blob is fetched and unpacked once, in place of an
        upload; then the store remembers it. Where it is another layer, the image is published without it.
        """
        if layer.diff_id is None or layer.descriptor is not None:
            return None
        claimed = self._place.find_claim(layer.diff_id)
        if claimed is None or not is_blob_present(self._registry, self._reference.repository, claimed):
            return None
        stored = self._place.verify_claim(layer.diff_id, claimed)
        if stored is None:
            return None
        with suppress(StoreError):
            self._store.remember_compressed(layer.diff_id, stored, repository=self._reference.name)
        return self._place.write_layer(replace(layer, descriptor=stored))

    def _with_known_blob(self, layer: Layer, diff_id: Digest) -> Layer:
        """The layer with the descriptor that it had before; the registry is told who there has it."""
        known = self._store.compressed_form(diff_id)
        if known is None or layer.descriptor not in (None, known):
            return layer
        if layer.descriptor is None and known.media_type != self._media_type:
            return layer
        for name in self._store.repositories(diff_id):
            host, _, repository = name.partition("/")
            if host == self._reference.registry and repository != self._reference.repository:
                self._registry.remember_candidate(repository, known.digest)
                break
        return replace(layer, descriptor=known)
