"""Root trees made of image layers, in real user namespaces, with the ids that the invoking user can have."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fakes.small_image import fresh_image
from packhorse.errors import FormatError, StoreError
from packhorse.fs.rooted import RootedTree
from packhorse.linux import userns
from packhorse.linux.userns import IdMap, MapMode, choose_map
from packhorse.oci.place import Image, push_image
from packhorse.oci.types import Config
from packhorse.store import userns_jobs
from packhorse.store.store import Store

SOURCE = Path(sys.modules["packhorse"].__path__[0]).parent
TIME = 1_500_000_000


def modes() -> list[MapMode]:
    best = choose_map(1000, 1000).mode
    return [best] if best is not MapMode.RANGE else [MapMode.RANGE, MapMode.SINGLE]


@pytest.fixture(params=modes(), ids=lambda mode: mode.value)
def idmap(request: pytest.FixtureRequest) -> IdMap:
    return choose_map(1000, 1000, mode=request.param)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened
    # What belongs to subordinate ids pytest could not remove.
    with Store.open(tmp_path / "store") as opened:
        for image in opened.images():
            opened.remove(str(image.name))
        opened.gc()


def layer(*entries: tuple[str, str | bytes | int | None], uid: int = 0, mode: int = 0o644) -> bytes:
    """A tar: bytes make a file, text a link, a number a directory of this mode, None a hard link to /a."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, value in entries:
            info = tarfile.TarInfo(name)
            info.mtime, info.uid, info.gid, info.mode = TIME, uid, uid, mode
            content = b""
            if isinstance(value, bytes):
                info.size, content = len(value), value
            elif isinstance(value, str):
                info.type, info.linkname = tarfile.SYMTYPE, value
            elif value is None:
                info.type, info.linkname = tarfile.LNKTYPE, "a"
            else:
                info.type, info.mode = tarfile.DIRTYPE, value
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def stored(store: Store, *layers: bytes) -> Image:
    push_image(fresh_image(*layers), store.place("image"))
    return store.place("image").read()


def names(root: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(top, name), root)
        for top, directories, files in os.walk(root)
        for name in (*directories, *files)
    }


def owner(path: Path, idmap: IdMap) -> tuple[int, int]:
    status = path.lstat()
    return idmap.to_inside(status.st_uid, status.st_gid)


def trees(store: Store) -> list[Path]:
    return [path for kind in ("trees", "roots") for path in store.path.glob(f"{kind}/*/*") if path.is_dir()]


def test_whiteouts_hide_what_is_below_and_nothing_else(store: Store, idmap: IdMap) -> None:
    image = stored(
        store,
        layer(
            ("etc/gone", b""), ("etc/stays", b""), ("var/lib/old/x", b""), ("var/lib/old/y", b""), ("f", b"")
        ),
        layer(
            ("etc/.wh.gone", b""), ("var/lib/old/.wh..wh..opq", b""), ("var/lib/old/new", b""), (".wh.f", b"")
        ),
        layer(("f/in/a/directory", b""), ("var/.wh.lib", b""), ("var/lib/again", b"")),
    )
    assert names(store.root(image, idmap)) == {
        *("etc", "etc/stays", "f", "f/in", "f/in/a", "f/in/a/directory", "var", "var/lib", "var/lib/again")
    }


def test_modes_owners_times_and_hard_links_are_the_layers(store: Store, idmap: IdMap) -> None:
    image = stored(
        store,
        layer(("a", b"#!"), ("hard", None), ("tmp", 0o1777), mode=0o4755),
        layer(("home/cnb", 0o750), ("home/cnb/f", b""), ("home/link", "/etc/shadow"), uid=1000),
    )
    root = store.root(image, idmap)
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o4755
    assert (root / "a").stat().st_ino == (root / "hard").stat().st_ino
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((root / "home/cnb").stat().st_mode) == 0o750
    assert os.readlink(root / "home/link") == "/etc/shadow"
    for name in ("a", "tmp", "home/link", "home/cnb"):
        assert (root / name).lstat().st_mtime == TIME
    if idmap.mode is not MapMode.SINGLE:
        assert owner(root, idmap) == owner(root / "a", idmap) == (0, 0)
        assert owner(root / "home/cnb", idmap) == owner(root / "home/link", idmap) == (1000, 1000)
    assert stat.S_IMODE(root.stat().st_mode) == 0o755


def test_a_file_of_an_owner_that_no_sandbox_has_is_named(store: Store, idmap: IdMap) -> None:
    last = stored(store, layer(("file", b""), uid=65535))
    assert names(store.root(last, idmap)) == {"file"}
    image = stored(store, layer(("a", b""), ("b/file", b""), uid=65536))
    if idmap.mode is MapMode.SINGLE:
        assert names(store.root(image, idmap)) == {"a", "b", "b/file"}
        return
    with pytest.raises(StoreError) as told:
        store.root(image, idmap)
    assert told.value.what == "a belongs to 65536:65536, which no sandbox has"
    assert told.value.why == "a sandbox has the ids 0 to 65535"
    assert not told.value.check, "more subordinate ids do not help"


def test_a_layer_that_only_passes_through_a_directory_leaves_it_as_it_is(store: Store, idmap: IdMap) -> None:
    image = stored(
        store,
        layer(("tmp", 0o1777), ("ro", 0o555), ("ro/a", b""), ("tmp/gone", b"")),
        layer(("tmp/file", b""), ("tmp/.wh.gone", b""), ("ro/b", b""), ("new/deep/file", b"")),
    )
    root = store.root(image, idmap)
    assert names(root) == {"tmp", "tmp/file", "ro", "ro/a", "ro/b", "new", "new/deep", "new/deep/file"}
    for name, mode in (("tmp", 0o1777), ("ro", 0o555), ("new", 0o755)):
        assert stat.S_IMODE((root / name).stat().st_mode) == mode
    assert (root / "tmp").stat().st_mtime == TIME


def test_one_layer_may_be_in_an_image_twice(store: Store, idmap: IdMap) -> None:
    first = layer(("etc/a", b"first"))
    root = store.root(stored(store, first, layer(("etc/.wh.a", b""), ("b", b"")), first), idmap)
    assert (root / "etc/a").read_bytes() == b"first"
    assert (root / "b").exists()


def test_an_image_of_one_layer_needs_no_second_tree(store: Store, idmap: IdMap) -> None:
    root = store.root(stored(store, layer(("etc/a", b"first"))), idmap)
    assert names(root) == {"etc", "etc/a"}
    assert len(trees(store)) == 1


def test_a_root_is_made_once(store: Store, idmap: IdMap) -> None:
    image = stored(store, layer(("a", b"")), layer(("b", b"")))
    root = store.root(image, idmap)
    made = root.stat().st_ino
    for blob in (store.path / "blobs/sha256").iterdir():
        blob.unlink()
    with Store.open(store.path) as other:
        assert other.root(image, idmap) == root
    assert root.stat().st_ino == made


def test_layers_are_shared_by_the_roots_of_different_images(store: Store, idmap: IdMap) -> None:
    base = layer(("base", bytes(1000)))
    one = store.root(stored(store, base, layer(("one", b""))), idmap)
    two = store.root(stored(store, base, layer(("two", b""))), idmap)
    assert one != two
    assert (one / "base").stat().st_ino == (two / "base").stat().st_ino


def test_a_root_asked_for_by_many_at_once_is_made_by_one(store: Store, idmap: IdMap) -> None:
    image = stored(store, *(layer((f"file{number}", bytes(10_000))) for number in range(6)))

    def ask(_: int) -> tuple[Path, int]:
        with Store.open(store.path) as own:
            root = own.root(image, idmap)
            return root, root.stat().st_ino

    with ThreadPoolExecutor(4) as pool:
        answers = set(pool.map(ask, range(4)))
    assert len(answers) == 1
    assert len(trees(store)) == 7


@pytest.mark.parametrize("change", ["boot", "tree", "record"])
def test_a_tree_that_cannot_be_relied_on_is_made_again(store: Store, idmap: IdMap, change: str) -> None:
    image = stored(store, layer(("a", b"right")), layer(("b", b"")))
    root = store.root(image, idmap)
    for tree in trees(store):
        beside = tree.with_name(f"{tree.name}.json")
        if change == "boot":
            beside.write_text(json.dumps(json.loads(beside.read_text()) | {"boot": "an earlier one"}))
        elif change == "record":
            beside.write_text("{")
        else:
            tree.rename(tree.with_name(f".{os.getpid()}-00000000.{tree.name[:8]}"))
            tree.mkdir()
            (tree / "planted").write_text("")
    with Store.open(store.path) as other:
        again = other.root(image, idmap)
    assert again == root
    assert names(root) == {"a", "b"}
    assert (root / "a").read_bytes() == b"right"


@pytest.mark.parametrize(
    "bad",
    [
        layer(("../../escaped", b"")),
        layer(("a", b"x"))[:512],
        b"no tar at all" * 100,
    ],
    ids=["leaves-the-tree", "broken-off", "no-tar"],
)
def test_a_layer_that_is_no_layer_is_refused_and_leaves_nothing(
    store: Store, idmap: IdMap, tmp_path: Path, bad: bytes
) -> None:
    image = stored(store, bad)
    with pytest.raises(FormatError):
        store.root(image, idmap)
    assert trees(store) == []
    assert not list(tmp_path.rglob("escaped"))


def test_links_in_a_layer_lead_nowhere_outside(store: Store, idmap: IdMap, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    image = stored(store, layer(("door", str(outside)), ("door/planted", b"")), layer(("door/.wh.x", b"")))
    root = store.root(image, idmap)
    assert list(outside.iterdir()) == []
    assert root.exists()


def test_bytes_that_changed_in_the_store_never_become_a_tree(store: Store, idmap: IdMap) -> None:
    image = stored(store, layer(("a", b"right")))
    diff_id = image.config.diff_ids[0]
    blob = store.path / "blobs/sha256" / diff_id.hex
    blob.write_bytes(blob.read_bytes().replace(b"right", b"wrong"))
    with pytest.raises(StoreError, match="damaged"):
        store.root(image, idmap)
    assert trees(store) == []


def test_trees_of_an_image_that_is_gone_are_removed(tmp_path: Path, idmap: IdMap) -> None:
    path = tmp_path / "gone"
    with Store.open(path) as store:
        shut = layer(("root", 0o700), ("root/ro", 0o555), ("root/ro/a", bytes(50_000)))
        store.root(stored(store, shut, layer(("root", 0o700))), idmap)
        store.remove("image")
        with Store.open(path) as other:
            assert other.gc().trees == 0, "the first may still use them"
    with Store.open(path) as store:
        freed = store.gc()
        assert freed.trees == 3
        assert freed.bytes > 50_000
        assert trees(store) == []


def test_a_process_killed_while_it_unpacks_leaves_nothing_that_is_believed(
    store: Store, idmap: IdMap
) -> None:
    image = stored(store, layer(("a", b"right")), layer(("b", bytes(200_000_000))))
    program = f"""
import sys
sys.path[:0] = {[str(SOURCE), *sys.path]!r}
from pathlib import Path
from packhorse.linux.userns import MapMode, choose_map
from packhorse.store.store import Store
store = Store.open(Path({str(store.path)!r}))
store.root(store.place("image").read(), choose_map(1000, 1000, mode=MapMode({idmap.mode.value!r})))
"""
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while not [file for file in store.path.glob("trees/*/.*/b") if file.stat().st_size]:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    with Store.open(store.path) as other:
        root = other.root(image, idmap)
        assert (root / "a").read_bytes() == b"right"
        assert (root / "b").stat().st_size == 200_000_000
        assert other.gc().unfinished >= 1
        assert len(trees(other)) == 3


def test_a_file_that_is_called_like_a_whiteout_is_one_in_the_root(store: Store, idmap: IdMap) -> None:
    """Its layer was kept by a build as it is; in the layer's tar, of which the root is made, it hides."""
    with store.scratch() as scratch, RootedTree.open_local(scratch) as view:
        overlay = store.open_layers("app", idmap, uid=1000, gid=1000, scratch=scratch)
        upper = overlay.mounts()[0].upper
        assert upper
        (upper / "bp/one").mkdir(parents=True)
        (upper / "bp/one/.wh.gone").touch()
        for path in (upper / "bp", upper / "bp/one", upper / "bp/one/.wh.gone"):
            os.chown(path, *idmap.to_outside(1000, 1000))
        kept, _ = overlay.capture(view, "/layers/bp/one")
    below = stored(store, layer(("layers/bp/one/gone", b""), ("layers/bp/one/stays", b"")))
    config = json.loads(below.config.raw)
    config["rootfs"]["diff_ids"].append(str(kept.diff_id))
    image = Image(Config.parse(json.dumps(config).encode()), (*below.layers, kept))
    place = store.place("image")
    place.write_layer(kept)
    place.write_image(image)
    root = store.root(store.place("image").read(), idmap)
    assert names(root / "layers/bp") == {"one", "one/stays"}


def many_layers(count: int) -> list[bytes]:
    return [layer((f"opt/{number}", b"x" * number)) for number in range(count)]


def test_many_layers_are_unpacked_by_a_few_processes(
    store: Store, idmap: IdMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, spawn = [], userns.spawn

    def counted(words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(words)
        return spawn(words, **options)

    monkeypatch.setattr(userns, "spawn", counted)
    root = store.root(stored(store, *many_layers(30)), idmap)
    assert names(root) == {"opt", *(f"opt/{number}" for number in range(30))}
    assert len(started) <= 3


def test_of_many_layers_the_ones_before_a_broken_one_stay_unpacked(store: Store, idmap: IdMap) -> None:
    layers = many_layers(6)
    image = stored(store, *layers[:5], layers[5][:514])
    with pytest.raises(FormatError, match="cannot be unpacked"):
        store.root(image, idmap)
    before = {
        path.name: path.stat().st_ino for path in store.path.glob(f"trees/{idmap.key}/[!.]*") if path.is_dir()
    }
    assert len(before) >= 3
    store.root(stored(store, *layers), idmap)
    after = {
        path.name: path.stat().st_ino for path in store.path.glob(f"trees/{idmap.key}/[!.]*") if path.is_dir()
    }
    assert before.items() <= after.items()


def test_a_killed_command_has_the_layers_that_it_had_unpacked(store: Store, idmap: IdMap) -> None:
    image = stored(store, *many_layers(200))
    home = store.path / "trees" / idmap.key
    script = (
        "import sys; sys.path[:0] = sys.argv[1:2]\n"
        "from pathlib import Path; from packhorse.linux.userns import MapMode, choose_map\n"
        "from packhorse.store.store import Store\n"
        "store = Store.open(Path(sys.argv[2]))\n"
        "image = store.place('image').read()\n"
        "store.root(image, choose_map(1000, 1000, mode=MapMode(sys.argv[3])))\n"
    )
    words = [sys.executable, "-c", script, str(SOURCE), str(store.path), idmap.mode.value]
    with subprocess.Popen(words) as process:
        while process.poll() is None and len(list(home.glob("*.json"))) < 20:
            pass
        process.kill()
    done = {path.name: path.with_suffix("").stat().st_ino for path in home.glob("*.json")}
    assert len(done) >= 20
    store.root(image, idmap)
    assert done == {name: (home / name).with_suffix("").stat().st_ino for name in done}


def test_a_user_with_one_id_unpacks_a_root_once_whatever_the_id_is_inside(store: Store) -> None:
    image = stored(store, layer(("a", b"1")), layer(("b", b"2")))
    roots = {store.root(image, choose_map(uid, uid, mode=MapMode.SINGLE)) for uid in (1000, 0)}
    assert len(roots) == 1
    assert names(roots.pop()) == {"a", "b"}


def test_an_image_without_layers_or_without_its_layer_has_no_root(store: Store, idmap: IdMap) -> None:
    image = stored(store, layer(("file", b"")))
    with pytest.raises(StoreError, match="without layers"):
        store.root(Image(fresh_image().config, ()), idmap)
    for path in (store.path / "blobs/sha256").iterdir():
        path.unlink()
    with pytest.raises(StoreError, match="is not in the store"):
        store.root(image, idmap)


def test_what_the_system_refuses_a_child_is_told_as_its_parent_would(store: Store, idmap: IdMap) -> None:
    directory = os.open(store.path / "trees", os.O_RDONLY)
    try:
        with (
            userns.make_namespace(idmap) as namespace,
            pytest.raises(StoreError, match="cannot be used") as told,
        ):
            userns_jobs.run(
                ["remove", str(directory), "x" * 300],
                where=store.path / "trees",
                namespace=namespace,
                lease=store._lease,
                directories=[directory],
            )
    finally:
        os.close(directory)
    assert told.value.why == "File name too long"
