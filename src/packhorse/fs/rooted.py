"""Reads and edits a file tree below one directory, for the ports `TreeView` and `TreeEdit` of `base.tree`.

The phases read and write what buildpacks left behind only through this adapter. The kernel resolves every
path below a root descriptor (openat2 with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS), so absolute links and
`..` end at the root, as they do inside the sandbox. `open` first opens an entry with O_PATH, which has no
side effects, and reads it only if it is a regular file of an ordinary file system. `head_reader` opens files
directly, without blocking, and checks each before it reads. `fs.shut` opens entries whose mode forbids it to
their owner.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from packhorse.base.files import FULL
from packhorse.base.tree import FORMATS, Node, NodeKind, ReadHead, read, read_head
from packhorse.errors import DiskFull, HostError, TreeError
from packhorse.fs import shut, walk
from packhorse.fs.walk import closing
from packhorse.linux import syscalls

if TYPE_CHECKING:
    from packhorse.linux.userns import IdMap

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_MISSING = (errno.ENOENT, errno.ENOTDIR)
_FORMAT = 0o170000  # the file type bits of a mode
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {format: kind for kind, format in FORMATS.items()}
_KERNEL_FILESYSTEMS = {
    0x9FA0: "proc",
    0x62656572: "sysfs",
    0x27E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x64626720: "debugfs",
}
"""File systems (statfs(2)) of which no file is read: that can block, or reveal facts about the host."""


class RootedTree:
    """The tree below a directory descriptor (a `TreeEdit`). No operation leaves the tree.

    `idmap` translates the owners of entries to ids inside the sandbox. With `owner`, ids of this machine,
    edits have the rights of that user, and new entries belong to it; only root can do that. With
    `whiteouts=False` an overlay's whiteouts (0/0 devices) are left out. `close` closes the descriptor.
    """

    def __init__(
        self,
        root: int,
        *,
        idmap: IdMap | None = None,
        owner: tuple[int, int] | None = None,
        whiteouts: bool = True,
    ) -> None:
        self._root = root
        self._idmap = idmap
        self._owner = owner
        self._whiteouts = whiteouts
        self._ordinary: set[int] = set()  # device numbers that are known not to be the kernel's
        self._inside: dict[tuple[int, int], tuple[int, int]] = {}  # answers of `idmap`

    @classmethod
    def open_local(
        cls,
        path: str | Path,
        *,
        idmap: IdMap | None = None,
        owner: tuple[int, int] | None = None,
        whiteouts: bool = True,
    ) -> RootedTree:
        """Opens the directory `path` of this machine, which no buildpack may have chosen. TreeError."""
        try:
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise TreeError(f"{path} cannot be used as a tree", why=error.strerror or "") from error
        return cls(descriptor, idmap=idmap, owner=owner, whiteouts=whiteouts)

    def close(self) -> None:
        """Closes the directory; closing twice is no error."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def __enter__(self) -> RootedTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # reading

    def stat(self, path: str, *, follow: bool = False) -> Node | None:
        """The entry at `path`, or None if there is none."""
        try:
            with self._open_entry(path, follow=follow) as descriptor:
                entry = os.fstat(descriptor)
        except OSError as error:
            if error.errno in _MISSING:
                return None
            raise _edit_error("looked at", path, error) from error
        return None if self._is_hidden(entry) else self._make_node(path.rstrip("/").rpartition("/")[2], entry)

    def list(self, path: str) -> Sequence[Node]:
        """The entries of the directory at `path`, in byte order of their names."""
        try:
            with self._open_directory(path, listed=True) as descriptor:
                names = os.listdir(descriptor)  # noqa: PTH208 -- a descriptor
                # ASCII text sorts as its bytes do, without a key function.
                names.sort(key=None if all(map(str.isascii, names)) else os.fsencode)
                try:
                    entries = [os.stat(name, dir_fd=descriptor, follow_symlinks=False) for name in names]
                except (FileNotFoundError, PermissionError):
                    names, entries = _stat_entries(names, descriptor)
        except OSError as error:
            raise _edit_error("listed", path, error) from error
        nodes = map(self._make_node, names, entries)
        if self._whiteouts:
            return list(nodes)
        return [node for node, entry in zip(nodes, entries, strict=True) if not self._is_hidden(entry)]

    def open(self, path: str) -> BinaryIO:
        """Opens the regular file at `path` for reading. Raises TreeError for any other kind of file."""
        try:
            descriptor = self._resolve(path, os.O_PATH)
            try:
                entry = os.fstat(descriptor)
                if not stat.S_ISREG(entry.st_mode):
                    raise TreeError(f"{path} is not a regular file", why=_describe(descriptor))
                self._refuse_kernel_file(path, descriptor, entry)
                try:
                    return FileIO(f"/proc/self/fd/{descriptor}")
                except PermissionError:
                    return FileIO(shut.open_at(descriptor, "", os.O_RDONLY))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _edit_error("read", path, error) from error

    @contextmanager
    def head_reader(self) -> Iterator[ReadHead]:
        """A function that reads the first bytes of a file. It keeps the last file's directory open."""
        above, directory = "", -1

        def read_first(path: str, most: int) -> bytes:
            nonlocal above, directory
            parent, _, name = path.rpartition("/")
            try:
                if directory < 0 or parent != above:
                    if directory >= 0:
                        former, directory = directory, -1
                        os.close(former)
                    directory, above = self._resolve(parent, os.O_PATH | os.O_DIRECTORY), parent
                descriptor = os.open(name, _OPEN_FLAGS, dir_fd=directory)
            except (OSError, ValueError):
                return read_head(self, path, most)  # the slower way, with a message if it fails too
            try:
                entry = os.fstat(descriptor)
                if entry.st_mode & _FORMAT == stat.S_IFREG and entry.st_dev in self._ordinary:
                    return os.read(descriptor, most)
            except OSError as error:
                raise _edit_error("read", path, error) from error
            finally:
                os.close(descriptor)
            return read_head(self, path, most)

        try:
            yield read_first
        finally:
            if directory >= 0:
                os.close(directory)

    def readlink(self, path: str) -> str:
        """The target of the link at `path`."""
        try:
            with self._open_entry(path, follow=False) as descriptor:
                entry = os.fstat(descriptor)
                if not stat.S_ISLNK(entry.st_mode):
                    raise TreeError(f"{path} is not a symbolic link", why=_describe(descriptor))
                self._refuse_kernel_file(path, descriptor, entry)
                return os.readlink("", dir_fd=descriptor)
        except OSError as error:
            raise _edit_error("read as a link", path, error) from error

    def attribute(self, path: str, name: str) -> bytes:
        """An extended attribute of the directory at `path`, b"" if it has none of that name."""
        try:
            with self._open_directory(path) as descriptor:
                try:
                    return os.getxattr(f"/proc/self/fd/{descriptor}", name)
                except PermissionError:
                    return shut.attribute_at(descriptor, "", name)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return b""
            raise _edit_error("looked at", path, error) from error

    # editing

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Writes a new file at `path`, replaces a file or link there, and makes missing parents."""
        directory, name = _split(path)
        with self._edit("written", path), self._open_or_make_directory(directory) as parent:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
            descriptor = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=parent
            )
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data)

    def copy(self, source: str, destination: str, *, limit: int) -> None:
        """Copies a file of at most `limit` bytes to `destination`, as a hard link if that is possible."""
        directory, name = _split(destination)
        with (
            self._edit("written", destination),
            self._open_directory(_split(source)[0]) as above,
            self._open_or_make_directory(directory) as parent,
        ):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
            if self._link(above, _split(source)[1], parent, name, limit=limit):
                return
        data = read(self, source, limit=limit)
        if data is None:
            raise TreeError(f"{source} does not exist")
        self.write(destination, data)

    def _link(self, above: int, old: str, parent: int, name: str, *, limit: int) -> bool:
        with suppress(OSError):  # the file system has no hard links, or another user owns the file
            found = os.stat(old, dir_fd=above, follow_symlinks=False)
            plain = found.st_mode == stat.S_IFREG | 0o644 and found.st_dev in self._ordinary
            if plain and found.st_size <= limit:
                os.link(old, name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
                return True
        return False

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        """Makes the directory `path` with `mode`, and its missing parents with 0755."""
        names = [name for name in path.split("/") if name]
        with self._edit("made", path):
            for index in range(self._count_existing(names), len(names)):
                with self._open_directory("/" + "/".join(names[:index])) as parent:
                    os.mkdir(names[index], 0o700, dir_fd=parent)
                    made = os.open(
                        names[index],
                        os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                        dir_fd=parent,
                    )
                    with closing(made):
                        os.fchmod(made, mode if index == len(names) - 1 else 0o755)

    def rename(self, source: str, destination: str) -> None:
        """Moves `source` to `destination`, which must not exist; its parent directory must exist.

        A directory of an overlay's lower cannot be renamed (EXDEV), so its entries are moved one by one.
        """
        old_directory, old = _split(source)
        new_directory, new = _split(destination)
        with (
            self._edit("moved", f"{source} to {destination}"),
            self._open_directory(old_directory) as old_parent,
            self._open_directory(new_directory) as new_parent,
        ):
            walk.move(old_parent, old, new_parent, new)

    def remove(self, path: str) -> None:
        """Removes `path` and everything below it, through no link; a missing path is no error."""
        directory, name = _split(path)
        with self._edit("removed", path):
            try:
                with self._open_directory(directory) as parent:
                    walk.remove(parent, name)
            except OSError as error:
                if error.errno not in _MISSING:
                    raise

    # resolving paths

    @contextmanager
    def _open_entry(self, path: str, *, follow: bool) -> Iterator[int]:
        """Opens the entry at `path` with O_PATH."""
        descriptor = self._resolve(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        with closing(descriptor):
            yield descriptor

    @contextmanager
    def _open_directory(self, path: str, *, listed: bool = False) -> Iterator[int]:
        """Opens the directory at `path`: for reading if it is to be `listed`, else with O_PATH."""
        descriptor = self._resolve(path, os.O_DIRECTORY | (os.O_RDONLY if listed else os.O_PATH))
        with closing(descriptor):
            self._refuse_kernel_file(path, descriptor, os.fstat(descriptor))
            yield descriptor

    @contextmanager
    def _open_or_make_directory(self, path: str) -> Iterator[int]:
        """Opens the directory at `path` with O_PATH; makes it and its parents if it is missing."""
        with ExitStack() as stack:
            try:
                directory = stack.enter_context(self._open_directory(path))
            except FileNotFoundError:
                self.mkdir(path)
                directory = stack.enter_context(self._open_directory(path))
            yield directory

    def _resolve(self, path: str, flags: int) -> int:
        if "\0" in path:
            raise TreeError(f"{path!r} is not a path")
        for _ in range(100):
            try:
                try:
                    return syscalls.openat2(self._root, path or "/", flags, resolve=_RESOLVE)
                except PermissionError:
                    return shut.open_at(self._root, path or "/", flags)
            except OSError as error:
                # EAGAIN: a directory on the way was renamed meanwhile, so the kernel did not resolve "..".
                if error.errno == errno.ENOSYS:
                    raise HostError(
                        "this kernel cannot resolve paths safely",
                        why="openat2(2) came with Linux 5.6",
                        check="kernel",
                    ) from error
                if error.errno != errno.EAGAIN:
                    raise
        raise TreeError(f"{path} cannot be opened", why="a program renames its directories all the time")

    def _refuse_kernel_file(self, path: str, descriptor: int, entry: os.stat_result) -> None:
        if entry.st_dev in self._ordinary:
            return
        kind = _KERNEL_FILESYSTEMS.get(syscalls.filesystem_type(descriptor))
        if kind is not None:
            raise TreeError(f"{path} is not a file of the tree", why=f"it is one of the kernel's ({kind})")
        self._ordinary.add(entry.st_dev)

    def _count_existing(self, names: Sequence[str]) -> int:
        """The number of leading names of a path that exist already, all of them directories."""
        for count in range(len(names), 0, -1):
            try:
                with self._open_entry("/" + "/".join(names[:count]), follow=True) as descriptor:
                    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                    return count
            except FileNotFoundError:
                continue
        return 0

    @contextmanager
    def _edit(self, verb: str, path: str) -> Iterator[None]:
        """Runs an edit as the tree's owner; turns its OSError into TreeError or DiskFull."""
        try:
            if self._owner is None:
                yield
                return
            former = syscalls.set_fs_ids(*self._owner)
            try:
                yield
            finally:
                syscalls.restore_fs_ids(*former)
        except OSError as error:
            raise _edit_error(verb, path, error) from error

    def _make_node(self, name: str, entry: os.stat_result) -> Node:
        mode, owner = entry.st_mode, (entry.st_uid, entry.st_gid)
        if self._idmap is not None:
            inside = self._inside.get(owner)
            if inside is None:
                inside = self._inside[owner] = self._idmap.to_inside(*owner)
            owner = inside
        kind = _node_kind(mode)
        rdev = (0, 0)
        if kind is NodeKind.OTHER and not stat.S_ISSOCK(mode):
            rdev = (os.major(entry.st_rdev), os.minor(entry.st_rdev))
        size = entry.st_size if kind is NodeKind.FILE else 0
        times = entry.st_mtime_ns, entry.st_ctime_ns
        return Node(name, kind, mode & 0o7777, size, *owner, *times, entry.st_ino, rdev)

    def _is_hidden(self, entry: os.stat_result) -> bool:
        return not self._whiteouts and stat.S_ISCHR(entry.st_mode) and entry.st_rdev == 0


def _stat_entries(names: Sequence[str], directory: int) -> tuple[list[str], list[os.stat_result]]:
    """The names in a directory that still exist, and their lstat(2)."""
    found = {}
    for name in names:
        with suppress(FileNotFoundError):
            found[name] = shut.lstat(directory, name)
    return list(found), list(found.values())


def _node_kind(mode: int) -> NodeKind:
    return _KINDS.get(mode & _FORMAT, NodeKind.OTHER)


def _describe(descriptor: int) -> str:
    kind = _node_kind(os.fstat(descriptor).st_mode).value
    return f"it is a {kind}" if kind != "other" else "it is a device or socket"


def _split(path: str) -> tuple[str, str]:
    """The parent directory of `path` and its last name. Raises TreeError if that names no entry."""
    directory, _, name = path.rstrip("/").rpartition("/")
    if name in ("", ".", "..") or "\0" in name:
        raise TreeError(f"{path!r} does not name an entry")
    return directory or "/", name


def _edit_error(verb: str, path: str, error: OSError) -> TreeError | DiskFull:
    why = error.strerror or ""
    if error.errno in FULL:
        return DiskFull(_display_path(path), why=why)
    if error.errno == errno.ELOOP:
        why = "a link on the way leads in a circle or through /proc"
    return TreeError(f"{_display_path(path)} cannot be {verb}", why=why)


def _display_path(path: str) -> str:
    """A path for messages: shortened if it is so long that it would hide the rest."""
    return path if len(path) <= 300 else f"{path[:200]}…{path[-80:]}"
