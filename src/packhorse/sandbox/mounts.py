"""Prepares the mounts of a sandbox: checks sources, resolves targets, makes mount points.

`runner` asks for a `Layout` for every sandbox, and the runtimes mount by it. No runtime can make mount points
on a read-only root. So the root's overlay has one more lower directory at its bottom, the skeleton, with
nothing but mount points: they show where the image itself has nothing.

Sandboxes that root starts run with shifted ids, which own nothing on this machine and cannot pass a home of
mode 0700. `PathAccess` makes options for `linux.userns_exec`, which opens the way to the sources.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.base.sandbox import Bind, Overlay, SandboxSpec
from packhorse.base.tree import NodeKind
from packhorse.errors import SandboxError, TreeError
from packhorse.fs.rooted import RootedTree
from packhorse.linux import userns, userns_exec
from packhorse.linux.userns import IdMap
from packhorse.sandbox.seccomp import masked_paths


def sources(spec: SandboxSpec) -> Iterator[Path]:
    """Yields every host path that the spec names."""
    if spec.root is not None:
        yield spec.root.tree
        yield from (path for path in (spec.root.upper, spec.root.work) if path is not None)
    for mount in spec.mounts:
        if isinstance(mount, Bind):
            yield mount.source
        else:
            yield from mount.lowers
            yield from (path for path in (mount.upper, mount.work) if path is not None)


def private_sources(spec: SandboxSpec) -> Iterator[Path]:
    """Yields the sources that are mounted read-only and that the sandbox's user has to own to read them.

    These are lower directories, binds with `is_users_own`, and binds whose mode forbids others to read them.
    """
    for mount in spec.mounts:
        if isinstance(mount, Overlay):
            yield from mount.lowers
        elif not mount.writable:
            needed = 0o5 if mount.source.is_dir() else 0o4
            if mount.is_users_own or mount.source.stat().st_mode & needed != needed:
                yield mount.source


FIXED = ("/proc", "/dev")
"""Mount points that every sandbox has; the runtime mounts the kernel's file systems there."""

_SHARED_MEMORY = "/dev/shm"
_MOST_LINKS = 40


def resolve_target(root: RootedTree, target: str) -> str:
    """Resolves all links of `target` in the tree `root`; a part that does not exist stays as it is.

    A mount on a link (`/etc/resolv.conf` often is one) would otherwise go to where the link leads outside.
    Raises SandboxError for a target below the kernel's own directories: while bubblewrap makes mount points,
    `/proc/1/root` is the machine's root (*tried*), so an image could have files made there.
    """
    found = _resolve(root, target)
    if target in FIXED:
        if found != target:
            raise SandboxError(f"the image cannot be run: its {target} is a link", why=f"it leads to {found}")
    elif found.startswith(tuple(f"{fixed}/" for fixed in FIXED)) and found != _SHARED_MEMORY:
        raise SandboxError(
            f"nothing can be mounted at {target}", why=f"it is {found} in the image, which is the kernel's"
        )
    return found


def _resolve(root: RootedTree, target: str) -> str:
    done, rest, links = "/", target.split("/"), 0
    while rest:
        name = rest.pop(0)
        if name in ("", "."):
            continue
        here = posixpath.normpath(posixpath.join(done, name))
        try:
            node = root.stat(here)
            link = root.readlink(here) if node is not None and node.kind is NodeKind.LINK else None
        except TreeError:
            link = None  # the invoking user may not look there; the runtime reports it if it matters
        if link is None:
            done = here
            continue
        links += 1
        if links > _MOST_LINKS:
            raise SandboxError(f"nothing can be mounted at {target}", why="links there lead in a circle")
        rest = link.split("/") + rest
        done = "/" if link.startswith("/") else done
    return done


def make_mount_points(
    directory: Path, *, directories: Iterable[str], files: Iterable[str], owner: tuple[int, int]
) -> None:
    """Makes an empty file or directory in `directory` for every mount point; `owner` has host ids.

    Their modes are 0755 or 0644, whatever the umask, because the sandbox may have to read them as another
    user.
    """
    wanted = {path.strip("/"): True for path in directories} | {path.strip("/"): False for path in files}
    wanted[""] = True
    for path in sorted(wanted):
        parent = directory
        for name in Path(path).parent.parts:
            parent = parent / name
            _ensure(parent, owner, as_directory=True)
        _ensure(directory / path, owner, as_directory=wanted[path])


def _ensure(path: Path, owner: tuple[int, int], *, as_directory: bool) -> None:
    if path.exists():
        return
    if as_directory:
        path.mkdir()
    else:
        path.touch()
    path.chmod(0o755 if as_directory else 0o644)
    if os.geteuid() == 0:
        os.chown(path, *owner)


_MOST = 100
"""The most sets of mount points to keep. Each has about twenty entries."""

_UNUSED = 30 * 86400
"""Seconds after which a set that no build has used is removed. No build lasts as long."""

_HASH_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the mounts of a sandbox go.

    `skeleton` is the directory with all mount points. `place` returns the resolved path of a mount's target.
    `masked` are the masked paths that exist on this machine. `directory` is for files of the sandbox.
    """

    skeleton: Path
    place: Callable[[str], str]
    masked: Sequence[str] = ()
    directory: Path = Path()

    def repeat_line(self, before: Sequence[str], documents: Mapping[int, bytes], after: Sequence[str]) -> str:
        """Makes a shell line: the words `before`, ` -- `, the words `after`, and redirected `documents`.

        Writes each document to a file that only this user can read, and redirects its descriptor from it.
        Documents may contain secrets, and every user can read a command line. Raises OSError.
        """
        words = [shlex.join(before)]
        for number, document in documents.items():
            path = self.directory / f"{self.skeleton.name}-repeated-{number}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with open(os.open(path, flags, 0o600), "wb") as file:  # noqa: PTH123
                file.write(document)
            words.append(f"{number}<{shlex.quote(str(path))}")
        return f"{' '.join(words)} -- {shlex.join(after)}"


def remove_unused(kept: Path) -> None:
    """Removes the sets of mount points in `kept` that no build has used for long."""
    with suppress(OSError):
        for each in kept.iterdir():
            if time.time() - each.stat().st_mtime > _UNUSED:
                shutil.rmtree(each, ignore_errors=True)


class Layouts:
    """Makes the layouts of one build's sandboxes; root of `idmap` owns the mount points, below `directory`.

    Nothing writes to mount points, so sandboxes with the same ones share them. `kept` is a directory that
    keeps them for later builds, up to a number. Several threads may use one instance.
    """

    def __init__(self, directory: Path, idmap: IdMap, *, kept: Path | None = None) -> None:
        self._directory = directory
        self._kept = kept
        self._owner = (idmap.uids[0].outside, idmap.gids[0].outside)
        self._made: dict[tuple[frozenset[str], frozenset[str]], Path] = {}
        self._lock = threading.Lock()

    def layout_for(self, spec: SandboxSpec) -> Layout:
        """Makes the mount points of a sandbox; returns its layout. SandboxError for an impossible mount."""
        if spec.root is None:
            raise SandboxError("a sandbox needs a root file system")
        for path in sources(spec):
            if not path.exists():
                raise SandboxError(
                    f"{path} does not exist", why="it was to be mounted in a sandbox", check="store"
                )
        with RootedTree.open_local(spec.root.tree) as root:
            targets = (*FIXED, *(mount.target for mount in spec.mounts))
            places = {target: resolve_target(root, target) for target in targets}
        files = {places[m.target] for m in spec.mounts if isinstance(m, Bind) and not m.source.is_dir()}
        points = self._mount_points(frozenset(places.values()) - files, frozenset(files))
        return Layout(points, places.__getitem__, masked_paths(), self._directory)

    def _mount_points(self, directories: frozenset[str], files: frozenset[str]) -> Path:
        with self._lock:
            made = self._made.get((directories, files))
            if made is None:
                made = self._directory / f"mount-points-{len(self._made) + 1}"
                made = self._make_or_reuse(made, directories, files)
                self._made[directories, files] = made
            return made

    def _make_or_reuse(self, path: Path, directories: frozenset[str], files: frozenset[str]) -> Path:
        """Returns mount points that were kept; otherwise makes them, to be kept or else at `path`."""
        kept = self._kept_path(directories, files)
        wanted = {kept / name.strip("/") for name in directories | files} if kept else set()
        if kept and all(each.exists() for each in wanted):
            with suppress(OSError):
                if time.time() - kept.stat().st_mtime > _UNUSED / 10:
                    os.utime(kept)
            return kept
        make_mount_points(path, directories=directories, files=files, owner=self._owner)
        if kept:
            with suppress(OSError):  # `kept` is on another file system, or another command was faster
                path.rename(kept)
                return kept
        return path

    def _kept_path(self, directories: frozenset[str], files: frozenset[str]) -> Path | None:
        """Returns the directory that keeps these mount points, or will; None if there is no room for more."""
        if self._kept is None:
            return None
        text = repr((self._owner, sorted(directories), sorted(files))).encode(errors="surrogateescape")
        place = self._kept / hashlib.sha256(text).hexdigest()[:_HASH_LENGTH]
        with suppress(OSError):
            self._kept.mkdir(mode=0o755, exist_ok=True)
            if place.exists() or len(os.listdir(self._kept)) < _MOST:  # noqa: PTH208 -- only how many
                return place
        return None


class PathAccess:
    """Makes the options of `linux.userns_exec` that let shifted ids reach a sandbox's sources."""

    def __init__(self, idmap: IdMap) -> None:
        self._idmap = idmap

    def options(self, spec: SandboxSpec, paths: Iterable[Path]) -> list[tuple[str, str]]:
        """Returns options that make sources and other `paths` reachable, and read-only sources readable."""
        owner = self._idmap.to_outside(spec.uid, spec.gid)
        reach = self._closed_paths([*sources(spec), *paths])
        return [
            *(("reach", str(path)) for path in reach),
            *(_present_option(path, owner) for path in self._foreign_sources(spec)),
        ]

    def _closed_paths(self, paths: Iterable[Path]) -> list[Path]:
        uids, gids = userns.as_tuples(self._idmap.uids), userns.as_tuples(self._idmap.gids)
        names = userns.reachable_names(list(paths))
        return [path for path in names if userns_exec.find_closed_directories(str(path), uids, gids)]

    def _foreign_sources(self, spec: SandboxSpec) -> Sequence[Path]:
        """Returns read-only sources of foreign owners that an idmapped mount can show as the user's own.

        So a source looks as if its owner had started the sandbox. This is never done for a writable source:
        new files would belong to that owner outside, perhaps root, and could be setuid.
        """
        found = []
        for path in dict.fromkeys(private_sources(spec)):
            try:
                status = path.stat()
            except FileNotFoundError:  # the mount will fail and say so
                continue
            if self._idmap.to_inside(status.st_uid, status.st_gid) != (
                userns_exec.OVERFLOW,
                userns_exec.OVERFLOW,
            ):
                continue
            if userns.supports_idmapping(path):
                found.append(path.resolve())
        return found


def _present_option(path: Path, owner: tuple[int, int]) -> tuple[str, str]:
    status = path.stat()
    uids, gids = ((status.st_uid, owner[0], 1),), ((status.st_gid, owner[1], 1),)
    return "present", f"{path}={userns_exec.format_ids(uids)}={userns_exec.format_ids(gids)}"
