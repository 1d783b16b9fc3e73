"""Connects to registries with the user's certificates, mirrors and choice of encryption.

Used by `host.wiring` and `cli`. The command line has precedence over containers' registries.conf, and that
over the defaults. The methods import `oci.registry`, because every command imports this module and most talk
to no registry.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from packhorse.base.dataclass import dataclass
from packhorse.errors import RegistryError

if TYPE_CHECKING:
    from packhorse.http.client import Client, HostConfig
    from packhorse.oci.auth import Lookup
    from packhorse.oci.reference import Reference
    from packhorse.oci.registry.client import Registry
    from packhorse.oci.registry.mirrors import Registries, Rule


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
        from packhorse.oci.registry.mirrors import user_registries

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
                f"{reference.familiar} must not be used",
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
        from packhorse.http.client import HostConfig, find_certificates
        from packhorse.oci.registry.mirrors import certificate_directories

        insecure = host in self._options.insecure or self.registries_conf.is_insecure(host)
        directory = self._options.certificates or find_certificates(host, certificate_directories())
        return HostConfig.read(directory, insecure=insecure) if directory else HostConfig(insecure=insecure)
