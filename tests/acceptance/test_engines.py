"""Images travel to and from real container engines, dockerd and podman, and are the same image there."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from fakes.app_image import App
from fakes.docker_registry import serve
from fakes.engine import Engine, emptied
from fakes.installation import Home
from fakes.relay import Relay
from fakes.small_image import fresh_image, tar_of
from fakes.ssh import sshd
from fakes.web import answer, free_port
from lanes import first_in_test
from packhorse.base.target import Target
from packhorse.errors import NotFoundError
from packhorse.host.locate import PullPolicy, fetch_image, fetch_location, read
from packhorse.host.wiring import Wiring
from packhorse.oci.archive import OciArchive
from packhorse.oci.place import Place, copy, push_image
from packhorse.oci.reference import Location
from packhorse.oci.types import Config
from packhorse.report.diff import compared_image, diff
from packhorse.report.sbom import merge
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")


@pytest.fixture
def dockerd() -> Engine:
    """dockerd, without any image."""
    return emptied("docker")


@pytest.fixture(params=first_in_test(["docker", "podman"]))
def either(request: pytest.FixtureRequest) -> Engine:
    """dockerd, or podman's service, without any image."""
    return emptied(request.param)


@pytest.fixture
def relay(dockerd: Engine, tmp_path: Path) -> Iterator[Relay]:
    """A way to dockerd that counts what is sent."""
    with Relay(tmp_path / "relay.sock", dockerd.socket) as relay:
        yield relay


@dataclass(frozen=True)
class Small:
    """A small image in an archive; `size` is how many bytes its layers have at least."""

    path: Path
    id: str
    size: int = 2_000_000

    @property
    def place(self) -> str:
        return f"oci-archive:{self.path}"

    @property
    def archive(self) -> Place:
        return OciArchive(self.path, "")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    path = tmp_path_factory.mktemp("small") / "image.tar"
    layers = [tar_of({name: random.Random(name).randbytes(1_000_000)}) for name in ("below", "above")]
    image = fresh_image(*layers, env=("A=b",), labels={"x": "<&>"}, entrypoint=("/below",))
    return Small(path, str(push_image(image, OciArchive(path, "")).image_id))


def image_id(engine: Engine, name: str) -> str:
    return "sha256:" + engine.docker("image", "inspect", "--format", "{{.Id}}", name).removeprefix("sha256:")


def test_a_build_is_handed_to_an_engine_and_runs_there(home: Home, sample: Path, dockerd: Engine) -> None:
    built = home.ok(
        *("build", "--quiet", "in-docker", "--path", sample, "--daemon", "--docker-host", dockerd.address)
    )
    assert image_id(dockerd, "in-docker") == built
    port = free_port()
    container = dockerd.docker("run", "--detach", "--network", "host", "--env", f"PORT={port}", "in-docker")
    try:
        assert json.loads(answer(port))["hello"] == "packhorse"
    finally:
        dockerd.docker("rm", "--force", container)


def test_a_copy_in_an_engine_is_the_same_image_and_comes_back(
    home: Home, small: Small, either: Engine, tmp_path: Path
) -> None:
    env = {"DOCKER_HOST": either.address}
    assert home.ok("copy", small.place, "docker-daemon:moved:1", env=env) == small.id
    assert image_id(either, "moved:1") == small.id
    home.ok("copy", "docker-daemon:moved:1", f"oci:{tmp_path}/back", env=env)
    assert home.image_id(f"oci:{tmp_path}/back") == small.id


def test_an_image_of_another_maker_comes_as_the_engine_saves_it(
    home: Home, either: Engine, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text('FROM scratch\nLABEL a=b\nCOPY Dockerfile /\nENV C=d\nCMD ["/x"]\n')
    env = {"DOCKER_BUILDKIT": "0", "DOCKER_HOST": either.address}
    built = subprocess.run(
        ["docker", "build", "--quiet", "--tag", "theirs", str(tmp_path)],
        env={**os.environ, **env},
        check=False,
    )
    assert built.returncode == 0
    assert home.ok("copy", "docker-daemon:theirs", "theirs", env=env) == image_id(either, "theirs")
    fields = json.loads(home.ok("inspect", "--output", "json", "docker-daemon:theirs", env=env))
    assert fields["id"] == image_id(either, "theirs")


def test_only_what_an_engine_lacks_is_sent(home: Home, small: Small, dockerd: Engine, relay: Relay) -> None:
    home.ok("copy", small.place, "docker-daemon:first", "--docker-host", relay.address)
    assert relay.sent > small.size
    relay.sent = 0
    home.ok("copy", small.place, "docker-daemon:second", "--docker-host", relay.address)
    assert relay.sent < small.size / 10
    assert image_id(dockerd, "second") == small.id
    dockerd.docker("rmi", "first", "second")
    home.ok("copy", small.place, "docker-daemon:third", "--docker-host", relay.address)
    assert image_id(dockerd, "third") == small.id


def test_an_image_whose_config_can_be_written_again_is_inspected_without_being_saved(
    home: Home, small: Small, relay: Relay
) -> None:
    home.ok("copy", small.place, "docker-daemon:known", "--docker-host", relay.address)
    relay.received = 0
    fields = json.loads(
        home.ok("inspect", "--output", "json", "docker-daemon:known", "--docker-host", relay.address)
    )
    assert fields["id"] == small.id
    assert relay.received < small.size / 10


def test_an_image_whose_history_has_no_times_comes_back(home: Home, either: Engine, tmp_path: Path) -> None:
    image = fresh_image(tar_of({"a": b"1"}))
    config = json.loads(image.config.raw)
    config["history"] = [{"created_by": "somebody"}]
    timeless = replace(image, config=Config.parse(json.dumps(config).encode()))
    push_image(timeless, OciArchive(tmp_path / "image.tar", ""))
    home.ok("copy", f"oci-archive:{tmp_path}/image.tar", "docker-daemon:x", "--docker-host", either.address)
    fields = json.loads(
        home.ok("inspect", "docker-daemon:x", "--output", "json", "--docker-host", either.address)
    )
    assert fields["id"] == str(timeless.id)


def test_an_image_goes_into_an_engine_by_a_tag_and_not_by_a_digest(
    home: Home, small: Small, dockerd: Engine
) -> None:
    name = f"docker-daemon:x@sha256:{'0' * 64}"
    done = home.run("copy", small.place, name, "--docker-host", dockerd.address)
    assert done.returncode == 3 and "give it a tag: x:TAG" in done.stderr
    assert dockerd.docker("images", "--quiet", "--all") == ""


def test_a_name_that_an_engine_does_not_have_is_not_found(home: Home, either: Engine) -> None:
    done = home.run("inspect", "docker-daemon:nosuch:1", "--docker-host", either.address)
    assert done.returncode == 4, done.stderr
    assert "has no image nosuch:1" in done.stderr


def test_an_engine_cut_off_in_the_middle_names_nothing(
    home: Home, small: Small, dockerd: Engine, relay: Relay
) -> None:
    relay.cut_after = small.size // 2
    done = home.run("copy", small.place, "docker-daemon:half", "--docker-host", relay.address)
    assert done.returncode == 7, done.stderr
    assert "raceback" not in done.stderr
    assert "half" not in dockerd.docker("images")
    relay.cut_after = 0
    assert home.ok("copy", small.place, "docker-daemon:half", "--docker-host", relay.address) == small.id


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("unix:///no/such.sock", 7, "no such file or directory"),
        ("tcp://127.0.0.1:1", 7, "onnection refused"),
        ("docker.sock", 3, "is no address of an engine"),
    ],
)
def test_an_engine_that_cannot_be_asked_is_an_error_with_a_remedy(
    home: Home, small: Small, address: str, status: int, words: str
) -> None:
    done = home.run("copy", small.place, "docker-daemon:x", "--docker-host", address)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "raceback" not in done.stderr


def test_the_docker_context_names_the_engine(
    home: Home, small: Small, dockerd: Engine, tmp_path: Path
) -> None:
    env = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": ""}
    environ = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"} | {
        "DOCKER_CONFIG": str(tmp_path)
    }
    command = ["docker", "context", "create", "mine", "--docker", f"host={dockerd.address}"]
    subprocess.run(command, env=environ, check=True, capture_output=True)
    copy = ("copy", small.place, "docker-daemon:by-context")
    assert home.ok(*copy, env={**env, "DOCKER_CONTEXT": "mine"}) == small.id
    subprocess.run(["docker", "context", "use", "mine"], env=environ, check=True, capture_output=True)
    assert home.ok(*copy, env=env) == small.id
    assert image_id(dockerd, "by-context") == small.id
    done = home.run(*copy, env={**env, "DOCKER_CONTEXT": "nosuch"})
    assert done.returncode == 3
    assert "there is no docker context 'nosuch'" in done.stderr


def test_an_engine_is_reached_by_tcp_with_certificates(
    home: Home, small: Small, dockerd: Engine, tmp_path: Path
) -> None:
    """The other end is a TLS server that wants a certificate and passes all on to dockerd."""
    certificates = _certificates(tmp_path)
    with Relay(tmp_path / "x", dockerd.socket, certificates=certificates) as relay:
        env = {"DOCKER_HOST": relay.address, "DOCKER_CERT_PATH": str(certificates), "DOCKER_TLS_VERIFY": "1"}
        env["REQUESTS_CA_BUNDLE"] = "/no/such/bundle.pem"
        assert home.ok("copy", small.place, "docker-daemon:by-tls", env=env) == small.id
        (certificates / "cert.pem").unlink()
        done = home.run("copy", small.place, "docker-daemon:by-tls", env=env)
    assert done.returncode == 3, done.stderr
    assert "cert.pem and key.pem" in done.stderr


def test_docker_pulls_and_runs_what_we_push_and_what_docker_pushes_is_read_by_us(
    home: Home, dockerd: Engine, tmp_path: Path
) -> None:
    busybox = tar_of({"busybox": Path("/bin/busybox").read_bytes()})
    image = fresh_image(busybox, entrypoint=("/busybox", "echo", "it runs"))
    ours = push_image(image, OciArchive(tmp_path / "image.tar", "")).image_id
    with serve(tmp_path) as host:
        home.ok("copy", f"oci-archive:{tmp_path}/image.tar", f"docker://{host}/ours:1")
        assert dockerd.docker("run", "--rm", "--network", "none", f"{host}/ours:1") == "it runs"
        assert image_id(dockerd, f"{host}/ours:1") == str(ours)
        container = dockerd.docker("create", f"{host}/ours:1")
        dockerd.docker("commit", "--change", "LABEL theirs=yes", container, f"{host}/theirs:1")
        dockerd.docker("push", "--quiet", f"{host}/theirs:1")
        fields = json.loads(home.ok("inspect", "--output", "json", f"docker://{host}/theirs:1"))
        assert fields["id"] == image_id(dockerd, f"{host}/theirs:1")
        home.ok("copy", f"docker://{host}/theirs:1", f"oci:{tmp_path}/theirs")
    assert home.image_id(f"oci:{tmp_path}/theirs") == fields["id"]


def test_an_engine_is_reached_by_ssh(home: Home, small: Small, dockerd: Engine, tmp_path: Path) -> None:
    with sshd(tmp_path, environment=f"DOCKER_HOST={dockerd.address}") as (address, path):
        temporary = tmp_path / ("long" * 25)  # for a socket's path
        temporary.mkdir()
        env = {"PATH": f"{path}:{os.environ['PATH']}", "TMPDIR": str(temporary)}
        assert (
            home.ok("copy", small.place, "docker-daemon:by-ssh", "--docker-host", address, env=env)
            == small.id
        )
        assert image_id(dockerd, "by-ssh") == small.id
        there = f"{address}{dockerd.socket}"
        assert (
            home.ok("copy", small.place, "docker-daemon:by-ssh", "--docker-host", there, env=env) == small.id
        )
        done = home.run(
            "copy", small.place, "docker-daemon:x", "--docker-host", f"{address}/no/such", env=env
        )
    assert done.returncode == 7
    assert "no such file or directory" in done.stderr
    done = home.run("copy", small.place, "docker-daemon:x", "--docker-host", address, env=env)
    assert done.returncode == 7
    assert "Connection refused" in done.stderr
    assert list(temporary.iterdir()) == []
    done = home.run("copy", small.place, "docker-daemon:x", "--docker-host", "ssh://me:hidden@host")
    assert done.returncode == 3
    assert "hidden" not in done.stderr


def test_a_builder_comes_from_an_engine_by_pull_policy(small: Small, dockerd: Engine, tmp_path: Path) -> None:
    said: list[str] = []
    with FakeRegistry() as registry, Store.open(tmp_path / "store") as store:
        wiring = Wiring(store, docker_host=dockerd.address)
        name = f"{registry.host}/only/here:1"
        ask = partial(fetch_image, wiring, name, target=Target.host(), say=said.append)
        with pytest.raises(NotFoundError, match="neither in the store nor in a container engine"):
            ask(pull=PullPolicy.NEVER)
        copy(small.archive, wiring.daemon(name))
        assert str(ask(pull=PullPolicy.NEVER).id) == small.id
        assert said == [f"taking {name} from the container engine at {dockerd.address}"]
        store.remove(name)
        assert str(ask(pull=PullPolicy.ALWAYS).id) == small.id  # its registry does not have it
        found = fetch_location(
            wiring, Location.parse(f"docker-daemon:{name}"), target=Target.host(), say=said.append
        )
        assert str(found.id) == small.id and said[-1] == f"taking the image from docker-daemon:{name}"


def _certificates(directory: Path) -> Path:
    """An authority, and one certificate for both ends."""
    folder = directory / "certificates"
    folder.mkdir()
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*words.split(), *more], cwd=folder, check=True, capture_output=True)
    shutil.copy(folder / "cert.pem", folder / "ca.pem")
    return folder


def test_what_an_engine_has_is_compared_and_listed_as_anywhere(either: Engine, tmp_path: Path) -> None:
    status = b"Package: libc6\nStatus: install ok installed\nVersion: 2.36\nArchitecture: amd64\n"
    base = (tar_of({"var/lib/dpkg/status": status, "usr/lib/os-release": b"ID=debian\n"}),)
    before = App(base=base, layers={"acme/node:node": tar_of({"layers/node/x": b"x"})})
    after = replace(before, layers={"acme/node:node": tar_of({"layers/node/x": b"y"})})
    with Store.open(tmp_path / "store") as store:
        wiring = Wiring(store, environ={"DOCKER_HOST": either.address})
        for name, app in (("seen:1", before), ("seen:2", after)):
            push_image(app.image(), wiring.place(Location.parse(f"docker-daemon:{name}")))
        one, other = (
            compared_image(name, read(wiring, f"docker-daemon:{name}")[0]) for name in ("seen:1", "seen:2")
        )
        assert diff(one, compared_image("elsewhere", before.image())).is_same
        found = diff(one, other)
        assert found.headline == "only acme/node changed: 4 of 5 layers are the same"
        assert [
            (file.path, file.differences) for group in found.changed_groups for file in group.files or ()
        ] == [("layers/node/x", ("content",))]
        listed = merge(one.image, name="seen").cyclonedx()
        assert listed == merge(before.image(), name="seen").cyclonedx() and b"libc6" in listed
