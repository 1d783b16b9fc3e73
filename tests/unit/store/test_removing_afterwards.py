"""What takes long to remove is removed when the command is over, by a process that nobody waits for."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fakes import afterwards, linux
from packhorse.fs.rooted import RootedTree
from packhorse.fs.walk import RemovalBudget
from packhorse.linux.processes import read_proc
from packhorse.linux.userns import MapMode, choose_map
from packhorse.store import store as store_module
from packhorse.store import trash as trash_module
from packhorse.store import tree_sync
from packhorse.store.leases import Lease
from packhorse.store.store import Store
from packhorse.store.trash import remove, trash

pytestmark = pytest.mark.system

FILES = 6000
"""So many take longer to remove than a command waits for."""

SOURCE = Path(sys.modules["packhorse"].__path__[0]).parent


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # A fast disk would remove all files within the time: then the number of entries alone counts.
    monkeypatch.setattr(store_module, "_SECONDS", 0)
    yield tmp_path / "store"
    for process in afterwards.removers(tmp_path / "store"):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)
    afterwards.wait(tmp_path / "store")


def keep(path: Path, content: str, *, app: str = "app", hurries: bool = False) -> None:
    """Builds once, with one layer, and records it for the next build."""
    with (
        Store.open(path, hurries=hurries) as store,
        store.scratch() as scratch,
        RootedTree.open_local(scratch) as view,
    ):
        idmap = choose_map(1000, 1000, mode=MapMode.SINGLE)
        overlay = store.open_layers(app, idmap, uid=1000, gid=1000, scratch=scratch)
        upper = overlay.mounts()[0].upper
        assert upper
        (upper / "bp/one").mkdir(parents=True)
        (upper / "bp/one/file").write_text(content)
        layer, _ = overlay.capture(view, "/layers/bp/one")
        assert layer.diff_id
        overlay.commit(b"", {"/layers/bp/one": layer.diff_id})


def fill(directory: Path) -> None:
    for number in range(FILES):
        (directory / f"{number}").touch()


@contextmanager
def held() -> Iterator[list[int]]:
    """Stops what goes on when a command is over before it does anything; the processes."""
    processes: list[int] = []
    start = trash_module.start

    def stopped(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = start(*words, **options)
        os.kill(process.pid, signal.SIGSTOP)
        processes.append(process.pid)
        return process

    with pytest.MonkeyPatch.context() as patch:
        for module in (tree_sync, trash_module):
            patch.setattr(module, "start", stopped)
        yield processes


def replaced(path: Path, app: str = "app") -> int:
    """Builds a large layer, then a small one; the process that removes the large one, held."""
    keep(path, f"large {app}", app=app)
    files = path.glob("kept/*/[!.]*/layers/bp/one/file")
    (large,) = (file.parent for file in files if file.read_text() == f"large {app}")
    fill(large)
    with held() as processes:
        keep(path, f"small {app}", app=app, hurries=True)
    (process,) = processes
    return process


def unfinished(path: Path) -> list[Path]:
    return [*path.glob("kept/*/.*"), *path.glob("scratch/*"), *path.glob("leases/*")]


def test_a_command_is_over_before_what_it_replaced_is_removed(path: Path) -> None:
    process = replaced(path)
    (aside,) = path.glob("kept/*/.*")
    assert len(list(aside.glob("layers/bp/one/*"))) > 0
    assert len([entry for entry in path.glob("kept/*/[!.]*") if entry.is_dir()]) == 1
    os.kill(process, signal.SIGCONT)
    afterwards.wait(path)
    assert unfinished(path) == []


def test_what_is_small_is_removed_at_once(path: Path) -> None:
    with Store.open(path):
        lease = Lease.acquire(path)
        for budget, megabytes, goes in (
            (RemovalBudget(0, 60), 0, True),
            (RemovalBudget(101, 0), 0, True),
            (RemovalBudget(100, 0), 0, False),
            (RemovalBudget(101, 0), 2, False),
            (None, 2, True),
        ):
            lease.removal_budget = budget
            tree = lease.temporary_path()
            tree.mkdir()
            for number in range(100):
                (tree / f"{number}").touch()
            (tree / "0").write_bytes(bytes(megabytes << 20))
            trash(tree, lease)
            assert tree.exists() != goes
            assert (tree in lease.trash) != goes
        remove(tree.parent, lease)
        lease.trash.clear()
        lease.close()


def test_others_neither_take_nor_sweep_what_is_being_removed(path: Path) -> None:
    process = replaced(path)
    before = unfinished(path)
    with Store.open(path) as store:
        store.remove_leftovers()
    keep(path, "another")
    assert set(before) <= set(unfinished(path))
    os.kill(process, signal.SIGCONT)
    afterwards.wait(path)
    assert unfinished(path) == []


def test_what_a_killed_remover_has_not_removed_goes_with_the_next_build(path: Path) -> None:
    process = replaced(path)
    os.kill(process, signal.SIGKILL)
    assert linux.gone({process})
    assert unfinished(path) != []
    with Store.open(path) as store:
        store.remove_leftovers()
    assert unfinished(path) == []


def test_a_command_that_hurries_does_not_wait_for_what_a_killed_one_has_left(path: Path) -> None:
    process = replaced(path)
    os.kill(process, signal.SIGKILL)
    assert linux.gone({process})
    with held() as processes, Store.open(path, hurries=True) as store:
        store.remove_leftovers()
        (process,) = processes
        assert list(path.glob("kept/*/.*")) != []
    os.kill(process, signal.SIGCONT)
    afterwards.wait(path)
    assert unfinished(path) == []


def test_two_at_once_remove_what_each_was_left(path: Path) -> None:
    first = replaced(path)
    second = replaced(path, "other")
    for process in (first, second):
        os.kill(process, signal.SIGCONT)
    afterwards.wait(path)
    assert unfinished(path) == []
    assert len([entry for entry in path.glob("kept/*/[!.]*") if entry.is_dir()]) == 2


def test_gc_waits_for_what_is_being_removed(path: Path) -> None:
    process = replaced(path)

    def let_go_on() -> None:
        linux.wait_for_lock_waiter(os.getpid())
        os.kill(process, signal.SIGCONT)

    with Store.open(path) as store, ThreadPoolExecutor(1) as threads:
        going_on = threads.submit(let_go_on)
        store.gc()
        going_on.result()
        assert not list(path.glob("kept/*/.*"))
        assert not list(path.glob("leases/*-aside"))


def test_a_store_that_its_user_removes_stays_removed(path: Path) -> None:
    process = replaced(path)
    shutil.rmtree(path)
    os.kill(process, signal.SIGCONT)
    assert linux.gone({process})
    assert not path.exists()


def test_the_scratch_of_a_build_is_left_too(path: Path) -> None:
    with held() as processes, Store.open(path, hurries=True) as store, store.scratch() as scratch:
        fill(scratch)
    (process,) = processes
    assert unfinished(path) != []
    os.kill(process, signal.SIGCONT)
    afterwards.wait(path)
    assert unfinished(path) == []
    assert linux.gone({process})


def test_a_build_that_fails_removes_its_scratch_itself(path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        Store.open(path, hurries=True) as store,
        store.scratch() as scratch,
    ):
        fill(scratch)
        raise ZeroDivisionError
    assert unfinished(path) == []


def test_a_scratch_directory_that_is_to_be_looked_at_stays(path: Path) -> None:
    keep(path, "old")
    with Store.open(path, hurries=True) as store, store.scratch() as scratch:
        store.forget("app")
        (scratch / "evidence").touch()
        store.keep_scratch(scratch)
    assert (scratch / "evidence").exists()


COMMAND = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from packhorse.store import trash, tree_sync
from packhorse.store.store import Store
start = trash.start
def stopped(*words, **options):
    process = start(*words, **options)
    os.kill(process.pid, signal.SIGSTOP)
    return process
tree_sync.start = trash.start = stopped
with Store.open(Path(sys.argv[2]), hurries=True) as store, store.scratch() as scratch:
    for number in range(int(sys.argv[3])):
        (scratch / f"{number}").touch()
print("done")
"""


def test_what_goes_on_holds_nothing_that_others_wait_for(path: Path) -> None:
    read, write = os.pipe()
    lock = os.open(path.parent / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    words = [sys.executable, "-c", COMMAND, str(SOURCE), str(path), str(FILES)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, pass_fds=[write, lock]) as command:
        os.close(write)
        os.close(lock)
        assert command.stdout is not None
        assert command.stdout.read() == b"done\n"
        assert command.wait() == 0
        process = afterwards.remover(path)
        try:
            assert select.select([read], [], [], 1)[0], "it has the other end of a pipe of the caller's"
            fields = read_proc("stat", process).rpartition(")")[2].split()
            assert int(fields[3]) == process, "it is of a session of its own"
            assert Path(f"/proc/{process}/cwd").readlink() == Path("/")
            assert Path(f"/proc/{process}/environ").read_bytes() in (b"", b"LC_CTYPE=C.UTF-8\0")
            with (path.parent / "lock").open() as again:
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.kill(process, signal.SIGCONT)
    os.close(read)
    afterwards.wait(path)
    assert unfinished(path) == []
