"""Sends HTTP requests over the network by urllib3, and turns its errors into NetworkErrors.

`host.wiring` and the main modules call `make_client`, which reads the certificate bundle and the proxy from
the environment, from the variables that curl, requests and Go read.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Literal, Self
from urllib.parse import SplitResult, unquote, urlsplit

import urllib3
from urllib3 import exceptions
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.errors import InputError, NetworkError
from packhorse.http.client import (
    DEFAULT_HOST_CONFIG,
    BrokenConnection,
    Client,
    HostConfig,
    HostConfigs,
    ReadTimeout,
    Request,
    Response,
    UntrustedCertificate,
    default_host_config,
    host_of,
    is_loopback,
    sanitize,
    split_url,
)
from packhorse.version import __version__

_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class Settings:
    """How this machine reaches the network. Times are in seconds; `read_timeout` is for each single read.

    `ca_bundle` is a file, a directory made by OpenSSL's rehash, or "" for the system's certificates;
    `ca_variable` names the variable that it comes from. `proxy` is the URL of the https proxy, `plain_proxy`
    that for http, "" for none; `no_proxy` lists the hosts that need no proxy.
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
        """Reads the CA variables, https_proxy, http_proxy, all_proxy and no_proxy; the lower-case name wins.

        Only registries that the user calls insecure use http_proxy, because all other hosts except this
        machine need TLS.
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
        """Returns the URL of the proxy for `url`, "" for none."""
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
        pass  # the host or the entry is a name
    name, _, wanted_port = entry.partition(":")
    name = name.removeprefix("*").lstrip(".")
    return bool(name) and wanted_port in ("", str(port)) and (host == name or host.endswith(f".{name}"))


# OpenSSL's codes (x509_vfy.h) for errors that another certificate bundle would not fix.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64


def explain(error: Exception, url: str, settings: Settings) -> NetworkError:
    """Returns the error to raise: BrokenConnection for a transient failure, else another NetworkError."""
    host = host_of(url)
    if isinstance(error, exceptions.ProxyError):
        return _proxy_error(error.original_error, url, settings)
    if isinstance(error, exceptions.SSLError):
        return _tls_error(error.args[0] if error.args else error, host, settings)
    if isinstance(error, exceptions.NewConnectionError | exceptions.ConnectTimeoutError):
        return _unreachable_error(error, host, settings)
    if isinstance(error, exceptions.ReadTimeoutError):
        return ReadTimeout(
            f"{host} fell silent",
            why=f"nothing came for {settings.read_timeout:g} seconds",
            fix="check which program listens there, and try again",
        )
    if isinstance(error, ValueError):  # its text may quote a header with a password
        return NetworkError(
            f"a request to {host} cannot be sent", why="its address or a header has impossible characters"
        )
    if isinstance(error, exceptions.ProtocolError) and "Tunnel connection failed" in str(error):
        return _proxy_error(error, url, settings)
    return BrokenConnection(f"the connection to {host} was cut", why=_reason(error))


def _reason(error: BaseException) -> str:
    """Returns the system's error message, which urllib3 wraps several times as a cause or last argument."""
    last = error.args[-1] if error.args else None
    inner = error.__cause__ or (last if isinstance(last, BaseException) else None)
    if inner is not None:
        return _reason(inner)
    words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return sanitize(words)


def _unreachable_error(error: exceptions.HTTPError, host: str, settings: Settings) -> NetworkError:
    if isinstance(error, exceptions.NameResolutionError):
        return NetworkError(
            f"the host {host} is not known",
            why=f"its name could not be resolved: {_reason(error)}",
            fix="check the spelling, and the network and DNS of this machine",
        )
    if isinstance(error, exceptions.NewConnectionError):
        return NetworkError(
            f"{host} cannot be reached", why=_reason(error), fix="check that it runs and listens on this port"
        )
    return NetworkError(
        f"{host} cannot be reached",
        why=f"no connection within {settings.connect_timeout:g} seconds",
        fix="check the network, and HTTPS_PROXY if this machine needs a proxy",
    )


def _proxy_error(error: BaseException, url: str, settings: Settings) -> NetworkError:
    variable = "HTTP_PROXY" if split_url(url).scheme == "http" else "HTTPS_PROXY"
    return NetworkError(
        f"the proxy {host_of(settings.proxy_for(url))} does not lead to {host_of(url)}",
        why=_reason(error),
        fix=f"check {variable}, or add the host to NO_PROXY if it is reached without a proxy",
    )


def _tls_error(error: BaseException, host: str, settings: Settings) -> NetworkError:
    if not isinstance(error, ssl.SSLCertVerificationError):
        if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return NetworkError(
                f"{host} does not speak TLS on this port",
                why="packhorse uses TLS for every host except this machine",
                fix=f"check the port, give it a certificate, or name it by --insecure-registry {host}",
            )
        return BrokenConnection(f"the encrypted connection to {host} broke", why=_reason(error))
    why = error.verify_message
    if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
        fix = "use the name that the certificate is for"
    elif error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        fix = "check the clock of this machine; if it is right, the certificate must be renewed"
    else:
        fix = (
            "put the PEM file of the authority that signed it, as ca.crt, into "
            f"/etc/containers/certs.d/{host}/ or a directory for --cert-dir; or "
        )
        if settings.ca_bundle:
            why += f"; packhorse trusts what {settings.ca_variable} names: {settings.ca_bundle}"
            fix += f"add it to that file, or unset {settings.ca_variable}"
        else:
            why += "; packhorse trusts the certificates of this system"
            fix += "name it by SSL_CERT_FILE"
    if is_loopback(split_url(f"//{host}").hostname or ""):
        fix += f"; or do not verify it on this machine: --insecure-registry {host}"
    return UntrustedCertificate(f"the certificate of {host} is not trusted", why=why, fix=fix)


_CHUNK = 256 * 1024
_DRAIN_LIMIT = 64 * 1024  # bytes that are read to the end of an answer, to keep the connection

# Where distributions keep their certificates. An interpreter that is not the distribution's has other paths
# compiled in and may find nothing there.
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
)


class PooledTransport:
    """Sends requests, and keeps connections to any number of hosts. Several threads may use it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout = urllib3.Timeout(connect=settings.connect_timeout, read=settings.read_timeout)
        self._managers: dict[tuple[str, str, HostConfig], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def send(self, request: Request) -> Response:
        """Sends a request. The body of the answer stays on the connection until it is read or closed."""
        headers = {
            "user-agent": f"packhorse/{__version__}",
            "accept-encoding": "identity",  # digests are of the stored bytes, so no server may recode them
            **request.headers,
        }
        body = request.body() if callable(request.body) else request.body
        if request.length is not None:
            headers["content-length"] = str(request.length)
        with self._map_errors(request.url):
            raw = self._manager(request.url).urlopen(
                request.method,
                request.url,
                body=body,
                headers=headers,
                timeout=self._timeout,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        return Response(
            status=raw.status,
            headers={name.lower(): value for name, value in raw.headers.items()},
            body=self._read_body(raw, request.url),
            url=request.url,
            close=lambda: _finish(raw),
        )

    def _read_body(self, raw: urllib3.BaseHTTPResponse, url: str) -> Iterator[bytes]:
        with self._map_errors(url):
            try:
                yield from raw.stream(_CHUNK, decode_content=False)
            except ValueError as error:
                raise HTTPException("its answer cannot be understood") from error

    def _manager(self, url: str) -> urllib3.PoolManager:
        parts = split_url(url)
        key = parts.scheme, self._settings.proxy_for(url), self._settings.host_configs(parts.netloc)
        with self._lock:
            if key not in self._managers:
                self._managers[key] = self._make_manager(*key)
            return self._managers[key]

    def _make_manager(self, scheme: str, proxy: str, host_config: HostConfig) -> urllib3.PoolManager:
        trusted = make_ssl_context(self._settings, host_config) if scheme == "https" else None
        # urllib3 would warn of insecure connections, which the user has permitted.
        warnings.simplefilter("ignore", InsecureRequestWarning)
        any_name: Literal[False] | None = False if host_config.insecure and trusted is not None else None
        if not proxy:
            return urllib3.PoolManager(maxsize=16, ssl_context=trusted, assert_hostname=any_name)
        parts, headers = _split_proxy(proxy), None
        if parts.scheme not in ("http", "https"):
            raise InputError(
                f"the proxy {host_of(proxy)} cannot be used",
                why=f"the scheme {parts.scheme} is not supported",
                fix="set HTTPS_PROXY to the URL of an http or https proxy",
            )
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = urllib3.make_headers(proxy_basic_auth=pair)
        return urllib3.ProxyManager(
            proxy,
            maxsize=16,
            proxy_headers=headers,
            ssl_context=trusted,
            proxy_ssl_context=make_ssl_context(self._settings),
            assert_hostname=any_name,
        )

    @contextmanager
    def _map_errors(self, url: str) -> Iterator[None]:
        """Raises the errors of urllib3 and of the layers below it as NetworkError."""
        try:
            yield
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            raise explain(error, url, self._settings) from error


def _split_proxy(proxy: str) -> SplitResult:
    """Splits a proxy's URL. Its error does not quote the URL, which may hold a password."""
    try:
        parts = urlsplit(proxy)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InputError(
            "the proxy cannot be used",
            why="its URL cannot be understood",
            fix="set HTTPS_PROXY (or HTTP_PROXY, ALL_PROXY) to http://HOST:PORT",
        )
    return parts


def make_client(host_configs: HostConfigs = default_host_config) -> Client:
    """Returns a client with the network settings from the environment of this process."""
    settings = replace(Settings.from_environment(os.environ), host_configs=host_configs)
    return Client(PooledTransport(settings), host_configs=host_configs)


def make_ssl_context(settings: Settings, host_config: HostConfig = DEFAULT_HOST_CONFIG) -> ssl.SSLContext:
    """Trusts the bundle of the settings, else the system's certificates, and those for one server.

    Raises InputError.
    """
    context = _default_ssl_context(settings)
    try:
        for path in host_config.authorities:
            context.load_verify_locations(path)
    except OSError as error:
        raise _bundle_error(path, error, "it should be a PEM file of certificates") from error
    if host_config.client_certificate is not None:
        certificate, key = host_config.client_certificate
        try:
            context.load_cert_chain(certificate, key)
        except OSError as error:
            raise _bundle_error(certificate, error, f"its key should be {key.name}") from error
    if host_config.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _bundle_error(path: Path, error: OSError, why: str) -> InputError:
    return InputError(f"{path} cannot be used", why=f"{error.strerror or error}; {why}")


def _default_ssl_context(settings: Settings) -> ssl.SSLContext:
    """Trusts the bundle of the settings, else the system's certificates."""
    bundle = settings.ca_bundle
    if not bundle:
        context = ssl.create_default_context()
        if context.cert_store_stats()["x509_ca"] == 0:
            for path in filter(os.path.exists, _SYSTEM_BUNDLES):
                context.load_verify_locations(path)
        return context
    try:
        if Path(bundle).is_dir():
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(
            f"the certificate bundle {bundle} cannot be read",
            why=f"{error.strerror or error} ({settings.ca_variable} names it)",
            fix=f"name a PEM file of certificates, or unset {settings.ca_variable} to trust the system's",
        ) from error


def _finish(raw: urllib3.BaseHTTPResponse) -> None:
    """Ends an answer that may be half read, and keeps the connection if little is left to read."""
    if raw.length_remaining is not None and raw.length_remaining <= _DRAIN_LIMIT:
        raw.drain_conn()
    else:
        raw.close()
