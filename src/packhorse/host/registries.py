"""How registries are reached, and what the store remembers of them. Used by `host.wiring` and `cli`.

`RegistryConnections` applies certificates, mirrors and the choice of encryption. The command line has
precedence over containers' registries.conf, and that over the defaults.

`DedupingRegistryTarget` remembers the compressed form of each pushed layer, and which repositories have it.
A layer that was pushed before, by any build, is neither read nor compressed again: the registry is asked
whether it has the layer, and if possible mounts it from another of its repositories. A layer that another
program pushed under the same name is not sent again either.
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
    """The user's options for registries.

    `insecure` lists registries that need no encryption or trusted certificate. `certificates` is a directory
    of certificates for all registries. `warn` receives the warnings of registries.
    """

    insecure: tuple[str, ...] = ()
    certificates: Path | None = None
    warn: Callable[[str], None] | None = None


class RegistryConnections:
    """The connections of one command, made on first use. Safe for several threads."""

    def __init__(self, options: RegistryOptions | None = None) -> None:
        self._options = options or RegistryOptions()
        self._registries: dict[str, Registry] = {}
        self._peers: dict[str, HostConfig] = {}
        self._lock = threading.RLock()

    @cached_property
    def client(self) -> Client:
        """The HTTP client."""
        from packhorse.http.transport import make_client

        return make_client(self.peer)

    @cached_property
    def registries_conf(self) -> Registries:
        """The rules of containers' registries.conf; raises InputError."""
        return user_registries()

    def registry(self, host: str, credentials: Callable[[str], Lookup]) -> Registry:
        """The registry at `host`, the same object for every call; `credentials` looks up the user's login."""
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
        """The rule of registries.conf for a name; raises RegistryError if it blocks the name."""
        rule = self.registries_conf.find(reference)
        if rule is not None and rule.blocked:
            raise RegistryError(
                f"{reference.familiar} is not to be used",
                why=f"{rule.where} blocks {rule.prefix}",
                fix="use another image, or change that file",
            )
        return rule

    def peer(self, host: str) -> HostConfig:
        """The settings for the connection to a server."""
        with self._lock:
            if host not in self._peers:
                self._peers[host] = self._read_peer(host)
            return self._peers[host]

    def _read_peer(self, host: str) -> HostConfig:
        insecure = host in self._options.insecure or self.registries_conf.is_insecure(host)
        directory = self._options.certificates or find_certificates(host, certificate_directories())
        return HostConfig.read(directory, insecure=insecure) if directory else HostConfig(insecure=insecure)


class DedupingRegistryTarget:
    """The Target for one name in a registry, which uses what the store remembers of pushed layers.

    Layers without a compressed form are compressed to `media_type`.
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
        """Reads the image from the registry."""
        return self._place.read()

    def write_layer(self, layer: Layer) -> Layer:
        """Pushes a layer; for one that was pushed before, that is one request."""
        made_here = layer.blob is None and layer.descriptor is None
        if layer.diff_id:
            layer = self._with_known_blob(layer, layer.diff_id)
        if reused := self._reuse_claimed(layer):
            return reused
        pushed = self._place.write_layer(layer)
        diff_id, stored = pushed.diff_id, pushed.descriptor
        # A blob that another program compressed is not remembered: it may not be the layer that its image
        # says, and cannot be made again from the tar.
        if diff_id and stored and (made_here or self._store.compressed_form(diff_id) == stored):
            # A read-only store does not remember, which only costs time at the next push.
            with suppress(StoreError):
                self._store.remember_compressed(diff_id, stored, repository=self._reference.name)
        return pushed

    def write_image(self, image: Image) -> Receipt:
        """Writes the image under this name."""
        return self._place.write_image(image)

    def _reuse_claimed(self, layer: Layer) -> Layer | None:
        """Reuses the layer's blob from the image that has this name now, for instance one that pack pushed.

        That image only claims that the blob is this layer. So the blob is fetched and verified once, instead
        of an upload, and then the store remembers it. Returns None if there is no such blob, or if it is
        another layer.
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
        """Adds the descriptor of an earlier push, and tells the registry which repository has the blob."""
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
