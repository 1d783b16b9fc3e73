"""Kept layers under an overlay mount, and as copies: captured is what a plain directory would have become.

Each example edits a plain directory and what the cache shows in the same way, as a build does, for several
builds in a row. The mounts are made in a child with a user and a mount namespace of its own, as bubblewrap
makes them.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packhorse.base.digest import Digest
from packhorse.base.sandbox import Overlay
from packhorse.errors import TreeError
from packhorse.fs.rooted import RootedTree
from packhorse.linux.userns import IdMap, MapMode, choose_map
from packhorse.store.build_layers import CopyLayerCache, OverlayLayerCache
from packhorse.store.layer_cache import LayerCounters
from packhorse.store.store import Store
from packhorse.tar.writer import TarEntry, digest, directory_entries, stream

LAYERS = ("/layers/bp/one", "/layers/bp/two", "/layers/other/one")

Edit = tuple[str, str, str]

# What buildpacks do to their layers. A failing edit fails alike in both places, and is passed over.
EDITS = """
import json, os, shutil, subprocess, sys
def mount(overlay, target):
    options = "userxattr,lowerdir=" + ":".join(reversed(overlay["lowers"]))
    options += ",upperdir=" + overlay["upper"] + ",workdir=" + overlay["work"]
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, target], check=True)
def edit(verb, path, other):
    if verb == "write":
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file: file.write(other)
    elif verb == "append":
        with open(path, "a") as file: file.write(other)
    elif verb == "truncate":
        os.truncate(path, 1)
    elif verb == "mkdir": os.makedirs(path)
    elif verb == "remove":
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    elif verb == "replace":
        shutil.rmtree(path)
        os.makedirs(path)
    elif verb == "move":
        if not os.path.lexists(other) and os.path.isdir(os.path.dirname(other)): shutil.move(path, other)
    elif verb == "rename": os.rename(path, other) if not os.path.isdir(path) else None
    elif verb == "symlink": os.symlink(other, path)
    elif verb == "link": os.link(path, other, follow_symlinks=False)
    elif verb == "mode": os.chmod(path, int(other, 8)) if not os.path.islink(path) else None
    elif verb == "touch": os.utime(path)
os.umask(0o022)
for line in sys.stdin:
    job = json.loads(line)
    if job["overlay"]: mount(job["overlay"], job["root"])
    os.chdir(job["root"])
    for verb, path, other in job["edits"]:
        try: edit(verb, path, other)
        except (OSError, shutil.Error): pass
    os.chdir("/")
    if job["overlay"]: subprocess.run(["umount", job["root"]], check=True)
    print("done", flush=True)
"""

BUILDPACKS = st.sampled_from(["bp", "bp", "other"])
DIRECTORIES = st.sampled_from(["bp/one", "bp/one", "bp/two", "other/one"])
INNER = st.builds("{}/{}".format, DIRECTORIES, st.sampled_from(["a", "b", "b/c", "b/d", "e"]))
PATHS = st.one_of(INNER, INNER, INNER, DIRECTORIES, BUILDPACKS)
EDIT: st.SearchStrategy[Edit] = st.one_of(
    st.tuples(st.just("write"), INNER, st.sampled_from(["", "one", "another"])),
    st.tuples(st.just("append"), INNER, st.just("more")),
    st.tuples(st.sampled_from(["remove", "replace"]), PATHS, st.just("")),
    st.tuples(st.sampled_from(["mkdir", "touch", "truncate"]), INNER, st.just("")),
    st.tuples(st.sampled_from(["move", "rename", "link"]), PATHS, INNER),
    st.tuples(st.just("symlink"), INNER, st.sampled_from(["a", "/no/such/place", "../no-such"])),
    st.tuples(st.just("mode"), INNER, st.sampled_from(["755", "700", "4755", "555", "400", "200", "0"])),
)
BUILD = st.lists(st.lists(EDIT, min_size=2, max_size=8), min_size=1, max_size=2)

FIRST: list[Edit] = [
    ("write", f"{layer}/{name}", f"{layer} {name}")
    for layer in ("bp/one", "bp/two", "other/one")
    for name in ("a", "b/c", "b/d", "f")
]


def run(edits: list[Edit], root: Path, overlay: Overlay | None) -> None:
    job = {
        "edits": edits,
        "root": str(root),
        "overlay": overlay
        and {
            "lowers": [str(lower) for lower in overlay.lowers],
            "upper": str(overlay.upper),
            "work": str(overlay.work),
        },
    }
    editor = _editor()
    assert editor.stdin is not None and editor.stdout is not None
    editor.stdin.write(json.dumps(job) + "\n")
    editor.stdin.flush()
    assert editor.stdout.readline() == "done\n"


@functools.cache
def _editor() -> subprocess.Popen[str]:
    """A process that edits for all tests, as the root of a user namespace of its own; ends with this one."""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-I", "-S", "-c", EDITS]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


Kind = Literal["overlay", "copies"]
KINDS: tuple[Kind, ...] = ("overlay", "copies")
Cache = OverlayLayerCache | CopyLayerCache


def layers(kind: Kind, store: Store, idmap: IdMap, scratch: Path) -> Cache:
    make = store.open_layers if kind == "overlay" else store.open_layer_copies
    return make("app", idmap, uid=1000, gid=1000, scratch=scratch)


def build(edits: list[Edit], cache: Cache, target: Path) -> None:
    """Edits what buildpacks are shown, with the overlay, if it is one, at `target`."""
    [mount] = cache.mounts()
    if isinstance(mount, Overlay):
        run(edits, target, mount)
    else:
        run(edits, mount.source, None)


def plain(root: Path, path: str) -> Digest | None:
    """The diff ID of the layer that a plain directory makes; None when it is no directory."""
    top, parent = "/layers", path.rpartition("/")[0]
    parents = [TarEntry.directory(name, uid=1000, gid=1000) for name in (top, parent)]
    with RootedTree.open_local(root) as view:
        try:
            return digest(stream(directory_entries(view, path, uid=1000, gid=1000, parents=parents)))[0]
        except TreeError:
            return None


def captured(overlay: Cache, view: RootedTree, path: str) -> tuple[Digest | None, bool]:
    try:
        layer, untouched = overlay.capture(view, path)
    except TreeError:
        return None, False
    assert layer.diff_id == digest(layer.tar())[0]
    return layer.diff_id, untouched


@pytest.fixture(scope="module")
def idmap() -> IdMap:
    return choose_map(1000, 1000, mode=MapMode.SINGLE)


@contextmanager
def workplace() -> Iterator[tuple[Store, Path, Path]]:
    """A store, a plain root directory with /layers in it, and a mount point."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        root, mount = Path(temporary, "plain"), Path(temporary, "mount")
        (root / "layers").mkdir(parents=True)
        mount.mkdir()
        with Store.open(Path(temporary, "store")) as store:
            yield store, root, mount


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(builds=st.lists(BUILD, min_size=1, max_size=3))
def test_layers_of_several_builds_are_what_plain_directories_become(
    idmap: IdMap, kind: Kind, builds: list[list[list[Edit]]]
) -> None:
    with workplace() as (store, root, mount), RootedTree.open_local(mount) as view:
        recorded: dict[str, Digest] = {}
        for steps in [[FIRST], *builds]:
            with store.scratch() as scratch:
                cache = layers(kind, store, idmap, scratch)
                for path, diff_id in recorded.items():
                    assert cache.restore(path, diff_id)
                for edits in steps:
                    run(edits, root / "layers", None)
                    build(edits, cache, mount)
                restored, recorded = recorded, {}
                for path in LAYERS:
                    expected = plain(root, path)
                    found, untouched = captured(cache, view, path)
                    assert found == expected, path
                    assert not untouched or restored.get(path) == expected
                    if found is not None:
                        recorded[path] = found
                cache.commit(b"", recorded)
            # Only layers are kept: what else the plain directory has goes, as it does between builds.
            for entry in (root / "layers").iterdir():
                if not entry.is_dir() or entry.is_symlink():
                    entry.unlink()
                    continue
                for layer in entry.iterdir():
                    if f"/layers/{entry.name}/{layer.name}" not in recorded:
                        run([("remove", f"{entry.name}/{layer.name}", "")], root / "layers", None)
                if not any(entry.iterdir()):
                    entry.rmdir()


CHANGED, SAME, UNTOUCHED = LayerCounters(changed=1), LayerCounters(same=1), LayerCounters(untouched=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("edits", "outcome"),
    [
        ([], UNTOUCHED),
        ([("write", "bp/one.toml", "types"), ("write", "bp/three/a", "new")], UNTOUCHED),
        ([("append", "bp/one/a", "a")], CHANGED),
        ([("write", "bp/one/a", "bp/one B")], CHANGED),
        ([("remove", "bp/one/b", "")], CHANGED),
        ([("mode", "bp/one/b", "700")], CHANGED),
        ([("mode", "bp/one/b", "0")], CHANGED),
        ([("mode", "bp/one/b/c", "200")], CHANGED),
        ([("mode", "bp/one", "0")], CHANGED),
        ([("mkdir", "bp/one/e", "")], CHANGED),
        ([("replace", "bp/one/b", "")], CHANGED),
        ([("remove", "bp/one/a", ""), ("symlink", "bp/one/a", "b")], CHANGED),
        ([("touch", "bp/one/a", ""), ("mode", "bp/one/b/c", "644")], SAME),
        ([("mode", "bp/one/b", "700"), ("mode", "bp/one/b", "755")], SAME),
        ([("remove", "bp/one/b", ""), *FIRST], SAME),
        ([("remove", "bp/one", ""), *FIRST], SAME),
        ([("remove", "bp", ""), *FIRST], SAME),
        ([("remove", "bp", ""), ("write", "bp/one/a", "bp/one a")], CHANGED),
        ([("write", "bp/one/n", ""), ("remove", "bp/one/n", "")], SAME),
        ([("mode", "bp/one", "0"), ("mode", "bp/one", "755")], SAME),
    ],
)
def test_a_layer_has_changed_only_if_its_tar_has(
    idmap: IdMap, kind: Kind, edits: list[Edit], outcome: LayerCounters
) -> None:
    kept = Digest.of(b"")
    with workplace() as (store, root, mount), RootedTree.open_local(mount) as view:
        for number, step in enumerate((FIRST, edits, [])):
            with store.scratch() as scratch:
                cache = layers(kind, store, idmap, scratch)
                if number:
                    assert cache.restore("/layers/bp/one", kept)
                run(step, root / "layers", None)
                build(step, cache, mount)
                layer, same = cache.capture(view, "/layers/bp/one")
                assert layer.diff_id == plain(root, "/layers/bp/one")
                expected = (CHANGED, outcome, UNTOUCHED)[number]
                assert replace(cache.counters, hashed=0, linked=0, copied=0) == expected
                assert same == (expected != CHANGED)
                kept = layer.diff_id or kept


@pytest.mark.parametrize("kind", KINDS)
def test_captured_layers_are_there_in_the_next_step_and_can_change_again(idmap: IdMap, kind: Kind) -> None:
    with (
        workplace() as (store, root, mount),
        RootedTree.open_local(mount) as view,
        store.scratch() as scratch,
    ):
        cache = layers(kind, store, idmap, scratch)
        more: list[Edit] = [
            ("remove", "bp/one/b/c", ""),
            ("append", "bp/one/a", "z"),
            ("mkdir", "bp/one/e", ""),
        ]
        for edits in (FIRST, more):
            run(edits, root / "layers", None)
            build(edits, cache, mount)
            layer, untouched = cache.capture(view, "/layers/bp/one")
            assert not untouched
            assert layer.diff_id == plain(root, "/layers/bp/one")
        assert cache.counters.linked > 0 or kind == "copies"


@pytest.mark.parametrize("kind", KINDS)
def test_more_layers_than_a_mount_has_lowers_are_all_there(idmap: IdMap, kind: Kind) -> None:
    paths = [f"/layers/bp{number}/{'n' * 60}{number}" for number in range(70)]
    writes: list[Edit] = [("write", f"{path.removeprefix('/layers/')}/file", path) for path in paths]
    with workplace() as (store, root, mount), RootedTree.open_local(mount) as view:
        with store.scratch() as scratch:
            cache = layers(kind, store, idmap, scratch)
            build(writes, cache, mount)
            run(writes, root / "layers", None)
            kept = [(path, cache.capture(view, path)[0].diff_id) for path in paths]
        with store.scratch() as scratch:
            cache = layers(kind, store, idmap, scratch)
            for path, diff_id in kept:
                assert diff_id and cache.restore(path, diff_id)
            more: list[Edit] = [
                ("append", f"{path.removeprefix('/layers/')}/file", "!") for path in paths[::10]
            ]
            build(more, cache, mount)
            run(more, root / "layers", None)
            for number, path in enumerate(paths):
                layer, untouched = cache.capture(view, path)
                assert layer.diff_id == plain(root, path)
                assert untouched == (number % 10 != 0)


def test_a_scratch_directory_goes_with_the_work_directories_in_it(idmap: IdMap) -> None:
    with workplace() as (store, _, mount):
        with store.scratch() as scratch:
            overlay = store.open_layers("app", idmap, uid=1000, gid=1000, scratch=scratch)
            run(FIRST, mount, overlay.mounts()[0])
            work = overlay.mounts()[0].work
            assert work and os.listdir(work)
        assert not scratch.exists()
