"""`packhorse cache`: what builds have kept is listed, removed by name, and bounded."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fakes.command import Command
from fakes.shell_buildpack import shell_buildpack
from fakes.tiny_builder import TinyBuilder, tiny_builder
from packhorse.base.digest import Digest

BUILD = """
layer=$CNB_LAYERS_DIR/data
mkdir -p "$layer"
[ -f "$layer/$(cat size)" ] || head -c "$(cat size)" /dev/zero > "$layer/$(cat size)"
printf '[types]\\ncache = true\\n' > "$layer.toml"
"""
NAMES = [f"packhorse.local/kept/{name}:latest" for name in ("old", "new")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which two images were built, of the second of which less is kept."""
    base = tmp_path_factory.mktemp("built")
    home, app = base / "home", base / "app"
    home.mkdir()
    app.mkdir()
    buildpack = shell_buildpack(base / "bp", "test/keeps", build=BUILD)
    with tiny_builder(home / "packhorse") as tiny:
        for name, length in zip(NAMES, ("3M", "1M"), strict=True):
            (app / "size").write_text(length)
            tiny.build(app, buildpack, name=name)
        use(tiny, NAMES[0], 1_000_000_000)
    return home


@pytest.fixture
def command(built: Path, tmp_path: Path) -> Command:
    subprocess.run(["cp", "-a", built, tmp_path / "home"], check=True)
    return Command(tmp_path / "home")


def use(tiny: TinyBuilder, name: str, moment: int) -> None:
    record = tiny.store.path / "caches" / f"{Digest.of(name.encode()).hex[:32]}.json"
    os.utime(record, (moment, moment))


def listed(command: Command) -> list[str]:
    found = json.loads(command.ok("cache", "ls", "--output", "json"))
    return [each["name"] for each in found["caches"]]


def test_what_is_kept_is_listed_for_people_and_programs(command: Command) -> None:
    lines = command.ok("cache", "ls").splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", *(name for name in reversed(NAMES))]
    assert "1.1 MB" in lines[1] and "3.2 MB" in lines[2]
    found = json.loads(command.ok("cache", "ls", "--output", "json"))
    newest, oldest = found["caches"]
    assert (newest["name"], newest["layers"]) == (NAMES[1], 1)
    assert oldest["built"] == "2001-09-09T01:46:40Z"
    assert 3 << 20 <= oldest["alone"] <= oldest["size"] < 4 << 20
    assert found["total"] >= 4 << 20


def test_caches_are_removed_by_name_and_what_is_not_there_is_said(command: Command) -> None:
    said = command.fails(4, "cache", "rm", NAMES[0], "no-such")
    assert "nothing is kept for no-such" in said and "packhorse cache ls" in said
    assert len(listed(command)) == 2
    removed = command.run("cache", "rm", NAMES[0])
    assert removed.stdout.strip() == f"Removed: {NAMES[0]}"
    assert "freed 3." in removed.stderr
    assert listed(command) == [NAMES[1]]
    assert NAMES[0].rpartition(":")[0] in command.ok("images"), "the image stays"


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--keep-storage", "10m"], 2),
        (["--keep-storage", "2m"], 1),
        (["--keep-storage", "0"], 0),
        (["--older-than", "30d"], 1),
        (["--older-than", "2000w"], 2),
        (["--older-than", "30d", "--keep-storage", "10m"], 2),
        (["--older-than", "30d", "--keep-storage", "0"], 1),
        (["--all"], 0),
        ([], 2),
    ],
)
def test_prune_removes_what_was_not_used_for_longest(command: Command, words: list[str], left: int) -> None:
    command.ok("cache", "prune", *words)
    assert listed(command) == [NAMES[1], NAMES[0]][:left]


def test_the_bound_is_the_users(command: Command) -> None:
    command.ok("cache", "prune", PACKHORSE_KEEP_STORAGE="none")
    assert len(listed(command)) == 2
    command.ok("cache", "prune", PACKHORSE_KEEP_STORAGE="2m")
    assert listed(command) == [NAMES[1]]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["prune", "--keep-storage", "much"], "--keep-storage: 'much' is not a size"),
        (["prune", "--older-than", "yesterday"], "--older-than: 'yesterday' is not an age"),
        (["prune", "--all", "--older-than", "3d"], "--all excludes"),
        (["rm"], "missing argument"),
        (["rm", "A B"], "A B"),
        (["ls", "--output", "xml"], "xml"),
    ],
)
def test_wrong_words_are_explained(tmp_path: Path, words: list[str], text: str) -> None:
    done = Command(tmp_path / "home").run("cache", *words)
    assert done.returncode in (2, 3)
    assert text in done.stderr


def test_a_wrong_bound_is_explained_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "file").touch()
    words = ("build", "x", "--path", tmp_path / "app")
    done = Command(tmp_path / "home").run(*words, PACKHORSE_KEEP_STORAGE="a lot")
    assert "PACKHORSE_KEEP_STORAGE: 'a lot' is not a size" in done.stderr


def test_a_build_keeps_to_the_bound(tmp_path: Path) -> None:
    buildpack = shell_buildpack(tmp_path / "bp", "test/keeps", build=BUILD)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "size").write_text("3M")
    with tiny_builder(tmp_path) as tiny:
        for name in NAMES:
            tiny.build(tmp_path / "app", buildpack, name=name, keep_storage=1 << 20)
            assert [cache.app for cache in tiny.store.caches().caches] == [name]
        assert any(f"removing the layers kept for {NAMES[0]}:" in line for line in tiny.lines)
