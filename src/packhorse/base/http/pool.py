"""The transport over the network: urllib3, its failures turned into NetworkError (`base.http.failure`).

`platform.wiring` and the mains call `make_client`. This is one of the edges that read the environment:
certificate bundle and proxy, under the names that curl, requests and Go read.
"""

from __future__ import annotations

import os
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from packhorse.base.dataclass import replace
from packhorse.base.http.client import Client
from packhorse.base.http.failure import explain
from packhorse.base.http.message import Request, Response, host_of, split_url
from packhorse.base.http.peer import DEFAULT_HOST_CONFIG, HostConfig, HostConfigs, default_host_config
from packhorse.base.http.settings import Settings
from packhorse.errors import InputError
from packhorse.version import __version__

_CHUNK = 256 * 1024
_WORTH_DRAINING = 64 * 1024  # bytes left of an answer that are read to keep its connection

# Where distributions keep their certificates. An interpreter that did not come with the distribution has its
# own builder's paths compiled in and finds nothing there.
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
)


class PooledTransport:
    """Connections to any number of hosts, kept alive and shared by all threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout = urllib3.Timeout(connect=settings.connect_timeout, read=settings.read_timeout)
        self._managers: dict[tuple[str, str, HostConfig], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def send(self, request: Request) -> Response:
        """One exchange; the body of the answer stays on the connection until it is read or closed."""
        headers = {
            "user-agent": f"packhorse/{__version__}",
            "accept-encoding": "identity",  # a digest is of the bytes as stored: nobody may recode them
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
        # The library warns of what the user has asked for.
        warnings.simplefilter("ignore", InsecureRequestWarning)
        any_name: Literal[False] | None = False if host_config.insecure and trusted is not None else None
        if not proxy:
            return urllib3.PoolManager(maxsize=16, ssl_context=trusted, assert_hostname=any_name)
        parts, headers = _split_proxy(proxy), None
        if parts.scheme not in ("http", "https"):
            raise InputError(
                f"the proxy {host_of(proxy)} cannot be used",
                why=f"it is spoken to by {parts.scheme}, which is not supported",
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
        """Turns what urllib3 and the layers below it raise into NetworkError."""
        try:
            yield
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            raise explain(error, url, self._settings) from error


def _split_proxy(proxy: str) -> SplitResult:
    """The parts of a proxy's URL, which an error does not quote: it may hold a password."""
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
    """A client for this machine's network, as the environment of this process describes it."""
    settings = replace(Settings.from_environment(os.environ), host_configs=host_configs)
    return Client(PooledTransport(settings), host_configs=host_configs)


def make_ssl_context(settings: Settings, host_config: HostConfig = DEFAULT_HOST_CONFIG) -> ssl.SSLContext:
    """The certificates to trust: the bundle that was named, else the system's, and a server's own.

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
    """The bundle that was named, else the system's certificates."""
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
    """Ends an answer that may be half read: the connection is kept where that costs little."""
    if raw.length_remaining is not None and raw.length_remaining <= _WORTH_DRAINING:
        raw.drain_conn()
    else:
        raw.close()
