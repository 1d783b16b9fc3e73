"""A build plan says what a build does, before anything runs; the build then does that."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import click
import pytest

from fakes.observer import Quiet
from fakes.shell_buildpack import SERVER, shell_buildpack
from fakes.tiny_builder import APP, BUILDER, RUN, TinyBuilder
from packhorse.base.target import Target
from packhorse.build.description import UNKNOWN_BUILDER, describe
from packhorse.build.execute import detect
from packhorse.build.host import Host
from packhorse.build.images import Fetch
from packhorse.build.plan import resolve
from packhorse.build.request import BuildRequest
from packhorse.cli.build import build as build_command
from packhorse.cli.detect import detect as detect_command
from packhorse.cli.verify import verify as verify_command
from packhorse.errors import DetectErrored, DetectFailed, InputError, NotFoundError
from packhorse.host.wiring import Wiring
from packhorse.lifecycle.stages import Detected
from packhorse.oci.place import push_image
from packhorse.oci.reference import Reference
from packhorse.report.provenance import BuildProvenance
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry

pytestmark = pytest.mark.system  # the builder's root is made by programs, and two tests build


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app" / "keep").mkdir(parents=True)
    (tmp_path / "app" / "keep" / "file").write_text("x")
    return tmp_path / "app"


def test_a_plan_is_a_value_and_leaves_the_store_as_it_is(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    (app / "project.toml").write_text(
        '[_]\nschema-version = "0.2"\n[io.buildpacks]\nexclude = ["*.log"]\n'
        '[[io.buildpacks.build.env]]\nname = "FROM_FILE"\nvalue = "s3cret"\n'
    )
    (app / "x.log").write_text("x")
    own = shell_buildpack(tmp_path / "own", build=SERVER)
    before = sorted(path for path in tiny.store.path.rglob("*") if "lease" not in str(path))
    plan = tiny.plan(app, own, name="acme/new", env={"GIVEN": "hunter2"}, limits={"memory": 1 << 30})
    assert sorted(path for path in tiny.store.path.rglob("*") if "lease" not in str(path)) == before
    again = tiny.plan(app, own, name="acme/new", env={"GIVEN": "hunter2"}, limits={"memory": 1 << 30})
    other = tiny.plan(app, own, name="acme/new", env={"GIVEN": "other"}, limits={"memory": 1 << 30})
    assert plan == again and plan != other
    assert plan.excluded == ("x.log",) and plan.overlays and plan.previous.image_id is None
    assert plan.images is not None and plan.images.builder.name == BUILDER
    assert [str(each.ref) for each in plan.images.named.group] == ["test/shell@1.0.0"]

    told = describe(plan, tiny.host)
    assert "hunter2" not in json.dumps(told) and "s3cret" not in json.dumps(told)
    assert told["env"] == ["FROM_FILE", "GIVEN"] and told["limits"]["memory"] == 1 << 30
    assert told["builder"]["fetch"] is told["run_image"]["fetch"] is False
    assert (told["run_image"]["name"], told["target"], told["network"]) == (RUN, "linux/amd64", "none")
    assert {
        "target": "/cnb/buildpacks/test_shell/1.0.0",
        "kind": "bind",
        "source": str(own),
        "writable": False,
    } in (told["mounts"])


def test_a_build_does_what_its_plan_says(tiny: TinyBuilder, app: Path, tmp_path: Path) -> None:
    own = shell_buildpack(tmp_path / "own", build=SERVER)
    plan = tiny.plan(app, own, default_process="talk")
    image = tiny.build(app, own, default_process="talk").exported.image
    assert plan.images is not None
    assert BuildProvenance.parse(tiny.store.place(APP).read()) == plan.images.provenance
    assert tiny.plan(app, own, default_process="talk").previous.image_id == image.id


def test_a_builder_in_a_registry_is_read_and_not_fetched(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    with FakeRegistry() as registry, Store.open(tmp_path / "store") as store:
        builder, run_image = (f"{registry.host}/acme/{name}" for name in ("builder", "run"))
        host = Host(store, Wiring(store))
        for name, source in ((builder, BUILDER), (run_image, RUN)):
            push_image(
                tiny.store.place(source).read(), host.images.registry(Reference.parse(name), Target.host())
            )
        registry.sent = 0
        request = BuildRequest(Reference.parse("app"), app, builder=builder, run_image=run_image)
        plan = resolve(request, host, Quiet(), fetch=Fetch.NOTHING)
        assert plan.images is not None
        assert plan.images.builder.image_id == tiny.store.place(BUILDER).read().id
        told = describe(plan, host)
        assert told["builder"]["fetch"] and told["run_image"]["fetch"]
        assert store.images() == () and registry.sent < 100_000  # manifests and configs

        plan = resolve(request, host, Quiet(), fetch=Fetch.BUILDER)
        assert describe(plan, host)["builder"]["fetch"] is False
        assert describe(plan, host)["run_image"]["fetch"] is True


def test_a_default_builder_that_is_not_made_yet_is_not_known(app: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        host = Host(store, Wiring(store))
        request = BuildRequest(Reference.parse("app"), app)
        plan = resolve(request, host, Quiet(), fetch=Fetch.NOTHING)
        told = describe(plan, host)
    assert plan.images is None and told["builder"] is told["run_image"] is told["order"] is None
    assert told["unknown"][0] == UNKNOWN_BUILDER


def test_what_keeps_a_build_from_beginning_keeps_its_plan(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="there is no"):
        tiny.plan(tmp_path / "nosuch")
    with pytest.raises(NotFoundError, match="there is no buildpack"):
        tiny.plan(app, Path("no/such-buildpack"))
    with pytest.raises(InputError, match="is not a whole buildpack"):
        (tmp_path / "half").mkdir()
        (tmp_path / "half" / "buildpack.toml").write_text(
            'api = "0.11"\n[buildpack]\nid = "a/b"\nversion = "1"\n'
        )
        tiny.plan(app, tmp_path / "half")


def test_detection_says_who_takes_the_source_and_why_others_do_not(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    taker = shell_buildpack(tmp_path / "a", "test/taker")
    refuser = shell_buildpack(tmp_path / "b", "test/refuser", detect="echo no pom.xml here; exit 100")
    broken = shell_buildpack(tmp_path / "c", "test/broken", detect="echo it broke; exit 3")
    images = tiny.store.images()

    found = detect(tiny.plan(app, taker), tiny.host, Quiet())
    assert isinstance(found.outcome, Detected)
    assert [str(each.ref) for each in found.outcome.group] == ["test/taker@1.0.0"]
    assert [tried.reasons for tried in found.tried] == [()]

    found = detect(tiny.plan(app, taker, refuser), tiny.host, Quiet())
    assert type(found.outcome) is DetectFailed and found.outcome.exit_code == 20
    assert [(str(each.ref), each.verdict, each.status) for each in found.answers] == [
        ("test/taker@1.0.0", "pass", 0),
        ("test/refuser@1.0.0", "fail", 100),
    ]
    assert found.tried[0].reasons == ("fail: test/refuser@1.0.0: no pom.xml here",)

    found = detect(tiny.plan(app, taker, broken), tiny.host, Quiet())
    assert isinstance(found.outcome, DetectErrored) and found.outcome.exit_code == 21
    assert found.tried[0].reasons == ("error: test/broken@1.0.0 (exit status 3): it broke",)
    assert tiny.store.images() == images


@pytest.mark.parametrize(
    "command", [build_command, detect_command, verify_command], ids=lambda each: each.name
)
def test_an_option_is_a_field_of_the_request_or_an_argument_of_its_command(command: click.Command) -> None:
    own = set(command.callback.__wrapped__.__code__.co_varnames)  # type: ignore[union-attr]
    options = {param.name for param in command.params if param.expose_value}
    assert options - own <= {field.name for field in fields(BuildRequest)}
