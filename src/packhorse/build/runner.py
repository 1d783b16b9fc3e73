"""Opens the two sandboxes of a build: says what each mounts, and where its commands write.

One sandbox is for detection, and its files are removed afterwards. The other lasts from restore to export,
because all buildpacks of a reference build share one container. `build.execute` makes the `BuildRunner`; the
phases call it as the port `lifecycle.ports.Runner`.

After a failure `with_repeat_command` writes the failed step to a script, because the command has thousands
of characters.
"""

from __future__ import annotations

import os
import posixpath
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.sandbox import Bind, Limits, Mount, Network, Overlay, Root, Sandbox, SandboxSpec
from packhorse.base.tree import NodeKind, TreeEdit, TreeView, is_directory, read
from packhorse.errors import BuildpackFailed, InputError, TreeError
from packhorse.fs.rooted import RootedTree
from packhorse.fs.views import BindView
from packhorse.lifecycle.ports import SandboxPurpose
from packhorse.linux.userns import IdMap

_SCRIPT = """\
#!/bin/sh
# Repeats the failed step, in the files that it left. With arguments, runs these instead.
[ $# -gt 0 ] || set -- {own}
exec {sandbox} -- "$@"
"""


_OFFLINE = "the build had no network (--network none)"


def with_repeat_command(
    error: BuildpackFailed, scratch: Path, *, offline: bool = False
) -> BuildpackFailed | None:
    """Adds to a failure the command that opens the sandbox again.

    Writes the script to `scratch`, which must be kept. Returns None if the step cannot be repeated, or the
    script cannot be written.
    """
    sandbox, _, own = error.command.rpartition(" -- ")
    if not sandbox:
        return None
    script = scratch / "again.sh"
    try:
        script.touch(mode=0o700)
        script.write_text(_SCRIPT.format(own=own, sandbox=sandbox))
    except OSError:
        return None  # for instance on a full disk; the caller raises the original error
    return BuildpackFailed(
        error.what,
        why="\n".join(part for part in (error.why, _OFFLINE if offline else "") if part),
        fix=f"to look around where it failed (until the next build): sh {shlex.quote(str(script))} bash",
        command=error.command,
    )


LAYERS = "/layers"
SBOMS = f"{LAYERS}/sbom"
"""Where the lifecycle collects the SBOM files of all buildpacks."""

_SBOM_LIMIT = 64 << 20
"""The largest SBOM file copied, in bytes; the lifecycle takes no larger one."""

TEMPORARY = ("/tmp", "/var/tmp")


def _copy_out(tree: TreeView, path: str, target: Path) -> None:
    """Copies the directories and files at `path` in a build's tree to this machine; raises InputError.

    The tree has no links there: no buildpack runs any more, and the lifecycle has rebuilt the directory.
    """
    if not is_directory(tree, path):
        return
    try:
        target.mkdir(parents=True, exist_ok=True)
        for node in tree.list(path):
            if node.kind is NodeKind.DIRECTORY:
                _copy_out(tree, f"{path}/{node.name}", target / node.name)
            elif node.kind is NodeKind.FILE:
                (target / node.name).write_bytes(read(tree, f"{path}/{node.name}", limit=_SBOM_LIMIT) or b"")
    except OSError as error:
        raise InputError(f"no SBOM can be written to {target}", why=error.strerror or str(error)) from error


SandboxOpener = Callable[[SandboxSpec], AbstractContextManager[Sandbox]]


class AppSource(Protocol):
    """The application; see `build.mounts.SourceMount`."""

    def lowers(self) -> tuple[Path, ...]: ...

    def copy(self, source: Path, target: Path) -> None: ...

    def confirm(self) -> bool: ...


class LayerMounts(Protocol):
    """The layers of a build; see `build.layers.BuildLayers`."""

    @property
    def copied(self) -> bool: ...

    def mounts(self) -> Sequence[Mount]: ...


@dataclass(frozen=True, slots=True)
class BuildMounts:
    """What both sandboxes of a build mount.

    `mounts` are read-only: platform directory, buildpacks, name service. `volumes` are the user's; only
    buildpacks see them. `path` is the application, which is mounted at `app`.

    If `layers` are copies, the build's sandbox gets a copy of the application. Without `overlays` both
    sandboxes do, and a copy of the home directory too. `sboms` is the directory to which the SBOM files of a
    finished build are copied. `on_source_confirmed` is called when the scan of the source has ended.
    """

    root: Path
    home: str
    uid: int
    gid: int
    path: Path
    source: AppSource
    layers: LayerMounts
    mounts: tuple[Mount, ...]
    network: Network
    limits: Limits = field(default_factory=Limits)
    volumes: tuple[Mount, ...] = ()
    overlays: bool = True
    sboms: Path | None = None
    app: str = "/workspace"
    on_source_confirmed: Callable[[], None] = lambda: None


class BuildRunner:
    """Opens the sandboxes of a build with `open_step`.

    `scratch` is a directory on the store's file system that lasts as long as the build. The runner uses
    `build-…` and `detection-…` in it.
    """

    def __init__(self, open_step: SandboxOpener, mounts: BuildMounts, idmap: IdMap, scratch: Path) -> None:
        self._open_step = open_step
        self._build = mounts
        self._idmap = idmap
        self._owner = idmap.to_outside(mounts.uid, mounts.gid)
        self._scratch = scratch
        self._numbers = count(1)
        # On a noexec file system, programs can be executed through an overlay, but not through a bind.
        noexec = bool(os.statvfs(scratch).f_flag & os.ST_NOEXEC)
        self._home_in_image = _is_plain_directory(mounts.root, mounts.home) and (
            noexec or _may_have_entries(mounts.root, mounts.home)
        )
        self._shared: tuple[Mount, ...] = ()
        self._tree: TreeEdit | None = None
        self._sandboxes = ExitStack()

    def open(self, purpose: SandboxPurpose) -> AbstractContextManager[Sandbox]:
        """A sandbox; see `lifecycle.ports.Runner`."""
        return self._open_detection() if purpose is SandboxPurpose.DETECTION else self._open_build()

    def builder_files(self) -> AbstractContextManager[TreeView]:
        """The builder's files and the user's. No command runs there, so no sandbox is opened."""
        mounts = self._build
        binds = [mount for mount in (*mounts.mounts, *mounts.volumes) if isinstance(mount, Bind)]
        return BindView(mounts.root, binds, idmap=self._idmap)

    def confirm_source(self) -> bool:
        """Waits until the scan of the source has ended; see `lifecycle.ports.Runner`."""
        is_right = self._build.source.confirm()
        self._build.on_source_confirmed()
        return is_right

    def result_tree(self) -> TreeEdit:
        """The build's tree, without the user's volumes; see `lifecycle.ports.Runner`."""
        if self._build.volumes and self._tree is None:
            # The build's directories must not be mounted twice, so its sandbox is closed first.
            self._sandboxes.close()
            spec = replace(self._step((*self._shared, *self._build.mounts)), network=Network.NONE)
            self._tree = self._sandboxes.enter_context(self._open_step(spec)).tree
        assert self._tree is not None
        return self._tree

    @contextmanager
    def _open_build(self) -> Iterator[Sandbox]:
        build = self._build
        self._shared = (*build.layers.mounts(), *self._writable("build", copied=build.layers.copied))
        with self._sandboxes:
            spec = self._step((*self._shared, *self._build.mounts, *build.volumes))
            sandbox = self._sandboxes.enter_context(self._open_step(spec))
            self._tree = None if build.volumes else sandbox.tree
            yield sandbox
            if build.sboms is not None:
                self._write_sboms(build.sboms)

    def _write_sboms(self, directory: Path) -> None:
        """Copies the SBOM files of a finished build to a directory of this machine."""
        # Only a new sandbox shows those of cached layers, which the export has moved to the store.
        self._sandboxes.close()
        self._tree = None
        spec = replace(self._step(tuple(self._build.layers.mounts())), network=Network.NONE)
        with self._open_step(spec) as sandbox:
            # As in pack, and docker cp: a directory that exists gets a subdirectory sbom.
            _copy_out(sandbox.tree, SBOMS, directory / "sbom" if directory.is_dir() else directory)

    @contextmanager
    def _open_detection(self) -> Iterator[Sandbox]:
        own = f"detection-{next(self._numbers)}"
        layers = Bind(self._directory(f"{own}-layers"), LAYERS, writable=True)
        writable = self._writable(own, copied=not self._build.overlays)
        with self._open_step(
            self._step((layers, *writable, *self._build.mounts, *self._build.volumes))
        ) as sandbox:
            yield sandbox

    def _step(self, mounts: tuple[Mount, ...]) -> SandboxSpec:
        build = self._build
        return SandboxSpec(
            (),
            root=Root(build.root),
            mounts=mounts,
            uid=build.uid,
            gid=build.gid,
            network=build.network,
            limits=build.limits,
        )

    def app_overlay(self) -> Overlay | None:
        """The mount of the application, if it is an overlay and nothing is mounted in it."""
        mounts = (*self._shared, *self._build.mounts)
        app = self._build.app
        if any(mount.target.startswith(f"{app}/") for mount in mounts):
            return None
        found = (mount for mount in self._shared if isinstance(mount, Overlay) and mount.target == app)
        return next(found, None)

    def _writable(self, name: str, *, copied: bool = False) -> tuple[Mount, ...]:
        """The mounts that commands write to: home, application and temporary directories.

        Their directories in `scratch` begin with `name`. With `copied` the application is a copy.
        """
        if copied:
            app: Mount = self._copy(self._build.path, f"{name}-app", self._build.app, mode=0o777)
        else:
            app = self._overlay(f"{name}-app", self._build.source.lowers(), self._build.app, mode=0o777)
        temporary = (
            Bind(self._directory(f"{name}-tmp-{number}", mode=0o1777), path, writable=True)
            for number, path in enumerate(TEMPORARY)
        )
        return (*self._home(f"{name}-home"), app, *temporary)

    def _copy(self, source: Path, name: str, target: str, *, mode: int = 0o755) -> Bind:
        directory = self._scratch / name
        self._build.source.copy(source, directory)
        directory.chmod(mode)
        return Bind(directory, target, writable=True)

    def _home(self, name: str) -> tuple[Mount, ...]:
        """Mounts $HOME: the image's directory if it has one, else an empty one.

        Skipped if it would hide another mount.
        """
        home = posixpath.normpath(f"/{self._build.home.lstrip('/')}")  # a home of "/.." would hide everything
        own = (self._build.app, LAYERS, *TEMPORARY, "/proc", "/dev")
        others = (*own, *(mount.target for mount in self._build.mounts))
        if any(f"{other}/".startswith(f"{home.rstrip('/')}/") for other in others):
            return ()
        if self._home_in_image and not self._build.overlays:
            return (self._copy(self._build.root / home.lstrip("/"), name, home),)
        if self._home_in_image:
            return (self._overlay(name, (self._build.root / home.lstrip("/"),), home),)
        return (Bind(self._directory(name), home, writable=True),)

    def _overlay(self, name: str, lowers: tuple[Path, ...], target: str, *, mode: int = 0o755) -> Overlay:
        upper = self._directory(f"{name}-upper", mode=mode)
        return Overlay(lowers, target, upper, self._directory(f"{name}-work"))

    def _directory(self, name: str, *, mode: int = 0o755) -> Path:
        """Makes a directory that belongs to the CNB user, whatever the umask."""
        path = self._scratch / name
        path.mkdir()
        os.chown(path, *self._owner)
        path.chmod(mode)
        return path


def _is_plain_directory(root: Path, path: str) -> bool:
    """Whether `path` is a directory of the image without links in it, so that it is safe to open by name."""
    with RootedTree.open_local(root) as tree:
        parts = path.strip("/").split("/")
        nodes = (tree.stat("/" + "/".join(parts[: number + 1])) for number in range(len(parts)))
        return ".." not in parts and all(
            node is not None and node.kind is NodeKind.DIRECTORY for node in nodes
        )


def _may_have_entries(root: Path, path: str) -> bool:
    """Whether a directory of the image has entries. True if this user may not list it."""
    with RootedTree.open_local(root) as tree:
        try:
            return bool(tree.list(f"/{path.strip('/')}"))
        except TreeError:
            return True
