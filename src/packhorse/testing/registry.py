"""A registry in memory: a real HTTP server on loopback that implements the OCI distribution specification.

It accepts pushes and pulls, asks for credentials if you give it users, records every request, and fails on
request. It is for tests: nothing is stored on disk, and no upload has a limit.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from packhorse.testing.repositories import Repositories, Response, error_response


@dataclass
class Fault:
    """Makes requests fail: the next `times` requests whose method is `method` and whose path contains `path`.

    The other fields say what happens:

    - `status`: the registry does nothing and answers with this status, `headers` and `body`. Without a status
      it handles the request, and `headers` and `body` replace those of its response.
    - `delay`: it waits this many seconds first.
    - `cut_response`: it closes the connection after this many bytes of the response's body.
    - `cut_request`: it closes the connection after this many bytes of the request's body, without a response.
    - `hang_up`: it closes the connection without a response.

    And which requests match:

    - `skip`: the first so many matching requests succeed.
    - `min_body`: only requests with a body of at least this many bytes match.
    - `needs_credentials`: only requests with an Authorization header match.
    """

    method: str = "GET"
    path: str = ""
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut_response: int | None = None
    delay: float = 0.0
    hang_up: bool = False
    cut_request: int | None = None
    skip: int = 0
    min_body: int = 0
    needs_credentials: bool = False


@dataclass(frozen=True)
class Request:
    """A request that arrived. The names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class FakeRegistry(Repositories):
    """A registry that serves while its `with` block runs. `host` begins the names of its images.

    - `users`: passwords by name. With users the registry asks for a bearer token, or with `basic` for the
      password itself. Without users everybody may do everything. The user None, with an empty password, may
      pull.
    - `redirect_blobs`: as in `Repositories`.
    - `tls`: a server's context. The registry then speaks only HTTPS.
    - `address`: the loopback address to listen at; `::1` for IPv6.

    `requests` has all requests in the order of their arrival, and `sent` counts the bytes of their bodies.
    `connections` counts connections. Add a `Fault` to `faults` to make requests fail. A token is valid for
    `token_life` requests; None means always. `token_scopes` has the scopes of all tokens.
    """

    def __init__(
        self,
        *,
        users: dict[str | None, str] | None = None,
        basic: bool = False,
        redirect_blobs: str = "",
        tls: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.connections = 0
        self.sent = 0
        self.faults: list[Fault] = []
        self.users = users
        self.basic = basic
        self.redirect_blobs = redirect_blobs
        self.token_scopes: dict[str, list[str]] = {}
        self.token_uses: Counter[str] = Counter()
        self.token_life: int | None = None
        self._lock = threading.Lock()
        self._tls = tls is not None
        self._address = f"[{address}]" if ":" in address else address
        server = _IPv6Server if ":" in address else _Server
        self._server = server((address, 0), _handler(self))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        """The address and port, as in the name of an image."""
        return f"{self._address}:{self.port}"

    @property
    def port(self) -> int:
        """The port, which the kernel chose."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The beginning of every address of the registry."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def find_requests(self, method: str, part: str = "") -> list[Request]:
        """The requests so far with this method, and with `part` in the path."""
        return [request for request in self.requests if request.method == method and part in request.path]

    def take_fault(self, method: str, path: str, headers: dict[str, str]) -> Fault | None:
        """The fault that a request meets, which counts it; None if it meets none."""
        length, authorized = int(headers.get("content-length", "0")), "authorization" in headers
        with self._lock:
            for fault in self.faults:
                matches = fault.method == method and fault.path in path and length >= fault.min_body
                matches &= authorized or not fault.needs_credentials
                if fault.times > 0 and matches:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        """Authorizes and answers a request."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        if path == "/token":
            return self._token(query, headers)
        refusal = self._authorize(method, path, headers)
        return refusal or self.serve(method, path, query, headers, body)

    def _token(self, query: dict[str, list[str]], headers: dict[str, str]) -> Response:
        user, password = _basic(headers.get("authorization", ""))
        if self.users is None or self.users.get(user) != password:
            return error_response(401, "UNAUTHORIZED", "no such user or password")
        scopes = [scope if user else scope.removesuffix(",push") for scope in query.get("scope", [])]
        token = f"token{next(self._ids)}"
        self.token_scopes[token] = scopes
        return Response(200, {"content-type": "application/json"}, json.dumps({"token": token}).encode())

    def _authorize(self, method: str, path: str, headers: dict[str, str]) -> Response | None:
        if self.users is None:
            return None
        kind, _, value = headers.get("authorization", "").partition(" ")
        if self.basic:
            user, password = _basic(headers.get("authorization", ""))
            allowed = user is not None and self.users.get(user) == password
            challenge = 'Basic realm="fake"'
        else:
            match = re.match(r"/v2/(.+?)/(?:blobs|manifests|tags|referrers)/", path)
            actions = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(method, "pull,push")
            if "/uploads/" in path and method == "DELETE":
                actions = "push"
            scope = f"repository:{match[1]}:{actions}" if match else "registry:catalog:*"
            granted = self.token_scopes.get(value, []) if kind == "Bearer" else []
            self.token_uses[value] += 1
            if self.token_life is not None and self.token_uses[value] > self.token_life:
                granted = []
            allowed = any(_covers(each, scope) for each in granted)
            challenge = f'Bearer realm="{self.url}/token",service="fake",scope="{scope}"'
        if allowed:
            return None
        refusal = error_response(401, "UNAUTHORIZED", "authentication required")
        refusal.headers["www-authenticate"] = challenge
        return refusal


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that hang up. Any other error is a defect of this file."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


class _IPv6Server(_Server):
    address_family = socket.AF_INET6


def _covers(granted: str, wanted: str) -> bool:
    """Whether a scope allows all actions of another one on the same repository."""
    name, _, actions = granted.rpartition(":")
    thing, _, needed = wanted.rpartition(":")
    return name == thing and set(needed.split(",")) <= set(actions.split(","))


def _basic(header: str) -> tuple[str | None, str]:
    """Name and password of an Authorization header; None and an empty password without one."""
    kind, _, value = header.partition(" ")
    if kind != "Basic":
        return None, ""
    user, _, password = base64.b64decode(value).decode().partition(":")
    return user, password


def _handler(registry: FakeRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            registry.connections += 1
            super().setup()

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _body(self, most: int | None) -> bytes:
            if self.headers.get("transfer-encoding", "").lower() != "chunked":
                length = int(self.headers.get("content-length", "0"))
                return self.rfile.read(length if most is None else min(most, length))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _serve(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            fault = registry.take_fault(self.command, self.path, headers) or Fault()
            registry.requests.append(Request(self.command, self.path, headers))
            time.sleep(fault.delay)
            body = self._body(fault.cut_request)
            registry.sent += len(body)
            if fault.cut_request is not None:
                registry.accept_cut_upload(urlsplit(self.path).path, body)
            if fault.hang_up or fault.cut_request is not None:
                self.close_connection = True
                return
            response = Response(fault.status)
            if not fault.status:
                response = registry.answer(self.command, self.path, headers, body)
            if fault.body is not None:
                response.body = fault.body
            self._send(response, fault)

        def _send(self, response: Response, fault: Fault) -> None:
            self.send_response(response.status)
            lengths = {"content-length": str(len(response.body))} if response.status != 204 else {}
            for name, value in {**lengths, **response.headers, **fault.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(response.body[: fault.cut_response])
            if fault.cut_response is not None:
                self.close_connection = True

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve

    return Handler
