from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import pytest

from packhorse.errors import StoreError
from packhorse.store.store import Store
from unit.store import samples


def test_a_new_store_is_private_and_an_oci_layout(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a" / "store") as store:
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
        assert json.loads((store.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
        assert json.loads((store.path / "index.json").read_bytes())["manifests"] == []


def test_a_store_that_was_opened_to_others_is_shut(tmp_path: Path) -> None:
    """Layers may have setuid files, which belong to the store's user."""
    Store.open(tmp_path / "store").close()
    (tmp_path / "store").chmod(0o755)
    Store.open(tmp_path / "store").close()
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


def test_a_link_may_lead_to_the_store(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to("disk")
    with Store.open(tmp_path / "store") as store:
        store.sync()
        store.gc()
    assert (tmp_path / "disk" / "settled.json").exists()


def test_directories_in_a_store_can_be_passed_by_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with Store.open(tmp_path / "store") as store, store.scratch() as scratch:
            assert stat.S_IMODE(scratch.stat().st_mode) == 0o755
            assert stat.S_IMODE(scratch.parent.stat().st_mode) == 0o755
    finally:
        os.umask(before)


def test_a_store_that_was_made_halfway_is_finished(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        (store.path / "version").unlink()
        (store.path / "index.json").unlink()
        (store.path / "layers").rmdir()
    (tmp_path / "gate").unlink()
    with Store.open(tmp_path) as store:
        assert store.images() == ()
        assert (tmp_path / "index.json").exists()


@pytest.mark.parametrize("version", ["99\n", "0\n", "", "\0\0", "1.5\n", "-1\n", "9" * 5000])
def test_a_store_of_a_version_that_is_not_known_is_refused(tmp_path: Path, version: str) -> None:
    Store.open(tmp_path / "store").close()
    (tmp_path / "store" / "version").write_text(version)
    with pytest.raises(StoreError, match="has an unknown version") as caught:
        Store.open(tmp_path / "store")
    assert version[:10].strip().replace("\0", "\\x00") in caught.value.why
    assert (tmp_path / "store" / "version").read_text() == version


def test_a_store_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with Store.open(path) as store:
        image = samples.image(samples.plain(b"one"))
        store.place("app").write_layer(image.layers[0])
        store.place("app").write_image(image)
    # What it had, and had not, in that version.
    (path / "version").write_text("1\n")
    shutil.rmtree(path / "spare")
    for name in ("locks/kept-17", "layers/.0f.json.00000000~", ".images.json.00000000~"):
        (path / name).write_text("")
    with Store.open(path) as store:
        assert store.place("app").read().id == image.id
    assert (path / "version").read_text() == "2\n"
    assert not [*path.rglob("*~"), *path.glob("locks/*-*")]


def test_an_empty_store_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    (tmp_path / "version").write_text("1\n")
    (tmp_path / "images.json").unlink()
    with Store.open(tmp_path) as store:
        assert store.images() == ()


def test_another_tools_layout_is_no_store_and_stays_as_it_is(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        image = samples.image(samples.gzipped(b"one"))
        store.place("app").write_layer(image.layers[0])
        store.place("app").write_image(image)
    layout = tmp_path / "layout"
    layout.mkdir()
    for name in ("oci-layout", "index.json", "blobs"):
        (tmp_path / "store" / name).rename(layout / name)
    before = (layout / "index.json").read_bytes()
    with pytest.raises(StoreError, match=r"is not a store"):
        Store.open(layout)
    assert (layout / "index.json").read_bytes() == before


def test_many_commands_make_one_store_at_once(tmp_path: Path) -> None:
    image = samples.image(samples.gzipped(b"one"))

    def use(number: int) -> None:
        with Store.open(tmp_path / "store") as store:
            store.place(f"app-{number}").write_layer(image.layers[0])
            store.place(f"app-{number}").write_image(image)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(16)))
    with Store.open(tmp_path / "store") as store:
        assert len(store.images()) == 16
    assert len(json.loads((tmp_path / "store" / "index.json").read_bytes())["manifests"]) == 16


def test_a_directory_with_other_things_in_it_is_no_store_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    tmp_path.chmod(0o755)
    with pytest.raises(StoreError, match=r"thesis\.txt"):
        Store.open(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_store_where_a_file_is_says_so(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match=str(tmp_path / "store")):
        Store.open(tmp_path / "store")


def test_closing_leaves_nothing_of_the_lease(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store, store.scratch() as scratch:
        (scratch / "file").write_text("")
    assert list((tmp_path / "store" / "leases").iterdir()) == []
    assert list((tmp_path / "store" / "scratch").iterdir()) == []


def test_a_store_that_was_moved_is_the_same_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with Store.open(path) as store:
        image = samples.image(samples.plain(b"one"))
        store.place("app").write_layer(image.layers[0])
        store.place("app").write_image(image)
    path.rename(tmp_path / "moved")
    with Store.open(tmp_path / "moved") as store, Store.open(path) as other:
        assert store.place("app").read().id == image.id
        assert other.images() == ()


def test_closing_a_store_twice_or_after_it_was_removed_is_no_trouble(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    store.close()


class Cancelled(BaseException):
    """What a signal makes of a command."""


@pytest.mark.system
def test_a_command_that_is_cancelled_while_it_clears_away_leaves_nothing(tmp_path: Path) -> None:
    def cancel(number: int, frame: FrameType | None) -> None:
        raise Cancelled

    before = signal.signal(signal.SIGALRM, cancel)
    try:
        with Store.open(tmp_path / "store") as store:
            with pytest.raises(Cancelled):
                with store.scratch() as scratch:
                    for number in range(3000):
                        (scratch / str(number)).touch()
                    signal.setitimer(signal.ITIMER_REAL, 0.002)
                    # The clearing takes much longer than that.
                time.sleep(1)  # not for ever: a signal just before it would be heard only after it
            assert not scratch.exists()
    finally:
        signal.signal(signal.SIGALRM, before)
