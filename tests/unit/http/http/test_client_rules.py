"""Redirects, repetition and encryption, over a transport that is a list of answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest

from packhorse.errors import NetworkError
from packhorse.http.client import (
    ATTEMPTS,
    LONGEST_PAUSE,
    REDIRECTS,
    BrokenConnection,
    Client,
    EncryptionRequired,
    ReadTimeout,
    Request,
    Response,
)

SECRET = {"authorization": "Basic c2VjcmV0", "x-identity": "me", "accept": "text/plain", "range": "bytes=5-"}


class Script:
    """A transport that plays its answers in order, then repeats the last, and remembers the requests."""

    def __init__(self, *answers: Response | NetworkError) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    def send(self, request: Request) -> Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, NetworkError):
            raise answer
        return Response(answer.status, answer.headers, answer.body, request.url, answer.close)


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def client(pauses: list[float]) -> Callable[[Script], Client]:
    return lambda script: Client(script, sleep=pauses.append)


def redirect(location: str, status: int = 307) -> Response:
    return Response(status, {"location": location})


def test_another_host_is_sent_no_header_but_accept_and_range(client):
    script = Script(redirect("https://objects.example.com/blob?signed"), Response(200))
    client(script).send(Request("GET", "https://registry.example.com/v2/a/blobs/b", SECRET))
    assert script.requests[1].url == "https://objects.example.com/blob?signed"
    assert dict(script.requests[1].headers) == {"accept": "text/plain", "range": "bytes=5-"}


@pytest.mark.parametrize("there", ["https://example.com:8443/x", "https://sub.example.com/x"])
def test_another_port_or_name_is_another_host(client, there):
    script = Script(redirect(there), Response(200))
    client(script).send(Request("GET", "https://example.com/", SECRET))
    assert "authorization" not in script.requests[1].headers


def test_the_same_host_keeps_all_headers(client):
    script = Script(redirect("/elsewhere"), redirect("https://example.com:443/again"), Response(200))
    client(script).send(Request("GET", "https://example.com/", SECRET))
    assert [dict(request.headers) for request in script.requests] == [SECRET] * 3


def test_headers_lost_on_the_way_do_not_come_back_on_the_way_home(client):
    script = Script(redirect("https://other.example/"), redirect("https://example.com/"), Response(200))
    client(script).send(Request("GET", "https://example.com/", SECRET))
    assert "authorization" not in script.requests[2].headers


@pytest.mark.parametrize(
    "location", ["http://example.com/", "http://127.0.0.1:80/", "ftp://example.com/", "file:///etc/passwd"]
)
def test_a_redirect_never_gives_up_encryption(client, location):
    script = Script(redirect(location), Response(200))
    with pytest.raises(NetworkError):
        client(script).send(Request("GET", "https://example.com/"))
    assert len(script.requests) == 1


@pytest.mark.parametrize("location", ["https://[::1/", "https://example.com:port/"])
def test_a_redirect_to_what_is_no_url_is_an_error_and_not_a_crash(client, location):
    with pytest.raises(NetworkError, match="invalid URL"):
        client(Script(redirect(location))).send(Request("GET", "https://example.com/"))


def test_a_circle_of_redirects_ends(client):
    script = Script(redirect("/again"))
    with pytest.raises(NetworkError, match="too many redirects"):
        client(script).send(Request("GET", "https://example.com/"))
    assert len(script.requests) == REDIRECTS + 1


def test_an_upload_is_not_redirected(client):
    script = Script(redirect("https://other.example/"))
    assert client(script).send(Request("PUT", "https://example.com/", body=b"x")).status == 307


@pytest.mark.parametrize("url", ["http://example.com/", "http://10.0.0.1/", "http://127.0.0.1.example.com/"])
def test_only_this_machine_is_spoken_to_without_encryption(client, url):
    script = Script(Response(200))
    with pytest.raises(NetworkError, match="refusing to reach"):
        client(script).send(Request("GET", url))
    assert script.requests == []


@pytest.mark.parametrize("url", ["http://localhost:5000/", "http://127.9.9.9/", "http://[::1]:5000/"])
def test_this_machine_may_be_spoken_to_without_encryption(client, url):
    assert client(Script(Response(200))).send(Request("GET", url)).status == 200


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_repeated_with_growing_pauses(client, pauses, status):
    script = Script(Response(status), Response(status), Response(200))
    assert client(script).send(Request("GET", "https://example.com/")).status == 200
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 501])
def test_a_lasting_failure_is_answered_at_once(client, pauses, status):
    assert client(Script(Response(status))).send(Request("GET", "https://example.com/")).status == status
    assert pauses == []


def test_a_failure_that_does_not_pass_is_handed_over_in_the_end(client, pauses):
    script = Script(Response(503))
    assert client(script).send(Request("GET", "https://example.com/")).status == 503
    assert len(script.requests) == ATTEMPTS


def test_a_cut_connection_is_tried_again(client):
    script = Script(BrokenConnection("cut"), Response(200))
    assert client(script).send(Request("GET", "https://example.com/")).status == 200


def test_a_connection_that_is_always_cut_is_an_error_in_the_end(client):
    script = Script(BrokenConnection("cut"))
    with pytest.raises(BrokenConnection):
        client(script).send(Request("GET", "https://example.com/"))
    assert len(script.requests) == ATTEMPTS


def test_a_server_that_says_nothing_is_waited_for_twice(client):
    script = Script(ReadTimeout("it fell silent"))
    with pytest.raises(ReadTimeout):
        client(script).send(Request("GET", "http://localhost:5000/v2/"))
    assert [each.url for each in script.requests] == ["http://localhost:5000/v2/"] * 2
    script = Script(ReadTimeout("it fell silent"), Response(200))
    assert client(script).send(Request("GET", "https://example.com/")).status == 200


def test_what_will_not_pass_is_not_tried_again(client):
    script = Script(NetworkError("not trusted"))
    with pytest.raises(NetworkError):
        client(script).send(Request("GET", "https://example.com/"))
    assert len(script.requests) == 1


def test_the_time_that_the_server_asks_for_is_waited(client, pauses):
    script = Script(Response(429, {"retry-after": "7"}), Response(200))
    client(script).send(Request("GET", "https://example.com/"))
    assert pauses == [7.0]


def test_the_time_may_be_a_date(client, pauses):
    soon = {"retry-after": formatdate(usegmt=True)}
    client(Script(Response(503, soon), Response(200))).send(Request("GET", "https://example.com/"))
    assert pauses == [0.0]


@pytest.mark.parametrize("value", ["soon", "-1", "٣", "1.5", "Thu, 99 Foo 2020", ""])
def test_an_unreadable_retry_after_counts_as_none(client, pauses, value):
    script = Script(Response(429, {"retry-after": value}), Response(200))
    client(script).send(Request("GET", "https://example.com/"))
    assert pauses == [0.5]


def test_nobody_can_make_us_wait_for_hours(client, pauses):
    script = Script(Response(429, {"retry-after": str(int(LONGEST_PAUSE) + 1)}))
    assert client(script).send(Request("GET", "https://example.com/")).status == 429
    assert pauses == []


def test_what_is_not_idempotent_is_repeated_only_if_the_server_did_nothing(client):
    post = Request("POST", "https://example.com/")
    assert client(Script(Response(503), Response(202))).send(post).status == 202
    assert client(Script(Response(500), Response(202))).send(post).status == 500
    with pytest.raises(BrokenConnection):
        client(Script(BrokenConnection("cut"), Response(202))).send(post)


def test_a_streamed_body_is_not_repeated(client):
    def body() -> Iterator[bytes]:
        yield b"x"

    script = Script(Response(503), Response(201))
    assert client(script).send(Request("PUT", "https://example.com/", body=body)).status == 503


@pytest.mark.parametrize("answer", [Response(400), BrokenConnection("it was cut")])
def test_a_server_of_this_machine_that_understands_nothing_is_asked_by_tls(client, pauses, answer):
    script = Script(answer, Response(200))
    with pytest.raises(EncryptionRequired):
        client(script).send(Request("GET", "http://localhost:5000/v2/a/manifests/b"))
    assert [each.url for each in script.requests][1:] == ["https://localhost:5000/v2/"]
    assert pauses == []


def test_one_that_speaks_no_tls_is_heard_as_it_is(client):
    script = Script(Response(400), NetworkError("no TLS"), Response(400))
    assert client(script).send(Request("GET", "http://localhost:5000/")).status == 400


def test_one_that_has_answered_in_the_open_is_not_asked_by_tls(client):
    script = Script(Response(404), Response(400), Response(200))
    both = client(script)
    assert [both.send(Request("GET", "http://localhost:5000/")).status for _ in range(2)] == [404, 400]


def test_an_answer_larger_than_its_limit_is_refused_and_closed():
    closed = []
    answer = Response(200, {}, [b"1234", b"5678"], "https://example.com/", lambda: closed.append(True))
    with pytest.raises(NetworkError, match="too large"):
        answer.read(7)
    assert closed == [True]


def test_an_answer_of_exactly_its_limit_is_read():
    assert Response(200, {}, [b"1234", b"5678"]).read(8) == b"12345678"


def test_no_header_is_shown_in_a_traceback():
    assert "c2VjcmV0" not in repr(Request("GET", "https://example.com/", SECRET))
