"""How this machine reaches the network, under the names that curl, requests and Go read.

Called by `base.http.pool`, which acts on it, and `base.http.failure`, which names it in messages.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Self

from packhorse.base.dataclass import dataclass, field
from packhorse.base.http.message import is_loopback, split_url
from packhorse.base.http.peer import HostConfigs, default_host_config

_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class Settings:
    """How this machine reaches the network. Times are seconds; `read_timeout` is for each read, not for all.

    `ca_bundle` is a file, or a directory as OpenSSL's rehash makes them, "" for the system's; `ca_variable`
    names the variable that it came from. `proxy` is a URL, "" for none, `plain_proxy` that for what is not
    encrypted; `no_proxy` holds what is reached without them. `host_configs` knows what is special about a
    server.
    """

    ca_bundle: str = ""
    ca_variable: str = ""
    proxy: str = field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()
    plain_proxy: str = field(default="", repr=False)
    host_configs: HostConfigs = default_host_config
    connect_timeout: float = 20.0
    read_timeout: float = 60.0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Reads the CA variables, https_proxy, http_proxy, all_proxy and no_proxy; lower case wins, as
        everywhere.

        http_proxy counts for registries that the user has named as insecure: all else but this machine
        itself is spoken to with TLS.
        """

        def setting(name: str) -> str:
            return environ.get(name) or environ.get(name.upper(), "")

        variable = next((name for name in _CA_VARIABLES if environ.get(name)), "")
        proxy, plain = (setting(name) or setting("all_proxy") for name in ("https_proxy", "http_proxy"))
        return cls(
            ca_bundle=environ.get(variable, ""),
            ca_variable=variable,
            proxy=_complete_url(proxy),
            plain_proxy=_complete_url(plain),
            no_proxy=tuple(
                entry.strip().lower() for entry in setting("no_proxy").split(",") if entry.strip()
            ),
        )

    def proxy_for(self, url: str) -> str:
        """The URL of the proxy to reach `url` by, "" for none."""
        parts = split_url(url)
        host = (parts.hostname or "").rstrip(".")
        plain = parts.scheme == "http"
        port = parts.port or (80 if plain else 443)
        if is_loopback(host) or any(_covers(entry, host, port) for entry in self.no_proxy):
            return ""
        return self.plain_proxy if plain else self.proxy


def _complete_url(proxy: str) -> str:
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of no_proxy covers a host: `*`, a domain with all below it, an address, a CIDR
    range."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass  # one of them is a name
    name, _, wanted_port = entry.partition(":")
    name = name.removeprefix("*").lstrip(".")
    return bool(name) and wanted_port in ("", str(port)) and (host == name or host.endswith(f".{name}"))
