from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from packhorse.errors import StoreError
from packhorse.store.store import Store


def test_a_new_store_is_private_and_an_oci_layout(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a" / "store") as store:
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
        assert json.loads((store.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
        assert json.loads((store.path / "index.json").read_bytes())["manifests"] == []


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


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    (tmp_path / "store" / "version").write_text("99\n")
    with pytest.raises(StoreError, match="version '99'"):
        Store.open(tmp_path / "store")


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
