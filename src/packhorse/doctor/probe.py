"""Defines the results of `packhorse doctor`, and the trials that several of its checks share.

`HostProbe` makes a namespace, a scratch directory and a sandbox, each once. `doctor.checks` makes the probe;
the checks turn its findings into results.
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

_COMMANDS_LEFT = "build and run do not work here; copy, inspect, images, rmi and gc do"


class CheckState(Enum):
    """OK: all is there. LIMITED: builds work, but something is missing. MISSING: builds do not work."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Fix:
    """What `--fix` can do: put `files` (path and text) in place, then run commands, in order and as root.

    If a command fails, the files are removed again.
    """

    title: str
    commands: tuple[tuple[str, ...], ...]
    files: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check: its state, and what it found.

    `consequence` says what still works, and `remedy` how to fix what is missing; both are empty if the state
    is ok. `fix` is what `--fix` can do about it. `run_checks` adds the name of the check.
    """

    state: CheckState
    finding: str
    consequence: str = ""
    remedy: str = ""
    fix: Fix | None = None
    name: str = ""


def ok_line(found: str) -> CheckResult:
    """Makes the result if all is there."""
    return CheckResult(CheckState.OK, found)


def limited_line(found: str, without: str, remedy: str, fix: Fix | None = None) -> CheckResult:
    """Makes the result if builds work although something is missing."""
    return CheckResult(CheckState.LIMITED, found, without, remedy, fix)


def missing_line(
    found: str, remedy: str, fix: Fix | None = None, *, without: str = _COMMANDS_LEFT
) -> CheckResult:
    """Makes the result if builds do not work; `without` names the commands that still work."""
    return CheckResult(CheckState.MISSING, found, without, remedy, fix)


_UID = _GID = 1000
_PROBE = 125
"""The exit code of the native program `terminal` if it gets no arguments."""


@dataclass(frozen=True, slots=True)
class SandboxTrial:
    """The result of making one sandbox as builds do: its `error`, and the name of the check that failed.

    `missing_marks` says what the store needs of an overlay and this one, though mounted, did not do.
    """

    error: HostError | None = None
    failed_check: str = ""
    missing_marks: str = ""


class HostProbe:
    """Tries what builds need on this machine, for the user with `environ` and `folders`.

    Each trial runs once, when it is first needed. All files are below one directory on the store's file
    system, and are removed at the end of the `with` block.
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
        """The ids that builds have here."""
        try:
            return userns.choose_map(_UID, _GID)
        except HostError as error:
            return error

    @cached_property
    def namespace(self) -> Namespace | HostError:
        """A user namespace with these ids, or why none can be made."""
        if isinstance(self.idmap, HostError):
            return self.idmap
        try:
            return self._own.enter_context(userns.make_namespace(self.idmap))
        except HostError as error:
            return error

    @cached_property
    def home(self) -> Path:
        """The store's directory, or the nearest existing directory above it."""
        path = self.folders.store.absolute()
        while not os.path.isdir(path) and path != path.parent:  # noqa: PTH112 - may not be searched
            path = path.parent
        return path

    @cached_property
    def scratch(self) -> Path | OSError:
        """A new directory where builds would write, or why none can be made."""
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
        """The name of the store's file system if overlays do not work on it, else "". Builds ask the same."""
        return overlay_obstacle(self.home)

    @cached_property
    def trial(self) -> SandboxTrial:
        """The result of a sandbox in which a program runs under the system call filter.

        It has `/layers` as builds mount it: an overlay, or a plain directory if the store's file system
        takes no overlays.
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
        """Why a sandbox cannot have a network of its own; "" if it can."""
        namespace, scratch, error = self.namespace, self.scratch, self.trial.error
        if error is not None or isinstance(namespace, HostError) or isinstance(scratch, OSError):
            return f"not tried, because no sandbox can be made: see {self.trial.failed_check}"
        try:
            spec = _step(namespace, scratch, Network.OWN, overlay=not self.overlay_obstacle)
            with make_runner(namespace, _make_directory(scratch / "networks")).open(spec):
                return ""
        except PackhorseError as refused:
            return refused.why or refused.what


def _step(namespace: Namespace, scratch: Path, network: Network, *, overlay: bool) -> SandboxSpec:
    """Describes a sandbox with one static program, and an overlay of two lower directories at `/layers`.

    Without `overlay`, the lowest directory itself is mounted there, writable.
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
    """Says which mark of an overlay the upper lacks: whiteouts, or `user.overlay.opaque`; "" if none."""
    if not stat.S_ISCHR((upper / "old").lstat().st_mode):
        return "a removed file leaves no whiteout"
    marks = os.listxattr(upper / "directory", follow_symlinks=False)
    return "" if "user.overlay.opaque" in marks else "a replaced directory is not marked as opaque"


def _make_directory(path: Path) -> Path:
    path.mkdir()
    path.chmod(0o755)
    return path


def _remove(path: Path) -> None:
    """Removes a tree. An overlay leaves its work directory with mode 0, so this changes modes first."""
    for directory, names, _ in os.walk(path):
        for name in names:
            with suppress(OSError):
                (Path(directory) / name).chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
