"""What a build leaves behind when one of its steps fails: the step as a script. Called by `building`.

The step is a line of thousands of characters, so it goes into a file, and a line that can be pasted starts
that.

The Runner of a build on a host: says what its two sandboxes see and where commands may write there.

All buildpacks of a build share one sandbox, as those of a reference build share one container. Detection has
another one, of which nothing is seen afterwards. Called by the phases as a port; made in `build.execute`.
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
from packhorse.base.tree import NodeKind, TreeEdit, TreeView
from packhorse.errors import BuildpackFailed, TreeError
from packhorse.fs.rooted import RootedTree
from packhorse.fs.views import BindView
from packhorse.lifecycle.ports import SandboxPurpose
from packhorse.linux.userns import IdMap

_SCRIPT = """\
#!/bin/sh
# Repeats the step that failed, in what it left; with words behind it, runs those in its place.
[ $# -gt 0 ] || set -- {own}
exec {sandbox} -- "$@"
"""


_OFFLINE = "the build had no network (--network none)"


def with_repeat_command(
    error: BuildpackFailed, scratch: Path, *, offline: bool = False
) -> BuildpackFailed | None:
    """The same failure, which says how to look around; the script is in `scratch`, which has to stay.

    None when the step cannot be repeated, or the script not be written.
    """
    sandbox, _, own = error.command.rpartition(" -- ")
    if not sandbox:
        return None
    script = scratch / "again.sh"
    try:
        script.touch(mode=0o700)
        script.write_text(_SCRIPT.format(own=own, sandbox=sandbox))
    except OSError:
        return None  # a disk that is full, of which the buildpack has said enough
    return BuildpackFailed(
        error.what,
        why="\n".join(part for part in (error.why, _OFFLINE if offline else "") if part),
        fix=f"to look around where it failed (until the next build): sh {shlex.quote(str(script))} bash",
        command=error.command,
    )


APP = "/workspace"
LAYERS = "/layers"
TEMPORARY = ("/tmp", "/var/tmp")


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
    """What both sandboxes of a build have in common.

    `mounts` are read-only (platform directory, buildpacks, name service). `volumes` are the user's, for
    buildpacks: what makes the image does not see them.

    Where the `layers` are copies, buildpacks have one of the directory `path`, the application, too. Without
    `overlays` both sandboxes have, and one of the home as well. `on_source_confirmed` is called when the
    source is known.
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
    on_source_confirmed: Callable[[], None] = lambda: None


class BuildRunner:
    """Opens a build's sandboxes with `open_step`. `scratch` is a directory on the store's file system that
    lasts as long as the build; in it `build-…` and `detection-…` are the runner's.
    """

    def __init__(self, open_step: SandboxOpener, mounts: BuildMounts, idmap: IdMap, scratch: Path) -> None:
        self._open_step = open_step
        self._build = mounts
        self._idmap = idmap
        self._owner = idmap.to_outside(mounts.uid, mounts.gid)
        self._scratch = scratch
        self._numbers = count(1)
        # On a file system that executes nothing an overlay does, and a bind of its directory does not.
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
        """What the builder and the user bring. Nothing runs there, so no sandbox is made for it."""
        mounts = self._build
        binds = [mount for mount in (*mounts.mounts, *mounts.volumes) if isinstance(mount, Bind)]
        return BindView(mounts.root, binds, idmap=self._idmap)

    def confirm_source(self) -> bool:
        """Waits until the source is known; see `lifecycle.ports.Runner`."""
        is_right = self._build.source.confirm()
        self._build.on_source_confirmed()
        return is_right

    def result_tree(self) -> TreeEdit:
        """The build's tree, without the user's volumes; see `lifecycle.ports.Runner`."""
        if self._build.volumes and self._tree is None:
            # The same directories are not to be mounted twice.
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
        """What buildpacks have as the application, if that is an overlay in which nothing else is mounted."""
        mounts = (*self._shared, *self._build.mounts)
        if any(mount.target.startswith(f"{APP}/") for mount in mounts):
            return None
        found = (mount for mount in self._shared if isinstance(mount, Overlay) and mount.target == APP)
        return next(found, None)

    def _writable(self, name: str, *, copied: bool = False) -> tuple[Mount, ...]:
        """The app, the home and the temporary directories, with uppers of their own whose names begin with
        `name`; or the app `copied` to such a place.
        """
        if copied:
            app: Mount = self._copy(self._build.path, f"{name}-app", APP, mode=0o777)
        else:
            app = self._overlay(f"{name}-app", self._build.source.lowers(), APP, mode=0o777)
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
        """The home as the image has it, an empty one where that has nothing; none where it would hide another
        mount.
        """
        home = posixpath.normpath(f"/{self._build.home.lstrip('/')}")  # "/.." would hide everything
        others = (APP, LAYERS, *TEMPORARY, "/proc", "/dev", *(mount.target for mount in self._build.mounts))
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
        """A new directory of the CNB user's, whatever the umask."""
        path = self._scratch / name
        path.mkdir()
        os.chown(path, *self._owner)
        path.chmod(mode)
        return path


def _is_plain_directory(root: Path, path: str) -> bool:
    """Whether `path` is in the image and no part of it is a link, so that it may be named from outside."""
    with RootedTree.open_local(root) as tree:
        parts = path.strip("/").split("/")
        nodes = (tree.stat("/" + "/".join(parts[: number + 1])) for number in range(len(parts)))
        return ".." not in parts and all(
            node is not None and node.kind is NodeKind.DIRECTORY for node in nodes
        )


def _may_have_entries(root: Path, path: str) -> bool:
    """Whether a directory of the image has entries, or is not this user's to list."""
    with RootedTree.open_local(root) as tree:
        try:
            return bool(tree.list(f"/{path.strip('/')}"))
        except TreeError:
            return True
