"""What a step may use of this machine, held to it by whatever the machine offers; made by `runner`.

The limits are put on the step's first process while that is held, so they hold for all that it starts,
whatever the runtime. A control group (`cgroup`) holds processes and memory. Where this process can make none,
a resource limit holds processes, and a thread counts memory (`watch`). That thread also watches the disks.
`platform.limits` says what is allowed.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from packhorse.base.step import Bind, Limits, SandboxSpec
from packhorse.errors import SandboxError
from packhorse.sandbox import cgroup
from packhorse.sandbox.cgroup import Group
from packhorse.sandbox.watch import Watch, format_size

_OWN_PROCESSES = 2
"""What the sandbox itself has beside the step's command: its first process, which waits for orphans."""

_FIRST_CHOICE = "1000"
"""The highest value of oom_score_adj: the kernel takes such a process before any other."""

_COUNTED_BY_NAMESPACE = (5, 14)
"""Since this version of Linux RLIMIT_NPROC counts processes by user namespace, before it by user alone."""


class LimitEnforcer:
    """The limits of one step; `close` comes after the end of its processes.

    `records` is the directory where groups are noted for `cgroup.sweep`; without it there are none. With
    `own_shared_memory` nothing else than the sandbox's own file system is mounted at /dev/shm.
    """

    def __init__(self, spec: SandboxSpec, *, records: Path | None, own_shared_memory: bool = True) -> None:
        self._limits = spec.limits
        self._writes = written_directories(spec)
        self._records = records
        self._own_shared_memory = own_shared_memory
        self._pid = -1
        self._owner = (-1, -1)
        self._group: Group | None = None
        self._preparing: threading.Thread | None = None
        self._turn = threading.Lock()
        self._closed = False
        self._watch: Watch | None = None

    def apply(self, pid: int, owner: tuple[int, int]) -> None:
        """Puts the limits on the step's first process, which is held and has the ids `owner`.

        What takes its time goes on after this has returned.
        """
        self._pid, self._owner = pid, owner
        if self._limits.expendable:
            with suppress(OSError):
                Path(f"/proc/{pid}/oom_score_adj").write_text(_FIRST_CHOICE)
        self._preparing = threading.Thread(target=self._prepare, name="limits")
        self._preparing.start()

    def _prepare(self) -> None:
        with self._turn:
            if not self._closed:
                self._set()

    def _set(self) -> None:
        """Makes the group, and sets what a resource limit has to hold."""
        limits = self._limits
        counts = {
            "pids": limits.processes + _OWN_PROCESSES if limits.processes else 0,
            "memory": limits.memory,
        }
        if self._records is not None and any(counts.values()):
            with suppress(OSError):
                if found := cgroup.find_parent():
                    group = Group(found, counts, records=self._records, together=limits.expendable)
                    self._group = _join_group(group, self._pid)
        wanted = {"fsize": limits.file_size}
        if self._group is None and _linux_version() >= _COUNTED_BY_NAMESPACE:
            wanted["nproc"] = counts["pids"]
        _set_resource_limits(
            self._pid, {name: number for name, number in wanted.items() if number}, self._owner
        )

    @contextmanager
    def watch(self, kill: Callable[[], None]) -> Iterator[None]:
        """While the block lets the step go and waits for it, `kill` is called when a limit is met."""
        if self._preparing is not None:
            self._preparing.join()
        limits = self._limits
        # What is expendable is counted by looking, and ended.
        if (
            limits.processes
            and not limits.expendable
            and self._group is None
            and _linux_version() < _COUNTED_BY_NAMESPACE
        ):
            raise SandboxError(
                f"this machine cannot hold a sandbox to {limits.processes} processes",
                why="no control group can be made here, and Linux before 5.14 counts all processes of a user",
                fix="allow control groups (docs/limits.md), or leave out the limit",
                check="limits",
            )
        if limits == Limits(shared_memory=limits.shared_memory):
            yield
            return
        shared = self._own_shared_memory
        self._watch = Watch(limits, self._pid, self._writes, self._group, kill, shared_memory=shared)
        try:
            self._watch.start()
            yield
        finally:
            self._watch.stop()

    def find_exceeded(self, status: int) -> str:
        """Which limit ended a step that has ended with `status`, in words; empty when none did."""
        if status == 0:
            return ""
        if status == 128 + signal.SIGXFSZ and self._limits.file_size:
            return f"it wrote a file larger than {format_size(self._limits.file_size)} (the limit file-size)"
        return self._watch.verdict() if self._watch else ""

    def close(self) -> None:
        """Removes the group.

        `apply` may have been broken off at any point: nobody can tell then whether its thread runs, or will.
        """
        with self._turn:
            self._closed = True
        if self._group is not None:
            self._group.close()


def _join_group(group: Group, pid: int) -> Group:
    """The group with a process in it; removed when that cannot be, and OSError: it would hold nothing."""
    try:
        group.add(pid)
    except OSError:
        group.close()
        raise
    return group


def written_directories(spec: SandboxSpec) -> tuple[Path, ...]:
    """The directories of this machine that a step writes to."""
    found = [spec.root.upper] if spec.root else []
    for mount in spec.mounts:
        if isinstance(mount, Bind):
            found.append(mount.source if mount.writable else None)
        else:
            found.append(mount.upper)
    return tuple(path for path in found if path is not None)


def _set_resource_limits(pid: int, wanted: Mapping[str, int], owner: tuple[int, int]) -> None:
    """Sets resource limits of a process; a stricter one that it has already stays.

    Root in a container may lack the right to do this to another user's process (CAP_SYS_RESOURCE), and then
    has it done by a child that is that user.
    """
    words = []
    for name, number in wanted.items():
        kind = {"fsize": resource.RLIMIT_FSIZE, "nproc": resource.RLIMIT_NPROC}[name]
        with suppress(OSError, ValueError):
            try:
                _, hard = resource.prlimit(pid, kind)
                least = number if hard == resource.RLIM_INFINITY else min(number, hard)
                resource.prlimit(pid, kind, (least, least))
            except PermissionError:
                _, hard = resource.getrlimit(kind)
                least = number if hard == resource.RLIM_INFINITY else min(number, hard)
                words.append(f"--{name}={least}:{least}")
    program = shutil.which("prlimit")
    if words and program and os.geteuid() == 0:
        line = [program, "--pid", str(pid), *words]
        uid, gid = owner
        subprocess.run(line, user=uid, group=gid, extra_groups=[], env={}, check=False, capture_output=True)


def _linux_version() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
