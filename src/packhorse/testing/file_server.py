"""An HTTP server on loopback with files in memory, which fails on request: each path has its answers."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class FileRequest:
    """A request that arrived."""

    path: str
    headers: Mapping[str, str]


@dataclass
class FileServer:
    """The files of a server, and the requests that it got.

    `answers` has the answers for each path: one for each request, the last for all further ones. A path
    without answers gets 404. `requests` has all requests in the order of their arrival.
    """

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[FileRequest] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        """The beginning of every address."""
        return f"{self.scheme}://127.0.0.1:{self.port}"


Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Handles one connection. An answer calls `begin` and writes to `wfile`."""

    protocol_version = "HTTP/1.1"
    files: FileServer

    def do_GET(self) -> None:
        """Gives the next answer of the path."""
        self.files.requests.append(FileRequest(self.path, dict(self.headers)))
        answers = self.files.answers.get(self.path, [send_status(404)])
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""

    def begin(self, code: int, **headers: str | int) -> None:
        """Sends the status line and headers. An underscore in a name stands for a hyphen."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


def send_file(data: bytes, *, etag: str = '"1"', length: int | None = None) -> Answer:
    """Answers with `data`, or with the range that the request names. `length` is a false Content-Length."""
    return cut_off(data, len(data), etag=etag, length=length)


def cut_off(data: bytes, after: int, *, etag: str = '"1"', length: int | None = None) -> Answer:
    """Answers as `send_file`, but closes the connection after byte `after` of the file."""

    def answer(handler: Handler) -> None:
        tags: dict[str, str | int] = {"ETag": etag} if etag else {}
        start, code = 0, 200
        if "Range" in handler.headers and handler.headers.get("If-Range") == etag:
            start, code = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-")), 206
            tags["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        handler.begin(code, Content_Length=len(data) - start if length is None else length, **tags)
        handler.wfile.write(data[start:after])
        handler.close_connection = True

    return answer


def send_status(code: int, **headers: str | int) -> Answer:
    """Answers with a status and without a body."""
    return lambda handler: handler.begin(code, Content_Length=0, **headers)


def require_password(user: str, password: str, answer: Answer) -> Answer:
    """Gives `answer` to requests with this name and password, and 401 to others."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def guard(handler: Handler) -> None:
        if handler.headers.get("Authorization") == expected:
            answer(handler)
        else:
            handler.begin(401, Content_Length=0, WWW_Authenticate='Basic realm="x"')

    return guard


def hang_up(handler: Handler) -> None:
    """Closes the connection without an answer."""
    handler.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores clients that stop reading."""


@contextmanager
def serve_files(certificate: Path | None = None, key: Path | None = None) -> Iterator[FileServer]:
    """Serves files on a free port of loopback while the `with` block runs; over TLS with a certificate."""
    files = FileServer(scheme="https" if certificate else "http")
    server = _Server(("127.0.0.1", 0), type("Bound", (Handler,), {"files": files}))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        # The thread of the connection does the handshake, so that a slow client does not block the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    files.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
