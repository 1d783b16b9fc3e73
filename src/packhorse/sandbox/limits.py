"""Enforces the limits of a sandbox with what this machine offers. Called by `runner`.

Limits are set on the first process before any command runs, so they hold for everything that it starts,
whatever the runtime. A control group (`cgroup`) limits processes and memory. Where this process can make
none, a resource limit holds processes, and a thread counts memory. Another thread watches the disks, and ends
the sandbox before it fills them. The threads read what the kernel shows, never a file that the sandbox made,
and report which limit was met. `host.limits` defines the limits.

A full disk is also reported if it makes a mount fail. overlayfs makes a directory in its work directory when
it is mounted. Without room for that, the mount fails or is read-only, and the buildpack would get the blame.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from packhorse.base.files import find_shortage
from packhorse.base.sandbox import Bind, Limits, Overlay, SandboxSpec
from packhorse.errors import DiskFull, SandboxError
from packhorse.fs.walk import closing
from packhorse.linux import syscalls
from packhorse.sandbox import cgroup
from packhorse.sandbox.cgroup import Events, Group
from packhorse.sandbox.mounts import Layout

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


@contextmanager
def explain_full_disk(scratch: Path) -> Iterator[None]:
    """Replaces a SandboxError of the block with DiskFull if `scratch` has no room left."""
    try:
        yield
    except SandboxError as error:
        if why := find_shortage(scratch):
            raise DiskFull(f"a sandbox at {scratch}", why=why) from error
        raise


def check_overlays(root: int, spec: SandboxSpec, layout: Layout, scratch: Path) -> None:
    """Raises DiskFull or SandboxError if an overlay that has an upper was mounted read-only.

    `root` is a descriptor of the sandbox's root; `scratch` is on the file system that the sandbox writes to.
    """
    uppers = {"/": spec.root.upper} if spec.root and spec.root.upper else {}
    for mount in spec.mounts:
        if isinstance(mount, Overlay) and mount.upper is not None:
            uppers[layout.place(mount.target)] = mount.upper
    for path, upper in uppers.items():
        if _is_read_only(root, path):
            if why := find_shortage(scratch):
                raise DiskFull(f"a sandbox at {scratch}", why=why)
            raise SandboxError(
                f"the overlay at {path} can only be read",
                why=f"the kernel could not make its work directory beside {upper}",
                fix="see `dmesg`",
                check="overlay",
            )


def _is_read_only(root: int, path: str) -> bool:
    try:
        with closing(syscalls.openat2(root, path, os.O_PATH, resolve=_RESOLVE)) as descriptor:
            return bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
    except OSError:  # this user may lack the right to look there; the command that writes there will fail
        return False


GRACE = 0.02
"""Seconds that a command may run before it is watched. Most commands of small buildpacks end earlier."""

_SHORTEST, _LONGEST = 0.02, 0.25
"""Seconds between two checks. The nearer a disk is to its limit, the shorter the pause."""

_FASTEST = 2 << 30
"""The most bytes that a sandbox writes in a second, on disks of today."""

_SHARE = 10
"""A pause is this many times as long as the check before it took: a fork bomb has thousands of processes."""

_MEMORY_LEFT = 32
"""The machine is short of memory if less than one part in this many is free, swap space included."""

_OWN_PART = 4
"""A sandbox is to blame for that if it has at least one part in this many of the machine's memory."""


class Watch:
    """Watches a sandbox from `start` to `stop`; calls `kill` when it meets a limit that ends it.

    Made before the first command starts. A command that ends within GRACE seconds needs no `start`. With
    `shared_memory`, files in the sandbox's /dev/shm count as memory.
    """

    def __init__(
        self,
        limits: Limits,
        pid: int,
        writes: Iterable[Path],
        group: Group | None,
        kill: Callable[[], None],
        *,
        shared_memory: bool = True,
    ) -> None:
        self._limits = limits
        self._pid = pid
        self._writes = writes
        self._shared_memory = shared_memory
        self._group = group
        self._kill = kill
        self._met = ""
        self._killed_before = _machine_kills()
        self._events = Events()
        # Earlier commands of the same group may have met limits.
        self._before = Events()
        with suppress(OSError, ValueError):  # which the first check reports
            self._before = group.events() if group else Events()
        self._disks: list[int] = []
        self._proc = self._shared = -1
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def is_started(self) -> bool:
        """Whether `start` was called."""
        return bool(self._threads)

    def start(self) -> None:
        """Begins to watch. `stop` has to be called even if this was interrupted."""
        limits = self._limits
        if limits.disk or limits.inodes:
            self._disks += _open_disks(self._writes)
        if self._group is None and (limits.memory or limits.processes or limits.expendable):
            self._proc = _open_directory(self._pid, "proc")
            self._shared = _open_directory(self._pid, "dev/shm") if self._shared_memory else -1
        # Two threads: to check thousands of busy processes takes seconds, in which a disk could fill.
        checks = [self._check_machine, *([self._check_processes] if self._proc >= 0 else [])]
        self._threads = [threading.Thread(target=self._run, args=(check,), name="limits") for check in checks]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the watching after the sandbox's commands have ended."""
        self._ended.set()
        for thread in self._threads:
            with suppress(RuntimeError):  # it was not started; if it starts now, it ends at once
                thread.join()
        self._events = self._new_events()
        for descriptor in (*self._disks, self._proc, self._shared):
            if descriptor >= 0:
                os.close(descriptor)

    def verdict(self) -> str:
        """Says which limit made a command fail; empty if none did."""
        if self._met:
            return self._met
        limits, events = self._limits, self._events
        if events.killed and events.own:
            return _describe_memory(limits)
        if events.killed:
            return "this machine had no memory left, so the kernel killed processes of it"
        if self._group is None and limits.expendable and _machine_kills() > self._killed_before:
            return "this machine had no memory left, and the kernel killed processes, perhaps some of it"
        if events.refused and limits.processes:
            return _describe_processes(limits)
        return ""

    def _run(self, check: Callable[[], str]) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            began = time.thread_time()
            try:
                met = check()
            except (OSError, LookupError, ValueError):
                met = "packhorse could no longer see what it uses of this machine"
            if met:
                self._met = self._met or met
                self._kill()
                return
            pause = max(self._until_full(), (time.thread_time() - began) * _SHARE)

    def _check_machine(self) -> str:
        met = self._check_disks() or self._check_events()
        if not met and self._group is not None:
            met = self._check_memory(self._group.memory)
        return met

    def _check_disks(self) -> str:
        for disk in self._disks:
            state = os.fstatvfs(disk)
            if self._limits.disk and state.f_bavail * state.f_frsize < self._limits.disk:
                return f"it left less than {format_size(self._limits.disk)} free on the disk (the limit disk)"
            if self._limits.inodes and state.f_files and state.f_favail < self._limits.inodes:
                return f"it left fewer than {self._limits.inodes} inodes free on the disk (the limit inodes)"
        return ""

    def _until_full(self) -> float:
        """Returns for how many seconds no disk can pass its limit."""
        seconds = _LONGEST
        for disk in self._disks:
            state = os.fstatvfs(disk)
            seconds = min(seconds, (state.f_bavail * state.f_frsize - self._limits.disk) / _FASTEST)
        return max(seconds, _SHORTEST)

    def _check_events(self) -> str:
        if self._group is None or not self._limits.expendable:
            return ""
        events = self._new_events()
        if events.refused and self._limits.processes:
            return _describe_processes(self._limits)
        return _describe_memory(self._limits) if events.killed and events.own else ""

    def _new_events(self) -> Events:
        """Returns what has happened to the group since this watch was made."""
        if self._group is None:
            return Events()
        now, before = self._group.events(), self._before
        return Events(now.refused - before.refused, now.killed - before.killed, now.own)

    def _check_memory(self, used: Callable[[], int]) -> str:
        """Says that the sandbox, which has `used()` bytes, left too little memory; empty if it did not."""
        if not self._limits.expendable:
            return ""
        left, whole = _machine_memory()
        return describe_shortage(left, whole, used)

    def _check_processes(self) -> str:
        """Counts the processes and memory of a sandbox without a control group; says which limit it met."""
        limits = self._limits
        if limits.expendable and limits.processes:
            # Processes whose fork fails often end, so the count may stay just below the limit.
            most = limits.processes - limits.processes // 16
            if most <= _machine_tasks() and most <= count_tasks(self._proc):
                return _describe_processes(limits)

        def exact_memory() -> int:
            return measure_memory(self._proc, files=files, shares=True)

        files = used_bytes(self._shared) if self._shared >= 0 else 0
        # The cheap measure counts shared memory once per process; the exact one is slow.
        if 0 < limits.memory < measure_memory(self._proc, files=files) and limits.memory < exact_memory():
            return _describe_memory(limits)
        return self._check_memory(exact_memory)


def count_tasks(proc: int) -> int:
    """Counts the processes and threads in a /proc, open at `proc`; quick even for a fork bomb."""
    found = 0
    for name in _processes_in(proc):
        with suppress(OSError):
            found += os.stat(f"{name}/task", dir_fd=proc).st_nlink - 2
    return found


def measure_memory(proc: int, *, files: int = 0, shares: bool = False) -> int:
    """Returns the bytes of memory and swap that the processes in a /proc, open at `proc`, use.

    With `shares`, memory that several processes share counts once (slow); otherwise once per process. `files`
    are the bytes of all files in /dev/shm. The kernel does not tell mapped ones from other shared memory, so
    the larger of `files` and the shared memory counts.
    """
    file, names = (
        ("smaps_rollup", ("Pss_Anon", "Pss_Shmem", "SwapPss"))
        if shares
        else ("status", ("RssAnon", "RssShmem", "VmSwap"))
    )
    own = shared = 0
    for name in _processes_in(proc):
        with suppress(OSError, ValueError):
            fields = _read_fields(proc, f"{name}/{file}")
            anonymous, mapped, swapped = (int(fields.get(part, "0 kB").split()[0]) << 10 for part in names)
            own += anonymous + swapped
            shared += mapped
    return own + max(shared, files)


def used_bytes(directory: int) -> int:
    """Returns the bytes that files use in the file system of an open directory."""
    state = os.fstatvfs(directory)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def describe_shortage(left: int, whole: int, used: Callable[[], int]) -> str:
    """Says that a sandbox with `used()` bytes left too little memory; empty if it is not to blame.

    The machine has `whole` bytes, of which `left` are free. A sandbox that uses little is not to blame for
    what others use. If no memory is left at all, the kernel kills a process, of an expendable sandbox first,
    and `Watch.verdict` reports that.
    """
    if left * _MEMORY_LEFT >= whole:
        return ""
    own = used()
    if own * _OWN_PART < whole:
        return ""
    return f"it left hardly any memory on this machine: it used {format_size(own)} of {format_size(whole)}"


def _processes_in(proc: int) -> list[str]:
    with suppress(OSError):
        return [name for name in os.listdir(proc) if name.isdigit()]
    return []


def format_size(number: int) -> str:
    """Formats bytes in powers of 1024, as users write limits."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 1 << power:
            return f"{number / (1 << power):.1f} {unit}".replace(".0 ", " ")
    return f"{number} bytes"


def _describe_processes(limits: Limits) -> str:
    return f"it met the limit of {limits.processes} processes and threads (the limit processes)"


def _describe_memory(limits: Limits) -> str:
    return f"it met the limit of {format_size(limits.memory)} of memory (the limit memory)"


def _open_disks(paths: Iterable[Path]) -> Iterator[int]:
    """Yields one descriptor for each file system that the paths are on."""
    seen = set()
    for path in paths:
        device = path.stat().st_dev
        if device not in seen:
            seen.add(device)
            yield os.open(path, os.O_PATH | os.O_CLOEXEC)


def _open_directory(pid: int, name: str) -> int:
    """Opens one of the kernel's directories as the sandbox sees it; returns -1 if that fails.

    The sandbox's /proc shows only its own processes. No command can mount anything else there.
    """
    try:
        return os.open(f"/proc/{pid}/root/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1


def _read_fields(directory: int, name: str) -> dict[str, str]:
    """Reads the lines `Name: value` of a small file of the kernel."""
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        text = os.read(descriptor, 8192).decode(errors="replace")
    finally:
        os.close(descriptor)
    return {field: value.strip() for field, _, value in (line.partition(":") for line in text.splitlines())}


def _machine_tasks() -> int:
    """Returns how many processes and threads this machine has. Cheap, and the sandbox has no more."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


def _machine_kills() -> int:
    """Returns how many processes the kernel has killed since the machine started because memory ran out."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def _machine_memory() -> tuple[int, int]:
    """Returns the free bytes of memory and swap space, and the total bytes of memory."""
    fields = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) << 10
    return fields["MemAvailable"] + fields["SwapFree"], fields["MemTotal"]


_OWN_PROCESSES = 2
"""Added to the limit of processes, because the sandbox's own first process counts too."""

_FIRST_CHOICE = "1000"
"""The highest value of oom_score_adj: the kernel kills such a process before any other."""

_COUNTED_BY_NAMESPACE = (5, 14)
"""Since this version of Linux, RLIMIT_NPROC counts a user's processes in one user namespace, not in all."""


class LimitEnforcer:
    """Sets and watches the limits of one sandbox. Call `close` after its processes have ended.

    `records` is the directory with a record of each control group, for `cgroup.sweep`; without it there are
    no groups. `own_shared_memory` says that the sandbox has its own file system at /dev/shm.
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
        self._failure: OSError | None = None
        self._turn = threading.Lock()
        self._closed = False
        self._watch: Watch | None = None

    def apply(self, pid: int, owner: tuple[int, int]) -> None:
        """Puts the limits on the first process `pid`, whose ids are `owner`, before it runs a command.

        A thread does what takes long; `watch` waits for it.
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
                try:
                    self._set()
                except OSError as error:  # `watch` raises it; here it would end only this thread
                    self._failure = error

    def _set(self) -> None:
        """Makes the control group, and sets resource limits for what it does not limit."""
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
    def watch(self, kill: Callable[[], None]) -> Iterator[Watch | None]:
        """Yields the watch for the commands of the block, which calls `kill`. None if there are no limits.

        The block starts the watch if its commands take longer than GRACE. Raises SandboxError if the limits
        could not be set, because the commands would run without them.
        """
        if self._preparing is not None:
            self._preparing.join()
        if self._failure is not None:
            why = self._failure.strerror or str(self._failure)
            raise SandboxError(
                "the limits of a sandbox cannot be set", why=why, check="limits"
            ) from self._failure
        limits = self._limits
        # `Watch` counts the processes of an expendable sandbox instead.
        if (
            limits.processes
            and not limits.expendable
            and self._group is None
            and _linux_version() < _COUNTED_BY_NAMESPACE
        ):
            raise SandboxError(
                f"this machine cannot limit a sandbox to {limits.processes} processes",
                why="no control group can be made here, and Linux before 5.14 counts all processes of a user",
                fix="allow control groups (docs/reference/limits.md), or leave out the limit",
                check="limits",
            )
        if limits == Limits(shared_memory=limits.shared_memory):
            yield None
            return
        shared = self._own_shared_memory
        self._watch = Watch(limits, self._pid, self._writes, self._group, kill, shared_memory=shared)
        try:
            yield self._watch
        finally:
            self._watch.stop()

    def find_exceeded(self, status: int) -> str:
        """Says which limit ended a command that ended with `status`; empty if none did."""
        if status == 0:
            return ""
        if status == 128 + signal.SIGXFSZ and self._limits.file_size:
            return f"it wrote a file larger than {format_size(self._limits.file_size)} (the limit file-size)"
        return self._watch.verdict() if self._watch else ""

    def close(self) -> None:
        """Removes the group.

        `apply` may have been interrupted at any point, so its thread may run, or be about to.
        """
        with self._turn:
            self._closed = True
        if self._group is not None:
            self._group.close()


def _join_group(group: Group, pid: int) -> Group:
    """Puts a process into a group and returns the group; if that fails, removes it and raises OSError."""
    try:
        group.add(pid)
    except OSError:
        group.close()
        raise
    return group


def written_directories(spec: SandboxSpec) -> tuple[Path, ...]:
    """Returns the host directories that a sandbox writes to."""
    found = [spec.root.upper] if spec.root else []
    for mount in spec.mounts:
        if isinstance(mount, Bind):
            found.append(mount.source if mount.writable else None)
        else:
            found.append(mount.upper)
    return tuple(path for path in found if path is not None)


def _set_resource_limits(pid: int, wanted: Mapping[str, int], owner: tuple[int, int]) -> None:
    """Sets resource limits of a process; a stricter one that it already has stays.

    Root in a container may lack the right to set limits of another user's process (CAP_SYS_RESOURCE). Then a
    child that runs as that user, `owner`, sets them.
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
