"""Which paths of this machine a step names; called by the runtimes before they mount them.

Where mounts go in a root file system that cannot be written; called by `layout` before every step.

No runtime makes mount points on a read-only root. So a directory with nothing but mount points lies below
the root in its overlay: what the root has is seen, and what it lacks is there. What is mounted is
the runtime's.

Where a step's mounts come from and go to, as found on this machine; asked by `runner` for every step.

How root's sandboxes, whose ids pass no 0700 home and own nothing of the machine's, come to a step's paths.

As options of `linux.userns_exec`, which makes mounts for it; called by `entry` and `oci`.
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
    """Every path of this machine that the step names."""
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
    """Sources that a step only reads, and that are to be the step's user's own, or are shut to others."""
    for mount in spec.mounts:
        if isinstance(mount, Overlay):
            yield from mount.lowers
        elif not mount.writable:
            needed = 0o5 if mount.source.is_dir() else 0o4
            if mount.is_users_own or mount.source.stat().st_mode & needed != needed:
                yield mount.source


FIXED = ("/proc", "/dev")
"""Mount points that every step has, made by the runtime."""

_SHARED_MEMORY = "/dev/shm"
_MOST_LINKS = 40


def resolve_target(root: RootedTree, target: str) -> str:
    """Where `target` is in the tree `root` with all links resolved; what is missing is taken as written.

    A mount on a link (`/etc/resolv.conf` often is one) would go to where the link leads outside. Nothing is
    mounted below the kernel's own directories: while bubblewrap makes mount points, `/proc/1/root` is the
    machine's root (*tried*), so that an image could have files and directories made there. SandboxError.
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
            link = None  # not to be looked at by the invoking user; the runtime will say so if it matters
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
    """Makes an empty entry in `directory` for every mount point; `owner` has ids of this machine.

    All are 0755 or 0644, whatever the umask, since the sandbox may have to read them as somebody else.
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
"""How many sets of mount points are kept, of some twenty entries each."""

_UNUSED = 30 * 86400
"""Seconds after which one that no build has used goes; a build does not last as long."""

_HASH_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """`place` gives the path at which a target is mounted, `skeleton` the directory with all mount points.

    `masked` are those of the masked paths that exist; `directory` is where the step's own files go.
    """

    skeleton: Path
    place: Callable[[str], str]
    masked: Sequence[str] = ()
    directory: Path = Path()

    def repeat_line(self, before: Sequence[str], documents: Mapping[int, bytes], after: Sequence[str]) -> str:
        """A shell's line of words, with `documents` to be read from descriptors.

        One has the step's environment, secrets perhaps, and every user can read a command line. OSError.
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
    """Removes mount points that no build has used for long."""
    with suppress(OSError):
        for each in kept.iterdir():
            if time.time() - each.stat().st_mtime > _UNUSED:
                shutil.rmtree(each, ignore_errors=True)


class Layouts:
    """Lays out the steps of one build, with mount points below `directory`, for root of `idmap` to see.

    They are the same for most steps, and never written, so those are made once; and of most builds, so those
    of before are `kept`, as long as there are not many. Safe from several threads.
    """

    def __init__(self, directory: Path, idmap: IdMap, *, kept: Path | None = None) -> None:
        self._directory = directory
        self._kept = kept
        self._owner = (idmap.uids[0].outside, idmap.gids[0].outside)
        self._made: dict[tuple[frozenset[str], frozenset[str]], Path] = {}
        self._lock = threading.Lock()

    def layout_for(self, spec: SandboxSpec) -> Layout:
        """The layout of a step, its mount points made; SandboxError for what cannot be mounted."""
        if spec.root is None:
            raise SandboxError("a step in a sandbox needs a root file system")
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
        """The mount points, where they are kept or else at `path`."""
        kept = self._kept_path(directories, files)
        wanted = {kept / name.strip("/") for name in directories | files} if kept else set()
        if kept and all(each.exists() for each in wanted):
            with suppress(OSError):
                if time.time() - kept.stat().st_mtime > _UNUSED / 10:
                    os.utime(kept)
            return kept
        make_mount_points(path, directories=directories, files=files, owner=self._owner)
        if kept:
            with suppress(OSError):  # it is on another file system, or another command was first
                path.rename(kept)
                return kept
        return path

    def _kept_path(self, directories: frozenset[str], files: frozenset[str]) -> Path | None:
        """Where these mount points are kept, or are to be; None where they are not."""
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
    """The options for each step of one namespace."""

    def __init__(self, idmap: IdMap) -> None:
        self._idmap = idmap

    def options(self, spec: SandboxSpec, paths: Iterable[Path]) -> list[tuple[str, str]]:
        """What makes the step's sources, and other `paths`, reachable, and its user's own where only read."""
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
        """What is only read, belongs to ids that the namespace has not, and can be shown as the user's own.

        So it looks as if its owner had started the step himself. Never for what can be written: new files
        would belong to that owner outside, root perhaps, and could be setuid.
        """
        found = []
        for path in dict.fromkeys(private_sources(spec)):
            try:
                status = path.stat()
            except FileNotFoundError:  # who mounts it will say so
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
