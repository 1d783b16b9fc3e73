"""What a registry lists: repositories and tags, page by page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from packhorse.errors import FormatError, NetworkError, NotFoundError, RegistryError
from packhorse.http.transport import make_client
from packhorse.oci.auth import Credentials, constant_lookup
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.listing import repositories, tags
from packhorse.testing import FakeRegistry, Fault

NAMES = [f"team/app{number}" for number in range(7)]


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        for name in NAMES:
            for tag in ("a", "b", "c"):
                server.put_manifest(name, tag, b"{}", "application/json")
        yield server


def registry(server: FakeRegistry) -> Registry:
    return Registry(server.host, make_client())


@pytest.mark.parametrize("page", [1, 3, 7, 1000])
def test_every_page_is_read(server: FakeRegistry, page: int) -> None:
    server.page = page
    assert list(repositories(registry(server))) == NAMES
    assert list(tags(registry(server), NAMES[0])) == ["a", "b", "c"]


def test_a_list_that_was_begun_is_not_read_to_its_end(server: FakeRegistry) -> None:
    server.page = 1
    assert next(repositories(registry(server))) == NAMES[0]
    assert len(server.find_requests("GET", "_catalog")) == 1


def test_a_list_that_leads_in_a_circle_ends(server: FakeRegistry) -> None:
    link = {"link": '</v2/_catalog?n=1000>; rel="next"'}
    server.faults.append(Fault(path="_catalog", times=99, headers=link))
    assert list(repositories(registry(server))) == NAMES


@pytest.mark.parametrize(
    ("listed", "endless", "why"),
    [
        ("repositories", "same", "nothing new"),
        ("tags", "same", "nothing new"),
        ("tags", "new", "500000 entries"),
    ],
)
def test_a_list_without_an_end_is_an_error(server: FakeRegistry, listed: str, endless: str, why: str) -> None:
    server.endless = endless
    there = registry(server)
    names = repositories(there) if listed == "repositories" else tags(there, NAMES[0])
    with pytest.raises(RegistryError, match="has no end") as raised:
        list(names)
    assert why in raised.value.why


def test_a_list_does_not_go_on_at_another_server(server: FakeRegistry) -> None:
    link = {"link": '<http://127.0.0.1:1/v2/_catalog>; rel="next"'}
    server.faults.append(Fault(path="_catalog", headers=link))
    with pytest.raises(NetworkError, match="its next page is on another server"):
        list(repositories(registry(server)))


@pytest.mark.parametrize("status", [401, 403, 404, 405, 501])
def test_a_registry_without_a_catalogue_is_said_to_have_none(server: FakeRegistry, status: int) -> None:
    server.faults.append(Fault(path="_catalog", times=99, status=status))
    with pytest.raises(NotFoundError, match="does not list its repositories") as raised:
        list(repositories(registry(server)))
    assert "name one repository" in raised.value.fix


def test_a_registry_that_is_out_of_order_is_another_thing(server: FakeRegistry) -> None:
    server.faults.append(Fault(path="_catalog", times=99, status=500))
    with pytest.raises(RegistryError):
        list(repositories(Registry(server.host, impatient())))


def impatient() -> Any:
    client = make_client()
    client.pause = lambda *_: None  # type: ignore[method-assign]
    return client


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags": {}}', b'{"tags": [1]}', b"<html>"])
def test_a_list_that_is_none_is_an_error(server: FakeRegistry, body: bytes) -> None:
    server.faults.append(Fault(path="tags/list", body=body))
    with pytest.raises(FormatError, match="cannot be read"):
        list(tags(registry(server), NAMES[0]))


def test_no_list_at_all_is_an_empty_one(server: FakeRegistry) -> None:
    server.faults.append(Fault(path="tags/list", body=b'{"name": "x", "tags": null}'))
    assert list(tags(registry(server), NAMES[0])) == []


def test_a_repository_that_is_not_there_is_not_found(server: FakeRegistry) -> None:
    with pytest.raises(NotFoundError):
        list(tags(registry(server), "gone"))


def test_lists_are_shown_to_who_may_see_them() -> None:
    with FakeRegistry(users={"me": "secret"}) as server:
        server.put_manifest("team/app", "a", b"{}", "application/json")
        credentials = constant_lookup(Credentials("me", "secret"))
        known = Registry(server.host, make_client(), credentials=credentials)
        assert list(repositories(known)) == ["team/app"]
        assert list(tags(known, "team/app")) == ["a"]


@pytest.mark.parametrize("link", ["<http://[bad>; rel=next", '<//[::1>; rel="next"'])
def test_a_list_that_goes_on_at_no_address_is_an_error(server: FakeRegistry, link: str) -> None:
    server.faults.append(Fault(path="_catalog", headers={"link": link}))
    with pytest.raises(NetworkError, match="its next page is on another server"):
        list(repositories(registry(server)))


def test_of_many_links_only_the_next_is_followed(server: FakeRegistry) -> None:
    link = '</v2/nowhere>; rel="prev", </v2/_catalog?n=1000&last=team/app6>; title=x; rel="next"'
    server.faults.append(Fault(path="_catalog", headers={"link": link}))
    assert list(repositories(registry(server))) == NAMES


def test_links_without_end_take_no_time(server: FakeRegistry) -> None:
    """It took ten seconds for each 60 kB."""
    server.faults.append(Fault(path="_catalog", headers={"link": "<>;" * 20_000}))
    began = time.thread_time()
    assert list(repositories(registry(server))) == NAMES
    assert time.thread_time() - began < 5
