"""A real HTTP server with files, which misbehaves as told: each request to a path takes its next answer."""

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
class Asked:
    """One request as it came in."""

    path: str
    headers: Mapping[str, str]


@dataclass
class FileServer:
    """`answers` has for a path what its requests get in turn, the last one for all that follow."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        """The beginning of every address."""
        return f"{self.scheme}://127.0.0.1:{self.port}"


Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Gives the answers of `server.files`."""

    protocol_version = "HTTP/1.1"
    files: FileServer

    def do_GET(self) -> None:
        self.files.asked.append(Asked(self.path, dict(self.headers)))
        answers = self.files.answers.get(self.path, [status(404)])
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def begin(self, code: int, **headers: str | int) -> None:
        """The status line and headers; `_` in a name is `-`."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


def whole(data: bytes, *, etag: str = '"1"', length: int | None = None) -> Answer:
    """All of `data`, or the part asked for; `length` is what is said of it where that is a lie."""
    return cut(data, len(data), etag=etag, length=length)


def cut(data: bytes, after: int, *, etag: str = '"1"', length: int | None = None) -> Answer:
    """As `whole`, but the connection ends `after` so many bytes of the file."""

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


def status(code: int, **headers: str | int) -> Answer:
    """An answer without a body."""
    return lambda handler: handler.begin(code, Content_Length=0, **headers)


def guarded(user: str, password: str, answer: Answer) -> Answer:
    """`answer` for who knows the password, else 401."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def guard(handler: Handler) -> None:
        if handler.headers.get("Authorization") == expected:
            answer(handler)
        else:
            handler.begin(401, Content_Length=0, WWW_Authenticate='Basic realm="x"')

    return guard


def drop(handler: Handler) -> None:
    """Closes the connection without a word."""
    handler.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has read enough is no error."""


@contextmanager
def serving(certificate: Path | None = None, key: Path | None = None) -> Iterator[FileServer]:
    """A server on a free port of loopback; with a certificate it speaks TLS."""
    files = FileServer(scheme="https" if certificate else "http")
    server = _Server(("127.0.0.1", 0), type("Bound", (Handler,), {"files": files}))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        # The handshake is the thread's of the connection, not the one's that accepts.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    files.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
