"""project.toml in real builds: what it leaves out is in no layer, and no buildpack sees it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.shell_buildpack import shell_buildpack
from fakes.tiny_builder import APP, TinyBuilder, tiny_builder
from packhorse.errors import InputError
from packhorse.lifecycle.stages import Exported
from packhorse.oci.place import Image
from packhorse.report.provenance import BuildProvenance

LOOK = 'ls -aR; echo "GREETING=${GREETING:-} NAME=${NAME:-}"; ls "$CNB_PLATFORM_DIR"'
PROJECT = """\
[_]
schema-version = "0.2"
[io.buildpacks]
exclude = ["*.pem", "/docs", "src/lib/*", "!src/lib/kept"]
[[io.buildpacks.build.env]]
name = "GREETING"
value = "hello"
[[io.buildpacks.build.env]]
name = "NAME"
value = "project"
"""
KEPT = ("main", "src/main", "src/lib/kept")
EXCLUDED = ("top.pem", "src/a.pem", "src/deep/only.pem", "docs/secret", "docs/more/secret", "src/lib/secret")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyBuilder]:
    with tiny_builder(tmp_path_factory.mktemp("tiny")) as opened:
        yield opened


@pytest.fixture
def app(tmp_path: Path) -> Path:
    top = tmp_path / "app"
    for name in (*KEPT, *EXCLUDED):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f"sekret of {name}")
    (top / "src").chmod(0o2750)
    (top / "project.toml").write_text(PROJECT)
    return top


@pytest.fixture
def looks(tmp_path: Path) -> Path:
    return shell_buildpack(tmp_path / "looks", "test/looks", detect=f"{LOOK}; echo > seen", build=LOOK)


def built(tiny: TinyBuilder, app: Path, *buildpacks: Path, name: str, **asked: object) -> Exported:
    time.sleep(0.06)  # an application that changed a moment ago may go on changing
    return tiny.build(app, *buildpacks, name=f"{APP}-{name}", **asked).exported


def content(image: Image) -> bytes:
    return b"".join(part for layer in image.layers for part in layer.tar())


def why(exported: Exported) -> set[str]:
    return {layer.why for layer in exported.layers if layer.owner == "app"}


@pytest.mark.parametrize(
    "mixed",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")),
    ],
)
def test_what_is_excluded_is_in_no_layer_and_seen_by_no_buildpack(
    tiny: TinyBuilder, app: Path, looks: Path, tmp_path: Path, *, mixed: bool
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(app, plain)
    shutil.rmtree(plain / "docs")
    for name in ("top.pem", "src/a.pem", "src/deep/only.pem", "src/lib/secret"):
        (plain / name).unlink()
    if mixed:  # the source is copied then
        os.chown(app / "main", 4711, 4711)
    for number, overlay in enumerate((True, True, False)):
        exported = built(tiny, app, looks, name=f"excluded-{int(mixed)}", overlay=overlay)
        said = "\n".join(tiny.lines)
        assert "kept" in said and "GREETING=hello NAME=project" in said
        assert not any(word in said for word in ("secret", ".pem", "docs"))
        assert not any(f"sekret of {name}".encode() in content(exported.image) for name in EXCLUDED)
        assert all(f"sekret of {name}".encode() in content(exported.image) for name in KEPT)
        assert exported.image.id == built(tiny, plain, looks, name="plain", clear_cache=True).image.id
        if number == 1:
            assert why(exported) == {"unchanged since it was exported"}


def test_an_excluded_file_may_change_and_a_changed_project_file_counts(
    tiny: TinyBuilder, app: Path, looks: Path
) -> None:
    first = built(tiny, app, looks, name="changes")
    (app / "docs/secret").write_text("another secret")
    again = built(tiny, app, looks, name="changes")
    assert (again.image.id, why(again)) == (first.image.id, {"unchanged since it was exported"})
    (app / "project.toml").write_text(PROJECT.replace('"/docs", ', ""))
    both = [built(tiny, app, looks, name="changes", overlay=overlay).image for overlay in (True, False)]
    assert both[0].id == both[1].id != first.image.id
    assert b"another secret" in content(both[0]) and b"sekret of top.pem" not in content(both[0])
    (app / "project.toml").write_text(PROJECT)
    assert built(tiny, app, looks, name="changes").image.id == first.image.id


def test_with_include_nothing_else_is_in_the_image(tiny: TinyBuilder, app: Path, looks: Path) -> None:
    (app / "project.toml").write_text('[build]\ninclude = ["src/main", "kept"]\n')
    images = [built(tiny, app, looks, name="include", overlay=overlay).image for overlay in (True, False)]
    assert images[0].id == images[1].id
    found = {name for name in (*KEPT, *EXCLUDED) if f"sekret of {name}".encode() in content(images[0])}
    assert found == {"src/main", "src/lib/kept"}
    assert b"project.toml" not in content(images[0])


def test_variables_of_the_command_line_go_before_those_of_the_file(
    tiny: TinyBuilder, app: Path, looks: Path
) -> None:
    exported = built(tiny, app, looks, name="env", env={"NAME": "user"})
    assert "GREETING=hello NAME=user" in "\n".join(tiny.lines)
    recorded = BuildProvenance.parse(exported.image)
    assert recorded is not None and recorded.env == ("NAME",)  # the source has the other
    (app / "project.toml").unlink()
    built(tiny, app, looks, name="env")
    assert "GREETING= NAME=\nenv" in "\n".join(line.split(": ", 1)[-1] for line in tiny.lines)


def test_a_builder_in_the_file_is_refused_unless_the_command_line_names_one(
    tiny: TinyBuilder, app: Path, looks: Path
) -> None:
    (app / "project.toml").write_text('[build]\nbuilder = "x"\n[[build.buildpacks]]\nid = "a"\n')
    assert built(tiny, app, looks, name="refused")
    with pytest.raises(InputError, match=r"project\.toml cannot be used") as raised:
        built(tiny, app, name="refused")
    assert len(raised.value.issues) == 1 and "project.toml:3: build.buildpacks" in raised.value.issues[0]
