from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from packhorse.errors import NotFoundError
from packhorse.fs.rooted import RootedTree
from packhorse.linux.userns import MapMode, choose_map
from packhorse.oci.place import Image
from packhorse.store.gc import FreedSpace
from packhorse.store.store import Store
from packhorse.tar.slices import Piece
from unit.store import samples

SOURCE = Path(sys.modules["packhorse"].__path__[0]).parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def put(path: Path, name: str, image: Image) -> None:
    with Store.open(path) as store:
        place = store.place(name)
        for layer in image.layers:
            place.write_layer(layer)
        place.write_image(image)


def collect(path: Path) -> FreedSpace:
    with Store.open(path) as store:
        return store.gc()


def blobs(path: Path) -> int:
    return len(list((path / "blobs/sha256").iterdir()))


def keep(path: Path, *, recorded: bool, content: bytes = bytes(50_000), app: str = "app") -> None:
    """Builds once, with one layer, and records it for the next build or not."""
    with Store.open(path) as store, store.scratch() as scratch, RootedTree.open_local(scratch) as view:
        idmap = choose_map(1000, 1000, mode=MapMode.SINGLE)
        overlay = store.open_layers(app, idmap, uid=1000, gid=1000, scratch=scratch)
        upper = overlay.mounts()[0].upper
        assert upper
        (upper / "bp/one").mkdir(parents=True)
        (upper / "bp/one/file").write_bytes(content)
        layer, _ = overlay.capture(view, "/layers/bp/one")
        if recorded and layer.diff_id:
            overlay.commit(b"", {"/layers/bp/one": layer.diff_id})


def test_what_a_name_leads_to_stays(path: Path) -> None:
    put(path, "app", samples.image(samples.plain(b"one"), samples.gzipped(b"two")))
    put(path, "whole", samples.image(samples.gzipped(b"two")))
    before = blobs(path)
    assert collect(path) == FreedSpace()
    assert blobs(path) == before
    with Store.open(path) as store:
        for name in ("app", "whole"):
            for layer in store.place(name).read().layers:
                assert b"".join(layer.tar())


def test_what_no_name_leads_to_is_removed_and_counted(path: Path) -> None:
    image = samples.image(samples.plain(bytes(100_000)), samples.gzipped(b"two"))
    put(path, "app", image)
    put(path, "other", samples.image(samples.plain(b"three")))
    with Store.open(path) as store:
        store.remove("app")
    freed = collect(path)
    assert freed.blobs == 3
    assert freed.bytes > 100_000
    assert blobs(path) == 2
    assert len(list((path / "layers").iterdir())) == 1
    with Store.open(path) as store, pytest.raises(NotFoundError):
        store.place("app").read()


def test_what_is_known_of_the_pieces_of_a_layer_goes_with_it(path: Path) -> None:
    image = samples.image(samples.plain(b"one"))
    put(path, "app", image)
    (diff_id,) = image.config.diff_ids
    with Store.open(path) as store, store.scratch() as scratch:
        idmap = choose_map(1000, 1000, mode=MapMode.SINGLE)
        layers = store.open_layers("app", idmap, uid=1000, gid=1000, scratch=scratch)
        layers.writer.remember_pieces(diff_id, "terms", {"a": Piece("stamp", 512, 1024)})
    assert collect(path) == FreedSpace()
    assert (path / "layers" / f"{diff_id.hex}.pieces").exists()
    with Store.open(path) as store:
        store.remove("app")
    collect(path)
    assert list((path / "layers").iterdir()) == []


def test_an_image_that_lost_its_name_to_another_goes_with_the_command_that_took_it(path: Path) -> None:
    layer = samples.plain(b"one")
    put(path, "app", samples.image(layer, samples.gzipped(b"two"), command="old"))
    put(path, "other", samples.image(samples.plain(b"three")))
    before = blobs(path)
    put(path, "app", samples.image(layer, command="new"))
    assert blobs(path) == before - 1, "one config for another, a layer less"
    assert collect(path) == FreedSpace()


def test_what_a_replaced_image_shares_with_others_stays(path: Path) -> None:
    layer = samples.gzipped(b"one")
    put(path, "app", samples.image(layer, command="old"))
    put(path, "other", samples.image(layer, command="old"))
    put(path, "app", samples.image(samples.plain(b"two")))
    with Store.open(path) as store:
        assert b"".join(store.place("other").read().layers[0].tar())


def test_an_image_that_is_read_while_it_is_replaced_stays_until_the_reader_is_done(path: Path) -> None:
    put(path, "app", samples.image(samples.plain(b"one")))
    with Store.open(path) as reader:
        image = reader.place("app").read()
        put(path, "app", samples.image(samples.plain(b"two")))
        assert b"".join(image.layers[0].tar())
    assert collect(path).blobs == 2


def test_a_kept_layer_goes_with_the_build_that_replaced_it(path: Path) -> None:
    keep(path, recorded=True)
    keep(path, recorded=True, content=b"another")
    assert len([entry for entry in path.glob("kept/*/*") if entry.is_dir()]) == 1
    assert collect(path) == FreedSpace()


def test_what_a_build_has_kept_is_forgotten_with_the_image(path: Path) -> None:
    put(path, "app", samples.image(samples.plain(b"one")))
    with Store.open(path) as store:
        name = str(store.images()[0].name)
    keep(path, recorded=True, app=name)
    with Store.open(path) as store:
        store.remove("app")
    assert collect(path).kept == 1
    assert list((path / "caches").iterdir()) == []


def test_what_another_open_store_reads_stays_until_it_is_closed(path: Path) -> None:
    put(path, "app", samples.image(samples.plain(b"one")))
    with Store.open(path) as reader:
        image = reader.place("app").read()
        with Store.open(path) as store:
            store.remove("app")
        assert collect(path) == FreedSpace()
        assert b"".join(image.layers[0].tar())
    assert collect(path).blobs == 2


def test_what_another_open_store_brought_stays_before_it_has_a_name(path: Path) -> None:
    image = samples.image(samples.plain(b"one"), samples.gzipped(b"two"))
    with Store.open(path) as builder:
        place = builder.place("app")
        for layer in image.layers:
            place.write_layer(layer)
        assert collect(path) == FreedSpace()
        place.write_image(image)
    assert collect(path) == FreedSpace()


def test_the_scratch_of_another_open_store_stays(path: Path) -> None:
    with Store.open(path) as builder, builder.scratch() as scratch:
        (scratch / "file").write_text("in use")
        assert collect(path) == FreedSpace()
        assert (scratch / "file").read_text() == "in use"


def test_a_kept_layer_stays_as_long_as_an_app_may_restore_it(path: Path) -> None:
    keep(path, recorded=True)
    assert collect(path) == FreedSpace()
    with Store.open(path) as store:
        store.forget("app")
    freed = collect(path)
    assert (freed.kept, freed.bytes > 50_000) == (1, True)
    assert list(path.glob("kept/*/*")) == []


def test_a_kept_layer_that_no_build_recorded_is_removed(path: Path) -> None:
    keep(path, recorded=False)
    assert collect(path).kept == 1


@pytest.mark.system
def test_a_killed_process_leaves_a_store_that_works_and_is_cleaned(path: Path) -> None:
    put(path, "app", samples.image(samples.plain(b"one")))
    program = f"""
import sys, time
sys.path.insert(0, {str(SOURCE)!r})
from pathlib import Path
from packhorse.store.store import Store
store = Store.open(Path({str(path)!r}))
context = store.scratch()
scratch = context.__enter__()
(scratch / "file").write_bytes(bytes(70_000))
(scratch / "work").mkdir(mode=0)
def chunks():
    yield bytes(2_000_000)
    # Which another thread writes.
    while not any(path.stat().st_size >= 2_000_000 for path in scratch.parent.iterdir() if path.is_file()):
        time.sleep(0.01)
    print("writing", flush=True)
    time.sleep(600)
from packhorse.oci.place import Layer
store.place("half").write_layer(Layer(chunks))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"writing\n"
        assert collect(path) == FreedSpace(), "it still runs"
        process.send_signal(signal.SIGKILL)
    freed = collect(path)
    assert (freed.unfinished, freed.blobs) == (1, 0)
    assert freed.bytes > 2_070_000 - 4096
    assert list((path / "scratch").iterdir()) == []
    assert list((path / "leases").iterdir()) == []
    with Store.open(path) as store:
        assert b"".join(store.place("app").read().layers[0].tar())


def test_what_a_killed_process_has_left_is_swept_by_the_next_build(path: Path) -> None:
    keep(path, recorded=True)
    for name in (
        "kept/1000-1000/.1-dead.00000000",
        "trees/map/.1-dead.00000000",
        "roots/map/.1-dead.00000000",
    ):
        (path / name / "ro").mkdir(parents=True)
        (path / name / "ro").chmod(0o555)
    (path / "scratch/1-dead").mkdir()
    (path / "scratch/1-dead/half-a-blob").write_bytes(bytes(1000))
    (path / "leases/1-dead").write_text("\nblobs/sha256/00\n")
    with Store.open(path) as other, Store.open(path) as store, other.scratch() as used:
        store.remove_leftovers()
        assert used.exists()
    assert not [*path.glob("*/*/.*"), *path.glob("scratch/*"), *path.glob("leases/*")]


def test_a_lease_cut_short_by_a_full_disk_does_not_swallow_the_next_line(path: Path) -> None:
    put(path, "app", samples.image(samples.plain(b"one")))
    with Store.open(path) as reader:
        [file] = (path / "leases").iterdir()
        file.write_text("blobs/sha256/0123")
        image = reader.place("app").read()
        with Store.open(path) as store:
            store.remove("app")
        assert collect(path) == FreedSpace()
        assert b"".join(image.layers[0].tar())


def test_an_interrupted_collection_is_finished_by_the_next(path: Path) -> None:
    keep(path, recorded=True)
    [tree] = [entry for entry in path.glob("kept/*/*") if entry.is_dir()]
    tree.rename(tree.with_name(".4711-deadbeef.00000000"))  # as a killed `gc` leaves it
    assert collect(path).unfinished == 1
    assert [entry for entry in path.glob("kept/*/*") if entry.is_dir()] == []
