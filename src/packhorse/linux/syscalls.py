"""Calls the Linux system calls that Python has no function for.

Each function raises OSError, as those of `os` do, unless its docstring says otherwise. It imports only ctypes
and os, because every import delays the short-lived child `linux.userns_exec`.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8

MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4

# The same numbers on every architecture (they came after the tables were unified, Linux 5.2 and later).
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_OPENAT2 = 437
_MOUNT_SETATTR = 442
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276}

_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_MOUNT_ATTR_IDMAP = 0x00100000
_RENAME_NOREPLACE = 1
_SYNC_FILE_RANGE_WRITE = 2
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_LANDLOCK_VERSION = 1
_SCOPE_ABSTRACT_SOCKETS = 1


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


def _check(answer: int, name: str | bytes = "") -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(name))
    return answer


def openat2(directory: int, path: str, flags: int, *, resolve: int) -> int:
    """Opens `path` below `directory`, resolved as `resolve` (RESOLVE_…) says (openat2(2), Linux 5.6)."""
    name = os.fsencode(path)
    return _check(_libc.syscall(_OPENAT2, directory, name, *_make_how(flags, resolve)), name)


def _make_how(flags: int, resolve: int) -> tuple[object, ctypes.c_size_t]:
    """The last two arguments of openat2(2). The call does not change them, so each pair is made once."""
    if (flags, resolve) not in _hows:
        how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
        _hows[flags, resolve] = (ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    return _hows[flags, resolve]


_hows: dict[tuple[int, int], tuple[object, ctypes.c_size_t]] = {}


def rename_noreplace(source_dir: int, source: str, target_dir: int, target: str) -> None:
    """Renames an entry to a name that must be unused (renameat2(2) with RENAME_NOREPLACE)."""
    number = _RENAMEAT2[os.uname().machine]
    old, new = os.fsencode(source), os.fsencode(target)
    _check(_libc.syscall(number, source_dir, old, target_dir, new, _RENAME_NOREPLACE), old)


def filesystem_type(descriptor: int) -> int:
    """The magic number of the file system that has the file of `descriptor` (fstatfs(2), its first word)."""
    answer = (ctypes.c_ulong * 32)()
    _check(_libc.fstatfs(descriptor, ctypes.byref(answer)))
    return int(answer[0]) & 0xFFFFFFFF


def start_writeback(descriptor: int, start: int, length: int) -> None:
    """Starts to write a range of a file to the disk, and does not wait (sync_file_range(2)).

    This guarantees nothing, but a later fsync(2) has less to do.
    """
    where = ctypes.c_int64(start), ctypes.c_int64(length)
    _check(_libc.sync_file_range(descriptor, *where, ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)))


def sync_filesystem(descriptor: int) -> None:
    """Writes everything of the file system of `descriptor` to the disk, and waits for it (syncfs(2))."""
    _check(_libc.syncfs(descriptor))


def set_fs_ids(uid: int, gid: int) -> tuple[int, int]:
    """Sets the ids with which this thread accesses files; returns the former ones. Raises no error.

    setfsuid(2) holds for one thread. It drops root's capabilities for files when the id changes from 0, and
    returns them when it becomes 0 again. So the group is set while the user is root.
    """
    old_gid = int(_libc.setfsgid(ctypes.c_uint32(gid)))
    old_uid = int(_libc.setfsuid(ctypes.c_uint32(uid)))
    return old_uid & 0xFFFFFFFF, old_gid & 0xFFFFFFFF


def restore_fs_ids(uid: int, gid: int) -> None:
    """Undoes `set_fs_ids`: the user first, because only root may set any group. Raises no error."""
    _libc.setfsuid(ctypes.c_uint32(uid))
    _libc.setfsgid(ctypes.c_uint32(gid))


def unshare(flags: int) -> None:
    """Moves this process into new namespaces (CLONE_NEW…). CLONE_NEWUSER needs a process of one thread."""
    _check(_libc.unshare(flags))


def setns(descriptor: int, flags: int) -> None:
    """Moves this process into the namespace of `descriptor`, whose kind is in `flags`."""
    _check(_libc.setns(descriptor, flags))


def make_dumpable() -> None:
    """Makes this process's user the owner of its files in /proc again, after a change of ids."""
    arguments = [ctypes.c_ulong(number) for number in (1, 0, 0, 0)]
    _check(_libc.prctl(_PR_SET_DUMPABLE, *arguments))


def make_undumpable() -> None:
    """Hides this process's memory and environment from other processes of its user (PR_SET_DUMPABLE)."""
    arguments = [ctypes.c_ulong(number) for number in (0, 0, 0, 0)]
    _check(_libc.prctl(_PR_SET_DUMPABLE, *arguments))


def become_subreaper() -> None:
    """Makes this process the parent of its descendants whose own parent ends (PR_SET_CHILD_SUBREAPER)."""
    arguments = [ctypes.c_ulong(number) for number in (1, 0, 0, 0)]
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, *arguments))


def landlock_version() -> int:
    """The Landlock version of this kernel (landlock(7)), 0 for none. Raises no error.

    Version 6 (Linux 6.12) can restrict abstract sockets.
    """
    none, version = ctypes.c_void_p(None), ctypes.c_uint(_LANDLOCK_VERSION)
    return max(0, int(_libc.syscall(_LANDLOCK_CREATE_RULESET, none, ctypes.c_size_t(0), version)))


def restrict_abstract_sockets() -> bool:
    """Denies this thread, and processes it starts, abstract sockets that other processes have made.

    It also sets no_new_privs, which Landlock requires. Returns False if the kernel cannot do it.
    """
    if landlock_version() < 6:
        return False
    rules = _Ruleset(0, 0, _SCOPE_ABSTRACT_SOCKETS)
    size = ctypes.c_size_t(ctypes.sizeof(rules))
    ruleset = _check(_libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(rules), size, ctypes.c_uint(0)))
    try:
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(number) for number in (1, 0, 0, 0))))
        _check(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, ctypes.c_uint(0)))
    finally:
        os.close(ruleset)
    return True


def die_with_parent() -> None:
    """Lets the kernel kill this process when the thread that started it ends; a change of ids undoes it."""
    arguments = [ctypes.c_ulong(number) for number in (9, 0, 0, 0)]
    _check(_libc.prctl(_PR_SET_PDEATHSIG, *arguments))


def restore_signals() -> None:
    """Stops ignoring SIGPIPE and SIGXFSZ, as Python does, so that the next program does not inherit that.

    Raises no error.
    """
    for number in (13, 25):
        _libc.signal(number, None)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Calls mount(2): makes a mount at `target`, or changes one."""
    _check(
        _libc.mount(
            os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()
        ),
        target,
    )


def clone_mount(path: str, *, recursive: bool) -> int:
    """Returns a descriptor of a detached copy of the mount at `path` (open_tree(2), Linux 5.2).

    It needs CAP_SYS_ADMIN.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    name = os.fsencode(path)
    return _check(_libc.syscall(_OPEN_TREE, AT_FDCWD, name, ctypes.c_uint(flags)), name)


def attach_mount(descriptor: int, path: str) -> None:
    """Attaches the detached mount `descriptor` at `path` (move_mount(2), Linux 5.2)."""
    name = os.fsencode(path)
    _check(
        _libc.syscall(_MOVE_MOUNT, descriptor, b"", AT_FDCWD, name, ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)),
        name,
    )


def attach_mount_at(descriptor: int, target: int) -> None:
    """Attaches the detached mount `descriptor` at the file or directory of the descriptor `target`."""
    flags = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)
    _check(_libc.syscall(_MOVE_MOUNT, descriptor, b"", target, b"", flags))


def map_mount(descriptor: int, namespace: int) -> None:
    """Maps the owners in a detached mount by a user namespace (mount_setattr(2), Linux 5.12)."""
    _set_attributes(descriptor, "", AT_EMPTY_PATH, _MountAttr(_MOUNT_ATTR_IDMAP, 0, 0, namespace))


def restrict_mount(descriptor: int, attributes: int, path: str = "") -> None:
    """Adds MOUNT_ATTR_… to a mount and all mounts below it: the one at `path`, or `descriptor` itself."""
    flags = AT_RECURSIVE | (0 if path else AT_EMPTY_PATH)
    _set_attributes(descriptor, path, flags, _MountAttr(attributes, 0, 0, 0))


def _set_attributes(descriptor: int, path: str, flags: int, attributes: _MountAttr) -> None:
    name, size = os.fsencode(path), ctypes.c_size_t(ctypes.sizeof(attributes))
    _check(
        _libc.syscall(_MOUNT_SETATTR, descriptor, name, ctypes.c_uint(flags), ctypes.byref(attributes), size),
        name,
    )
