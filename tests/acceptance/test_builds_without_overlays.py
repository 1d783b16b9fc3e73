"""Builds on plain copies: of buildpacks that fail on an overlay, and of users who want no overlay."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.shell_buildpack import shell_buildpack
from fakes.tiny_builder import APP, TinyBuilder, tiny_builder
from packhorse.errors import BuildpackFailed

KEPT = """
layer=$CNB_LAYERS_DIR/kept
mkdir -p "$layer"
printf '[types]\\nlaunch = true\\ncache = true\\n' > "$layer.toml"
rename() { perl -e 'rename($ARGV[0], $ARGV[1]) or die "cannot move it: $!\\n"' "$@"; }
echo "here I am"
"""
MOVING = f"""{KEPT}
if [ -d "$layer/b" ]; then rename "$layer/b" "$layer/a"; else mkdir "$layer/a"; fi
echo content > "$layer/a/file"
rename "$layer/a" "$layer/b"
"""
"""Moves a directory of its layer, kept ones too, and cannot copy it instead."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyBuilder]:
    with tiny_builder(tmp_path_factory.mktemp("tiny"), programs=("perl",)) as opened:
        yield opened


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app" / "source").mkdir(parents=True)
    (tmp_path / "app" / "source" / "file").write_text("as the user wrote it")
    return tmp_path / "app"


def said(tiny: TinyBuilder, text: str) -> int:
    return "\n".join(tiny.lines).count(text)


def test_a_buildpack_that_moves_what_was_kept_is_run_again_on_copies_and_remembered(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    buildpack = shell_buildpack(tmp_path / "moves", "test/moves", build=MOVING)
    first = tiny.build(app, buildpack)
    assert (said(tiny, "here I am"), said(tiny, "overlay")) == (1, 0)
    second = tiny.build(app, buildpack)
    assert said(tiny, "here I am") == 2
    assert said(tiny, "test/moves@1.0.0 fails on an overlay") == 1
    assert said(tiny, "building again with plain copies") == 1
    third = tiny.build(app, buildpack)
    assert (said(tiny, "here I am"), said(tiny, "this build uses plain copies")) == (1, 1)
    assert {each.exported.image.id for each in (first, second, third)} == {first.exported.image.id}
    newer = shell_buildpack(tmp_path / "newer", "test/moves", build=KEPT, version="1.0.1")
    tiny.build(app, newer, name=f"{APP}-2")
    assert said(tiny, "copies") == 0
    tiny.store.remove(APP, force=True)
    assert tiny.store.copied_writers(["test/moves@1.0.0"]) == ()


def test_a_buildpack_that_moves_a_directory_of_the_source_is_run_again_on_copies(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    buildpack = shell_buildpack(tmp_path / "bp", "test/sources", build=f"{KEPT}\nrename source src")
    tiny.build(app, buildpack, name=f"{APP}-sources")
    assert (said(tiny, "here I am"), said(tiny, "building again")) == (2, 1)
    assert (app / "source" / "file").read_text() == "as the user wrote it"
    assert not (app / "src").exists()


@pytest.mark.parametrize(
    ("build", "runs"),
    [
        ("echo wrong; exit 3", 1),
        ("echo cross-device link; exit 3", 2),
        ("kill -9 $$", 1),
    ],
)
def test_any_other_failure_stands(
    tiny: TinyBuilder, app: Path, tmp_path: Path, build: str, runs: int
) -> None:
    buildpack = shell_buildpack(tmp_path / "bp", "test/fails", build=f"{KEPT}\n{build}")
    with pytest.raises(BuildpackFailed):
        tiny.build(app, buildpack)
    assert said(tiny, "here I am") == runs
    assert tiny.store.copied_writers(["test/fails@1.0.0"]) == (), "copies did not help"
    with pytest.raises(BuildpackFailed):
        tiny.build(app, buildpack, overlay=False)
    assert said(tiny, "here I am") == 1


def test_without_an_overlay_the_image_is_the_same_and_the_source_is_not_written(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    change = f"{KEPT}\nlast=$(cat $layer/n || echo 0)\necho $((last + 1)) > $layer/n\necho > source/file"
    buildpack = shell_buildpack(tmp_path / "bp", "test/writes", build=change)
    ids = [
        [tiny.build(app, buildpack, name=name, overlay=overlay).exported.image.id for _ in range(3)]
        for name, overlay in ((f"{APP}-overlay", True), (f"{APP}-copies", False))
    ]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3
    assert (app / "source" / "file").read_text() == "as the user wrote it"


@pytest.fixture
def overlaid(tmp_path: Path) -> Iterator[Path]:
    """A directory on an overlay, as the file system of a container is."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "merged"], check=True)
    yield tmp_path / "merged"
    subprocess.run(["umount", tmp_path / "merged"], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount for all to see")
def test_a_store_where_no_overlay_can_be_has_builds_on_copies(
    overlaid: Path, app: Path, tmp_path: Path
) -> None:
    (app / ".git").mkdir()
    (app / ".git" / "secret").touch()
    writes = f'{KEPT}\n[ ! -e .git ]\necho > source/file\necho mine > "$HOME/file"\ncat "$HOME/file"'
    buildpack = shell_buildpack(
        tmp_path / "bp", "test/writes", build=writes, detect="touch seen; echo here too > source/file"
    )
    with tiny_builder(overlaid, programs=("perl",)) as tiny:
        first = tiny.build(app, buildpack)
        assert said(tiny, "which takes no overlays") == 1
        assert said(tiny, "mine") == 1
        second = tiny.build(app, buildpack)
        assert second.exported.image.id == first.exported.image.id
        assert second.counters.untouched == 1
    assert sorted(path.name for path in app.rglob("*") if path.is_file()) == ["file", "secret"]
    assert (app / "source" / "file").read_text() == "as the user wrote it"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that is smaller than the source."""
    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", tmp_path / "small"], check=True)
    yield tmp_path / "small"
    subprocess.run(["umount", tmp_path / "small"], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount for all to see")
def test_a_disk_that_is_smaller_than_the_source_is_told_before_the_first_buildpack(
    small: Path, app: Path, tmp_path: Path
) -> None:
    (app / "large").write_bytes(bytes(64 << 20))
    buildpack = shell_buildpack(tmp_path / "bp", "test/drops", build="rm large")
    with tiny_builder(small) as tiny:
        tiny.build(app, buildpack)
        (told,) = (index for index, line in enumerate(tiny.lines) if "the image may not fit there" in line)
        assert "the source has 67.1 MB, and only " in tiny.lines[told]
        tiny.build(app, buildpack)
        assert said(tiny, "may not fit there") == 0  # what was kept says that there was enough
