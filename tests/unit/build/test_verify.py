"""What a manifest says of a build, and what is asked for to do it again."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fakes.app_image import App
from fakes.small_image import tar_of
from packhorse.base.sandbox import Bind, Network
from packhorse.base.target import Target
from packhorse.build.request import BuildRequest
from packhorse.build.verify import Verification, request_for
from packhorse.errors import FormatError, InputError, NotFoundError
from packhorse.host.locate import fetch_exact
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.report.diff import compared_image, diff
from packhorse.report.inspect import inspect
from packhorse.report.provenance import KEY, BuildProvenance
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry

BUILDER_ID = f"sha256:{'1' * 64}"
ALL = BuildProvenance(
    builder="acme/builder:1",
    builder_id=BUILDER_ID,
    version="1.2",
    buildpacks=("acme/x@1", "my/own@2"),
    env=("B", "A"),
    default_process="task",
    run_image="acme/run:2",
    exec_env="test",
    created=7,
    system_buildpacks=False,
    uid=5,
    gid=0,
    workspace="/app",
    network="none",
    labels={"team": "blue"},
)
APP = App(lifecycle={"runImage": {"topLayer": "x", "reference": "2" * 64, "image": "acme/run"}})
ASKED = BuildRequest(Reference.parse("x"), Path("src"), env={"A": "1", "B": "2"})
RUN = {"topLayer": "x", "reference": "2" * 64, "image": "acme/run"}


def _image(known: BuildProvenance | None = ALL, app: App = APP) -> Image:
    return replace(app.image(), annotations=tuple(known.annotations().items()) if known else ())


def test_what_was_recorded_is_read_again_and_has_no_values() -> None:
    for known in (
        ALL,
        replace(ALL, created=0),
        BuildProvenance("a", BUILDER_ID),
        replace(ALL, volumes=("/x",), descriptor="other.toml"),
    ):
        assert BuildProvenance.parse(_image(known)) == known
    assert json.loads(BuildProvenance("a", BUILDER_ID).annotations()[KEY]) == {
        "builder": {"id": BUILDER_ID, "image": "a"}
    }
    assert BuildProvenance.parse(_image(None)) is None


def _created(seconds: int) -> str:
    return json.dumps({"builder": {"image": "a", "id": BUILDER_ID}, "created": seconds})


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "{}", '{"builder": {"image": "x"}}', '{"builder": 3}'),
        *map(_created, (-1, 253_402_300_800, 10**18)),
        json.dumps({"builder": {"image": "a", "id": BUILDER_ID}, "exec-env": "a/b"}),
    ],
)
def test_an_annotation_that_is_wrong_is_told(text: str) -> None:
    with pytest.raises(FormatError, match=r"io\.packhorse\.build"):
        BuildProvenance.parse(replace(_image(), annotations=((KEY, text),)))


def test_a_build_is_asked_for_as_it_was() -> None:
    request = request_for(_image(), "app", ASKED)
    assert request == replace(
        ASKED,
        builder="acme/builder:1",
        builder_id=BUILDER_ID,
        run_reference="2" * 64,
        buildpacks=("acme/x@1", "my/own@2"),
        default_process="task",
        run_image="acme/run:2",
        exec_env="test",
        created=7,
        system_buildpacks=False,
        uid=5,
        gid=0,
        workspace="/app",
        labels={"team": "blue"},
    )
    other = request_for(_image(), "app", replace(ASKED, builder="acme/other", network=Network.HOST))
    assert (other.builder, other.builder_id, other.network) == ("acme/other", "", Network.HOST)
    other = request_for(_image(), "app", replace(ASKED, run_image="acme/newer"))
    assert (other.run_image, other.run_reference) == ("acme/newer", "")
    digest = App(lifecycle={"runImage": RUN | {"reference": f"acme/run@sha256:{'3' * 64}"}})
    assert request_for(_image(app=digest), "app", ASKED).run_reference == f"acme/run@sha256:{'3' * 64}"
    unknown = App(lifecycle={"runImage": RUN | {"reference": "?"}})
    assert request_for(_image(app=unknown), "app", ASKED).run_reference == ""


def test_what_only_the_user_knows_is_asked_for_at_once() -> None:
    known = replace(ALL, volumes=("/data", "/more"), directories=("my/own@2",), descriptor="other.toml")
    asked = replace(ASKED, env={"A": ""}, volumes=(Bind(Path("/d"), "/data"),))
    with pytest.raises(InputError) as raised:
        request_for(_image(known), "app", asked)
    assert raised.value.issues == (
        "its build had variables, whose values only you know: --env B",
        "its build read another file than project.toml: --descriptor other.toml",
        "its build had volumes: --volume SOURCE:/more",
        "it had buildpacks from its own machine (my/own@2): name all again with --buildpack",
    )
    asked = replace(ASKED, buildpacks=("acme/x", "own"), descriptor=Path("other.toml"))
    request = request_for(_image(replace(known, volumes=())), "app", asked)
    assert request.buildpacks == ("acme/x", "own")


def test_an_image_that_says_nothing_needs_a_builder() -> None:
    with pytest.raises(NotFoundError, match="does not say how it was built"):
        request_for(_image(None), "app", ASKED)
    request = request_for(_image(None), "app", replace(ASKED, builder="b"))
    assert (request.builder, request.run_reference) == ("b", "2" * 64)


def _verdict(before: App, after: App) -> Verification:
    return Verification(diff(compared_image("app", before.image()), compared_image("rebuilt", after.image())))


def test_a_verdict_is_about_what_a_build_makes() -> None:
    app = App(lifecycle={"runImage": RUN})
    assert _verdict(app, app).is_reproduced
    assert _verdict(app, app).headline == f"reproducible: the source gives the same image, {app.image().id}"
    renamed = replace(app, lifecycle={"runImage": RUN | {"reference": "acme/run@sha256:x"}})
    assert (
        _verdict(app, renamed).is_reproduced
        and "the base is described differently" in _verdict(app, renamed).headline
    )
    changed = replace(app, app=(tar_of({"x": b""}),))
    assert not _verdict(app, changed).is_reproduced
    assert _verdict(app, changed).headline.startswith("not reproducible: only the application changed")
    assert not _verdict(app, replace(app, labels={"a": "b"})).is_reproduced


def test_inspect_shows_what_was_recorded() -> None:
    report = inspect(_image())
    assert f"builder     acme/builder:1  {BUILDER_ID}" in list(report.lines())
    assert report.fields()["built_with"] == json.loads(ALL.annotations()[KEY])
    assert inspect(_image(None)).fields()["built_with"] is None


def test_the_very_image_is_taken_whatever_its_name_is_now(tmp_path: Path) -> None:
    old, new = (App(labels={"n": number}).image() for number in "12")
    said: list[str] = []
    with FakeRegistry() as registry, Store.open(tmp_path / "store") as store:
        wiring, name = Wiring(store), f"{registry.host}/acme/builder:1"
        wanted = partial(fetch_exact, wiring, name, target=Target.host(), say=said.append, option="--builder")
        push_image(new, wiring.registry(Reference.parse(name), Target.host()))
        with pytest.raises(NotFoundError, match="is not in the store") as raised:
            wanted(str(old.id))
        assert raised.value.why == f"{name} is {new.id} by now"
        assert raised.value.fix.endswith(f"the one that has the name now: --builder {name}")
        assert store.images() == ()
        assert wanted(str(new.id)).id == new.id and said == [f"fetching {name}"]
        push_image(old, store.place("kept/elsewhere"))
        assert wanted(str(old.id)).id == old.id and said == [f"fetching {name}"]
        with pytest.raises(NotFoundError, match="is not in the store"):
            fetch_exact(
                wiring,
                "packhorse.local/builder:x",
                BUILDER_ID,
                target=Target.host(),
                say=said.append,
                option="--builder",
            )
