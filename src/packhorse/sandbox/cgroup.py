"""A control group (version 2) for one step, where this process may make one. Called by `limits`.

The group is made below the group that this process is in, so that what limits packhorse limits its steps too.
The kernel refuses groups with controllers below a group that has processes of its own. So the group is made
below the nearest ancestor that hands the controllers down, and limits on the way there are written into it. A
group outlives the process that made it: each one is recorded in a file, by which `sweep` removes the groups
of a packhorse that was killed.

Version 1 is not used. Where there is no group, `watch` counts what a step uses (docs/decisions/0027).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.linux.processes import process_start_id, read_proc

CONTROLLERS = ("memory", "pids")

_TIMEOUT = 2.0
"""Seconds in which the last process of a group that was killed is gone."""


@dataclass(frozen=True, slots=True)
class ParentGroup:
    """A directory in which a group can be made.

    `ceilings` has, for each controller, the least limit (bytes or tasks) of the groups between this process
    and that directory, 0 for none: the kernel would not hold a group beside them to it.
    """

    directory: Path
    ceilings: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Events:
    """What the kernel has done to a group: it refused forks, and killed processes for lack of memory.

    `own` says that the group's own limit was the reason for the latter.
    """

    refused: int = 0
    killed: int = 0
    own: bool = True


class Group:
    """A group for one step. `limits` has a number for each controller (bytes or tasks); 0 is no limit.

    Raises OSError when it cannot be made. With `together`, the kernel kills all of its processes when it has
    to kill one.
    """

    def __init__(
        self, parent: ParentGroup, limits: Mapping[str, int], *, records: Path, together: bool
    ) -> None:
        name = f"packhorse-{process_start_id()}-{os.urandom(4).hex()}"
        self._path = parent.directory / name
        records.mkdir(exist_ok=True)
        self._record = records / name
        self._record.write_bytes(bytes(self._path) + b"\n")
        try:
            self._path.mkdir()
            for controller, ceiling in parent.ceilings.items():
                limit = min((number for number in (limits.get(controller), ceiling) if number), default=0)
                if limit:
                    (self._path / f"{controller}.max").write_text(str(limit))
                if limit and controller == "memory":
                    with suppress(OSError):  # without swap accounting
                        # Nothing hides in swap space, where an end would only take longer.
                        (self._path / "memory.swap.max").write_text("0")
            if together:
                with suppress(OSError):  # before Linux 4.19
                    (self._path / "memory.oom.group").write_text("1")
        except OSError:
            self.close()
            raise

    def add(self, pid: int) -> None:
        """Takes a process in; those that it starts from now on belong to the group too. Raises OSError.

        It may take ten milliseconds, in which the kernel waits for its readers.
        """
        (self._path / "cgroup.procs").write_text(str(pid))

    def events(self) -> Events:
        """What has happened so far."""
        pids, memory = (_read_numbers(self._path / f"{name}.events") for name in ("pids", "memory"))
        return Events(pids.get("max", 0), memory.get("oom_kill", 0), bool(memory.get("oom", 0)))

    def memory(self) -> int:
        """The bytes of memory and swap space that its processes have of their own; 0 if it does not count."""
        numbers = _read_numbers(self._path / "memory.stat")
        swapped = _read_number(self._path / "memory.swap.current")
        return numbers.get("anon", 0) + numbers.get("shmem", 0) + swapped

    def close(self) -> None:
        """Removes the group, whose processes are gone or about to be; one that stays is left to `sweep`."""
        end = time.monotonic() + _TIMEOUT
        while not _remove_groups([self._path]):
            if time.monotonic() > end:
                return
            time.sleep(0.005)
        self._record.unlink(missing_ok=True)


def find_parent() -> ParentGroup | None:
    """Where this process can make a group; None when it can make none. Raises OSError."""
    place = own_group(read_proc("cgroup"), read_proc("mountinfo"))
    return nearest_parent(*place) if place else None


def memory_allowed() -> int:
    """The least number of bytes that this process's own groups allow it, 0 for no limit."""
    try:
        place = own_group(read_proc("cgroup"), read_proc("mountinfo"))
    except OSError:
        return 0
    # In a container the directory that is mounted is a group with a limit, too.
    return _least_limit("memory", place[0], place[1].parent) if place else 0


def sweep(records: Path) -> None:
    """Removes the groups whose packhorse is gone; those of another that still runs stay."""
    with suppress(OSError):
        for record in list(records.iterdir()):
            maker = record.name.removeprefix("packhorse-").rpartition("-")[0]
            if maker == process_start_id(maker.partition("-")[0]):
                continue
            # Groups are called like their record, so that nothing else goes, whoever may write records.
            paths = [Path(os.fsdecode(line)) for line in record.read_bytes().splitlines()]
            if _remove_groups(path for path in paths if path.name == record.name):
                record.unlink(missing_ok=True)


def own_group(memberships: str, mounts: str) -> tuple[Path, Path] | None:
    """The directory of a process's group, and where its hierarchy is mounted.

    The arguments are the texts of /proc/PID/cgroup and /proc/PID/mountinfo (cgroups(7)).
    """
    path = next((line[3:] for line in memberships.splitlines() if line.startswith("0::")), None)
    if path is None:
        return None
    for line in mounts.splitlines():
        fields = line.split(" ")
        root = _unescape(fields[3]).rstrip("/")
        if fields[fields.index("-") + 1] == "cgroup2" and f"{path}/".startswith(f"{root}/"):
            mounted = Path(_unescape(fields[4]))
            return mounted / path[len(root) :].lstrip("/"), mounted
    return None


def nearest_parent(own: Path, mounted: Path) -> ParentGroup | None:
    """The nearest directory from `own` up to `mounted` in which this user can make a group."""
    for directory in (own, *own.parents):
        if not directory.is_relative_to(mounted):
            return None
        try:
            offered = (directory / "cgroup.subtree_control").read_text().split()
        except OSError:
            return None
        # Who moves a process has to be able to write to the group above both places (cgroups(7)).
        writable = os.access(directory, os.W_OK | os.X_OK) and os.access(directory / "cgroup.procs", os.W_OK)
        if writable and set(CONTROLLERS) <= set(offered):
            return ParentGroup(directory, {name: _least_limit(name, own, directory) for name in CONTROLLERS})
    return None


def _unescape(text: str) -> str:
    """A path without the octal escapes of mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _least_limit(controller: str, own: Path, end: Path) -> int:
    """The least of the limits of `own` and those above it, up to `end` and without that."""
    least = 0
    for directory in (own, *own.parents):
        if directory == end or not directory.is_relative_to(end):
            break
        number = _read_number(directory / f"{controller}.max")
        if number and (not least or number < least):
            least = number
    return least


def _read_number(path: Path) -> int:
    """What a file has; 0 for `max`, or when it cannot be read."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def _read_numbers(path: Path) -> dict[str, int]:
    """The lines `name number` of a file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _remove_groups(paths: Iterable[Path]) -> bool:
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
