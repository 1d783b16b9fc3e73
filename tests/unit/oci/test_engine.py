"""An address that is none, and what is no engine where one should listen, are errors with a remedy."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from packhorse.errors import EngineError, InputError
from packhorse.oci.engine_client import Address, Engine, find


@contextmanager
def answering(status: int, body: bytes, *, version: str = "") -> Iterator[Engine]:
    """An engine at whose address everything is answered with `body`; pings tell a version, if there is."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            pinged = version and self.path == "/_ping"
            self.send_response(200 if pinged else status)
            if pinged:
                self.send_header("Api-Version", version)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with serving(Handler) as engine:
        yield engine


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[Engine]:
    """An engine that answers as `handler` does."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Engine(Address(f"tcp://127.0.0.1:{server.server_address[1]}", "--docker-host"))
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "version"),
    [
        (404, b"404 page not found", ""),
        (200, b"<html>", ""),
        (200, b"OK", ""),
        (200, b"OK", "5"),
        (200, b"OK", "x.y"),
        (200, b"OK", "1.41/../.."),
    ],
)
def test_what_is_no_engine_is_not_taken_for_one_without_the_image(
    status: int, body: bytes, version: str
) -> None:
    with (
        answering(status, body, version=version) as engine,
        pytest.raises(EngineError, match="no container engine") as raised,
    ):
        engine.image("x")
    assert "--docker-host" in raised.value.fix
    assert (body.decode() in raised.value.why) == (status == 404)


@pytest.mark.parametrize("body", [b"<html>", b"null", b'"x"', b"7"])
@pytest.mark.parametrize(
    "question",
    [
        lambda engine: engine.image("x"),
        lambda engine: engine.history("x"),
        lambda engine: engine.images(),
        lambda engine: engine.shares_layers(),
    ],
)
def test_an_answer_of_another_kind_is_an_error(body: bytes, question: Callable[[Engine], object]) -> None:
    with (
        answering(200, body, version="1.41") as engine,
        pytest.raises(EngineError, match="no container engine"),
    ):
        question(engine)


def test_what_speaks_no_tls_or_is_not_trusted_leads_to_the_certificates() -> None:
    with answering(200, b"OK") as engine:
        host = engine.address.host.replace("tcp://", "https://")
        with pytest.raises(EngineError, match="cannot be asked") as raised:
            Engine(Address(host, "DOCKER_HOST")).image("x")
    assert "ca.pem" in raised.value.fix


@pytest.mark.parametrize(
    ("origin", "fix"),
    [
        ("DOCKER_HOST", "start it, or name another (DOCKER_HOST named this one): --docker-host, DOCKER_HOST"),
        ("", "start it, or name another: --docker-host, DOCKER_HOST"),
    ],
)
def test_an_engine_that_cannot_be_reached_is_said_to_be_named_only_by_what_named_it(
    origin: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="cannot be asked") as raised:
        Engine(Address(f"unix://{tmp_path}/docker.sock", origin)).check()
    assert raised.value.fix == fix


class Endless(BaseHTTPRequestHandler):
    """Answers pings, and everything else with JSON that has no end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Api-Version", "1.41")
        if self.path == "/_ping":
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        piece = b'{"status":"x"}\r\n' * 5_000 if self.command == "POST" else b"[" * 80_000
        with suppress(OSError):
            while True:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.parametrize(
    "question",
    [
        lambda engine: engine.image("x"),
        lambda engine: engine.images(),
        lambda engine: engine.load([b"archive"], 7),
    ],
)
def test_an_answer_without_an_end_is_not_read_for_ever(question: Callable[[Engine], object]) -> None:
    with serving(Endless) as engine, pytest.raises(EngineError, match="no container engine") as raised:
        question(engine)
    assert "its answer has more than" in raised.value.why


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:2375",
        "unix://",
        "tcp://[::1",
        "tcp://host:port",
        "tcp://host:99999",
        "tcp://host:0",
        "tcp://a..b:2375",
        "tcp://\x1b[31mx:2375",
        f"tcp://{'a' * 64}:2375",
    ],
)
def test_an_address_that_is_none_is_said_before_anything_is_asked(host: str) -> None:
    with pytest.raises(InputError) as raised:
        find("", {"DOCKER_HOST": host})
    assert "DOCKER_HOST" in raised.value.what
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["tcp", "http", "https", "htps", "ssh"])
@pytest.mark.parametrize("port", ["", ":22", ":x"])
def test_no_error_has_the_password_of_an_address(scheme: str, port: str) -> None:
    with pytest.raises((InputError, EngineError)) as raised:
        address = find(f"{scheme}://me:geheim@127.0.0.1{port}", {})
        assert address is not None
        Engine(address).image("x")
    assert "geheim" not in str(raised.value)


BODIES = [b"{}", b'{"error": "quota"}', b"[]", b"null", b'"x"', b"5", b'{"message": ["x"]}']


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_refusal_of_any_form_is_one(status: int, body: bytes) -> None:
    with answering(status, body, version="1.41") as engine, pytest.raises(EngineError):
        engine.images()


CONTEXTS = [
    '{"Endpoints": "x"}',
    '{"Endpoints": {"docker": "x"}}',
    '["x"]',
    '{"Endpoints": ' + "[" * 3000,
    "{",
]


@pytest.mark.parametrize("content", CONTEXTS)
def test_a_context_that_is_none_is_an_error(content: str, tmp_path: Path) -> None:
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"mine").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(content)
    for name in ("mine", "\udcff"):
        with pytest.raises(InputError, match=r"context|cannot be read"):
            find("", {"DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTEXT": name})


@pytest.mark.parametrize("content", ["{", None, "[" * 3000])
def test_a_file_of_the_client_that_is_broken_names_no_context(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.mkdir() if content is None else path.write_text(content)
    found = find("", {"DOCKER_CONFIG": str(tmp_path)})
    assert found == find("", {"DOCKER_CONFIG": "/nowhere"})


@pytest.mark.parametrize("question", [lambda e: e.image("x"), lambda e: e.images(), lambda e: e.history("x")])
def test_an_engine_that_does_not_answer_a_question_is_not_waited_for_as_for_its_work(
    question: Callable[[Engine], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packhorse.oci.engine_client._QUERY_TIMEOUT", 0.2)
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/_ping":
                over.wait(20)
                return
            self.send_response(200)
            self.send_header("Api-Version", "1.41")
            self.end_headers()

    begun = time.monotonic()
    with serving(Handler) as engine, pytest.raises(EngineError, match="cannot be asked"):
        try:
            question(engine)
        finally:
            over.set()
    assert time.monotonic() - begun < 15
