"""Makes user namespaces, and chooses which ids of this machine the ids inside stand for.

`choose_map` decides the map, `make_namespace` makes a namespace with it, and `spawn` starts a program inside.
This process never enters a namespace itself, because it has threads: `linux.bubblewrap` makes one in a child
process, and another child enters it by `linux.userns_exec`. `sandbox`, `store` and `fs.opener` use this
module.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import IO

from packhorse.base.dataclass import dataclass
from packhorse.errors import HostError
from packhorse.linux import bubblewrap, syscalls, userns_exec
from packhorse.linux.processes import python_command, read_proc

SHIFTED_BASE = 0x7F000000
"""The first id of a sandbox that root starts: above the range of sssd, below systemd's foreign range."""

SIZE = 65536
"""The most ids of root's namespace, and of a user's beside its own: 0 to 65535, as in a container."""


_IDMAPPING_SUPPORT: dict[str, bool] = {}
"""Answers of `supports_idmapping`, by the line of proc(5) that names the mount."""


class MapMode(Enum):
    """ROOT maps to unused ids, as only root can; RANGE to a user's subordinate ids; SINGLE has one id."""

    ROOT = "root"
    RANGE = "range"
    SINGLE = "single"


@dataclass(frozen=True, slots=True)
class Extent:
    """`count` consecutive ids: from `inside` in the namespace, from `outside` on this machine."""

    inside: int
    outside: int
    count: int


@dataclass(frozen=True, slots=True)
class IdMap:
    """The ids of a namespace. Ids of this machine that it does not map appear inside as 65534.

    No process inside can act as one of these.
    """

    mode: MapMode
    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]

    @property
    def key(self) -> str:
        """A short text that is equal for two maps if trees unpacked with them have equal owners.

        It names directories of the store, so it must not change. With a single id every file belongs to the
        user, whatever that id is inside.
        """
        owners = map_as_root(self)
        text = repr((owners.uids, owners.gids)).encode()
        return f"{self.mode.value}-{hashlib.sha256(text).hexdigest()[:12]}"

    def has(self, uid: int, gid: int) -> bool:
        """Whether these ids exist inside."""
        return _find_outside(self.uids, uid) is not None and _find_outside(self.gids, gid) is not None

    def to_outside(self, uid: int, gid: int) -> tuple[int, int]:
        """The ids of this machine for two ids inside. Raises HostError if the namespace lacks one."""
        found = _find_outside(self.uids, uid), _find_outside(self.gids, gid)
        if found[0] is None or found[1] is None:
            raise HostError(
                f"user {uid}:{gid} does not exist in this sandbox",
                why=f"its ids are mapped {self.mode.value}: {_join(self.uids)}; groups {_join(self.gids)}",
                fix="" if self.mode is MapMode.ROOT else "give the invoking user subordinate ids",
                check="subordinate-ids",
            )
        return found[0], found[1]

    def to_inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The ids inside for two ids of this machine, 65534 for an id that is not mapped."""
        return _find_inside(self.uids, uid), _find_inside(self.gids, gid)


def _find_outside(extents: Sequence[Extent], number: int) -> int | None:
    for extent in extents:
        if extent.inside <= number < extent.inside + extent.count:
            return extent.outside + number - extent.inside
    return None


def _find_inside(extents: Sequence[Extent], number: int) -> int:
    for extent in extents:
        if extent.outside <= number < extent.outside + extent.count:
            return extent.inside + number - extent.outside
    return userns_exec.OVERFLOW


def as_tuples(extents: Sequence[Extent]) -> userns_exec.Ids:
    """The extents in the form of `linux.userns_exec`."""
    return tuple((extent.inside, extent.outside, extent.count) for extent in extents)


def _join(extents: Sequence[Extent]) -> str:
    return userns_exec.format_ids(as_tuples(extents))


def choose_map(uid: int = 1000, gid: int = 1000, *, mode: MapMode | None = None) -> IdMap:
    """Chooses the best map for the invoking user, who becomes `uid`:`gid` inside, unless it is root.

    Root's map has only unused ids of this machine, and not id 0: a process that is root outside can write
    files below /proc/sys even without capabilities. `mode` demands one kind of map. Raises HostError if this
    machine does not have it.
    """
    if mode is None:
        mode = (
            MapMode.ROOT
            if os.geteuid() == 0
            else MapMode.RANGE
            if find_range_obstacle() == ""
            else MapMode.SINGLE
        )
    if mode is MapMode.ROOT:
        uids, gids = _shifted_ids("/proc/self/uid_map"), _shifted_ids("/proc/self/gid_map")
        return IdMap(mode, shifted_extents(uid, *uids), shifted_extents(gid, *gids))
    if mode is MapMode.SINGLE:
        return IdMap(mode, (Extent(uid, os.geteuid(), 1),), (Extent(gid, os.getegid(), 1),))
    obstacle = find_range_obstacle()
    if obstacle:
        raise HostError("no range of ids can be mapped", why=obstacle, check="subordinate-ids")
    return IdMap(
        mode,
        make_extents(uid, os.geteuid(), _read_subordinate(Path("/etc/subuid"))),
        make_extents(gid, os.getegid(), _read_subordinate(Path("/etc/subgid"))),
    )


def map_as_root(idmap: IdMap) -> IdMap:
    """The same map, but a single id becomes root inside.

    Any other user loses its capabilities when it executes a program (capabilities(7)).
    """
    if idmap.mode is not MapMode.SINGLE:
        return idmap
    (uid,), (gid,) = idmap.uids, idmap.gids
    return IdMap(MapMode.SINGLE, (Extent(0, uid.outside, 1),), (Extent(0, gid.outside, 1),))


def make_extents(inside: int, own: int, spare: Sequence[tuple[int, int]]) -> tuple[Extent, ...]:
    """The extents that map `own` to the id `inside`, and the other ids, from 0 on, to those in `spare`.

    `spare` has (first id, count) pairs, used in their order. At most SIZE ids are mapped.
    """
    extents: list[Extent] = []
    position = 0
    for start, count in spare:
        first, left = start, min(count, SIZE - position)
        if position <= inside < position + left:
            before = inside - position
            if before:
                extents.append(Extent(position, first, before))
            first, left, position = first + before, left - before, inside + 1
            left = min(left, SIZE - position)
        if left > 0:
            extents.append(Extent(position, first, left))
            position += left
    extents.append(Extent(inside, own, 1))
    return tuple(sorted(extents, key=lambda extent: extent.inside))


def shifted_extents(inside: int, first: int, count: int) -> tuple[Extent, ...]:
    """The extents that map the ids from 0 on to `count` ids from `first` on.

    If `inside` is above these, it takes the last id of them: a builder's user may have any number.
    """
    if inside < count:
        return (Extent(0, first, count),)
    return Extent(0, first, count - 1), Extent(inside, first + count - 1, 1)


def _shifted_ids(current: str) -> tuple[int, int]:
    """The first id and the count: at SHIFTED_BASE, or in a container the last ids of its own range.

    Raises HostError.
    """
    available = [tuple(map(int, line.split())) for line in Path(current).read_text().splitlines()]
    if any(first <= SHIFTED_BASE and first + count >= SHIFTED_BASE + SIZE for first, _, count in available):
        return SHIFTED_BASE, SIZE
    first, count = max(
        ((max(first, 1), count - (first == 0)) for first, _, count in available), key=lambda e: e[1]
    )
    size = min(count, SIZE)
    if size < 2:
        raise HostError(
            "root has no ids to give to a sandbox",
            why=f"{current} maps {len(available)} extent(s), and root's own id must not be used inside",
            fix="run as an ordinary user, or start the container with a range of ids",
            check="subordinate-ids",
        )
    return first + count - size, size


def _read_subordinate(table: Path) -> list[tuple[int, int]]:
    """The (first id, count) pairs of the invoking user in /etc/subuid or /etc/subgid, in their order."""
    own = {str(os.geteuid())}
    with suppress(KeyError):  # a user without an entry in passwd may still be listed by number
        own.add(pwd.getpwuid(os.geteuid()).pw_name)
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        fields = line.strip().split(":")
        if (
            len(fields) == 3
            and fields[0] in own
            and all(field.isascii() and field.isdecimal() for field in fields[1:])
        ):
            found.append((int(fields[1]), int(fields[2])))
    return found


def find_range_obstacle() -> str:
    """Why the invoking user cannot map subordinate ids; empty if no reason is known."""
    for table in (Path("/etc/subuid"), Path("/etc/subgid")):
        if not _read_subordinate(table):
            return f"{table} has no line for user {os.geteuid()}"
    for program in ("newuidmap", "newgidmap"):
        path = shutil.which(program)
        if path is None:
            return f"{program} is not installed (package uidmap)"
        if not _raises_privilege(Path(path)):
            return f"{path} has neither the setuid bit nor file capabilities"
    # Under no_new_privs, as in a hardened container, newuidmap does not get its privileges.
    status = read_proc("status")
    if re.search(r"^NoNewPrivs:\s*1", status, re.MULTILINE):
        return "this process may not gain privileges (no_new_privs)"
    return ""


def _raises_privilege(program: Path) -> bool:
    if program.stat().st_mode & stat.S_ISUID:
        return True
    return "security.capability" in os.listxattr(program)


class Namespace:
    """A user namespace, which the descriptor `fd` keeps alive. A context manager that closes it."""

    def __init__(self, idmap: IdMap, fd: int) -> None:
        self.idmap = idmap
        self.fd = fd

    def close(self) -> None:
        """Closes the descriptor; processes inside continue."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def command(verb: str, options: Sequence[tuple[str, str]]) -> list[str]:
    """The command line of `linux.userns_exec`, without the `--` and what follows it."""
    words = [word for option in options for word in option]
    return [*python_command("packhorse.linux.userns_exec"), verb, *words]


def map_options(idmap: IdMap) -> list[tuple[str, str]]:
    """The options by which `linux.userns_exec` gets this map."""
    return [("uids", _join(idmap.uids)), ("gids", _join(idmap.gids))]


def make_namespace(idmap: IdMap) -> Namespace:
    """Makes a user namespace with these ids. Raises HostError."""
    with bubblewrap.unmapped_process() as pid:
        if idmap.mode is MapMode.RANGE:
            _run_map_program("newuidmap", pid, idmap.uids)
            _run_map_program("newgidmap", pid, idmap.gids)
        else:
            try:
                userns_exec.write_maps(pid, as_tuples(idmap.uids), as_tuples(idmap.gids))
            except (userns_exec.UsernsExecError, OSError) as error:
                raise bubblewrap.namespace_error(str(error)) from error
        return Namespace(idmap, os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))


def _run_map_program(program: str, pid: int, extents: Sequence[Extent]) -> None:
    """Writes a map by newuidmap(1) or newgidmap(1), which check the user's subordinate ids."""
    numbers = [str(number) for extent in as_tuples(extents) for number in extent]
    done = subprocess.run([program, str(pid), *numbers], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError(
            "this user's subordinate ids cannot be mapped",
            why=done.stderr.strip() or f"{program} refused {_join(extents)} (status {done.returncode})",
            fix="check that /etc/subuid and /etc/subgid give this user ids that nobody else has",
            check="subordinate-ids",
        )


def spawn(
    argv: Sequence[str],
    *,
    namespace: Namespace,
    paths: Sequence[Path] = (),
    pass_fds: Sequence[int] = (),
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts `argv` inside `namespace`, as its uid 0, or as the single id. `argv[0]` is an absolute path.

    The program has all capabilities over files and processes of the namespace, and none over others. It runs
    in a process group of its own, with the environment `env` (default: empty). `paths` are those that it will
    open by name. If root starts it, directories above them may deny access to it (/root, a home); then they
    are covered by mounts through which it can reach these paths.
    """
    options = [*map_options(namespace.idmap), ("userns", str(namespace.fd))]
    if namespace.idmap.mode is MapMode.ROOT:
        needed = [Path(argv[0]), Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[2], *paths]
        options += [("reach", str(path)) for path in reachable_names(needed)]
    return subprocess.Popen(
        [*command("enter", options), "--", *argv],
        pass_fds=(namespace.fd, *pass_fds),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        process_group=0,  # Ctrl-C must reach only this process, which ends the child
        env=dict(env or {}),
    )


def reachable_names(paths: Sequence[Path]) -> list[Path]:
    """All paths that the kernel looks up to open `paths`: each itself, and the targets of its links."""
    names: dict[Path, None] = {}
    for path in paths:
        name = Path(os.path.normpath(path.absolute()))
        for _ in range(40):
            names[name.parent.resolve() / name.name] = None
            if not name.is_symlink():
                break
            name = Path(os.path.normpath(name.parent.resolve() / name.readlink()))
    return list(names)


def open_idmapped_mount(source: Path, idmap: IdMap) -> int:
    """Opens a detached mount of `source` with its owners mapped by `idmap`, and returns its descriptor.

    Only root can do this. The caller closes the descriptor.
    `outside` of an extent is the id that programs see, `inside` the id on disk. Raises OSError if the file
    system cannot do it.
    """
    with make_namespace(idmap) as namespace:
        return _map_mount(source, namespace)


def _map_mount(source: Path, namespace: Namespace) -> int:
    descriptor = syscalls.clone_mount(str(source), recursive=False)
    try:
        syscalls.map_mount(descriptor, namespace.fd)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def supports_idmapping(source: Path, namespace: Namespace | None = None) -> bool:
    """Whether root can mount `source` with other owners, also as a lower of an overlay (Linux 5.19).

    It tries this once for each mount, with `namespace` or one that it makes.
    """
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if os.geteuid() != 0 or release is None or (int(release[1]), int(release[2])) < (5, 19):
        return False
    mount = _mount_id(source)
    if mount not in _IDMAPPING_SUPPORT:
        one = (Extent(0, SHIFTED_BASE, 1),)
        try:
            if namespace is None:
                os.close(open_idmapped_mount(source, IdMap(MapMode.ROOT, one, one)))
            else:
                os.close(_map_mount(source, namespace))
        except (OSError, HostError):
            _IDMAPPING_SUPPORT[mount] = False
        else:
            _IDMAPPING_SUPPORT[mount] = True
    return _IDMAPPING_SUPPORT[mount]


def _mount_id(path: Path) -> str:
    """The line in proc(5)'s fdinfo with the number of the mount that a path is on."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    finally:
        os.close(descriptor)
    return next(line for line in lines if line.startswith("mnt_id:"))
