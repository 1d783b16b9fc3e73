"""Makes a control group (version 2) for one sandbox, if this process may. Called by `limits`.

A limit of packhorse's own group has to hold for its sandboxes too, so the group should be below that one. But
the kernel refuses a group with controllers below a group that has processes of its own. So the group is made
below the nearest ancestor that hands the controllers down, and the limits of the groups between are written
into it. A group outlives the process that made it. So each one is recorded in a file, by which `sweep`
removes the groups of a packhorse that was killed.

Version 1 is not used. Without a group, `limits.Watch` counts what a sandbox uses (docs/decisions/0027).
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
"""Seconds to wait until the last process of a group that was killed is gone."""


@dataclass(frozen=True, slots=True)
class ParentGroup:
    """A directory in which a group can be made.

    `ceilings` has, for each controller, the least limit (bytes or tasks) of the groups between this process
    and that directory, 0 for none. The kernel does not apply these to a group beside them, so we do.
    """

    directory: Path
    ceilings: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Events:
    """How often the kernel refused the group's processes a fork, or killed them because memory ran out.

    `own` says that the group's own limit was the reason of the kills.
    """

    refused: int = 0
    killed: int = 0
    own: bool = True


class Group:
    """A control group for one sandbox. `limits` has a number for each controller (bytes or tasks); 0 is none.

    Raises OSError if it cannot be made. With `together`, the kernel kills all of its processes if it has to
    kill one. A file in `records` records the group.
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
                        # With swap, a sandbox beyond its limit would become slow instead of ending.
                        (self._path / "memory.swap.max").write_text("0")
            if together:
                with suppress(OSError):  # before Linux 4.19
                    (self._path / "memory.oom.group").write_text("1")
        except OSError:
            self.close()
            raise

    def add(self, pid: int) -> None:
        """Moves a process into the group; what it starts from now on belongs to it too. Raises OSError.

        This may take ten milliseconds, in which the kernel waits for other readers.
        """
        (self._path / "cgroup.procs").write_text(str(pid))

    def events(self) -> Events:
        """Returns what has happened so far."""
        pids, memory = (_read_numbers(self._path / f"{name}.events") for name in ("pids", "memory"))
        return Events(pids.get("max", 0), memory.get("oom_kill", 0), bool(memory.get("oom", 0)))

    def memory(self) -> int:
        """Returns the bytes of memory and swap space that its processes use; 0 if they are not counted."""
        numbers = _read_numbers(self._path / "memory.stat")
        swapped = _read_number(self._path / "memory.swap.current")
        return numbers.get("anon", 0) + numbers.get("shmem", 0) + swapped

    def close(self) -> None:
        """Removes the group once its processes are gone. If they stay too long, `sweep` removes it later."""
        end = time.monotonic() + _TIMEOUT
        while not _remove_groups([self._path]):
            if time.monotonic() > end:
                return
            time.sleep(0.005)
        self._record.unlink(missing_ok=True)


def find_parent() -> ParentGroup | None:
    """Returns where this process can make a group, None if nowhere. Raises OSError."""
    place = own_group(read_proc("cgroup"), read_proc("mountinfo"))
    return nearest_parent(*place) if place else None


def memory_allowed() -> int:
    """Returns how many bytes of memory this process's own groups allow it, 0 for no limit."""
    try:
        place = own_group(read_proc("cgroup"), read_proc("mountinfo"))
    except OSError:
        return 0
    # In a container the mounted directory itself is a group that may have a limit.
    return _least_limit("memory", place[0], place[1].parent) if place else 0


def sweep(records: Path) -> None:
    """Removes the recorded groups whose packhorse has ended."""
    with suppress(OSError):
        for record in list(records.iterdir()):
            maker = record.name.removeprefix("packhorse-").rpartition("-")[0]
            if maker == process_start_id(maker.partition("-")[0]):
                continue
            # A group has the name of its record. So nothing else is removed, whoever can write records.
            paths = [Path(os.fsdecode(line)) for line in record.read_bytes().splitlines()]
            if _remove_groups(path for path in paths if path.name == record.name):
                record.unlink(missing_ok=True)


def own_group(memberships: str, mounts: str) -> tuple[Path, Path] | None:
    """Returns the directory of a process's group, and where its hierarchy is mounted; None without version 2.

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
    """Returns the nearest directory from `own` up to `mounted` in which this user can make a group."""
    for directory in (own, *own.parents):
        if not directory.is_relative_to(mounted):
            return None
        try:
            offered = (directory / "cgroup.subtree_control").read_text().split()
        except OSError:
            return None
        # To move a process, a user needs to write to the common ancestor of both groups (cgroups(7)).
        writable = os.access(directory, os.W_OK | os.X_OK) and os.access(directory / "cgroup.procs", os.W_OK)
        if writable and set(CONTROLLERS) <= set(offered):
            return ParentGroup(directory, {name: _least_limit(name, own, directory) for name in CONTROLLERS})
    return None


def _unescape(text: str) -> str:
    """Decodes the octal escapes of a path in mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _least_limit(controller: str, own: Path, end: Path) -> int:
    """Returns the least limit of `own` and the groups above it, up to `end`, which is left out."""
    least = 0
    for directory in (own, *own.parents):
        if directory == end or not directory.is_relative_to(end):
            break
        number = _read_number(directory / f"{controller}.max")
        if number and (not least or number < least):
            least = number
    return least


def _read_number(path: Path) -> int:
    """Reads a number from a file; 0 for `max`, or if the file cannot be read."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def _read_numbers(path: Path) -> dict[str, int]:
    """Reads the lines `name number` of a file; empty if it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _remove_groups(paths: Iterable[Path]) -> bool:
    """Removes groups; True if none is left. The kernel keeps a group that still has a process."""
    gone = True
    for path in paths:
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            gone = False
    return gone
