"""A registry in memory: a real HTTP server on loopback that speaks the OCI distribution specification.

It takes pushes and answers pulls, asks for tokens if told to, and goes wrong on request: `faults` holds what
is to happen to the next matching requests. `requests` has every request in the order of arrival.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_BLOB = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>sha256:[0-9a-f]{64})")
_UPLOADS = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/")
_UPLOAD = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<id>[0-9]+)")
_MANIFEST = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")
_TAGS = re.compile(r"/v2/(?P<name>.+)/tags/list")


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose method and path match.

    `status` answers in the registry's place, with `headers` and `body`. Otherwise the registry's own answer
    is sent, altered: `headers` replace its own, `cut_after` closes the connection after that many bytes of
    the body, `body` replaces the body, `delay` (seconds) comes before everything, `hang_up` closes without an
    answer.
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


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Answer:
    """What is about to be sent."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class FakeRegistry:
    """Use as a context manager; `host` is what to put before the repository's name.

    `users` (name to password) makes it ask for a bearer token, or, with `basic`, for the password itself; a
    None user may pull. `redirect_blobs` sends downloads elsewhere, as registries do that keep blobs in an
    object store.
    """

    def __init__(
        self, *, users: dict[str | None, str] | None = None, basic: bool = False, redirect_blobs: str = ""
    ) -> None:
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[Seen] = []
        self.connections = 0
        self.faults: list[Fault] = []
        self.users = users
        self.basic = basic
        self.redirect_blobs = redirect_blobs
        self.token_scopes: dict[str, list[str]] = {}
        self.accepts_ranges = True
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
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
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def put_blob(self, name: str, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs.setdefault(name, {})[digest] = data
        return digest

    def put_manifest(self, name: str, tag: str, data: bytes, media_type: str) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        for reference in (tag, digest):
            self.manifests[name, reference] = media_type, data
        return digest

    def seen(self, method: str, part: str = "") -> list[Seen]:
        return [request for request in self.requests if request.method == method and part in request.path]

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.path in path:
                    fault.times -= 1
                    return fault
        return None

    # What follows is the specification, one endpoint a method.

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        if path == "/token":
            return self._token(query, headers)
        refused = self._refused(method, path, headers)
        if refused:
            return refused
        routes: list[tuple[str, re.Pattern[str], Callable[..., Answer]]] = [
            ("GET HEAD", _BLOB, self._get_blob),
            ("GET HEAD", _MANIFEST, self._get_manifest),
            ("GET", _TAGS, self._get_tags),
            ("PUT", _MANIFEST, self._put_manifest),
            ("POST", _UPLOADS, self._start_upload),
            ("PATCH PUT GET DELETE", _UPLOAD, self._continue_upload),
        ]
        if path == "/v2/":
            return Answer(200, {"content-type": "application/json"}, b"{}")
        for methods, pattern, serve in routes:
            match = pattern.fullmatch(path)
            if match and method in methods.split():
                return serve(match, method=method, query=query, headers=headers, body=body)
        return _error(404, "NOT_FOUND", path)

    def _token(self, query: dict[str, list[str]], headers: dict[str, str]) -> Answer:
        user, password = _basic(headers.get("authorization", ""))
        if self.users is None or self.users.get(user) != password:
            return _error(401, "UNAUTHORIZED", "no such user or password")
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
            match = re.match(r"/v2/(.+?)/(?:blobs|manifests|tags)/", path)
            actions = "pull" if method in ("GET", "HEAD") else "pull,push"
            scope = f"repository:{match[1] if match else ''}:{actions}"
            granted = self.token_scopes.get(value, []) if kind == "Bearer" else []
            allowed = any(scope in (each, each.removesuffix(",push")) for each in granted)
            challenge = f'Bearer realm="{self.url}/token",service="fake",scope="{scope}"'
        if allowed:
            return None
        refused = _error(401, "UNAUTHORIZED", "authentication required")
        refused.headers["www-authenticate"] = challenge
        return refused

    def _get_blob(self, match: re.Match[str], *, headers: dict[str, str], **_: Any) -> Answer:
        if self.redirect_blobs:
            return Answer(307, {"location": f"{self.redirect_blobs}{match.string}"})
        data = self.blobs.get(match["name"], {}).get(match["digest"])
        if data is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        kind = {"content-type": "application/octet-stream", "docker-content-digest": match["digest"]}
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        if not wanted or not self.accepts_ranges:
            return Answer(200, kind, data)
        start = int(wanted[1])
        return Answer(
            206, {**kind, "content-range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:]
        )

    def _get_manifest(self, match: re.Match[str], **_: Any) -> Answer:
        found = self.manifests.get((match["name"], match["reference"]))
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, data = found
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        return Answer(200, {"content-type": media_type, "docker-content-digest": digest}, data)

    def _get_tags(self, match: re.Match[str], **_: Any) -> Answer:
        tags = sorted(
            tag for name, tag in self.manifests if name == match["name"] and not tag.startswith("sha256:")
        )
        body = json.dumps({"name": match["name"], "tags": tags}).encode()
        return Answer(200, {"content-type": "application/json"}, body)

    def _put_manifest(
        self, match: re.Match[str], *, headers: dict[str, str], body: bytes, **_: Any
    ) -> Answer:
        name, reference = match["name"], match["reference"]
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if reference.startswith("sha256:") and reference != digest:
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        document = json.loads(body)
        held = self.blobs.get(name, {})
        wanted = [document["config"], *document["layers"]] if "config" in document else []
        missing = [each["digest"] for each in wanted if each["digest"] not in held]
        missing += [
            m["digest"] for m in document.get("manifests", []) if (name, m["digest"]) not in self.manifests
        ]
        if missing:
            return _error(400, "MANIFEST_BLOB_UNKNOWN", f"blob unknown to registry: {missing[0]}")
        self.put_manifest(name, reference, body, headers.get("content-type", ""))
        return Answer(201, {"location": match.string, "docker-content-digest": digest})

    def _start_upload(self, match: re.Match[str], *, query: dict[str, list[str]], **_: Any) -> Answer:
        name = match["name"]
        if "mount" in query:
            digest = query["mount"][0]
            data = self.blobs.get(query.get("from", [""])[0], {}).get(digest)
            if data is not None:
                self.put_blob(name, data)
                return Answer(
                    201, {"location": f"/v2/{name}/blobs/{digest}", "docker-content-digest": digest}
                )
        upload = str(next(self._ids))
        self.uploads[upload] = b""
        return Answer(202, {"location": f"/v2/{name}/blobs/uploads/{upload}?state=1", "range": "0-0"})

    def _continue_upload(
        self, match: re.Match[str], *, method: str, query: dict[str, list[str]], body: bytes, **_: Any
    ) -> Answer:
        name, upload = match["name"], match["id"]
        if upload not in self.uploads:
            return _error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if method == "DELETE":
            del self.uploads[upload]
            return Answer(204)
        self.uploads[upload] += body
        if method != "PUT":
            end = max(0, len(self.uploads[upload]) - 1)
            where = {"location": f"{match.string}?state=2", "range": f"0-{end}"}
            return Answer(202 if method == "PATCH" else 204, where)
        data, wanted = self.uploads.pop(upload), query.get("digest", [""])[0]
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if wanted != digest:
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.put_blob(name, data)
        return Answer(201, {"location": f"/v2/{name}/blobs/{digest}", "docker-content-digest": digest})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that hang up; anything else is a defect of this file."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _error(status: int, code: str, message: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(status, {"content-type": "application/json"}, body)


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

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("content-length", "0")))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _serve(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            registry.requests.append(Seen(self.command, self.path, headers))
            fault = registry.fault_for(self.command, self.path) or Fault()
            time.sleep(fault.delay)
            body = self._body()
            if fault.hang_up:
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
