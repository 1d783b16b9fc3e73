"""Becomes another program in or with a user namespace: a short-lived child of `linux.userns` and `sandbox`.

A process with threads cannot enter a user namespace, and one that entered cannot leave it. So a child does:

    python -I -S -c CODE enter OPTIONS -- ARGV   enters one as its root, and executes ARGV there
    python -I -S -c CODE hand OPTIONS -- ARGV    makes one, and executes ARGV outside as its owner, with the
                                                 namespace's descriptor for each word `@` before ARGV's `--`

OPTIONS are pairs NAME VALUE (see `Options`); a map is `INSIDE:OUTSIDE:COUNT,…`. A `hand` line has no
descriptor in it, so that a user can paste it into a shell. It imports only os, sys, stat and ctypes, so that
a child starts in 13 ms, of which Python's own start takes 7.
"""

# Importing pathlib would take longer than all this module does.
# ruff: noqa: PTH102, PTH116

from __future__ import annotations

import os
import stat
import sys

from packhorse.linux import syscalls

OVERFLOW = 65534
"""The id that the kernel shows for an id that is not mapped (overflowuid)."""

Ids = tuple[tuple[int, int, int], ...]
"""The extents of a map: (first id inside, first id outside, count)."""


class UsernsExecError(Exception):
    """An error with a message for the user. `main` prints it and returns status 125."""


class Options:
    """The options of the command line."""

    def __init__(self) -> None:
        self.uids: Ids = ()
        self.gids: Ids = ()
        self.userns = -1  # a descriptor of the namespace to use; with -1 it makes one from the maps
        self.reach: list[str] = []  # paths that must be reachable inside, even below a closed directory
        self.present: list[tuple[str, Ids, Ids]] = []  # paths to mount with other owners: PATH=UIDS=GIDS
        # The ids outside that own the namespace, and as which `hand` runs ARGV.
        self.become: tuple[int, int] | None = None


def parse_ids(text: str) -> Ids:
    """Parses a map of the form `INSIDE:OUTSIDE:COUNT,…`."""
    extents = []
    for part in text.split(","):
        inside, outside, count = part.split(":")
        extents.append((int(inside), int(outside), int(count)))
    return tuple(extents)


def format_ids(ids: Ids) -> str:
    """Formats a map as `parse_ids` reads it."""
    return ",".join(f"{inside}:{outside}:{count}" for inside, outside, count in ids)


def has_outside_id(ids: Ids, number: int) -> bool:
    """Whether the map has the id `number` of this machine."""
    return any(outside <= number < outside + count for _, outside, count in ids)


def find_closed_directories(path: str, uids: Ids, gids: Ids) -> list[str]:
    """The directories above `path` that the namespace's uid 0 may not search, outermost first.

    Its capabilities hold only for files whose user and group are both mapped. For all other files, the mode's
    bits for others count.
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
    """Makes a user namespace with the maps and the owner in `options`; returns a descriptor of it."""
    pid, release = _start_unshared_child(options.become)
    try:
        write_maps(pid, options.uids, options.gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(release)
        os.waitpid(pid, 0)


def _start_unshared_child(owner: tuple[int, int] | None = None) -> tuple[int, int]:
    """Starts a child in a new user namespace without ids.

    Returns its pid, and a descriptor; the child ends when that is closed.
    """
    status_read, status_write = os.pipe()
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
        os.write(status_write, bytes([number]))
        os.read(held, 1)
        os._exit(0)
    os.close(status_write)
    os.close(held)
    answer = os.read(status_read, 1)
    os.close(status_read)
    if answer != b"\0":
        os.close(release)
        os.waitpid(pid, 0)
        reason = os.strerror(answer[0]) if answer else "its process ended"
        raise UsernsExecError(f"a user namespace cannot be made: {reason}")
    return pid, release


def write_maps(pid: int, uids: Ids, gids: Ids) -> None:
    """Gives the namespace of process `pid` its ids. Only root may give others than its own."""
    if os.geteuid() != 0:
        # An ordinary user may map a group only after it gives up setgroups(2) (user_namespaces(7)).
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
    """Makes the paths of `reach` reachable, and shows those of `present` with other owners.

    It works in a new mount namespace. If the ids may not search a directory, a small file system covers it
    that has only the entries on the way. So a program can reach `/root/.local/share/…` although `/root` is
    0700, and no permission changes.
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
    # Clone all mounts before the first directory is covered: a cover may hide another path.
    held = {
        directory: [
            (name, syscalls.clone_mount(f"{directory.rstrip('/')}/{name}", recursive=True)) for name in names
        ]
        for directory, names in covers.items()
    }
    idmapped = [(path, _open_idmapped_mount(path, uids, gids)) for path, uids, gids in options.present]
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
    for path, descriptor in idmapped:
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
    os.execve(argv[0], argv, {})  # not execv: Python has added a locale to the empty environment


def _exec_inside(options: Options, argv: list[str]) -> None:
    namespace = options.userns if options.userns >= 0 else new_namespace(options)
    arrange_mounts(options)
    syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
    os.close(namespace)
    uid, gid = options.uids[0][0], options.gids[0][0]
    if uid == 0 and sum(count for _, _, count in options.gids) > 1:
        # Drop root's groups. In a namespace of a single id setgroups(2) is not allowed.
        os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    syscalls.restore_signals()
    os.execv(argv[0], argv)


def parse_options(words: list[str]) -> tuple[Options, list[str]]:
    """Parses OPTIONS; returns them, and the words after `--`. Raises UsernsExecError."""
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
    """Runs `enter` or `hand`, and becomes another program. Returns an exit status only if that fails."""
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
