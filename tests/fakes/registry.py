"""A registry in memory: a real HTTP server on loopback that speaks the OCI distribution specification.

It takes pushes and answers pulls, asks for tokens if told to, and goes wrong on request: `faults` holds what
is to happen to the next matching requests. `requests` has every request in the order of arrival, `sent` is
how many bytes their bodies had.
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

from fakes.distribution import Answer, Distribution, error


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose method and path match, after the first `spared`.

    `status` answers in the registry's place, with `headers` and `body`. Otherwise the registry's own answer
    is sent, altered: `headers` replace its own, `cut_after` closes the connection after that many bytes of
    the body, `body` replaces the body, `delay` (seconds) comes before everything, `hang_up` closes without an
    answer, `take` does so after that many bytes of the request's body, which the registry has then. Requests
    with a body of fewer than `least` bytes are none of its business, nor, with `known`, those that do
    not say who makes them.
    """

    method: str = "GET"
    path: str = ""
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut_after: int | None = None
    delay: float = 0.0
    hang_up: bool = False
    take: int | None = None
    spared: int = 0
    least: int = 0
    known: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]


class FakeRegistry(Distribution):
    """Use as a context manager; `host` is what to put before the repository's name.

    `users` (name to password) makes it ask for a bearer token, or, with `basic`, for the password itself; a
    None user may pull. A token is good for `token_life` requests. `redirect_blobs` sends downloads elsewhere,
    as registries do that keep blobs in an object store. With `tls` it speaks nothing else.
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
        self.requests: list[Seen] = []
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
        server = _SixServer if ":" in address else _Server
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
        return f"{self._address}:{self.port}"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def seen(self, method: str, part: str = "") -> list[Seen]:
        return [request for request in self.requests if request.method == method and part in request.path]

    def fault_for(self, method: str, path: str, headers: dict[str, str]) -> Fault | None:
        length, known = int(headers.get("content-length", "0")), "authorization" in headers
        with self._lock:
            for fault in self.faults:
                matches = fault.method == method and fault.path in path and length >= fault.least
                matches &= known or not fault.known
                if fault.times > 0 and matches:
                    if fault.spared:
                        fault.spared -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """The answer to any request, after the question who makes it."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        if path == "/token":
            return self._token(query, headers)
        refused = self._refused(method, path, headers)
        return refused or self.serve(method, path, query, headers, body)

    def _token(self, query: dict[str, list[str]], headers: dict[str, str]) -> Answer:
        user, password = _basic(headers.get("authorization", ""))
        if self.users is None or self.users.get(user) != password:
            return error(401, "UNAUTHORIZED", "no such user or password")
        scopes = [scope if user else scope.removesuffix(",push") for scope in query.get("scope", [])]
        token = f"token{next(self._ids)}"
        self.token_scopes[token] = scopes
        return Answer(200, {"content-type": "application/json"}, json.dumps({"token": token}).encode())

    def _refused(self, method: str, path: str, headers: dict[str, str]) -> Answer | None:
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
        refused = error(401, "UNAUTHORIZED", "authentication required")
        refused.headers["www-authenticate"] = challenge
        return refused


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that hang up; anything else is a defect of this file."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


class _SixServer(_Server):
    address_family = socket.AF_INET6


def _covers(granted: str, wanted: str) -> bool:
    """Whether a scope has all actions of another for the same thing."""
    name, _, actions = granted.rpartition(":")
    thing, _, needed = wanted.rpartition(":")
    return name == thing and set(needed.split(",")) <= set(actions.split(","))


def _basic(header: str) -> tuple[str | None, str]:
    """Name and password of an Authorization header; nobody, with the empty password, when there is none."""
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
            fault = registry.fault_for(self.command, self.path, headers) or Fault()
            registry.requests.append(Seen(self.command, self.path, headers))
            time.sleep(fault.delay)
            body = self._body(fault.take)
            registry.sent += len(body)
            if fault.take is not None:
                registry.cut(urlsplit(self.path).path, body)
            if fault.hang_up or fault.take is not None:
                self.close_connection = True
                return
            answer = Answer(fault.status)
            if not fault.status:
                answer = registry.answer(self.command, self.path, headers, body)
            if fault.body is not None:
                answer.body = fault.body
            self._send(answer, fault)

        def _send(self, answer: Answer, fault: Fault) -> None:
            self.send_response(answer.status)
            lengths = {"content-length": str(len(answer.body))} if answer.status != 204 else {}
            for name, value in {**lengths, **answer.headers, **fault.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: fault.cut_after])
            if fault.cut_after is not None:
                self.close_connection = True

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve

    return Handler
