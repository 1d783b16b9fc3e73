"""What goes wrong on real sockets of this machine, and what is said about it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import NameResolutionError

from packhorse.errors import InputError, NetworkError
from packhorse.http.client import BrokenConnection, Request, Response
from packhorse.http.transport import PooledTransport, Settings, explain

Answers = Callable[[bytes], int]


def get(port: int) -> Request:
    return Request("GET", f"http://127.0.0.1:{port}/v2/")


@pytest.fixture
def answers() -> Iterator[Answers]:
    """Starts a server that answers one connection with these bytes and closes it; gives its port."""
    threads, servers = [], []

    def start(data: bytes) -> int:
        server = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        threads.append(thread)
        servers.append(server)
        return int(server.getsockname()[1])

    yield start
    for thread in threads:
        thread.join(timeout=5)
    for server in servers:
        server.close()


def send(url: str, settings: Settings | None = None) -> Response:
    return PooledTransport(settings or Settings()).send(Request("GET", url))


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage\x1b[31m\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"x" * 100_000,
    ],
    ids=["nothing", "no HTTP", "too many headers", "a header without end"],
)
def test_an_answer_that_cannot_be_read_counts_as_a_cut_connection(answers, data):
    with pytest.raises(BrokenConnection) as caught:
        send(f"http://127.0.0.1:{answers(data)}/")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhal",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhalf",
    ],
    ids=["by length", "by chunk", "no chunk"],
)
def test_a_body_that_breaks_off_is_a_cut_connection(answers, data):
    response = send(f"http://127.0.0.1:{answers(data)}/")
    with pytest.raises(BrokenConnection, match="was cut"):
        response.read(100)


def test_a_compressed_answer_is_left_as_it_is(answers):
    data = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nbytes"
    assert send(f"http://127.0.0.1:{answers(data)}/").read(100) == b"bytes"


def test_a_server_that_says_nothing_is_left():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(BrokenConnection, match="fell silent"),
    ):
        send(f"http://127.0.0.1:{server.getsockname()[1]}/", Settings(read_timeout=0.01))


def test_a_port_that_nobody_listens_on_is_said_to_refuse(closed_port):
    with pytest.raises(NetworkError) as caught:
        send(f"http://127.0.0.1:{closed_port}/")
    assert not isinstance(caught.value, BrokenConnection)
    assert caught.value.what == f"127.0.0.1:{closed_port} cannot be reached"
    assert caught.value.why == "Connection refused"


def test_a_name_that_nobody_knows_is_said_to_be_unknown():
    failure = NameResolutionError(
        "registry.example", HTTPSConnection("registry.example"), socket.gaierror(-2, "no")
    )
    error = explain(failure, "https://registry.example/v2/", Settings())
    assert not isinstance(error, BrokenConnection)
    assert error.what == "the host registry.example is not known"
    assert "spelling" in error.fix


def test_a_server_without_tls_is_told_from_a_broken_one(answers):
    with pytest.raises(NetworkError) as caught:
        send(f"https://127.0.0.1:{answers(b'HTTP/1.1 400 Bad Request' + b'.' * 100)}/")
    assert "does not speak TLS" in caught.value.what
    with pytest.raises(BrokenConnection):
        send(f"https://127.0.0.1:{answers(b'')}/")


@pytest.mark.parametrize(
    "status", [b"407 Proxy Authentication Required", b"403 Forbidden", b"502 Bad Gateway"]
)
def test_a_proxy_that_says_no_is_named_without_its_password(answers, status):
    proxy = f"127.0.0.1:{answers(b'HTTP/1.1 ' + status + bytes([13, 10, 13, 10]))}"
    with pytest.raises(NetworkError) as caught:
        send("https://registry.example/", Settings(proxy=f"http://me:hunter2@{proxy}"))
    assert caught.value.what == f"the proxy {proxy} does not lead to registry.example"
    assert status.decode() in caught.value.why
    assert "hunter2" not in str(caught.value)


def test_the_error_about_a_proxy_names_the_one_for_the_scheme(closed_port):
    settings = Settings(proxy="http://secure.example", plain_proxy=f"http://127.0.0.1:{closed_port}")
    with pytest.raises(NetworkError) as caught:
        send("http://registry.example/", settings)
    assert caught.value.what == f"the proxy 127.0.0.1:{closed_port} does not lead to registry.example"
    assert caught.value.fix.startswith("check HTTP_PROXY,")


def test_a_proxy_that_is_not_there_is_named(closed_port):
    with pytest.raises(NetworkError) as caught:
        send("https://registry.example/", Settings(proxy=f"http://127.0.0.1:{closed_port}"))
    assert "the proxy" in caught.value.what
    assert "HTTPS_PROXY" in caught.value.fix


@pytest.mark.parametrize(
    "proxy", ["http://me:hunter2@[::1", "http://me:hunter2@h:x", "http://me:hunter2@:80"]
)
def test_a_proxy_whose_url_is_none_is_said_without_its_password(proxy):
    with pytest.raises(InputError, match="the proxy cannot be used") as caught:
        send("https://registry.example/", Settings(proxy=proxy))
    assert "hunter2" not in str(caught.value) and "HTTPS_PROXY" in caught.value.fix


def test_a_proxy_of_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="socks5"):
        send("https://registry.example/", Settings(proxy="socks5://me:hunter2@proxy.example"))


@pytest.mark.parametrize("value", ["line\nbreak", "٣"])
def test_a_header_that_cannot_be_sent_is_not_repeated_in_the_message(value):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(NetworkError, match="cannot be sent") as caught,
    ):
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        PooledTransport(Settings()).send(Request("GET", url, {"authorization": value}))
    assert value not in str(caught.value)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def test_an_answer_may_have_many_small_chunks(answers: Answers) -> None:
    data = CHUNKED + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"
    assert PooledTransport(Settings()).send(get(answers(data))).read(5000) == b"x" * 5000


def test_nonsense_in_an_answer_is_not_taken_for_nonsense_in_the_request(answers: Answers) -> None:
    answer = PooledTransport(Settings()).send(get(answers(CHUNKED + b"-5\r\nhello\r\n")))
    with pytest.raises(BrokenConnection, match="was cut"):
        answer.read(1000)
