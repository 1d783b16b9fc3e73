"""The Runner of a build on a host: adds to each step what it sees and where it may write.

All steps of one build share the writable parts (`/layers`, the app, home, `/tmp`), as all buildpacks of a
reference build share one container; a `scratch` step has its own, which nobody sees afterwards. Making mounts
costs as much as a small buildpack, so who only looks is shown those of a step that is over. Called by the
phases as a port; made in `build.execute`.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol, Self

from packhorse.base.calling import undisturbed
from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.mounted import Mounted
from packhorse.base.rooted import Rooted
from packhorse.base.step import Bind, Limits, Mount, Network, Overlay, Room, Root, Step
from packhorse.base.tree import Kind, TreeView
from packhorse.base.userns import IdMap
from packhorse.errors import TreeError

APP = "/workspace"
LAYERS = "/layers"
TEMPORARY = ("/tmp", "/var/tmp")


class HeldRoom(Room, Protocol):
    """A room of a sandbox; a `vacant` one waits for a command."""

    @property
    def vacant(self) -> bool: ...

    def assign(self, step: Step) -> None:
        """Says what a room that was opened for a `deferred` step runs: `step`, the same but for argv, env and
        cwd.
        """
        ...


Open = Callable[[Step], AbstractContextManager[HeldRoom]]


@dataclass(frozen=True, slots=True)
class Scene:
    """What every step of a build has in common.

    `app` are the lowers of the application directory, bottom first; `layers` gives the mounts of `/layers` as
    they are when a step is opened. `mounts` are read-only (platform directory, buildpacks, name service);
    where there are many buildpacks, `mounted` shows them as one instead of what `mounts` has of them.
    `volumes` are the user's, for buildpacks: what makes the image does not see them.

    Where `copied` says that this is a build on plain copies, buildpacks have one of the directory `source`,
    made by `copy`, as the application. Without `overlays` every step has, and one of the home too. `settle`
    is called before the first buildpack builds: it waits until it is known that the scene is right.
    """

    root: Path
    home: str
    uid: int
    gid: int
    app: tuple[Path, ...]
    layers: Callable[[], Sequence[Mount]]
    mounts: tuple[Mount, ...]
    network: Network
    limits: Limits = field(default_factory=Limits)
    mounted: tuple[Mount, ...] | None = None
    volumes: tuple[Mount, ...] = ()
    overlays: bool = True
    copied: Callable[[], bool] = lambda: False
    source: Path = Path()
    copy: Callable[[Path, Path], None] = lambda source, target: None
    settle: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class _Left:
    """A room that its phase has left, and what is mounted there; `stack` closes it."""

    room: HeldRoom
    mounts: tuple[Mount, ...]
    stack: ExitStack


class BuildRunner:
    """Decorates a sandbox's `open`. `scratch` is a directory on the store's file system that lasts as long as
    the build; in it `shared-…` and `scratch-…` are the runner's.

    It is a context: rooms that phases have left may be open until its end.
    """

    def __init__(self, open_step: Open, scene: Scene, idmap: IdMap, scratch: Path) -> None:
        self._open_step = open_step
        self._scene = scene
        self._idmap = idmap
        self._owner = idmap.outside(scene.uid, scene.gid)
        self._scratch = scratch
        self._numbers = count(1)
        # On a file system that executes nothing an overlay does, and a bind of its directory does not.
        noexec = bool(os.statvfs(scratch).f_flag & os.ST_NOEXEC)
        self._home_in_image = _is_plain_directory(scene.root, scene.home) and (
            noexec or _may_have_entries(scene.root, scene.home)
        )
        self._shared: tuple[Mount, ...] = ()
        self._mounts = scene.mounts if scene.mounted is None else scene.mounted
        self._last: _Left | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()

    def _leave(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.stack.close()

    def open(self, step: Step) -> AbstractContextManager[Room]:
        """The step in the build's scene; see `lifecycle.ports.Runner`."""
        return self._scratch_room(step) if step.scratch else self._shared_room(step)

    def look(self) -> AbstractContextManager[TreeView]:
        """What the builder and the user bring. Nothing runs there, so no sandbox is made for it."""
        scene = self._scene
        binds = [mount for mount in (*scene.mounts, *scene.volumes) if isinstance(mount, Bind)]
        return Mounted(scene.root, binds, idmap=self._idmap)

    @contextmanager
    def _shared_room(self, step: Step) -> Iterator[Room]:
        scene, last, first = self._scene, self._last, not self._shared
        if step.argv:
            scene.settle()
        self._shared = self._shared or self._writable("shared", copied=scene.copied())
        mounts = (*scene.layers(), *self._shared, *self._mounts)
        if last is not None and last.mounts == mounts and (last.room.vacant or not step.argv):
            if step.argv:
                last.room.assign(self._placed(step, mounts))
            try:
                yield last.room
            except BaseException:
                if step.argv:
                    self._leave()
                raise
            return
        self._leave()
        volumes = scene.volumes if step.argv else ()
        # What opens the first room makes the layers ready for the first buildpack, which can run there then.
        deferred = first and not step.argv and not scene.volumes
        placed = self._placed(replace(step, deferred=deferred), (*mounts, *volumes))
        with ExitStack() as stack:
            room = stack.enter_context(self._open_step(placed))
            yield room
            if not volumes:
                with undisturbed():
                    self._last = _Left(room, mounts, stack.pop_all())

    @contextmanager
    def _scratch_room(self, step: Step) -> Iterator[Room]:
        scene = self._scene
        own = f"scratch-{next(self._numbers)}"
        layers = Bind(self._directory(f"{own}-layers"), LAYERS, writable=True)
        writable = self._writable(own, copied=not scene.overlays)
        mounts = (layers, *writable, *self._mounts, *scene.volumes)
        with self._open_step(self._placed(step, mounts)) as room:
            yield room

    def _placed(self, step: Step, mounts: tuple[Mount, ...]) -> Step:
        scene = self._scene
        return replace(
            step,
            root=Root(scene.root),
            mounts=mounts,
            uid=scene.uid,
            gid=scene.gid,
            network=scene.network if step.argv or step.deferred else Network.NONE,
            limits=scene.limits,
        )

    def app_overlay(self) -> Overlay | None:
        """What steps are shown as the application, if that is an overlay in which nothing else is mounted."""
        mounts = (*self._shared, *self._mounts, *self._scene.layers())
        if any(mount.target.startswith(f"{APP}/") for mount in mounts):
            return None
        found = (mount for mount in self._shared if isinstance(mount, Overlay) and mount.target == APP)
        return next(found, None)

    def _writable(self, room: str, *, copied: bool = False) -> tuple[Mount, ...]:
        """The app, the home and the temporary directories, with uppers of their own whose names begin with
        `room`; or the app `copied` to such a place.
        """
        if copied:
            app: Mount = self._copy(self._scene.source, f"{room}-app", APP, mode=0o777)
        else:
            app = self._overlay(f"{room}-app", self._scene.app, APP, mode=0o777)
        temporary = (
            Bind(self._directory(f"{room}-tmp-{number}", mode=0o1777), path, writable=True)
            for number, path in enumerate(TEMPORARY)
        )
        return (*self._home(f"{room}-home"), app, *temporary)

    def _copy(self, source: Path, name: str, target: str, *, mode: int = 0o755) -> Bind:
        directory = self._scratch / name
        self._scene.copy(source, directory)
        directory.chmod(mode)
        return Bind(directory, target, writable=True)

    def _home(self, name: str) -> tuple[Mount, ...]:
        """The home as the image has it, an empty one where that has nothing; none where it would hide another
        mount.
        """
        home = posixpath.normpath(f"/{self._scene.home.lstrip('/')}")  # "/.." would hide everything
        others = (APP, LAYERS, *TEMPORARY, *(mount.target for mount in self._scene.mounts))
        if any(f"{other}/".startswith(f"{home.rstrip('/')}/") for other in others):
            return ()
        if self._home_in_image and not self._scene.overlays:
            return (self._copy(self._scene.root / home.lstrip("/"), name, home),)
        if self._home_in_image:
            return (self._overlay(name, (self._scene.root / home.lstrip("/"),), home),)
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
    with Rooted.local(root) as tree:
        parts = path.strip("/").split("/")
        nodes = (tree.stat("/" + "/".join(parts[: number + 1])) for number in range(len(parts)))
        return ".." not in parts and all(node is not None and node.kind is Kind.DIRECTORY for node in nodes)


def _may_have_entries(root: Path, path: str) -> bool:
    """Whether a directory of the image has entries, or is not this user's to list."""
    with Rooted.local(root) as tree:
        try:
            return bool(tree.list(f"/{path.strip('/')}"))
        except TreeError:
            return True
