"""The values that `packhorse doctor` prints, and the probes that several of its checks share.

A namespace, a place to write and a sandbox are each tried once. Made by `doctor.checks`; the checks judge
what was found.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from enum import Enum
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from packhorse.base.dataclass import dataclass
from packhorse.base.installation import find_program
from packhorse.base.sandbox import Bind, Mount, Network, Overlay, Root, SandboxSpec
from packhorse.build.layers import overlay_obstacle
from packhorse.errors import HostError, PackhorseError, SandboxError
from packhorse.host.folders import Folders
from packhorse.host.wiring import make_runner
from packhorse.linux import userns
from packhorse.linux.userns import IdMap, Namespace

_COMMANDS_LEFT = "nothing can be built or run here; copy, inspect, images, rmi and gc work"


class CheckState(Enum):
    """All of it is there; builds work with less; builds do not work."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Fix:
    """What `--fix` can do: put `files` (path and text) in place, then run commands as root, in order.

    If one of the commands fails, the files are taken away again.
    """

    title: str
    commands: tuple[tuple[str, ...], ...]
    files: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `without` says what works all the same, `remedy` how to mend what is missing.

    Both are empty where the state is ok. `fix` is what `--fix` would do about it, where it can.
    `checkup` adds the name of the check.
    """

    state: CheckState
    finding: str
    consequence: str = ""
    remedy: str = ""
    fix: Fix | None = None
    name: str = ""


def ok_line(found: str) -> CheckResult:
    """All is there."""
    return CheckResult(CheckState.OK, found)


def limited_line(found: str, without: str, remedy: str, mend: Fix | None = None) -> CheckResult:
    """Builds work with less."""
    return CheckResult(CheckState.LIMITED, found, without, remedy, mend)


def missing_line(
    found: str, remedy: str, mend: Fix | None = None, *, without: str = _COMMANDS_LEFT
) -> CheckResult:
    """Builds do not work; without other words, what never starts a sandbox does."""
    return CheckResult(CheckState.MISSING, found, without, remedy, mend)


_UID = _GID = 1000
_PROBE = 125
"""How the native program that gives steps a terminal ends when it has no arguments."""


@dataclass(frozen=True, slots=True)
class SandboxTrial:
    """One real sandbox, made as a build makes its own: the `error` that kept it, and the line to blame.

    `missing_marks` says what an overlay that could be mounted did not do as the store needs it.
    """

    error: HostError | None = None
    failed_check: str = ""
    missing_marks: str = ""


class HostProbe:
    """One look at this machine for the user with `environ`, whose things are in `folders`.

    All is below one directory on the store's file system, and gone with the block.
    """

    def __init__(self, environ: Mapping[str, str], folders: Folders) -> None:
        self.environ = environ
        self.folders = folders
        self._own = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own.close()

    @cached_property
    def idmap(self) -> IdMap | HostError:
        """The ids that builds would have."""
        try:
            return userns.choose_map(_UID, _GID)
        except HostError as error:
            return error

    @cached_property
    def namespace(self) -> Namespace | HostError:
        """A namespace with these ids, or why there is none."""
        if isinstance(self.idmap, HostError):
            return self.idmap
        try:
            return self._own.enter_context(userns.make_namespace(self.idmap))
        except HostError as error:
            return error

    @cached_property
    def home(self) -> Path:
        """The store's directory, or the nearest above it that is there."""
        path = self.folders.store.absolute()
        while not os.path.isdir(path) and path != path.parent:  # noqa: PTH112 - may not be searched
            path = path.parent
        return path

    @cached_property
    def scratch(self) -> Path | OSError:
        """A new directory where builds would write, or why there is none."""
        stored = self.home / "scratch"
        where = stored if os.path.isdir(stored) else self.home  # noqa: PTH112 - may not be searched
        try:
            path = tempfile.mkdtemp(prefix="doctor-", dir=where)
        except OSError as error:
            return error
        self._own.callback(_remove, Path(path))
        return Path(path)

    @cached_property
    def overlay_obstacle(self) -> str:
        """Which file system the store is on, if it is one that takes no overlays; builds ask the same."""
        return overlay_obstacle(self.home)

    @cached_property
    def trial(self) -> SandboxTrial:
        """A sandbox in which a program runs under the system call filter, with `/layers` as builds mount it:
        an overlay, or a plain directory where the store's file system takes no overlays.
        """
        namespace, scratch = self.namespace, self.scratch
        if isinstance(namespace, HostError):
            return SandboxTrial(namespace, namespace.check)
        if isinstance(scratch, OSError):
            return SandboxTrial(
                HostError(f"{self.home} cannot be written", why=scratch.strerror or ""), "store"
            )
        try:
            spec = _step(namespace, scratch, Network.NONE, overlay=not self.overlay_obstacle)
            with make_runner(namespace, _make_directory(scratch / "steps")).open(spec) as room:
                room.tree.write("/layers/new", b"new\n")
                room.tree.remove("/layers/old")
                room.tree.remove("/layers/directory")
                room.tree.mkdir("/layers/directory")
                marks = "" if self.overlay_obstacle else _missing_marks(_upper(spec))
                status = room.run(lambda _: None).status
        except HostError as error:
            return SandboxTrial(error, error.check or "bubblewrap")
        except (PackhorseError, OSError) as error:
            return SandboxTrial(HostError("no sandbox can be made", why=str(error)), "bubblewrap")
        if status != _PROBE:
            return SandboxTrial(
                SandboxError("a program could not be run", why=f"it ended with {status}"), "seccomp"
            )
        return SandboxTrial(missing_marks=marks)

    @cached_property
    def own_network(self) -> str:
        """Why a sandbox cannot have a network of its own; empty when one could be made."""
        namespace, scratch, error = self.namespace, self.scratch, self.trial.error
        if error is not None or isinstance(namespace, HostError) or isinstance(scratch, OSError):
            return f"not tried, for want of a sandbox: see {self.trial.failed_check}"
        try:
            spec = _step(namespace, scratch, Network.OWN, overlay=not self.overlay_obstacle)
            with make_runner(namespace, _make_directory(scratch / "networks")).open(spec):
                return ""
        except PackhorseError as refused:
            return refused.why or refused.what


def _step(namespace: Namespace, scratch: Path, network: Network, *, overlay: bool) -> SandboxSpec:
    """A step over a root that has one static program, with an overlay of two directories and an upper.

    Without `overlay` the lower of the two is mounted itself, to be written.
    """
    here = _make_directory(scratch / network.value)
    root, lower, empty, upper, work = (
        _make_directory(here / name) for name in ("root", "lower", "empty", "upper", "work")
    )
    shutil.copyfile(find_program("terminal"), root / "probe")
    (root / "probe").chmod(0o755)
    _make_directory(lower / "directory")
    (lower / "old").touch()
    owner = namespace.idmap.to_outside(_UID, _GID)
    for path in (lower, lower / "directory", lower / "old", empty, upper, work):
        os.chown(path, *owner)
    overlaid = Overlay((empty, lower), "/layers", upper, work)
    mounts: tuple[Mount, ...] = (overlaid if overlay else Bind(lower, "/layers", writable=True),)
    argv = ("/probe",) if network is Network.NONE else ()
    return SandboxSpec(argv, root=Root(root), mounts=mounts, uid=_UID, gid=_GID, network=network)


def _upper(spec: SandboxSpec) -> Path:
    (overlay,) = (mount for mount in spec.mounts if isinstance(mount, Overlay))
    assert overlay.upper
    return overlay.upper


def _missing_marks(upper: Path) -> str:
    """What the upper lacks of the marks that overlays leave (whiteouts, and `user.overlay.opaque`)."""
    if not stat.S_ISCHR((upper / "old").lstat().st_mode):
        return "a removed file leaves no whiteout"
    marks = os.listxattr(upper / "directory", follow_symlinks=False)
    return "" if "user.overlay.opaque" in marks else "a replaced directory is not marked as opaque"


def _make_directory(path: Path) -> Path:
    path.mkdir()
    path.chmod(0o755)
    return path


def _remove(path: Path) -> None:
    """An overlay leaves its work directory shut, to its owner too."""
    for directory, names, _ in os.walk(path):
        for name in names:
            with suppress(OSError):
                (Path(directory) / name).chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
