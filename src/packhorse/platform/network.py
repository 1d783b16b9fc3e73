"""How registries are reached: with which certificates, by which mirrors, encrypted or not.

What a user asks for on the command line goes before containers' own configuration, and that before what
holds for all. Called by `platform.wiring` and `cli`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from packhorse.base.dataclass import dataclass
from packhorse.base.http.peer import HostConfig, find_certificates
from packhorse.errors import RegistryError
from packhorse.image import registries
from packhorse.image.reference import Reference
from packhorse.image.registries import Registries, Rule

if TYPE_CHECKING:
    from packhorse.base.http.client import Client
    from packhorse.image.registry.client import Registry
    from packhorse.image.registry.credentials import Lookup


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
        from packhorse.base.http.pool import make_client

        return make_client(self.peer)

    @cached_property
    def registries_conf(self) -> Registries:
        """What containers' registries.conf says; raises InputError."""
        return registries.user_registries()

    def registry(self, host: str, credentials: Callable[[str], Lookup]) -> Registry:
        """A registry, the same for every call; `credentials` says who we are to a host."""
        from packhorse.image.registry.client import Registry
        from packhorse.image.registry.warning import ignore_warning

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
        directory = self._options.certificates or find_certificates(
            host, registries.certificate_directories()
        )
        return HostConfig.read(directory, insecure=insecure) if directory else HostConfig(insecure=insecure)
