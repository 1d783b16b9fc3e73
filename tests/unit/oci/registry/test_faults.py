"""Every fault of a registry that we know of: what happens, what is lost, and that nobody tells a secret."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.image_problems import problems_of_image
from fakes.registry_faults import PASSWORD, PULLS, PUSHES, USER, Case
from fakes.small_image import fresh_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import NotFoundError
from packhorse.http.client import Client
from packhorse.http.transport import PooledTransport, Settings
from packhorse.oci.auth import Credentials, constant_lookup
from packhorse.oci.place import Image, copy, push_image
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.place import RegistryPlace
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry

pytestmark = pytest.mark.system

DOCS = Path(__file__).parents[4] / "docs" / "how-to" / "registries.md"
LARGE = tar_of({"large": random.Random(1).randbytes(2_000_000)})
SMALL, OLD = tar_of({"small": b"small"}), tar_of({"old": b"old"})


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry(users={USER: PASSWORD}) as server:
        yield server


def place(server: FakeRegistry, name: str = "app:1") -> RegistryPlace:
    """A name as a command of its own finds it."""
    http = Client(PooledTransport(Settings()), sleep=lambda _: None)
    registry = Registry(server.host, http, credentials=constant_lookup(Credentials(USER, PASSWORD)))
    return RegistryPlace(Reference.parse(f"{server.host}/{name}"), registry, target=Target("linux", "amd64"))


def assert_discreet(server: FakeRegistry, error: BaseException | None) -> None:
    """Neither the error nor what is behind it has the password or a token."""
    basic = Credentials(USER, PASSWORD).basic.removeprefix("Basic ")
    while error is not None:
        text = f"{error!r} {error}"
        for secret in (PASSWORD, basic, *server.token_scopes):
            assert secret not in text
        error = error.__cause__ or error.__context__


def names(cases: tuple[Case, ...]) -> list[str]:
    return [case.name for case in cases]


@pytest.mark.parametrize("case", PULLS, ids=names(PULLS))
def test_a_pull(case: Case, server: FakeRegistry, tmp_path: Path) -> None:
    image = stored_image(LARGE)
    push_image(image, place(server))
    with Store.open(tmp_path / "store") as store:
        case.prepare(server)
        if case.error is None:
            assert copy(place(server), store.place("app")).image_id == image.id
        else:
            with pytest.raises(case.error) as caught:
                copy(place(server), store.place("app"))
            assert_discreet(server, caught.value)
            with pytest.raises(NotFoundError):
                store.place("app").read()
            server.faults.clear()
            copy(place(server), store.place("app"))
        assert problems_of_image(store.place("app").read()) == []


@pytest.mark.parametrize("case", PUSHES, ids=names(PUSHES))
def test_a_push(case: Case, server: FakeRegistry) -> None:
    old, image = fresh_image(OLD), fresh_image(LARGE, SMALL)
    push_image(old, place(server))
    case.prepare(server)
    if case.error is None:
        assert push_image(image, place(server)).image_id == image.id
    else:
        with pytest.raises(case.error) as caught:
            push_image(image, place(server))
        assert_discreet(server, caught.value)
        server.faults.clear()
        assert place(server).read().id == old.id
        push_image(image, place(server))
    server.token_life = None
    found = place(server).read()
    assert found.id == image.id
    assert problems_of_image(found) == []


def test_the_documentation_has_every_case() -> None:
    text = DOCS.read_text()
    for title, cases in (("reading", PULLS), ("writing", PUSHES)):
        head = f"| {title} | what packhorse does | what is lost |\n|---|---|---|\n"
        assert head + "".join(f"{case.row}\n" for case in cases) in text


def test_of_two_pushes_of_one_tag_at_once_one_is_there_whole(server: FakeRegistry) -> None:
    images = [
        fresh_image(LARGE, tar_of({"own": bytes([number]) * 300_000}), user=str(number))
        for number in range(4)
    ]
    start = threading.Barrier(len(images))
    failed: list[BaseException] = []

    def push(image: Image) -> None:
        start.wait()
        try:
            push_image(image, place(server))
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=push, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    found = place(server).read()
    assert found.id in {image.id for image in images}
    assert problems_of_image(found) == []


def test_a_tag_is_written_after_everything_that_it_names(server: FakeRegistry) -> None:
    push_image(fresh_image(LARGE, SMALL), place(server))
    writes = [seen for seen in server.requests if seen.method in ("PUT", "PATCH")]
    assert "/manifests/" in writes[-1].path
    assert not [seen for seen in writes[:-1] if "/manifests/" in seen.path]
    assert Digest.of(server.manifests["app", "1"][1])
