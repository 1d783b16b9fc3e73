"""A layer is kept or replaced with a cause, and a kept one is not touched (B-047 to B-051, B-079)."""

import tomllib
from pathlib import Path

import pytest

from packhorse.errors import BuildError
from packhorse.sdk.layer import Kept, Layer, LayerRequest, Outdated, Replaced, Types, take_layer

OLD, NEW = f"sha256:{'ab12cd34' * 8}", f"sha256:{'00112233' * 8}"
CACHED = Types(launch=True, cache=True)


def made(
    layers: Path,
    key: dict[str, str],
    types: Types = CACHED,
    facts: dict[str, str] | None = None,
    renew: str = "",
    follows: tuple[str, ...] = (),
) -> Layer:
    return take_layer(layers, "modules", LayerRequest(types, key, facts or {}, renew, follows))


def restored(layers: Path) -> None:
    """Does to the metadata what a lifecycle does between two builds: the types go (B-079)."""
    path = layers / "modules.toml"
    path.write_text(path.read_text().partition("[metadata]")[1] + path.read_text().partition("[metadata]")[2])


def test_a_first_layer_is_new_and_empty(tmp_path: Path) -> None:
    layer = made(tmp_path, {"lock": OLD})
    assert layer.decision == Replaced()
    assert str(layer.decision) == "new"
    assert list(layer.path.iterdir()) == []


def test_a_layer_with_the_same_key_is_kept_with_its_content(tmp_path: Path) -> None:
    (made(tmp_path, {"node": "16", "lock": OLD}).path / "file").write_text("x")
    restored(tmp_path)
    layer = made(tmp_path, {"node": "16", "lock": OLD})
    assert layer.decision == Kept(("node", "lock"))
    assert str(layer.decision) == "kept: same node, lock"
    assert (layer.path / "file").read_text() == "x"


def test_a_kept_layer_gets_its_types_again_and_no_other_write(tmp_path: Path) -> None:
    content = made(tmp_path, {"lock": OLD}).path / "file"
    content.write_text("x")
    restored(tmp_path)
    before = [(path, path.stat().st_ctime_ns) for path in (content, content.parent)]
    made(tmp_path, {"lock": OLD})
    assert [(path, path.stat().st_ctime_ns) for path in (content, content.parent)] == before
    table = tomllib.loads((tmp_path / "modules.toml").read_text())
    assert table["types"] == {"launch": True, "build": False, "cache": True}


def test_a_changed_digest_replaces_the_layer_and_is_named_by_its_first_digits(tmp_path: Path) -> None:
    (made(tmp_path, {"package-lock.json": OLD}).path / "stale").write_text("x")
    layer = made(tmp_path, {"package-lock.json": NEW})
    assert str(layer.decision) == "replaced: package-lock.json changed (sha256 ab12cd34… → sha256 00112233…)"
    assert list(layer.path.iterdir()) == []


def test_every_change_is_a_cause(tmp_path: Path) -> None:
    made(tmp_path, {"node": "16.20.1", "lock": OLD})
    layer = made(tmp_path, {"node": "16.20.2", ".npmrc": NEW})
    assert layer.decision == Replaced(("node changed (16.20.1 → 16.20.2)", ".npmrc is new", "lock is gone"))


def test_a_wish_to_renew_replaces_a_layer_whose_key_is_the_same(tmp_path: Path) -> None:
    made(tmp_path, {"node": "16"})
    assert made(tmp_path, {"node": "16"}, renew="BP_X asks").decision == Replaced(("BP_X asks",))


def test_a_layer_of_which_only_what_it_follows_has_changed_is_outdated_and_as_it_was(tmp_path: Path) -> None:
    (made(tmp_path, {"node": "16", "lock": OLD}).path / "file").write_text("x")
    (tmp_path / "modules.sbom.cdx.json").touch()
    layer = made(tmp_path, {"node": "16", "lock": NEW}, follows=("lock",))
    assert layer.decision == Outdated(
        ("lock changed (sha256 ab12cd34… → sha256 00112233…)",), {"node": "16", "lock": OLD}
    )
    assert str(layer.decision).startswith("outdated: lock changed")
    assert not layer.kept
    assert (layer.path / "file").read_text() == "x"
    assert not (tmp_path / "modules.sbom.cdx.json").exists()
    layer.empty()
    assert list(layer.path.iterdir()) == []
    assert made(tmp_path, {"node": "16", "lock": NEW}, follows=("lock",)).kept


@pytest.mark.parametrize(
    ("key", "renew"),
    [
        ({"node": "18", "lock": NEW}, ""),
        ({"node": "16", "lock": NEW, ".npmrc": NEW}, ""),
        ({"lock": NEW}, ""),
        ({"node": "16", "lock": NEW}, "it is asked for"),
    ],
    ids=["another changed, too", "one is new", "one is gone", "renewed"],
)
def test_any_other_change_empties_a_layer_that_follows_something(
    tmp_path: Path, key: dict[str, str], renew: str
) -> None:
    (made(tmp_path, {"node": "16", "lock": OLD}).path / "file").write_text("x")
    layer = made(tmp_path, key, renew=renew, follows=("lock",))
    assert isinstance(layer.decision, Replaced)
    assert list(layer.path.iterdir()) == []


def test_what_was_not_restored_is_not_outdated(tmp_path: Path) -> None:
    made(tmp_path, {"lock": OLD}).path.rmdir()
    assert isinstance(made(tmp_path, {"lock": NEW}, follows=("lock",)).decision, Replaced)
    built = Types(build=True)
    made(tmp_path, {"lock": OLD}, built)
    assert isinstance(made(tmp_path, {"lock": NEW}, built, follows=("lock",)).decision, Replaced)


def test_what_a_layer_follows_is_in_its_key(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="follows 'lock', which is not in its key"):
        made(tmp_path, {"node": "16"}, follows=("lock",))
    with pytest.raises(BuildError, match="not a tuple"):
        made(tmp_path, {"node": "16"}, follows="node")  # type: ignore[arg-type]


def test_a_launch_only_layer_is_kept_without_its_directory(tmp_path: Path) -> None:
    types = Types(launch=True)
    made(tmp_path, {"name": "app"}, types).path.rmdir()
    layer = made(tmp_path, {"name": "app"}, types)
    assert layer.kept
    assert not layer.path.exists()


def test_a_cached_layer_without_its_directory_is_replaced(tmp_path: Path) -> None:
    made(tmp_path, {"name": "app"}).path.rmdir()
    assert made(tmp_path, {"name": "app"}).decision == Replaced(("its directory was not restored",))


@pytest.mark.parametrize("types", [Types(build=True), Types(launch=True, build=True)])
def test_a_layer_that_is_never_restored_is_not_kept(tmp_path: Path, types: Types) -> None:
    made(tmp_path, {"name": "app"}, types)
    assert made(tmp_path, {"name": "app"}, types).decision == Replaced(("it is not cached",))


@pytest.mark.parametrize("content", ["", "[metadata]\nsha = 'x'\n", "[metadata\n", "metadata = 1\n", "\xff"])
def test_metadata_of_another_buildpack_or_no_metadata_makes_a_new_layer(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.toml").write_text(content, encoding="latin-1")
    assert made(tmp_path, {"name": "app"}).decision == Replaced()


def test_replacing_a_layer_drops_its_bills_of_material(tmp_path: Path) -> None:
    made(tmp_path, {"lock": OLD})
    (tmp_path / "modules.sbom.cdx.json").write_text("{}")
    made(tmp_path, {"lock": OLD})
    assert (tmp_path / "modules.sbom.cdx.json").exists()
    made(tmp_path, {"lock": NEW})
    assert not (tmp_path / "modules.sbom.cdx.json").exists()


def test_a_link_in_the_place_of_a_layer_is_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    layers = tmp_path / "layers"
    layers.mkdir()
    (layers / "modules").symlink_to(outside)
    assert made(layers, {"lock": OLD}).path.is_dir()
    assert not (layers / "modules").is_symlink()
    assert (outside / "precious").exists()


@pytest.mark.parametrize("name", ["build", "launch", "store", "a/b", "..", ".", "", "a\0b"])
def test_a_name_that_no_layer_can_have_is_refused_and_nothing_is_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").touch()
    (tmp_path / "layers").mkdir()
    with pytest.raises(BuildError, match="the name of a layer"):
        take_layer(tmp_path / "layers", name, LayerRequest(CACHED, {"a": "1"}))
    assert (tmp_path / "precious").exists() and list((tmp_path / "layers").iterdir()) == []


def test_a_layer_whose_name_looks_like_a_pattern_leaves_the_bills_of_others(tmp_path: Path) -> None:
    (tmp_path / "modules.sbom.cdx.json").touch()
    take_layer(tmp_path, "*", LayerRequest(CACHED, {"a": "1"}))
    assert (tmp_path / "modules.sbom.cdx.json").exists()


def test_variables_become_files_by_phase_process_and_action(tmp_path: Path) -> None:
    layer = made(tmp_path, {"lock": OLD}, Types(launch=True, build=True))
    layer.set_env("A", "1")
    layer.set_env("PATH", "/x/bin", action="prepend", delimiter=":", phase="launch")
    layer.set_env("B", "2", action="default", phase="launch", process="web")
    layer.set_env("C", "3", action="append", delimiter="", phase="build")
    files = {
        str(path.relative_to(layer.path)): path.read_text()
        for path in layer.path.rglob("*")
        if path.is_file()
    }
    assert files == {
        "env/A.override": "1",
        "env.launch/PATH.prepend": "/x/bin",
        "env.launch/PATH.delim": ":",
        "env.launch/web/B.default": "2",
        "env.build/C.append": "3",
    }


def test_an_exec_d_program_is_executable(tmp_path: Path) -> None:
    source = tmp_path / "memory"
    source.write_text("#!/bin/sh\n")
    layer = made(tmp_path, {"lock": OLD})
    layer.add_exec_d(source, name="10-memory", process="web")
    assert (layer.path / "exec.d/web/10-memory").stat().st_mode & 0o777 == 0o755


def test_writing_into_a_kept_layer_is_refused(tmp_path: Path) -> None:
    made(tmp_path, {"lock": OLD})
    layer = made(tmp_path, {"lock": OLD})
    with pytest.raises(BuildError, match="which it keeps"):
        layer.set_env("A", "1")
