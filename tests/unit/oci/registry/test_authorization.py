"""The token dance, step by step, without a socket."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse.errors import NetworkError, NotFoundError, RegistryError
from packhorse.http.client import Request, Response
from packhorse.oci.auth import Credentials, constant_lookup
from packhorse.oci.registry.auth import Authorizer, Challenge

URL = "https://registry.example/v2/app/manifests/latest"
BEARER = 'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:app:pull"'
SCOPE = "repository:app:pull"
REQUEST = Request("GET", URL, {"accept": "x"})


def refused(challenge: str, url: str = URL) -> Response:
    return Response(401, {"www-authenticate": challenge}, url=url)


def token(value: str, key: str = "token") -> Response:
    return Response(200, {}, [json.dumps({key: value}).encode()], "https://auth.example/token")


def test_nothing_is_asked_where_nothing_is_refused():
    flow = Authorizer().flow(REQUEST, SCOPE)
    assert next(flow) == REQUEST
    with pytest.raises(StopIteration):
        flow.send(Response(200, url=URL))


@pytest.mark.parametrize("key", ["token", "access_token"])
def test_a_bearer_challenge_is_answered_with_a_token_of_our_scope(key):
    flow = Authorizer().flow(REQUEST, SCOPE)
    next(flow)
    asked = flow.send(refused(BEARER))
    assert asked.method == "GET"
    assert asked.url.startswith("https://auth.example/token?")
    assert parse_qsl(urlsplit(asked.url).query) == [("service", "registry.example"), ("scope", SCOPE)]
    assert "authorization" not in asked.headers
    again = flow.send(token("abc", key))
    assert again == REQUEST.with_header("authorization", "Bearer abc")
    with pytest.raises(StopIteration):
        flow.send(Response(200, url=URL))


def test_a_scope_that_only_the_registry_knows_is_asked_for_too():
    flow = Authorizer().flow(REQUEST, "repository:app:pull,push repository:base:pull")
    next(flow)
    asked = flow.send(refused(BEARER))
    assert [value for key, value in parse_qsl(urlsplit(asked.url).query) if key == "scope"] == [
        "repository:app:pull,push",
        "repository:base:pull",
        "repository:app:pull",
    ]


def test_the_query_of_a_realm_is_kept():
    flow = Authorizer().flow(REQUEST, SCOPE)
    next(flow)
    asked = flow.send(refused('Bearer realm="https://auth.example/t?tenant=a%26b"'))
    assert parse_qsl(urlsplit(asked.url).query) == [("tenant", "a&b"), ("scope", SCOPE)]


def test_a_token_is_kept_for_its_scope_and_no_other():
    authorizer = Authorizer()
    flow = authorizer.flow(REQUEST, SCOPE)
    next(flow)
    flow.send(refused(BEARER))
    flow.send(token("abc"))
    assert next(authorizer.flow(REQUEST, SCOPE)).headers["authorization"] == "Bearer abc"
    assert "authorization" not in next(authorizer.flow(REQUEST, "repository:app:pull,push")).headers


def test_a_token_that_has_expired_is_replaced():
    authorizer = Authorizer()
    for expected in ("one", "two"):
        flow = authorizer.flow(REQUEST, SCOPE)
        next(flow)
        flow.send(refused(BEARER))
        assert flow.send(token(expected)).headers["authorization"] == f"Bearer {expected}"


def test_a_second_refusal_is_the_answer():
    flow = Authorizer().flow(REQUEST, SCOPE)
    next(flow)
    flow.send(refused(BEARER))
    flow.send(token("abc"))
    with pytest.raises(StopIteration):
        flow.send(refused(BEARER))


def test_credentials_go_to_the_token_server_and_not_to_the_registry():
    flow = Authorizer(constant_lookup(Credentials("me", "pässword"))).flow(REQUEST, SCOPE)
    assert "authorization" not in next(flow).headers
    assert flow.send(refused(BEARER)).headers["authorization"] == "Basic bWU6cMOkc3N3b3Jk"
    assert flow.send(token("abc")).headers["authorization"] == "Bearer abc"


def test_a_basic_challenge_is_answered_with_credentials_where_there_are_any():
    flow = Authorizer(constant_lookup(Credentials("me", "pw"))).flow(REQUEST, SCOPE)
    next(flow)
    assert flow.send(refused('Basic realm="x"')).headers["authorization"] == "Basic bWU6cHc="
    anonymous = Authorizer().flow(REQUEST, SCOPE)
    next(anonymous)
    with pytest.raises(StopIteration):
        anonymous.send(refused('Basic realm="x"'))


def test_wrong_credentials_are_not_sent_over_and_over():
    authorizer = Authorizer(constant_lookup(Credentials("me", "wrong")))
    flow = authorizer.flow(REQUEST, SCOPE)
    next(flow)
    flow.send(refused('Basic realm="x"'))
    with pytest.raises(StopIteration):
        flow.send(refused('Basic realm="x"'))
    later = authorizer.flow(REQUEST, SCOPE)
    next(later)
    with pytest.raises(StopIteration):
        later.send(refused('Basic realm="x"'))


def test_a_challenge_from_where_a_redirect_led_is_not_answered():
    flow = Authorizer(constant_lookup(Credentials("me", "pw"))).flow(REQUEST, SCOPE)
    next(flow)
    with pytest.raises(StopIteration):
        flow.send(refused('Basic realm="x"', url="https://objects.example/blob"))


@pytest.mark.parametrize(
    "realm",
    ["", 'realm=""', 'realm="/token"', 'realm="token"', 'realm="https://[::1"', 'realm="https://a:b/"'],
)
def test_a_challenge_that_does_not_say_where_tokens_are_is_an_error(realm):
    flow = Authorizer().flow(REQUEST, SCOPE)
    next(flow)
    with pytest.raises(RegistryError, match="does not say where"):
        flow.send(refused(f"Bearer {realm}"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"token": 1}',
        b'{"token": ""}',
        b"{}",
        b'{"token": "a b"}',
        b'{"token": "a\\r\\nx-evil: 1"}',
        '{"token": "ä"}'.encode(),
    ],
)
def test_a_token_that_no_header_can_carry_is_an_error(body):
    flow = Authorizer().flow(REQUEST, SCOPE)
    next(flow)
    flow.send(refused(BEARER))
    with pytest.raises(RegistryError, match="the token for"):
        flow.send(Response(200, {}, [body]))


def test_a_token_of_any_size_is_not_read():
    flow = Authorizer().flow(REQUEST, SCOPE)
    next(flow)
    flow.send(refused(BEARER))
    with pytest.raises(NetworkError, match="too large"):
        flow.send(Response(200, {}, [b"x" * 65536] * 5))


def test_a_token_server_that_refuses_says_why():
    flow = Authorizer().flow(REQUEST, SCOPE)
    next(flow)
    flow.send(refused(BEARER))
    said = b'{"errors": [{"code": "DENIED", "message": "not \\u001b[31mtoday"}]}'
    with pytest.raises(RegistryError) as caught:
        flow.send(Response(403, {}, [said], "https://auth.example/token"))
    assert "not [31mtoday (DENIED)" in caught.value.why
    assert caught.value.status == 403


def test_no_part_of_credentials_is_shown():
    assert "hunter" not in repr(Credentials("hunter1", "hunter2", "hunter3", "hunter4"))


def test_an_identity_token_is_exchanged_for_a_token():
    flow = Authorizer(constant_lookup(Credentials(identity_token="id"))).flow(REQUEST, SCOPE)
    next(flow)
    asked = flow.send(refused(BEARER))
    assert (asked.method, asked.url) == ("POST", "https://auth.example/token")
    assert dict(parse_qsl(asked.body.decode())) == {
        "grant_type": "refresh_token",
        "service": "registry.example",
        "client_id": "packhorse",
        "scope": SCOPE,
        "refresh_token": "id",
    }
    assert "authorization" not in asked.headers
    assert flow.send(token("abc", "access_token")).headers["authorization"] == "Bearer abc"


def test_a_token_server_that_knows_no_identity_tokens_is_given_the_password_if_there_is_one():
    flow = Authorizer(constant_lookup(Credentials("me", "pw", "id"))).flow(REQUEST, SCOPE)
    next(flow)
    flow.send(refused(BEARER))
    again = flow.send(Response(404, url="https://auth.example/token"))
    assert (again.method, again.headers["authorization"]) == ("GET", "Basic bWU6cHc=")
    without = Authorizer(constant_lookup(Credentials(identity_token="id"))).flow(REQUEST, SCOPE)
    next(without)
    without.send(refused(BEARER))
    with pytest.raises(NotFoundError):
        without.send(Response(404, url="https://auth.example/token"))


def test_a_registry_token_is_presented_as_it_is_and_once():
    flow = Authorizer(constant_lookup(Credentials(registry_token="tok"))).flow(REQUEST, SCOPE)
    next(flow)
    assert flow.send(refused(BEARER)).headers["authorization"] == "Bearer tok"
    with pytest.raises(StopIteration):
        flow.send(refused(BEARER))


def test_credentials_are_looked_up_for_the_repository_when_the_registry_asks():
    asked = []

    def lookup(repository):
        asked.append(repository)
        return Credentials("me", "pw", origin="from here")

    authorizer = Authorizer(lookup)
    for scope in ("repository:team/app:pull,push repository:base:pull", "registry:catalog:*", ""):
        flow = authorizer.flow(REQUEST, scope)
        next(flow)
        assert authorizer.origin(scope) == ""
        flow.send(refused('Basic realm="x"'))
        assert authorizer.origin(scope) == "from here"
    assert asked == ["team/app", "", ""]


def test_a_refusal_says_which_credentials_were_refused():
    flow = Authorizer(constant_lookup(Credentials("me", "hunter2", origin="from here"))).flow(REQUEST, SCOPE)
    next(flow)
    flow.send(refused(BEARER))
    with pytest.raises(RegistryError) as caught:
        flow.send(Response(401, url="https://auth.example/token"))
    assert caught.value.why.endswith("\nfrom here")


def test_what_a_token_server_repeats_of_a_password_is_not_shown():
    flow = Authorizer(constant_lookup(Credentials("me", 'hunter"2'))).flow(REQUEST, SCOPE)
    next(flow)
    flow.send(refused(BEARER))
    said = json.dumps({"errors": [{"code": "NO", "message": 'not with hunter"2'}]}).encode()
    with pytest.raises(RegistryError, match=r"not with … \(NO\)"):
        flow.send(Response(401, {}, [said], "https://auth.example/token"))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Basic", [("basic", {})]),
        ('BASIC Realm="a \\"b\\", c"', [("basic", {"realm": 'a "b", c'})]),
        ("Bearer realm=x , service = y", [("bearer", {"realm": "x", "service": "y"})]),
        ('Negotiate, Basic realm="z"', [("negotiate", {}), ("basic", {"realm": "z"})]),
        ("Negotiate aGVsbG8=, Bearer realm=x", [("negotiate", {}), ("bearer", {"realm": "x"})]),
        (
            'Bearer realm="x",scope="a:b:pull,push",Basic',
            [("bearer", {"realm": "x", "scope": "a:b:pull,push"}), ("basic", {})],
        ),
        ('Bearer realm="a",realm="b"', [("bearer", {"realm": "a"})]),
        ("", []),
        ("=,=", []),
    ],
)
def test_challenges_are_read_as_rfc_9110_writes_them(header, expected):
    assert [(c.scheme, c.parameters) for c in Challenge.parse(header)] == expected


@given(st.text(alphabet=st.sampled_from('ab,= "\\\t/Basic'), max_size=60))
def test_no_challenge_makes_the_reader_fail(header):
    for challenge in Challenge.parse(header):
        assert challenge.scheme == challenge.scheme.lower()
