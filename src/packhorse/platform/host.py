"""What a build takes over from the machine it runs on: proxies, CA certificates, name resolution (design
2.10).

They reach buildpacks, and never an image. Called by `platform.runner`; reads no environment itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packhorse.base.step import Bind

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian and its relatives, and so their images, have the bundle of CA certificates."""

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
PROXIES = frozenset(name for upper in _PROXIES for name in (upper, upper.lower()))
"""The variables that name proxies, whose addresses can have a password."""

_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_BUNDLES = (BUNDLE, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
_RESOLUTION = ("/etc/resolv.conf", "/etc/hosts")
_TRUST = (
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
)


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """What a step needs to reach the network as this machine does: files to bind and variables to set."""

    mounts: tuple[Bind, ...]
    variables: Mapping[str, str]


def network(environ: Mapping[str, str]) -> HostNetwork:
    """Reads the machine's settings; `environ` is the caller's environment."""
    variables: dict[str, str] = {}
    for name in _PROXIES:
        value = environ.get(name) or environ.get(name.lower())
        if value:
            variables |= {name: value, name.lower(): value}
    mounts = [Bind(Path(path).resolve(), path) for path in _RESOLUTION if Path(path).is_file()]
    bundle = certificates(environ)
    if bundle is not None:
        mounts.append(Bind(bundle, BUNDLE))
        variables |= dict.fromkeys(_TRUST, BUNDLE)
    return HostNetwork(tuple(mounts), variables)


def certificates(environ: Mapping[str, str]) -> Path | None:
    """The bundle of CA certificates this machine trusts: the one its user names, else the distribution's."""
    named = (environ.get(name, "") for name in _BUNDLE_VARIABLES)
    for path in (*(name for name in named if name), *_BUNDLES):
        if Path(path).is_file():
            return Path(path).resolve()
    return None
