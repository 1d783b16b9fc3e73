"""What a platform owes the lifecycle and buildpacks, in whole builds (platform.md)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.command import Command
from fakes.foreign_builder import GID, UID
from fakes.runner import Program
from fakes.shell_buildpack import SERVER, shell_buildpack
from fakes.small_image import stored_image, tar_of
from fakes.tiny_builder import BUILDER, RUN, TinyBuilder, tiny_builder
from fakes.workshop import Workshop, metadata
from packhorse.base.dataclass import replace
from packhorse.errors import DetectErrored, InputError, NotFoundError, PackhorseError
from packhorse.host.wiring import Wiring
from packhorse.oci.mutate import edit_config
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Location, Reference
from packhorse.oci.types import Config
from packhorse.report.builder import METADATA
from packhorse.testing import FakeRegistry

pytestmark = pytest.mark.system


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app"
    path.mkdir()
    (path / "README").write_text("hello\n")
    return path


@pytest.fixture
def buildpack(tmp_path: Path) -> Path:
    return shell_buildpack(tmp_path / "buildpack", build=SERVER)


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        yield server


@pytest.mark.parametrize("name", ["a/b", "/", "test/"])
def test_B_009_an_execution_environment_with_a_slash_in_its_name_is_refused(
    name: str, app: Path, tmp_path: Path
) -> None:
    said = Command(tmp_path / "home").fails(2, "build", "x", "--path", app, "--exec-env", name)
    assert f"--exec-env: '{name}' is not an execution environment" in said


@pytest.mark.parametrize("name", ["Bad Name", "a:b:c", "team/UPPER", "x@sha256:abc"])
def test_P_022_P_081_a_name_that_is_no_reference_is_refused_before_anything_is_built(
    name: str, app: Path, tmp_path: Path
) -> None:
    command = Command(tmp_path / "home")
    assert f"not an image name: '{name}'" in command.fails(3, "build", name, "--path", app)
    assert not (command.home / "packhorse" / "store").exists()


def test_P_026_P_188_a_build_without_run_image_takes_the_builders_first_or_fails(
    app: Path, buildpack: Path, tmp_path: Path
) -> None:
    with tiny_builder(tmp_path / "builder") as tiny:
        made = metadata(tiny.build(app, buildpack).exported.image)["runImage"]
        assert (made["image"], made["reference"]) == (RUN, tiny.store.find(RUN).id.hex)
        for images in (None, [{"mirrors": ["mirror.test/run"]}]):
            _put_builder(tiny, images=images, stack=None)
            with pytest.raises(InputError, match="names no run image"):
                tiny.build(app, buildpack)


def test_P_029_a_run_image_that_cannot_be_read_fails_before_any_buildpack_runs(
    tiny: TinyBuilder, app: Path, server: FakeRegistry, tmp_path: Path
) -> None:
    detects = shell_buildpack(tmp_path / "detects", detect="echo detection runs", build=SERVER)
    with pytest.raises(NotFoundError, match="acme/no-such-run"):
        tiny.build(app, detects, run_image=f"{server.host}/acme/no-such-run")
    assert [line for line in tiny.lines if "detection runs" in line] == []


def test_P_033_P_073_P_113_buildpacks_run_as_the_builders_user_with_the_builders_files(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    files = 'grep -q "^builder:" /etc/passwd; grep -q hello README'
    looks = f'test "$(id -u):$(id -g)" = {UID}:{GID}; {files}; test ! -e {tmp_path}'
    buildpack = shell_buildpack(tmp_path / "looks", detect=looks, build=f"{looks}\n{SERVER}")
    assert tiny.build(app, buildpack).exported.processes
    blind = shell_buildpack(tmp_path / "blind", detect=looks.replace("! -e", "-e"), build=SERVER)
    with pytest.raises(DetectErrored):
        tiny.build(app, blind)


def test_P_084_P_116_every_tag_is_given_the_same_image(
    tiny: TinyBuilder, app: Path, buildpack: Path, server: FakeRegistry
) -> None:
    names = [f"{server.host}/{name}" for name in ("team/tagged:1", "team/tagged:2", "other/tagged")]
    tags = tuple(Reference.parse(name) for name in names[1:])
    outcome = tiny.build(app, buildpack, name=names[0], tags=tags, publish=True)
    assert {tiny.store.find(name).id for name in names} == {outcome.exported.image.id}
    manifests = [
        server.manifests[key]
        for key in (("team/tagged", "1"), ("team/tagged", "2"), ("other/tagged", "latest"))
    ]
    assert manifests[0] == manifests[1] == manifests[2]


@pytest.mark.parametrize("readable", [True, False])
def test_P_057_P_148_P_149_the_run_image_is_the_one_in_the_images_registry_or_the_first_that_can_be_read(
    readable: bool, app: Path, buildpack: Path, server: FakeRegistry, tmp_path: Path
) -> None:
    with FakeRegistry() as far, tiny_builder(tmp_path / "builder") as tiny:
        wiring = Wiring(tiny.store)
        first, mirror = f"{far.host}/acme/run", f"{server.host}/acme/run"
        run = tiny.store.place(RUN).read()
        for name in (first, mirror) if readable else (first,):
            push_image(run, wiring.place(Location.parse(f"docker://{name}")))
        named = {"image": first, "mirrors": [mirror, "gone.test/run"]}
        _put_builder(tiny, images=[named, {"image": "second.test/run"}])
        outcome = tiny.build(app, buildpack, name=f"{server.host}/team/app", publish=True)
        label = metadata(outcome.exported.image)["runImage"]
        assert label["reference"].partition("@")[0] == (mirror if readable else first)
        assert (label["image"], label["mirrors"]) == (first, [mirror, "gone.test/run"])


def test_P_150_P_151_P_153_the_headers_of_a_platform_are_used_and_a_registry_without_one_is_asked_without(
    server: FakeRegistry, tmp_path: Path
) -> None:
    name = f"docker://{server.host}/acme/private"
    push_image(stored_image(tar_of({"x": b""})), Wiring(None).place(Location.parse(name)))
    server.users = {"me": "secret", None: ""}  # anybody may read
    header = "Basic " + base64.b64encode(b"me:secret").decode()
    command = Command(tmp_path / "home", CNB_REGISTRY_AUTH=json.dumps({"other.test": header}))
    server.requests.clear()
    command.ok("inspect", name)
    asked = [seen.headers.get("authorization", "") for seen in server.requests]
    assert asked and not [value for value in asked if value.startswith("Basic")]
    server.users = {"me": "secret"}
    command.fails(5, "inspect", name)
    command.ok("inspect", name, CNB_REGISTRY_AUTH=json.dumps({server.host: header}))
    assert header in [seen.headers.get("authorization", "") for seen in server.requests]


def test_P_163_a_users_variable_is_a_file_in_platform_env_with_its_value_for_content(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    shows = 'cd "$CNB_PLATFORM_DIR/env"; for name in *; do echo "$name=<$(cat "$name"; echo .)>"; done'
    shown = shell_buildpack(
        tmp_path / "shows", detect=f"({shows}) > /tmp/seen; cat /tmp/seen", build=f"({shows})\n{SERVER}"
    )
    env = {"PLAIN": "a b", "LINES": "one\ntwo\n", "EMPTY": "", "PATH": "/users"}
    tiny.build(app, shown, env=env)
    said = "".join(line.partition(": ")[2] for line in tiny.lines if line.startswith("test/shell: "))
    expected = "".join(f"{name}=<{env[name]}.>\n" for name in sorted(env))
    assert said == expected


def _fails(status: int) -> Program:
    return lambda call: status


FAILURES: dict[str, tuple[dict[str, Any], int]] = {
    "P-032: no system": ({}, 32),
    "P-051: no group passes": ({"detect": _fails(100)}, 20),
    "P-051: a bin/detect goes wrong": ({"detect": _fails(3)}, 21),
    "P-051: an unsupported Buildpack API": ({"api": "0.6"}, 12),
    "P-080: a bin/build fails": ({"build": _fails(1)}, 51),
    "P-080: a file of a buildpack's is wrong": ({"build": lambda call: call.write("launch.toml", "x")}, 52),
    "P-112: a layer has no contents": ({"build": lambda call: call.layer("l", "launch")}, 62),
}


@pytest.mark.parametrize("name", FAILURES)
def test_P_032_P_051_P_080_P_112_P_117_the_status_is_the_phases_that_failed(
    name: str, workshop: Workshop
) -> None:
    buildpack, status = FAILURES[name]
    workshop.order((workshop.buildpack("a", **buildpack),))
    if name.startswith("P-032"):
        workshop.run_image = Image(Config.parse(b"{}"), ())
    with pytest.raises(PackhorseError) as raised:
        workshop.create()
    assert raised.value.exit_code == status


def _put_builder(tiny: TinyBuilder, **changes: Any) -> None:
    """Gives the builder's label other values, or none where they are None."""
    place = tiny.store.place(BUILDER)
    builder = place.read()
    label = json.loads(builder.config.labels[METADATA]) | changes
    labels = dict(builder.config.labels) | {METADATA: json.dumps(label)}
    push_image(replace(builder, config=edit_config(builder.config, labels=labels), manifest=None), place)
