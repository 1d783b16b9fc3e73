"""How registries are reached: encrypted or not, with whose certificates, by which mirrors."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.certificates import self_signed
from fakes.small_image import fresh_image, tar_of
from packhorse.base.target import Target
from packhorse.errors import InputError, NetworkError, NotFoundError, RegistryError
from packhorse.host.registries import RegistryOptions
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Place, push_image
from packhorse.oci.reference import Reference
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry, Fault

A = tar_of({"a": b"a"})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with no configuration but what a test writes; the machine's own has no say."""
    for name in ("XDG_CONFIG_HOME", "DOCKER_CONFIG", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "registries.conf").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


def place(store: Store, name: str, reach: RegistryOptions | None = None) -> Place:
    return Wiring(store, registry_options=reach).registry(Reference.parse(name), Target("linux", "amd64"))


def elsewhere(server: FakeRegistry) -> str:
    """The same server by a name that packhorse does not take for this machine itself."""
    return f"127.1:{server.port}"


def test_no_registry_elsewhere_is_spoken_to_in_the_open(store):
    with FakeRegistry() as server, pytest.raises(NetworkError):
        push_image(fresh_image(A), place(store, f"{elsewhere(server)}/app"))
    assert server.requests == []


def test_one_that_is_named_as_insecure_is(store):
    with FakeRegistry() as server:
        reach = RegistryOptions(insecure=(elsewhere(server),))
        image = fresh_image(A)
        push_image(image, place(store, f"{elsewhere(server)}/app", reach))
        assert place(store, f"{elsewhere(server)}/app", reach).read().id == image.id


def test_one_that_is_named_so_in_registries_conf_is(store, home):
    with FakeRegistry() as server:
        (home / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{elsewhere(server)}"\ninsecure = true\n'
        )
        push_image(fresh_image(A), place(store, f"{elsewhere(server)}/app"))


@pytest.mark.system
def test_encryption_without_a_trusted_certificate_is_preferred_to_none(store, tmp_path):
    with FakeRegistry(tls=self_signed(tmp_path, "own").server()) as server:
        push_image(
            fresh_image(A), place(store, f"{elsewhere(server)}/app", RegistryOptions((elsewhere(server),)))
        )
        assert server.manifests
        with pytest.raises(NetworkError, match="not trusted") as caught:
            place(store, f"{elsewhere(server)}/app").read()
        assert f"certs.d/{elsewhere(server)}" in caught.value.fix


@pytest.mark.system
def test_where_a_variable_names_who_is_trusted_the_remedy_names_the_registrys_own_place_too(
    store, tmp_path, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(self_signed(tmp_path, "other").certificate))
    with FakeRegistry(tls=self_signed(tmp_path, "own").server()) as server:
        with pytest.raises(NetworkError, match="not trusted") as caught:
            place(store, f"{elsewhere(server)}/app").read()
        assert f"certs.d/{elsewhere(server)}" in caught.value.fix
        assert "unset SSL_CERT_FILE" in caught.value.fix


@pytest.mark.system
@pytest.mark.parametrize("where", ["option", "user"])
def test_an_authority_of_ones_own_is_trusted_for_its_registry(store, home, where):
    pair = self_signed(home, "own")
    with FakeRegistry(tls=pair.server()) as server:
        directory = home / ".config/containers/certs.d" / server.host
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(pair.certificate.read_bytes())
        reach = None
        if where == "option":
            directory = directory.rename(home / "certificates")
            reach = RegistryOptions(certificates=directory)
        push_image(fresh_image(A), place(store, f"{server.host}/app", reach))
        assert server.manifests


@pytest.mark.system
def test_a_certificate_is_shown_to_a_registry_that_wants_one(store, home):
    own, client = self_signed(home, "own"), self_signed(home, "client")
    with FakeRegistry(tls=own.server(clients=client.certificate)) as server:
        directory = home / "certificates"
        directory.mkdir()
        (directory / "ca.crt").write_bytes(own.certificate.read_bytes())
        with pytest.raises(NetworkError):
            push_image(
                fresh_image(A),
                place(store, f"{elsewhere(server)}/app", RegistryOptions(certificates=directory)),
            )
        (directory / "me.cert").write_bytes(client.certificate.read_bytes())
        with pytest.raises(InputError, match=r"without me\.key"):
            push_image(
                fresh_image(A), place(store, f"{server.host}/app", RegistryOptions(certificates=directory))
            )
        (directory / "me.key").write_bytes(client.key.read_bytes())
        push_image(
            fresh_image(A), place(store, f"{server.host}/app", RegistryOptions(certificates=directory))
        )
        (directory / "me.key").write_bytes(own.key.read_bytes())
        with pytest.raises(InputError, match=r"me\.cert cannot be used"):
            place(store, f"{server.host}/app", RegistryOptions(certificates=directory)).read()


@pytest.mark.system
def test_this_machine_itself_may_speak_in_the_open_beside_certificates_for_others(store, home):
    pair = self_signed(home, "own")
    (home / "certificates").mkdir()
    (home / "certificates/ca.crt").write_bytes(pair.certificate.read_bytes())
    with FakeRegistry() as server:
        push_image(
            fresh_image(A),
            place(store, f"{server.host}/app", RegistryOptions(certificates=home / "certificates")),
        )


@pytest.mark.system
def test_this_machine_itself_may_speak_nothing_but_tls(store, home):
    pair = self_signed(home, "own")
    with FakeRegistry(tls=pair.server()) as server:
        with pytest.raises(NetworkError, match="not trusted") as caught:
            place(store, f"{server.host}/app").read()
        assert f"--insecure-registry {server.host}" in caught.value.fix
        image, reach = fresh_image(A), RegistryOptions(insecure=(server.host,))
        push_image(image, place(store, f"{server.host}/app", reach))
        assert place(store, f"{server.host}/app", reach).read().id == image.id


def test_a_registry_has_an_address_of_version_six(store):
    if not socket.has_ipv6:
        raise AssertionError("this Python has no IPv6")
    with FakeRegistry(address="::1") as server:
        image = fresh_image(A)
        push_image(image, place(store, f"{server.host}/team/app:1"))
        assert place(store, f"{server.host}/team/app:1").read().id == image.id
        assert server.host.startswith("[::1]:")


@pytest.fixture
def mirrored(home: Path) -> Iterator[tuple[FakeRegistry, FakeRegistry]]:
    """A registry, and a mirror for it that has everything below `cache/`."""
    with FakeRegistry() as registry, FakeRegistry() as mirror:
        (home / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{registry.host}"\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}/cache"\n'
        )
        yield registry, mirror


def test_a_mirror_is_asked_first_and_never_written_to(store, mirrored):
    registry, mirror = mirrored
    image = fresh_image(A)
    push_image(image, place(store, f"{mirror.host}/cache/app"))
    mirror.requests.clear()
    assert place(store, f"{registry.host}/app").read().id == image.id
    assert registry.requests == []
    push_image(fresh_image(A, user="2"), place(store, f"{registry.host}/app"))
    assert {seen.method for seen in mirror.requests} == {"GET"}
    assert ("app", "latest") in registry.manifests


@pytest.mark.system
@pytest.mark.parametrize("fault", [None, {"status": 500}, {"hang_up": True}, {"status": 403}])
def test_the_registry_is_asked_for_what_no_mirror_has(store, mirrored, fault):
    registry, mirror = mirrored
    if fault:
        mirror.faults.append(Fault(times=99, **fault))
    image = fresh_image(A)
    push_image(image, place(store, f"{registry.host}/app"))
    assert place(store, f"{registry.host}/app").read().id == image.id
    assert mirror.requests


def test_what_nobody_has_is_missed_under_the_name_that_was_asked_for(store, mirrored):
    registry, _ = mirrored
    with pytest.raises(NotFoundError, match=registry.host):
        place(store, f"{registry.host}/nothing").read()


def test_a_mirror_for_digests_is_not_asked_for_tags(store, home):
    with FakeRegistry() as registry, FakeRegistry() as mirror:
        (home / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{registry.host}"\nmirror-by-digest-only = true\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}"\n'
        )
        receipt = push_image(fresh_image(A), place(store, f"{registry.host}/app"))
        assert mirror.requests == []
        place(store, f"{registry.host}/app").read()
        assert mirror.requests == []
        place(store, f"{registry.host}/app@{receipt.manifest_digest}").read()
        assert mirror.requests


def test_a_blocked_registry_is_not_asked(store, home):
    with FakeRegistry() as server:
        (home / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{server.host}/bad"\nblocked = true\n'
        )
        with pytest.raises(RegistryError, match="must not be used"):
            place(store, f"{server.host}/bad/app")
        push_image(fresh_image(A), place(store, f"{server.host}/good/app"))
        assert not [seen for seen in server.requests if "bad" in seen.path]


def test_another_location_is_read_and_written_in_place_of_the_prefix(store, home):
    with FakeRegistry() as server:
        (home / "registries.conf").write_text(
            f'[[registry]]\nprefix = "images.example/team"\nlocation = "{server.host}/x"\n'
        )
        image = fresh_image(A)
        push_image(image, place(store, "images.example/team/app:1"))
        assert place(store, "images.example/team/app:1").read().id == image.id
        assert ("x/app", "1") in server.manifests
