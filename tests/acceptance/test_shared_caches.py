"""What the tags of one repository have in common of what builds keep, and what builds at once do to it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fakes.shell_buildpack import shell_buildpack
from fakes.tiny_builder import APP, TinyBuilder

BUILD = """
layer=$CNB_LAYERS_DIR/modules
if [ "$(cat "$layer/lock" || true)" != "$(cat lock)" ]; then
    echo installing
    rm -rf "$layer"
    mkdir -p "$layer"
    cat lock > "$layer/lock"
fi
printf '[types]\\nlaunch = true\\ncache = true\\n' > "$layer.toml"
"""


@pytest.fixture
def buildpack(tmp_path: Path) -> Path:
    return shell_buildpack(tmp_path / "bp", "test/installs", build=BUILD)


def source(directory: Path, lock: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "lock").write_text(lock)
    return directory


def installed(tiny: TinyBuilder) -> bool:
    return any("installing" in line for line in tiny.lines)


def began(tiny: TinyBuilder) -> list[str]:
    return [line for line in tiny.lines if "this build begins with" in line]


def test_a_new_tag_begins_with_the_layers_of_the_last_one_built(
    tiny: TinyBuilder, buildpack: Path, tmp_path: Path
) -> None:
    app = source(tmp_path / "app", "1")
    main = tiny.build(app, buildpack, name=f"{APP}:main")
    assert installed(tiny) and not began(tiny)
    feature = tiny.build(app, buildpack, name=f"{APP}:feature")
    assert not installed(tiny)
    assert began(tiny) == [
        f"nothing is kept for {APP}:feature: this build begins with the layers of {APP}:main"
    ]
    assert feature.counters.untouched + feature.counters.same == 1
    assert feature.exported.image.id == main.exported.image.id
    source(app, "2")
    other = tiny.build(app, buildpack, name=f"{APP}:feature")
    assert installed(tiny) and not began(tiny), "it has layers of its own by now"
    source(app, "1")
    again = tiny.build(app, buildpack, name=f"{APP}:main")
    assert not installed(tiny) and not began(tiny), "what another tag did is not its own"
    assert again.exported.image.id == main.exported.image.id != other.exported.image.id


def test_another_repository_and_a_build_that_is_to_keep_nothing_begin_with_nothing(
    tiny: TinyBuilder, buildpack: Path, tmp_path: Path
) -> None:
    app = source(tmp_path / "app", "1")
    tiny.build(app, buildpack, name="packhorse.local/a/b:1")
    for name, asked in (("packhorse.local/a/c:1", {}), ("packhorse.local/a/b:2", {"clear_cache": True})):
        tiny.build(app, buildpack, name=name, **asked)
        assert installed(tiny) and not began(tiny)


def test_builds_of_two_tags_at_once_are_each_what_they_are_alone(
    tiny: TinyBuilder, buildpack: Path, tmp_path: Path
) -> None:
    name = "packhorse.local/at/once"
    tiny.build(source(tmp_path / "app", "0"), buildpack, name=f"{name}:0")
    alone = {
        lock: tiny.build(source(tmp_path / lock, lock), buildpack, name=f"packhorse.local/alone:{lock}")
        for lock in ("0", "1", "2")
    }

    def one(number: int) -> bool:
        lock = str(number % 3)
        built = tiny.fresh().build(tmp_path / lock, buildpack, name=f"{name}:tag-{number}")
        return built.exported.image.id == alone[lock].exported.image.id

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(one, range(6)))
