"""Mounts the user's files for buildpacks: the source, and the directories and files of `--volume`.

Called by `build.execute`; `build.plan` checks the volumes first.

The source is mounted directly if all its files have one owner, else as a copy. A scan of all files finds
this out. With many files, detection starts before the scan has ended, and runs again if the scan shows that a
copy was needed.

Only bin/detect and bin/build see volumes. The image is made without them, so no volume gets into it.
A service binding is a volume below `/platform/bindings`.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from packhorse.base.dataclass import replace
from packhorse.base.sandbox import Bind
from packhorse.base.tree import NodeKind, TreeView
from packhorse.errors import InputError
from packhorse.fs.rooted import RootedTree
from packhorse.lifecycle.ports import Observer
from packhorse.linux import userns
from packhorse.source.files import (
    INLINE_LIMIT,
    SourceScan,
    SourceScanner,
    copy,
    make_whiteouts,
    open_scanner,
    scan_source,
)
from packhorse.store.leases import make_directory


class SourceMount:
    """Mounts the source at `path` without the paths `excluded`, for the user `owner` (ids of this machine).

    The source is mounted directly until the scan finds a file of another user, and then as a copy. The copy,
    or the whiteouts that hide the excluded paths, are in `scratch`. Made by `open_source`.
    """

    def __init__(
        self,
        path: Path,
        owner: tuple[int, int],
        excluded: Sequence[str],
        scratch: Path,
        namespace: userns.Namespace,
        scanner: SourceScanner | None,
    ) -> None:
        self._path = path
        self._owner = owner
        self._excluded = excluded
        self._scratch = scratch
        self._namespace = namespace
        self._scanner = scanner
        self._is_direct = False
        self._lowers: tuple[Path, ...] = ()
        self._copied: tuple[Path, ...] = ()

    def lowers(self) -> tuple[Path, ...]:
        """The overlay's lower directories: the source and the whiteouts of excluded paths, or a copy."""
        known = self._scanner.known if self._scanner is not None else None
        is_mixed = known is not None and not known.has_one_owner
        if is_mixed or (os.geteuid() == 0 and not userns.supports_idmapping(self._path, self._namespace)):
            if not self._copied:
                self._copied = (self._scratch / "source",)
                self.copy(self._path, *self._copied)
            return self._copied
        self._is_direct = True
        self._lowers = self._lowers or self._direct_lowers()
        return self._lowers

    def _direct_lowers(self) -> tuple[Path, ...]:
        if not self._excluded:
            return (self._path,)
        hidden = self._scratch / "hidden"
        make_directory(hidden)
        make_whiteouts(self._path, self._excluded, hidden)
        return (self._path, hidden)

    def copy(self, source: Path, target: Path) -> None:
        """Copies a directory for the owner; excluded paths of the source are left out."""
        copy(source, target, self._owner, self._excluded if source == self._path else ())

    def confirm(self) -> bool:
        """Waits until the scan has ended. Returns False if the source was mounted, but must be a copy."""
        if self._scanner is None or self._scanner.wait().has_one_owner:
            return True
        was_direct, self._is_direct = self._is_direct, False
        return not was_direct

    def scan(self) -> SourceScan:
        """Waits for the scan and returns it; without a scanner, an empty one."""
        return self._scanner.wait() if self._scanner is not None else SourceScan(has_one_owner=True)


@contextmanager
def open_source(
    path: Path,
    owner: tuple[int, int],
    excluded: Sequence[str],
    scratch: Path,
    namespace: userns.Namespace,
    *,
    scan: bool = True,
    inline_limit: int = INLINE_LIMIT,
) -> Iterator[SourceMount]:
    """Opens the source for one build. Without `scan` its files are not scanned."""
    if not scan:
        yield SourceMount(path, owner, excluded, scratch, namespace, None)
        return
    asked = None if os.geteuid() == 0 else owner
    with open_scanner(path, asked, excluded, inline_limit=inline_limit) as scanner:
        yield SourceMount(path, owner, excluded, scratch, namespace, scanner)


_RESERVED = ("/", "/layers", "/platform", "/platform/env", "/tmp", "/var/tmp")
_KERNEL = ("/proc", "/sys", "/dev")
_SENSITIVE = "/cnb"
"""A volume below this directory or the application gets a warning, as in pack."""


def check_volumes(
    volumes: Sequence[Bind], observer: Observer, *, store: Path, app: str = "/workspace"
) -> tuple[Bind, ...]:
    """Normalizes the targets of volumes and sorts the volumes by them, which is the order of the mounts.

    `app` is where the application is mounted.

    Raises InputError with all problems: a target that packhorse or the kernel uses, a target that
    is in another one, a source that would show the `store` to buildpacks.
    """
    plain = [replace(volume, target=_normal(volume.target)) for volume in volumes]
    issues = []
    for number, volume in enumerate(plain):
        issues += [f"{volume.target} {why}" for why in _forbidden_reasons(volume.target, app)]
        if store.is_relative_to(volume.source) or volume.source.is_relative_to(store):
            issues.append(f"{volume.source} would show packhorse's own store to buildpacks")
        for other in plain[:number]:
            issues += _overlap_issues(volume.target, other.target)
    if issues:
        raise InputError("--volume: nothing can be mounted there", issues=dict.fromkeys(issues))
    for volume in plain:
        if any(_is_within(volume.target, each) for each in (_SENSITIVE, app)):
            observer.say(f"--volume {volume.target} is in a directory that buildpacks or packhorse use")
    return tuple(sorted(plain, key=lambda volume: volume.target))


def make_readable(
    volumes: Sequence[Bind], scratch: Path, owner: tuple[int, int], observer: Observer
) -> tuple[Bind, ...]:
    """Makes volumes readable for `owner` (ids of this machine), if necessary by copies in `scratch`.

    For an ordinary user nothing changes, because buildpacks run as that user. Root's files are mounted
    with another owner, so that buildpacks can read a file of mode 0600. Without idmapped mounts, or with
    files of several owners, they are copied.
    """
    if os.geteuid() != 0:
        return tuple(volumes)
    return tuple(
        _make_root_volume_readable(volume, scratch / f"volume-{number}", owner, observer)
        for number, volume in enumerate(volumes)
    )


def check_targets(
    volumes: Sequence[Bind], root: Path, source: Path, app: str, *, areas: Sequence[str]
) -> None:
    """Checks the targets against the builder's `root` and the `source`, mounted at `app`; raises InputError.

    `areas` are the other directories that buildpacks write to. A target may be directly in one of them, but
    not deeper: a buildpack could replace the directories above it by links before the next buildpack runs.
    """
    issues: list[str] = []
    with RootedTree.open_local(root) as image:
        for volume in volumes:
            issues += _target_issues(volume, image, source, app, (app, *areas))
    if issues:
        raise InputError("--volume: nothing can be mounted there", issues=issues)


def _target_issues(
    volume: Bind, image: TreeView, source: Path, app: str, areas: Sequence[str]
) -> Iterator[str]:
    target = volume.target
    area = next((each for each in areas if _is_within(target, each)), None)
    if area is not None and target != area:
        name, *deeper = target.removeprefix(f"{area}/").split("/")
        if deeper:
            yield f"{target} is too deep in {area}, where buildpacks write: use {area}/{name}"
            return
        if area == app and os.path.lexists(source / name):
            mode = (source / name).lstat().st_mode
            if stat.S_ISLNK(mode) or stat.S_ISDIR(mode) != volume.source.is_dir():
                yield f"{target} is something else in the source"
            return
    nodes = [
        image.stat(str(path), follow=True) for path in (PurePosixPath(target), *PurePosixPath(target).parents)
    ]
    node, *above = nodes
    if any(each is not None and each.kind is not NodeKind.DIRECTORY for each in above):
        yield f"{target} is below a file of the builder"
    elif node is not None and (node.kind is NodeKind.DIRECTORY) != volume.source.is_dir():
        there, given = (
            ("a directory", "a file") if node.kind is NodeKind.DIRECTORY else ("a file", "a directory")
        )
        yield f"{target} is {there} in the builder, and {volume.source} is {given}"


def make_mount_points(directory: Path, target: str, volumes: Sequence[Bind]) -> None:
    """Makes mount points in `directory`, which is mounted read-only at `target`, for the volumes below it."""
    for volume in volumes:
        if not _is_within(volume.target, target):
            continue
        *above, name = volume.target.removeprefix(f"{target}/").split("/")
        here = directory
        for part in above:
            here = here / part
            here.mkdir(exist_ok=True)
            here.chmod(0o755)
        point = here / name
        if volume.source.is_dir():
            point.mkdir(exist_ok=True)
        else:
            point.touch()


def _make_root_volume_readable(
    volume: Bind, copied: Path, owner: tuple[int, int], observer: Observer
) -> Bind:
    if volume.writable:
        if not volume.source.stat().st_mode & 0o002:
            observer.say(
                f"buildpacks, which are not root, cannot write to {volume.source}: only its owner can"
            )
        return volume
    if all(_is_open(path) for path in _entries(volume.source)):
        return volume
    if userns.supports_idmapping(volume.source) and scan_source(volume.source).has_one_owner:
        return replace(volume, is_users_own=True)
    copy(volume.source, copied, owner)
    return replace(volume, source=copied)


def _entries(top: Path) -> Iterator[os.stat_result]:
    yield top.stat()
    for here, directories, files in os.walk(top):
        for name in (*directories, *files):
            with suppress(FileNotFoundError, NotADirectoryError):  # removed since it was listed
                yield Path(here, name).lstat()


def _is_open(status: os.stat_result) -> bool:
    """Whether every user can read the file, or list and enter the directory."""
    needed = 0o005 if stat.S_ISDIR(status.st_mode) else 0o004
    return status.st_mode & needed == needed or stat.S_ISLNK(status.st_mode)


def _normal(target: str) -> str:
    return "/" + posixpath.normpath(target).lstrip("/")


def _forbidden_reasons(target: str, app: str) -> Iterator[str]:
    if target in (*_RESERVED, app):
        yield "is where packhorse mounts something itself"
    elif _is_within(target, "/layers"):
        yield "is in the buildpacks' layers, which become the image"
    elif any(_is_within(target, each) for each in _KERNEL):
        yield "is the kernel's"


def _overlap_issues(target: str, other: str) -> Iterator[str]:
    if target == other:
        yield f"{target} is the target of two volumes"
    elif _is_within(target, other) or _is_within(other, target):
        inner, outer = (target, other) if _is_within(target, other) else (other, target)
        yield f"{inner} is in {outer}, which is a volume as well"


def _is_within(path: str, directory: str) -> bool:
    return f"{path}/".startswith(f"{directory.rstrip('/')}/")
