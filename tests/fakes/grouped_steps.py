"""What control groups of version 2 do to a step; a program for `group_machine`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from packhorse.base.sandbox import Limits, SandboxSpec
from packhorse.sandbox import cgroup
from packhorse.sandbox.limits import LimitEnforcer

TOP, RECORDS = Path("/sys/fs/cgroup"), Path("/run/groups")
BOMB = "b() { b | b & }; b; while :; do sleep 1; done"
HOG = "a=aaaaaaaaaaaaaaaa; while :; do a=$a$a; done"
MANY = "i=0; while [ $i -lt 60 ]; do sleep 300 & i=$((i+1)); done"
SOME_MEMORY = "read x; a=aaaaaaaaaaaaaaaa; for i in {1..20}; do a=$a$a; done; echo ready; read x"  # 16 MiB


def left() -> list[Path]:
    return [*TOP.rglob("packhorse-*"), *RECORDS.glob("*")]


def ended(script: str, limits: Limits, *, shell: str = "bash") -> tuple[str, str]:
    """What a step prints that is held to some limits, and which of them ended it."""
    spec = SandboxSpec(argv=(shell,), env={}, cwd="/", uid=0, gid=0, limits=limits)
    # Held until its limits are set, as a step's first process is.
    held = 'read x; exec unshare --pid --fork --kill-child "$0" -c "$1"'
    words = ["sh", "-c", held, shell, script]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        bounds = LimitEnforcer(spec, records=RECORDS)
        bounds.apply(child.pid, (0, 0))
        with bounds.watch(child.kill):
            output, _ = child.communicate("\n")
        bounds.close()
    assert not left(), left()
    return output, bounds.find_exceeded(1)


def session() -> cgroup.ParentGroup:
    """Moves this process to a group like a user's scope under systemd, whose parent hands controllers on."""
    user = TOP / "user"
    (user / "scope").mkdir(parents=True)
    for directory in (TOP, user):
        (directory / "cgroup.subtree_control").write_text("+memory +pids")
    (user / "scope" / "memory.max").write_text("400M")
    (user / "scope" / "cgroup.procs").write_text(str(os.getpid()))
    return cgroup.ParentGroup(user, {"memory": 400 << 20, "pids": 0})


def main() -> None:
    expected = session()
    parent = cgroup.find_parent()
    assert parent == expected, parent
    assert cgroup.memory_allowed() == 400 << 20

    _, exceeded = ended(BOMB, Limits(processes=60, expendable=True))
    assert "60 processes" in exceeded, exceeded
    output, _ = ended(MANY, Limits(processes=30), shell="sh")
    assert "Cannot fork" in output, output
    _, exceeded = ended(HOG, Limits(memory=40 << 20, expendable=True))
    assert "40 MiB of memory" in exceeded, exceeded

    group = cgroup.Group(parent, {"memory": 100 << 20}, records=RECORDS, together=True)
    words = ["bash", "-c", SOME_MEMORY]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        group.add(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "ready\n"
        used = group.memory()
        cgroup.sweep(RECORDS)
        assert len(left()) == 2, "its maker still runs"
        child.communicate("\n")
    assert 16 << 20 <= used < 100 << 20, used
    group.close()
    assert not left(), left()

    if os.fork() == 0:
        cgroup.Group(parent, {"memory": 100 << 20}, records=RECORDS, together=True)
        os._exit(0)
    os.wait()
    assert len(left()) == 2, "its maker is gone"
    cgroup.sweep(RECORDS)
    assert not left(), left()


if __name__ == "__main__":
    main()
