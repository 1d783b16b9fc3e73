"""Becomes another program with, or in, a user namespace: a short-lived child of `linux.userns` and `sandbox`.

A process with threads cannot enter a user namespace, and one that entered cannot come back. So a child does:

    python -I -S -c CODE enter OPTIONS -- ARGV   enters one as its root, and executes ARGV there
    python -I -S -c CODE hand OPTIONS -- ARGV    makes one, and executes ARGV outside as its owner, with the
                                                 namespace's descriptor for each word `@` before ARGV's `--`

OPTIONS are pairs NAME VALUE (see `Options`); a map is `INSIDE:OUTSIDE:COUNT,…`. A `hand` line holds no
descriptor, so that a user can paste it into a shell. Imports are only os, sys, stat and ctypes: a child
starts in 13 ms, of which python's own start takes 7.
"""

# Importing pathlib would take longer than everything done here.
# ruff: noqa: PTH102, PTH116

from __future__ import annotations

import os
import stat
import sys

from packhorse.linux import syscalls

OVERFLOW = 65534
"""The id under which one that is not mapped appears (the kernel's overflowuid)."""

Ids = tuple[tuple[int, int, int], ...]
"""The extents of a map: (first id inside, first id outside, count)."""


class UsernsExecError(Exception):
    """Something that a user has to read; printed, and the child ends with status 125."""


class Options:
    """What the command line asks for."""

    def __init__(self) -> None:
        self.uids: Ids = ()
        self.gids: Ids = ()
        self.userns = -1  # a descriptor of the namespace, instead of making one from the maps
        self.reach: list[str] = []  # paths that must be reachable inside, whatever directory they are below
        self.present: list[tuple[str, Ids, Ids]] = []  # paths shown with other owners: PATH=UIDS=GIDS
        # Ids outside: the namespace is theirs, and `hand` runs as them.
        self.become: tuple[int, int] | None = None


def parse_ids(text: str) -> Ids:
    """The extents written as `INSIDE:OUTSIDE:COUNT,…`."""
    extents = []
    for part in text.split(","):
        inside, outside, count = part.split(":")
        extents.append((int(inside), int(outside), int(count)))
    return tuple(extents)


def format_ids(ids: Ids) -> str:
    """The text that `parse_ids` reads."""
    return ",".join(f"{inside}:{outside}:{count}" for inside, outside, count in ids)


def has_outside_id(ids: Ids, number: int) -> bool:
    """Whether the map has the outer id `number`."""
    return any(outside <= number < outside + count for _, outside, count in ids)


def find_closed_directories(path: str, uids: Ids, gids: Ids) -> list[str]:
    """The directories above `path` that the namespace's uid 0 may not search, outermost first.

    Its capabilities reach only files whose user and group are both mapped; for all others it is one of "the
    others".
    """
    found = []
    parts = path.strip("/").split("/")
    for index in range(len(parts)):
        directory = "/" + "/".join(parts[:index])
        entry = os.stat(directory)
        mapped = has_outside_id(uids, entry.st_uid) and has_outside_id(gids, entry.st_gid)
        if not mapped and not entry.st_mode & stat.S_IXOTH:
            found.append(directory)
    return found


def new_namespace(options: Options) -> int:
    """A descriptor of a new user namespace with the maps, and owned by the user, of `options`."""
    pid, release = _start_unshared_child(options.become)
    try:
        write_maps(pid, options.uids, options.gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(release)
        os.waitpid(pid, 0)


def _start_unshared_child(owner: tuple[int, int] | None = None) -> tuple[int, int]:
    """The pid of a child in a new, unmapped user namespace, and the descriptor whose closing ends it."""
    told_read, told = os.pipe()
    held, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(release)
        number = 0
        try:
            if owner is not None:
                _set_ids(*owner)
            syscalls.unshare(syscalls.CLONE_NEWUSER)
        except OSError as error:
            number = error.errno or 1
        os.write(told, bytes([number]))
        os.read(held, 1)
        os._exit(0)
    os.close(told)
    os.close(held)
    answer = os.read(told_read, 1)
    os.close(told_read)
    if answer != b"\0":
        os.close(release)
        os.waitpid(pid, 0)
        reason = os.strerror(answer[0]) if answer else "its process ended"
        raise UsernsExecError(f"a user namespace cannot be made: {reason}")
    return pid, release


def write_maps(pid: int, uids: Ids, gids: Ids) -> None:
    """Gives the namespace of process `pid` its ids, which have to be the writer's own, or the writer root."""
    if os.geteuid() != 0:
        # A group may be mapped without privilege only after setgroups(2) is given up (user_namespaces(7)).
        _write_map(f"/proc/{pid}/setgroups", "deny")
    for name, ids in (("gid_map", gids), ("uid_map", uids)):
        _write_map(f"/proc/{pid}/{name}", "".join(f"{a} {b} {c}\n" for a, b, c in ids))


def _write_map(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise UsernsExecError(f"{path} does not take {text.strip()!r}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def arrange_mounts(options: Options) -> None:
    """Makes the paths of `reach` searchable and gives those of `present` other owners, in mounts of our own.

    A directory that shuts the namespace out is covered by a small file system which holds only the entries on
    the way. So `/root/.local/share/…` can be reached though `/root` is 0700, and no permission is changed.
    """
    covers: dict[str, set[str]] = {}
    for path in options.reach:
        for directory in find_closed_directories(path, options.uids, options.gids):
            below = path[len(directory.rstrip("/")) + 1 :]
            covers.setdefault(directory, set()).add(below.split("/")[0])
    if not covers and not options.present:
        return
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    # Everything is taken hold of before the first directory is covered.
    held = {
        directory: [
            (name, syscalls.clone_mount(f"{directory.rstrip('/')}/{name}", recursive=True)) for name in names
        ]
        for directory, names in covers.items()
    }
    shown = [(path, _open_idmapped_mount(path, uids, gids)) for path, uids, gids in options.present]
    for directory in sorted(held):
        syscalls.mount("tmpfs", directory, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755")
        for name, descriptor in held[directory]:
            target = f"{directory.rstrip('/')}/{name}"
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                os.mkdir(target)
            else:
                os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444))
            syscalls.attach_mount(descriptor, target)
            os.close(descriptor)
    for path, descriptor in shown:
        syscalls.attach_mount(descriptor, path)
        os.close(descriptor)


def _open_idmapped_mount(path: str, uids: Ids, gids: Ids) -> int:
    options = Options()
    options.uids, options.gids = uids, gids
    namespace = new_namespace(options)
    try:
        descriptor = syscalls.clone_mount(path, recursive=False)
        syscalls.map_mount(descriptor, namespace)
    finally:
        os.close(namespace)
    return descriptor


def _set_ids(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    syscalls.make_dumpable()


def _exec_outside(options: Options, argv: list[str]) -> None:
    if options.become is None:
        raise UsernsExecError("hand needs become")
    namespace = new_namespace(options)
    arrange_mounts(options)
    _set_ids(*options.become)
    os.set_inheritable(namespace, True)
    own = argv.index("--")
    argv = [str(namespace) if word == "@" else word for word in argv[:own]] + argv[own:]
    syscalls.restore_signals()
    os.execve(argv[0], argv, {})  # python has put a locale into the empty environment


def _exec_inside(options: Options, argv: list[str]) -> None:
    namespace = options.userns if options.userns >= 0 else new_namespace(options)
    arrange_mounts(options)
    syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
    os.close(namespace)
    uid, gid = options.uids[0][0], options.gids[0][0]
    if uid == 0 and sum(count for _, _, count in options.gids) > 1:
        # The namespace's root. With a single id there is nobody else to become, and setgroups(2) is denied.
        os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    syscalls.restore_signals()
    os.execv(argv[0], argv)


def parse_options(words: list[str]) -> tuple[Options, list[str]]:
    options = Options()
    rest = list(words)
    while rest and rest[0] != "--":
        name, value, rest = rest[0], rest[1], rest[2:]
        if name in ("uids", "gids"):
            setattr(options, name, parse_ids(value))
        elif name == "userns":
            options.userns = int(value)
        elif name == "reach":
            options.reach.append(value)
        elif name == "present":
            path, uids, gids = value.rsplit("=", 2)
            options.present.append((path, parse_ids(uids), parse_ids(gids)))
        elif name == "become":
            uid, gid = value.split(":")
            options.become = (int(uid), int(gid))
        else:
            raise UsernsExecError(f"unknown option {name}")
    return options, rest[1:]


def main(words: list[str]) -> int:
    """Does what the command line says; returns an exit status, unless it has become another program."""
    try:
        options, argv = parse_options(words[1:])
        if words[0] == "enter":
            _exec_inside(options, argv)
        if words[0] == "hand":
            _exec_outside(options, argv)
        raise UsernsExecError(f"unknown word {words[0]}")
    except (UsernsExecError, OSError) as error:
        print(f"packhorse: {error}", file=sys.stderr)
        return 125
