"""Whatever a step does to use the machine up, it ends, and says what it met; as root, and as other users.

Each limit is tried with a control group, where this user can have one, and without.
"""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import group_machine, linux
from fakes.place import Place, place
from lanes import first_in_test
from packhorse.base.sandbox import Bind, Limits, Result
from packhorse.errors import SandboxError
from packhorse.host.wiring import make_runner
from packhorse.sandbox import cgroup
from packhorse.sandbox.limits import LimitEnforcer, Watch

BOMB = "b() { b | b & }; b; while :; do sleep 1; done"
HOG = "a=aaaaaaaaaaaaaaaa; while :; do a=$a$a; done"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("place")) as made:
        yield made


@pytest.fixture(params=first_in_test(["with a group", "without one", "in runc"]))
def either(request: pytest.FixtureRequest, here: Place, tmp_path: Path) -> Place:
    if request.param == "with a group":
        return here
    runtime = "runc" if request.param == "in runc" else ""
    return replace(here, sandbox=make_runner(here.namespace, tmp_path, runtime=runtime))


def ended(here: Place, script: str, **limits: int) -> Result:
    step = here.spec(script, *here.mounts())
    chosen = Limits(**limits, expendable=True)  # type: ignore[arg-type]
    result, _ = here.run(step, argv=("bash", "-c", script), limits=chosen)
    return result


def test_a_fork_bomb_is_ended(either: Place) -> None:
    result = ended(either, BOMB, processes=150)
    assert (result.status, "150 processes" in result.exceeded) == (137, True)


def test_what_eats_memory_is_ended(either: Place) -> None:
    result = ended(either, HOG, memory=100 << 20)
    assert (result.status, "100 MiB of memory" in result.exceeded) == (137, True)


def test_many_that_eat_memory_together_are_ended(either: Place) -> None:
    part = "a=aaaaaaaaaaaaaaaa; for i in {1..21}; do a=$a$a; done; sleep 1000; :"  # 32 MiB
    script = f"for i in 1 2 3 4 5 6; do bash -c '{part}' & done; wait"
    assert "150 MiB of memory" in ended(either, script, memory=150 << 20).exceeded


def test_a_file_that_is_too_large_ends_a_step(either: Place) -> None:
    result = ended(either, "exec head -c 9M /dev/zero > /tmp/file", file_size=8 << 20)
    assert (result.status, "larger than 8 MiB" in result.exceeded) == (128 + 25, True)


@pytest.fixture
def quiet_disk(here: Place) -> Iterator[Path]:
    """A directory of the step's on a file system on which nobody else writes or removes much.

    These tests also run as other users at the same time, one after the other.
    """
    shared = os.open("/dev/shm", os.O_RDONLY)
    try:
        fcntl.flock(shared, fcntl.LOCK_EX)
        with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
            os.chown(name, *here.namespace.idmap.to_outside(1000, 1000))
            yield Path(name)
    finally:
        os.close(shared)


def test_a_disk_is_not_filled(here: Place, quiet_disk: Path) -> None:
    state = os.statvfs(quiet_disk)
    limits = Limits(disk=state.f_bavail * state.f_frsize - (16 << 20), expendable=True)
    script = "i=0; while :; do head -c 1M /dev/zero > /out/$i; i=$((i+1)); done"
    result, _ = here.run(here.spec(script, Bind(quiet_disk, "/out", writable=True)), limits=limits)
    assert (result.status, "free on the disk" in result.exceeded) == (137, True)


def test_inodes_are_not_used_up(here: Place, quiet_disk: Path) -> None:
    limits = Limits(inodes=os.statvfs(quiet_disk).f_favail - 1000, expendable=True)
    script = "i=0; while :; do : > /out/$i; i=$((i+1)); done"
    result, _ = here.run(here.spec(script, Bind(quiet_disk, "/out", writable=True)), limits=limits)
    assert (result.status, "inodes free" in result.exceeded) == (137, True)


CHROOTED = """
import ctypes, os, sys
assert ctypes.CDLL(None).unshare(0x10000000) == 0  # a user namespace, in which anybody may change his root
os.chroot(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_disk_is_looked_at_however_long_a_look_at_the_processes_takes(
    quiet_disk: Path, tmp_path: Path
) -> None:
    """Here it takes until somebody writes to what is shown of the one process."""
    (tmp_path / "proc" / "1").mkdir(parents=True)
    status = tmp_path / "proc" / "1" / "status"
    os.mkfifo(status)
    state = os.statvfs(quiet_disk)
    limits = Limits(memory=1 << 40, disk=state.f_bavail * state.f_frsize - (16 << 20))
    killed = threading.Event()
    words = [sys.executable, "-c", CHROOTED, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        watch = Watch(limits, child.pid, [quiet_disk], None, killed.set)
        watch.start()
        with status.open("wb"):
            (quiet_disk / "file").write_bytes(bytes(32 << 20))
            was_killed = killed.wait(60)
        watch.stop()
        child.communicate()
    assert (was_killed, "free on the disk" in watch.verdict()) == (True, True)


def test_shared_memory_is_as_large_as_dockers(either: Place) -> None:
    script = "head -c 65M /dev/zero > /dev/shm/file; stat -c %s /dev/shm/file"
    result, output = either.run(either.spec(script))
    assert (result.status, output.splitlines()[-1]) == (0, str(64 << 20))


@pytest.mark.parametrize("shared", [0, 2 << 30])
def test_shared_memory_is_no_larger_than_memory(either: Place, shared: int) -> None:
    limits = Limits(memory=1 << 30, shared_memory=shared)
    _, output = either.run(either.spec("stat -f -c '%b %S' /dev/shm"), limits=limits)
    blocks, size = map(int, output.split())
    assert blocks * size == 1 << 30


def test_files_in_shared_memory_count_as_memory(either: Place) -> None:
    """Mapped by nobody: neither they nor the variable are too much alone."""
    variable = "a=aaaaaaaaaaaaaaaa; for i in {1..21}; do a=$a$a; done"  # 32 MiB
    script = f"head -c 128M /dev/zero > /dev/shm/file; {variable}; sleep 20; :"  # no exec: bash keeps it
    result = ended(either, script, memory=150 << 20, shared_memory=128 << 20)
    assert (result.status, "150 MiB of memory" in result.exceeded) == (137, True)


def test_a_step_that_stays_below_its_limits_is_none_the_wiser(either: Place) -> None:
    generous = {"memory": 1 << 30, "processes": 1000, "file_size": 1 << 30, "disk": 1 << 20, "inodes": 10}
    result = ended(either, "head -c 1M /dev/zero > /tmp/x; exit 3", **generous)
    assert (result.status, result.exceeded) == (3, "")


def test_limits_can_be_set_before_the_first_command(either: Place) -> None:
    # Files in /proc/PID of a process that is not dumpable belong to another user.
    with either.sandbox.open(either.spec("true")) as sandbox:
        directory = Path("/proc", str(sandbox._process.pid))
        assert (directory / "oom_score_adj").stat().st_uid == directory.stat().st_uid
        assert sandbox.run(None).status == 0


def test_a_step_that_is_not_expendable_is_refused_and_not_ended(either: Place) -> None:
    step = either.spec("i=0; while [ $i -lt 150 ]; do sleep 300 & i=$((i+1)); done")
    result, output = either.run(step, limits=Limits(processes=100))
    assert result.status not in (0, 137)
    assert "Cannot fork" in output


@pytest.mark.parametrize(("expendable", "score"), [(True, "1000"), (False, None)])
def test_the_kernel_takes_an_expendable_step_first(here: Place, expendable: bool, score: str | None) -> None:
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    limits = Limits(expendable=expendable)
    _, output = here.run(here.spec("cat /proc/self/oom_score_adj"), limits=limits)
    assert output.strip() == (score or own)


def test_a_group_that_a_step_cannot_join_is_not_counted_on(here: Place, tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    step = replace(here.spec("true"), limits=Limits(processes=100))
    bounds = LimitEnforcer(step, records=tmp_path)
    bounds.apply(child.pid, here.namespace.idmap.to_outside(1000, 1000))  # nobody has this number any more
    with bounds.watch(lambda: None):
        assert list(tmp_path.iterdir()) == []
    bounds.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_limits_that_were_interrupted_while_their_thread_began_leave_nothing(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if moment == "after":
            start(thread)
        raise KeyboardInterrupt

    child = subprocess.Popen(["sleep", "1000"])
    bounds = LimitEnforcer(
        replace(here.spec("true"), limits=Limits(processes=100)), records=tmp_path / "groups"
    )
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bounds.apply(child.pid, here.namespace.idmap.to_outside(1000, 1000))
    child.kill()
    child.wait()
    bounds.close()
    for thread in threading.enumerate():
        if thread.name == "limits":
            thread.join()
    assert list(tmp_path.glob("groups/*")) == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="there is no user-mode Linux for others")
@pytest.mark.skipif(os.geteuid() != 0, reason="its machine shows this one's files as its user may read them")
def test_a_control_group_holds_a_step_where_control_groups_are_of_version_2(tmp_path: Path) -> None:
    status, output = group_machine.run("fakes.grouped_steps", tmp_path)
    assert status == 0, output


def test_a_number_of_processes_that_this_machine_cannot_hold_is_refused(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packhorse.sandbox.limits._COUNTED_BY_NAMESPACE", (99, 0))
    bounds = LimitEnforcer(replace(here.spec("true"), limits=Limits(processes=100)), records=None)
    with pytest.raises(SandboxError, match="cannot limit a sandbox to 100 processes"), bounds.watch(print):
        pass


def test_no_group_is_left(here: Place) -> None:
    ended(here, "true", processes=100)
    assert list((here.base / "groups").glob("*")) == []


KILLED = """
import sys
from pathlib import Path
from dataclasses import replace
from fakes.place import place
from packhorse.base.sandbox import Limits
with place(Path(sys.argv[1])) as here:
    step = replace(here.spec("echo ready; sleep 300"), limits=Limits(processes=100, memory=1 << 30))
    with here.sandbox.open(step) as room:
        room.run(None)
"""


def test_the_group_of_one_that_was_killed_is_swept_away(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(base)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    records = [path.read_text().splitlines() for path in (base / "groups").glob("*")]
    assert bool(records) == bool(cgroup.find_parent())
    groups = [Path(line) for record in records for line in record]
    cgroup.sweep(base / "groups")  # not while it runs
    assert all(path.is_dir() for path in groups)
    below = linux.descendants(child.pid)
    child.kill()
    child.wait()
    assert linux.gone(below)
    end = time.monotonic() + 60
    while any(path.exists() for path in groups):  # the kernel lets go of what has ended a moment later
        assert time.monotonic() < end, groups
        cgroup.sweep(base / "groups")
    assert list((base / "groups").glob("*")) == []
