"""The phases of the lifecycle as programs in a builder: they make the image of a build on a host."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.foreign_builder import Tar
from fakes.in_place import InPlace
from fakes.small_image import stored_image
from fakes.tiny_builder import RUN, TinyBuilder, tiny_builder
from lanes import first_in_test
from packhorse.base import installation
from packhorse.base.target import Target
from packhorse.lifecycle.labels import LIFECYCLE
from packhorse.linux import userns
from packhorse.oci.place import Image, copy, push_image
from packhorse.oci.reference import Location
from packhorse.testing import FakeRegistry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="phases start as root in a container")

USER = (1001, 1002)
BUILD = """
id
echo "credentials: ${CNB_REGISTRY_AUTH-none}"
cat "/proc/$PPID/environ" 2>&1 || true
L=$CNB_LAYERS_DIR
mkdir -p $L/launched $L/cached $L/both
[ -e $L/cached/old ] && echo "the cached layer came back"
[ -e $L/both/old ] && echo "the launched and cached layer came back"
touch $L/cached/old $L/both/old
echo content > $L/launched/file
printf '[types]\\nlaunch = true\\n[metadata]\\nn = 1\\n' > $L/launched.toml
printf '[types]\\ncache = true\\nbuild = true\\n' > $L/cached.toml
printf '[types]\\ncache = true\\nlaunch = true\\n' > $L/both.toml
printf '[metadata]\\nkept = "yes"\\n' > $L/store.toml
printf '[[processes]]\\ntype = "web"\\ncommand = ["sh", "<&>"]\\ndefault = true\\n' > $L/launch.toml
(setsid sleep 1000 &)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        yield server


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyBuilder]:
    platforms = ("0.7", "0.9", "0.11", "0.12", "0.14", "0.15")
    with tiny_builder(tmp_path_factory.mktemp("tiny"), build=BUILD, platforms=platforms) as tiny:
        yield tiny


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app/static").mkdir(parents=True)
    (tmp_path / "app/README").write_text("read\n")
    (tmp_path / "app/static/style").write_text("style\n")
    return tmp_path / "app"


@pytest.fixture
def run(builder: TinyBuilder, server: FakeRegistry) -> str:
    """The run image in the registry."""
    name = f"{server.host}/base/run:1"
    images = builder.host.images
    copy(builder.store.place(RUN), images.place(Location.parse(f"docker://{name}")))
    return name


@pytest.fixture
def place(builder: TinyBuilder, tmp_path: Path, run: str) -> InPlace:
    """The builder's files, with packhorse's launcher and a run.toml."""
    image = builder.store.place("packhorse.local/acme/builder").read()
    root = tmp_path / "root"
    root.mkdir()
    tree = builder.store.root(image, userns.choose_map(*USER))
    for name in ("cnb", "platform"):
        os.system(f"cp -a {tree}/{name} {root}/{name}")
    launcher = root / "cnb/lifecycle/launcher"
    launcher.unlink()
    launcher.write_bytes(installation.launcher(Target.host().arch))
    launcher.chmod(0o755)
    (root / "cnb/run.toml").write_text(f'[[images]]\nimage = "{run}"\n')
    (root / "cnb/stack.toml").write_text(f'[run-image]\nimage = "{run}"\n')
    (tmp_path / "work").mkdir()
    return InPlace(root, tmp_path / "work", USER)


def on_a_host(builder: TinyBuilder, app: Path, name: str, run: str) -> str:
    """The ID of the image of a build on a host."""
    outcome = builder.build(app, name=name, publish=True, run_image=run, launcher="own", clear_cache=True)
    return str(outcome.exported.image.id)


def read(builder: TinyBuilder, name: str) -> Image:
    """An image in the registry."""
    return builder.host.images.place(Location.parse(f"docker://{name}")).read()


def in_registry(server: FakeRegistry, repository: str, tag: str = "latest") -> str:
    """The ID of an image in the registry."""
    return str(json.loads(server.manifests[repository, tag][1])["config"]["digest"])


CACHE = ("-cache-dir", "/cache")


def five_phases(place: InPlace, app: Path, name: str, *, api: str) -> str:
    """Runs the phases one after another, as platforms do; returns what the builder said."""
    place.begin(app)
    place.ok("analyzer", name, api=api)
    place.ok("detector", api=api, root=False)
    place.ok("restorer", *CACHE, api=api)
    said = place.ok("builder", api=api, root=False)
    place.ok("exporter", *CACHE, name, api=api)
    return said


def test_creator_makes_the_image_of_a_build_on_a_host(
    builder: TinyBuilder, server: FakeRegistry, place: InPlace, app: Path, run: str
) -> None:
    expected = on_a_host(builder, app, f"{server.host}/host/app", run)
    name = f"{server.host}/place/app"
    place.env["CNB_REGISTRY_AUTH"] = json.dumps({"registry.test": "Bearer SECRET"})
    for again in (False, True):
        place.begin(app)
        said = place.ok("creator", *CACHE, "-tag", f"{name}:two", name, api="0.15")
        assert "uid=1001(" in said or "uid=1001 " in said
        assert "groups=1002" in said
        assert "credentials: none" in said
        assert "SECRET" not in said
        assert ("the cached layer came back" in said) is again
        assert ("the launched and cached layer came back" in said) is again
        assert in_registry(server, "place/app") == in_registry(server, "place/app", "two") == expected
    report = tomllib.loads(place.file("layers/report.toml"))["image"]
    assert report["tags"] == [name, f"{name}:two"]
    assert f"sha256:{report['digest'].partition(':')[2]}" in {key for _, key in server.manifests}
    assert tomllib.loads(place.file("layers/analyzed.toml"))["image"]["reference"].startswith(f"{name}@")


@pytest.mark.parametrize("api", first_in_test(["0.14", "0.7", "0.9", "0.11", "0.12", "0.15"]))
def test_the_phases_one_after_another_make_the_image_of_creator(
    server: FakeRegistry, place: InPlace, app: Path, api: str
) -> None:
    place.begin(app)
    place.ok("creator", f"{server.host}/one/app", api=api)
    expected = in_registry(server, "one/app")
    for again in (False, True):
        said = five_phases(place, app, f"{server.host}/five/app", api=api)
        assert ("the cached layer came back" in said) is again
        assert in_registry(server, "five/app") == expected


def test_a_cache_that_is_damaged_is_left_alone(server: FakeRegistry, place: InPlace, app: Path) -> None:
    name = f"{server.host}/damaged/app"
    five_phases(place, app, name, api="0.14")
    expected = in_registry(server, "damaged/app")
    for tar in (place.work / "cache/committed").glob("*.tar"):
        tar.write_bytes(b"damaged" + tar.read_bytes()[7:])
    place.begin(app)
    said = place.ok("creator", *CACHE, name)
    assert "is not restored from the cache" in said
    assert "came back" not in said
    assert in_registry(server, "damaged/app") == expected
    place.begin(app)
    assert "the cached layer came back" in place.ok("creator", *CACHE, name)


def test_rebaser_puts_the_image_on_a_new_base(
    builder: TinyBuilder, server: FakeRegistry, place: InPlace, app: Path, run: str
) -> None:
    place.begin(app)
    name = f"{server.host}/rebased/app"
    place.ok("creator", name)
    before = read(builder, name)
    done = place.run("rebaser", "-run-image", f"{server.host}/base/other:1", name)
    assert (done.returncode, done.stderr.splitlines()[0][-14:]) == (72, "does not exist")
    tar = Tar()
    tar.file("patched", "yes")
    base = stored_image(tar.close(), user="1001:1002")
    push_image(base, builder.host.images.place(Location.parse(f"docker://{run}")))
    place.ok("rebaser", name, f"{name}:two")
    after = read(builder, name)
    assert after.config.diff_ids == (*base.config.diff_ids, *before.config.diff_ids[1:])
    assert after.id == read(builder, f"{name}:two").id
    assert json.loads(after.config.labels[LIFECYCLE])["runImage"]["topLayer"] == str(base.config.diff_ids[-1])


@pytest.mark.parametrize(
    ("phase", "words", "env", "code", "what"),
    first_in_test(
        [
            ("creator", ["app"], {"CNB_PLATFORM_API": ""}, 11, "CNB_PLATFORM_API is not set"),
            ("creator", ["app"], {"CNB_PLATFORM_API": "9.9"}, 11, "Platform API '9.9' is not supported"),
            ("creator", [], {}, 3, "creator takes one image name, and got 0"),
            ("creator", ["-nosuch", "app"], {}, 3, "creator has no flag -nosuch"),
            ("creator", ["UPPER"], {}, 3, "not an image name: 'UPPER'"),
            ("creator", ["-tag", "one.test/a", "two.test/a"], {}, 3, "writing to multiple registries"),
            ("detector", [], {}, 22, "detector refuses to run as root"),
            ("builder", [], {}, 52, "builder refuses to run as root"),
            ("restorer", [], {}, 42, "/layers/group.toml does not exist"),
            ("exporter", ["app"], {}, 62, "/layers/analyzed.toml does not exist"),
            ("extender", [], {}, 102, "image extensions are not supported yet"),
            ("lifecycle", ["explode"], {}, 3, "'explode' is not a phase"),
            ("analyzer", ["-layout", "app"], {}, 3, "export to OCI layout format is an experimental"),
        ],
        count=13,
    ),
)
def test_wrong_input_ends_with_the_code_of_the_specification(
    place: InPlace, app: Path, phase: str, words: list[str], env: dict[str, str], code: int, what: str
) -> None:
    place.begin(app)
    api = env.get("CNB_PLATFORM_API", "0.14")
    done = place.run(phase, *words, api=api)
    assert (done.returncode, what in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (place.work / "layers").iterdir()) == []
