"""A control group of a step's own, where this process may make one; called by `limits`.

It is made below the group that this process is in, so that what holds for packhorse holds for its steps as
well. Under version 2 a group with processes in it cannot have such groups below, so it is made below the
nearest one above that can; what is allowed on the way there is then written into it. A group outlives whoever
made it, so each is noted in a file that `sweep` finds after a packhorse that was killed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from packhorse.base import proc
from packhorse.base.dataclass import dataclass

CONTROLLERS = ("pids", "memory")

_V1_SWAP = 1 << 20
"""Bytes that version 1 allows in swap space: without any, memory.failcnt does not count."""

_PATIENCE = 2.0
"""Seconds in which the last process of a group that was killed is gone."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A directory in which a group with one controller can be made.

    `ceiling` is the least that the groups between the process and that directory allow it (bytes or tasks), 0
    for no limit: a group beside them would not be held to it by the kernel.
    """

    directory: Path
    unified: bool
    ceiling: int = 0


@dataclass(frozen=True, slots=True)
class Events:
    """What the kernel has done to a group: forks refused, processes ended for want of memory.

    `own` says that the group's own limit was the reason for the latter.
    """

    refused: int = 0
    killed: int = 0
    own: bool = True


class Group:
    """A group for one step; `limits` has a number for each controller (bytes or tasks), of which 0 is none.

    Raises OSError when it cannot be made. `together` has all of its processes end when one has to.
    """

    def __init__(
        self, parents: Mapping[str, Parent], limits: Mapping[str, int], *, records: Path, together: bool
    ) -> None:
        name = f"packhorse-{proc.identity()}-{os.urandom(4).hex()}"
        self._parents = dict(parents)
        self._paths = {controller: parent.directory / name for controller, parent in parents.items()}
        records.mkdir(exist_ok=True)
        self._record = records / name
        self._record.write_bytes(b"".join(bytes(path) + b"\n" for path in self._paths.values()))
        try:
            for path in set(self._paths.values()):
                path.mkdir()
            for controller, parent in parents.items():
                self._bound(controller, parent, limits.get(controller, 0), together=together)
        except OSError:
            self.close()
            raise

    def _bound(self, controller: str, parent: Parent, limit: int, *, together: bool) -> None:
        path = self._paths[controller]
        least = min((number for number in (limit, parent.ceiling) if number), default=0)
        if least:
            (path / _limit_file(controller, unified=parent.unified)).write_text(str(least))
        if controller == "memory" and together:
            # All end when one has to, and nothing hides in swap space, where it would only take longer.
            whole, swap = {"memory.oom.group": "1"}, {"memory.swap.max": "0"}
            if not parent.unified:
                whole, swap = {}, {"memory.memsw.limit_in_bytes": str(least + _V1_SWAP)}
            for name, value in {**whole, **(swap if least else {})}.items():
                with suppress(OSError):  # before Linux 4.19; without swap accounting
                    (path / name).write_text(value)

    @property
    def controllers(self) -> frozenset[str]:
        """What it bounds."""
        return frozenset(self._paths)

    def add(self, pid: int) -> None:
        """Takes a process in; those that it starts from now on belong to the group too. Raises OSError.

        It may take ten milliseconds, in which the kernel waits for its readers.
        """
        for path in set(self._paths.values()):
            (path / "cgroup.procs").write_text(str(pid))

    def events(self) -> Events:
        """What has happened so far."""
        pids, memory = (_numbers(self._file(name)) for name in ("pids", "memory"))
        if "memory" in self._parents and not self._parents["memory"].unified:
            own = bool(_number(self._paths["memory"] / "memory.failcnt"))
        else:
            own = bool(memory.get("oom", 0))
        return Events(pids.get("max", 0), memory.get("oom_kill", 0), own)

    def memory(self) -> int:
        """The bytes of memory and swap space that its processes have of their own; 0 if it does not count."""
        if "memory" not in self._paths:
            return 0
        numbers = _numbers(self._paths["memory"] / "memory.stat")
        if not self._parents["memory"].unified:
            return sum(numbers.get(name, 0) for name in ("total_rss", "total_shmem", "total_swap"))
        swapped = _number(self._paths["memory"] / "memory.swap.current")
        return numbers.get("anon", 0) + numbers.get("shmem", 0) + swapped

    def _file(self, controller: str) -> Path:
        if controller not in self._paths:
            return Path(os.devnull)
        v1_memory = controller == "memory" and not self._parents[controller].unified
        return self._paths[controller] / ("memory.oom_control" if v1_memory else f"{controller}.events")

    def close(self) -> None:
        """Removes the group, whose processes are gone or about to be; one that stays is left to `sweep`."""
        end = time.monotonic() + _PATIENCE
        while not _removed(self._paths.values()):
            if time.monotonic() > end:
                return
            time.sleep(0.005)
        self._record.unlink(missing_ok=True)


def find() -> dict[str, Parent]:
    """Where this process can make a group, for each controller with which it can."""
    return parents(proc.told("cgroup"), proc.told("mountinfo"))


def parents(memberships: str, mounts: str) -> dict[str, Parent]:
    """The same for a process with these files /proc/PID/cgroup and /proc/PID/mountinfo (cgroups(7))."""
    found = {}
    for controller in CONTROLLERS:
        for unified in (False, True):
            place = _own(controller, memberships, mounts, unified=unified)
            parent = _parent(controller, *place, unified=unified) if place else None
            if parent is not None:
                found[controller] = parent
                break
    return found


def memory_allowed() -> int:
    """The least number of bytes that this process's own groups allow it, 0 for no limit."""
    try:
        memberships, mounts = proc.told("cgroup"), proc.told("mountinfo")
    except OSError:
        return 0
    allowed = 0
    for unified in (False, True):
        place = _own("memory", memberships, mounts, unified=unified)
        if place:
            allowed = _least("memory", *place, unified=unified) or allowed
    return allowed


def sweep(records: Path) -> None:
    """Removes the groups whose packhorse is gone; those of another that still runs stay."""
    with suppress(OSError):
        for record in list(records.iterdir()):
            maker = record.name.removeprefix("packhorse-").rpartition("-")[0]
            if maker == proc.identity(maker.partition("-")[0]):
                continue
            # Groups are called like their record, so that nothing else goes, whoever may write records.
            paths = [Path(os.fsdecode(line)) for line in record.read_bytes().splitlines()]
            if _removed(path for path in paths if path.name == record.name):
                record.unlink(missing_ok=True)


def _own(controller: str, memberships: str, mounts: str, *, unified: bool) -> tuple[Path, Path] | None:
    """The directory of the process's group in a controller's hierarchy, and where that is mounted."""
    path = None
    for line in memberships.splitlines():
        number, names, own = line.split(":", 2)
        if (unified and number == "0" and not names) or controller in names.split(","):
            path = own
    if path is None:
        return None
    for line in mounts.splitlines():
        fields = line.split(" ")
        kind, _, options = fields[fields.index("-") + 1 :]
        wanted = kind == "cgroup2" if unified else kind == "cgroup" and controller in options.split(",")
        root = _plain(fields[3]).rstrip("/")
        if wanted and f"{path}/".startswith(f"{root}/"):
            mounted = Path(_plain(fields[4]))
            return mounted / path[len(root) :].lstrip("/"), mounted
    return None


def _plain(text: str) -> str:
    """A path without the octal escapes of mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _parent(controller: str, own: Path, mounted: Path, *, unified: bool) -> Parent | None:
    if not unified:
        return Parent(own, unified=False) if _writable(own) else None
    for directory in (own, *own.parents):
        if not directory.is_relative_to(mounted):
            return None
        try:
            offered = (directory / "cgroup.subtree_control").read_text().split()
        except OSError:
            return None
        # Who moves a process has to be able to write to the group above both places (cgroups(7)).
        if controller in offered and _writable(directory) and os.access(directory / "cgroup.procs", os.W_OK):
            return Parent(directory, unified=True, ceiling=_least(controller, own, directory, unified=True))
    return None


def _writable(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK)


def _least(controller: str, own: Path, end: Path, *, unified: bool) -> int:
    """The least of the limits of `own` and those above it, up to `end` and without that."""
    least = 0
    for directory in (own, *own.parents):
        if directory == end or not directory.is_relative_to(end):
            break
        number = _number(directory / _limit_file(controller, unified=unified))
        if number and (not least or number < least):
            least = number
    return least


def _limit_file(controller: str, *, unified: bool) -> str:
    return "memory.limit_in_bytes" if controller == "memory" and not unified else f"{controller}.max"


def _number(path: Path) -> int:
    """What a file has; 0 for `max`, or when it cannot be read. Version 1 has a huge number for no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    number = int(text) if text.isdigit() else 0
    return number if number < 1 << 60 else 0


def _numbers(path: Path) -> dict[str, int]:
    """The lines `name number` of a file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _removed(paths: Iterable[Path]) -> bool:
    """Whether no group is there any more; the kernel removes only those that have no process."""
    gone = True
    for path in paths:
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            gone = False
    return gone
