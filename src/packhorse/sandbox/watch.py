"""The threads that end a step before it fills this machine's disk or memory; started by `limits`.

They also tell which limit a step has met, and count processes and memory where no control group does. They
read what the kernel shows of the step, never a file that the step made.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from packhorse.base.step import Limits
from packhorse.sandbox.cgroup import Events, Group

_SHORTEST, _LONGEST = 0.02, 0.25
"""Seconds between two looks; the nearer a disk is to its limit the shorter."""

_FASTEST = 2 << 30
"""Bytes that a step writes in a second at most, on disks of today."""

_SHARE = 10
"""How much longer the pause after a look is than its own work: of a bomb there are thousands of processes."""

_MEMORY_LEFT = 32
"""The part of the machine's memory, swap space included, that has to be left to others."""

_OWN_PART = 4
"""The part of the machine's memory that a step has at least which is to blame when hardly any is left."""


class Watch:
    """Watches from `start` to `stop`; calls `kill` when a limit is met that ends the step.

    With `shared_memory`, files in the step's /dev/shm count as memory.
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
        self._group = group
        self._kill = kill
        self._met = ""
        self._killed_before = _machine_kills()
        self._events = Events()
        # Commands before have met limits of the same group, perhaps.
        self._before = Events()
        with suppress(OSError, ValueError):  # which the first look tells of
            self._before = group.events() if group else Events()
        self._disks = list(_open_disks(writes)) if limits.disk or limits.inodes else []
        seen = limits.memory or limits.processes or limits.expendable
        counted = seen and group is None
        self._proc = _open_directory(pid, "proc") if counted else -1
        self._shared = _open_directory(pid, "dev/shm") if counted and shared_memory else -1
        self._ended = threading.Event()
        # Among thousands of busy processes a look at each takes seconds, in which a disk is full.
        looks = [self._check_machine, *([self._check_processes] if self._proc >= 0 else [])]
        self._threads = [threading.Thread(target=self._run, args=(look,), name="limits") for look in looks]

    def start(self) -> None:
        """Begins to watch; however this is broken off, `stop` ends it."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the watching; the step is over."""
        self._ended.set()
        for thread in self._threads:
            with suppress(RuntimeError):  # it has not begun, and sees that it need not
                thread.join()
        self._events = self._new_events()
        for descriptor in (*self._disks, self._proc, self._shared):
            if descriptor >= 0:
                os.close(descriptor)

    def verdict(self) -> str:
        """Which limit has ended the step, which did not end well; empty when none has."""
        if self._met:
            return self._met
        limits, events = self._limits, self._events
        if events.killed and events.own:
            return _describe_memory(limits)
        if events.killed:
            return "this machine had no memory left, so that the kernel ended processes of it"
        if self._group is None and limits.expendable and _machine_kills() > self._killed_before:
            return "this machine had no memory left, so that the kernel ended processes, perhaps some of it"
        if events.refused and limits.processes:
            return _describe_processes(limits)
        return ""

    def _run(self, check: Callable[[], str]) -> None:
        pause = _SHORTEST
        while not self._ended.wait(pause):
            began = time.thread_time()
            try:
                met = check()
            except (OSError, LookupError, ValueError):
                met = "what it uses of this machine could not be seen any more"
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
        """The longest time in which no disk can pass its limit."""
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
        """What has happened to the group since this began."""
        if self._group is None:
            return Events()
        now, before = self._group.events(), self._before
        return Events(now.refused - before.refused, now.killed - before.killed, now.own)

    def _check_memory(self, used: Callable[[], int]) -> str:
        """Whether others of this machine want for memory, and the step, which has `used`, is to blame."""
        if not self._limits.expendable:
            return ""
        left, whole = _machine_memory()
        return describe_shortage(left, whole, used)

    def _check_processes(self) -> str:
        """What a group would have told, of a step that has none."""
        limits = self._limits
        if limits.expendable and limits.processes:
            # Some of those that were refused a fork end, so that the limit itself may never be seen.
            most = limits.processes - limits.processes // 16
            if most <= _machine_tasks() and most <= count_tasks(self._proc):
                return _describe_processes(limits)

        def exactly() -> int:
            return measure_memory(self._proc, files=files, shares=True)

        files = used_bytes(self._shared) if self._shared >= 0 else 0
        # At first what several processes share is counted for each; to be exact is dear.
        if 0 < limits.memory < measure_memory(self._proc, files=files) and limits.memory < exactly():
            return _describe_memory(limits)
        return self._check_memory(exactly)


def count_tasks(proc: int) -> int:
    """How many processes and threads there are in a /proc, open at `proc`; of a bomb too in little time."""
    found = 0
    for name in _processes_in(proc):
        with suppress(OSError):
            found += os.stat(f"{name}/task", dir_fd=proc).st_nlink - 2
    return found


def measure_memory(proc: int, *, files: int = 0, shares: bool = False) -> int:
    """The bytes of memory and swap that processes have of their own; with `shares` their parts of what they
    share, else all of it for each.

    `files` are the bytes of all files in /dev/shm. What processes have mapped of them counts for the
    processes; the kernel does not tell it from other shared memory. So the larger of the two counts.
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
    """The bytes that files take of the file system of an open directory."""
    state = os.fstatvfs(directory)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def describe_shortage(left: int, whole: int, used: Callable[[], int]) -> str:
    """What a step has met that has `used` bytes of `whole`, of which `left` are left; empty when nothing.

    One that has little is not to blame for what others use. The kernel, which takes an expendable step first,
    finds a process to end when none is left at all, and that is told as such.
    """
    if left * _MEMORY_LEFT >= whole:
        return ""
    own = used()
    if own * _OWN_PART < whole:
        return ""
    had = f"it had {format_size(own)} of {format_size(whole)}"
    return f"it left hardly any of this machine's memory to others: {had}"


def _processes_in(proc: int) -> list[str]:
    with suppress(OSError):
        return [name for name in os.listdir(proc) if name.isdigit()]
    return []


def format_size(number: int) -> str:
    """Bytes in the unit in which they were given: powers of 1024, as limits are."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 1 << power:
            return f"{number / (1 << power):.1f} {unit}".replace(".0 ", " ")
    return f"{number} bytes"


def _describe_processes(limits: Limits) -> str:
    return f"it met the limit of {limits.processes} processes and threads (the limit processes)"


def _describe_memory(limits: Limits) -> str:
    return f"it met the limit of {format_size(limits.memory)} of memory (the limit memory)"


def _open_disks(paths: Iterable[Path]) -> Iterator[int]:
    """A descriptor for each file system that has one of the paths."""
    seen = set()
    for path in paths:
        device = path.stat().st_dev
        if device not in seen:
            seen.add(device)
            yield os.open(path, os.O_PATH | os.O_CLOEXEC)


def _open_directory(pid: int, name: str) -> int:
    """A directory of the kernel's as the step itself has it; -1 when it cannot be opened.

    Its /proc shows its own processes alone. Nothing of the step has run yet, and it cannot mount anything
    there.
    """
    try:
        return os.open(f"/proc/{pid}/root/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1


def _read_fields(directory: int, name: str) -> dict[str, str]:
    """The lines `Name: value` of a small file of the kernel's."""
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        text = os.read(descriptor, 8192).decode(errors="replace")
    finally:
        os.close(descriptor)
    return {field: value.strip() for field, _, value in (line.partition(":") for line in text.splitlines())}


def _machine_tasks() -> int:
    """How many processes and threads this machine has, which is cheap to ask: the step has not more."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


def _machine_kills() -> int:
    """How often the kernel has ended a process for want of memory."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def _machine_memory() -> tuple[int, int]:
    """How many bytes of memory, swap space included, are left, and how many of memory there are."""
    fields = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) << 10
    return fields["MemAvailable"] + fields["SwapFree"], fields["MemTotal"]
