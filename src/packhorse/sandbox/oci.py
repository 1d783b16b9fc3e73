"""Runs sandboxes with an OCI runtime (`--sandbox runc`), as containers. Made by `host.wiring`.

A child process, `monitor`, mounts the tree and starts the runtime inside the sandbox's user namespace. The
runtime runs as root of that namespace, who has no rights on this machine. So all three id modes look alike to
it, and it needs no daemon and no control groups. This module writes the config.json. The runtime makes the
other namespaces, /proc and /dev and sets the ids. It starts `launcher/init`, which gets each command with its
environment and system call filter later.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from packhorse.base.dataclass import dataclass
from packhorse.base.sandbox import Bind, Mount, Network, SandboxSpec
from packhorse.errors import SandboxError
from packhorse.linux import userns
from packhorse.linux.processes import python_command
from packhorse.linux.userns import Extent, IdMap, MapMode, Namespace
from packhorse.sandbox import monitor
from packhorse.sandbox.init import make_order, words_of
from packhorse.sandbox.monitor import MountSpec
from packhorse.sandbox.mounts import Layout, PathAccess
from packhorse.sandbox.process import Process, find_check
from packhorse.sandbox.seccomp import CAPABILITIES, READ_ONLY

CHANNEL, INIT = 3, 4
"""The descriptors that the first process inherits: its socket, and its own program."""

_MOUNTS = (
    ("/proc", "proc", ("nosuid", "noexec", "nodev")),
    # Only /dev/shm is writable, and it is its own file system.
    ("/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k", "ro")),
    ("/dev/pts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")),
    ("/dev/shm", "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777")),
)
_NAMESPACES = ("mount", "pid", "ipc", "uts", "cgroup")


def make_config(
    spec: SandboxSpec, layout: Layout, *, root: str, user: tuple[int, int], maps: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Returns the config.json of a sandbox whose tree is at `root`; its first process has the ids `user`.

    If commands need other ids, `maps` are the uid map and gid map of the user namespace that init makes for
    them.
    """
    size = spec.limits.shared_memory_size
    shared = [f"size={size}"] if size else []
    namespaces = [*_NAMESPACES, *(["network"] if spec.network is not Network.HOST else [])]
    # Root inside (an image extension's RUN) has the capabilities that docker gives it, others have none.
    capabilities = list(CAPABILITIES) if spec.uid == 0 else []
    if user != (spec.uid, spec.gid):
        # Init needs this one, and no other, to map root's id in a new user namespace (user_namespaces(7)).
        capabilities = ["CAP_SETFCAP"]
    return {
        "ociVersion": "1.0.2",
        "hostname": spec.hostname,
        "root": {"path": root},
        "mounts": [
            {
                "destination": target,
                "type": kind,
                "source": kind,
                "options": [*options, *(shared if target == "/dev/shm" else [])],
            }
            for target, kind, options in _MOUNTS
        ],
        "process": {
            "user": {"uid": user[0], "gid": user[1]},
            "args": [f"/proc/self/fd/{INIT}", str(CHANNEL), *maps],
            "cwd": "/",
            "env": [],
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": list(layout.masked),
            "readonlyPaths": list(READ_ONLY),
        },
    }


def make_mounts(spec: SandboxSpec, layout: Layout) -> list[MountSpec]:
    """Returns the mounts of the sandbox's tree, the root first."""
    if spec.root is None:
        raise SandboxError("a sandbox needs a root file system")
    lowers = [str(layout.skeleton), str(spec.root.tree)]
    root = _make_overlay("/", lowers, str(spec.root.upper or ""), str(spec.root.work or ""))
    return [root, *(_make_mount(mount, layout) for mount in spec.mounts)]


def _make_mount(mount: Mount, layout: Layout) -> MountSpec:
    target = layout.place(mount.target)
    if isinstance(mount, Bind):
        return _make_bind(target, str(mount.source), writable=mount.writable)
    upper, work = str(mount.upper or ""), str(mount.work or "")
    writable = bool(upper and work)
    if not mount.lowers and not writable:
        raise SandboxError(f"the mount at {mount.target} has no source")
    if len(mount.lowers) + writable < 2:
        # An overlay needs two layers; a bind of the only one looks the same.
        return _make_bind(target, upper if writable else str(mount.lowers[0]), writable=writable)
    return _make_overlay(target, [str(path) for path in mount.lowers], upper, work)


def _make_bind(target: str, source: str, *, writable: bool) -> MountSpec:
    return MountSpec(target=target, source=source, lowers=[], upper="", work="", writable=writable)


def _make_overlay(target: str, lowers: Sequence[str], upper: str, work: str) -> MountSpec:
    writable = bool(upper and work)
    return MountSpec(
        target=target,
        source="",
        lowers=list(lowers),
        upper=upper if writable else "",
        work=work if writable else "",
        writable=writable,
    )


MONITOR = python_command("packhorse.sandbox.monitor")

_MOMENTARY = re.compile(r"cloned binary: Device or resource busy")
"""runc's error if it could not seal the copy of itself that it runs from, because a page of it was in use for
a moment (fcntl(2), F_ADD_SEALS). It has made nothing then."""


class RuntimeBusy(SandboxError):
    """The runtime failed for a reason that passes. Making the same container again can work."""


class Container(Process):
    """A container that a monitor makes from `plan`, a `MonitorPlan` to which this class adds the descriptors.

    `options` are the monitor's, and `inputs` the descriptors that they name. `init` is the program of the
    first process.
    """

    def __init__(
        self, options: Sequence[str], plan: dict[str, Any], *, init: Path, inputs: Sequence[int]
    ) -> None:
        super().__init__()
        self._root = -1
        self._unmount: Callable[[int], None] = os.close
        try:
            self._start(options, plan, init, inputs)
            self._receive()
        except BaseException:
            self.close()
            raise

    def _start(self, options: Sequence[str], plan: dict[str, Any], init: Path, inputs: Sequence[int]) -> None:
        with ExitStack() as theirs:
            self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._own.enter_context(self._control)
            theirs.enter_context(control)
            channel = self.init.take_descriptor(theirs)
            program = os.open(init, os.O_PATH | os.O_CLOEXEC)
            theirs.callback(os.close, program)
            descriptors = {"control": control.fileno(), "channel": channel, "init": program}
            self._said = os.memfd_create("said", os.MFD_CLOEXEC)
            self._own.callback(os.close, self._said)
            document = os.memfd_create("plan", os.MFD_CLOEXEC)
            theirs.callback(os.close, document)
            os.write(document, json.dumps(plan | descriptors).encode())
            os.lseek(document, 0, os.SEEK_SET)
            self._process = subprocess.Popen(
                [*MONITOR, str(document), *options, "--"],
                pass_fds=(*inputs, control.fileno(), channel, program, document),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                # Else Ctrl-C would end it, and the sandbox with it, before packhorse can react.
                process_group=0,
                cwd="/",
                env={},
                umask=0o022,
            )

    def _receive(self) -> None:
        """Waits until the first process is ready."""
        data, descriptors, _, _ = socket.recv_fds(self._control, 1, 3, socket.MSG_CMSG_CLOEXEC)
        if not data:
            words = self.read_error()
            kind = RuntimeBusy if _MOMENTARY.search(words) else SandboxError
            raise kind(
                "the sandbox cannot be made",
                why=words,
                fix="leave out --sandbox, and packhorse uses bubblewrap",
                check=find_check(words, ""),
            )
        # `mounts`, the mount namespace, keeps the mounts below the root after all processes have ended.
        self._root, mounts, self._pidfd = descriptors
        for descriptor in (self._root, self._pidfd):
            self._own.callback(os.close, descriptor)
        self._own.callback(lambda: self._unmount(mounts))
        text = Path(f"/proc/self/fdinfo/{self._pidfd}").read_text()
        (pid,) = re.findall(r"^Pid:\s*(\d+)$", text, re.MULTILINE)
        self.pid = int(pid)
        if not self._wait_until_ready():
            raise SandboxError(
                "the sandbox cannot be made",
                why="its first process could not take the user's id",
                check="user-namespaces",
            )

    def read_error(self) -> str:
        """See `Process`. Of lines in the runtime's log format, only the messages are kept."""
        assert self._process is not None
        self._process.wait()
        said = os.pread(self._said, 65536, 0).decode(errors="replace").strip()
        lines = [_extract_message(line) for line in said.splitlines()]
        return "\n".join(dict.fromkeys(lines)) or f"it ended with status {self._process.returncode}"

    def open_root(self, close: Callable[[int], None] = os.close) -> int:
        """See `Process`. The tree is as the monitor mounted it: without /proc and /dev."""
        self._unmount = close
        return os.dup(self._root)


def _extract_message(line: str) -> str:
    """Returns the message of a line of the runtime's log (`msg="…"`), or the whole line if it has none."""
    message = re.search(r'msg="((?:[^"\\]|\\.)*)"', line)
    return re.sub(r"\\(.)", r"\1", message[1]) if message else line


_TIMEOUT = 10.0
"""Seconds in which a runtime has to answer --version."""

_TRIES = 4
"""How often to try to make a container while the runtime is busy."""

_OTHERWISE = "choose another, or leave out --sandbox: bubblewrap comes with packhorse"


@dataclass(frozen=True, slots=True)
class _RuntimeKind:
    """What differs between runtimes: the oldest version that packhorse can use, and options for each call."""

    oldest: tuple[int, int]
    options: tuple[str, ...] = ()


_RUNTIME_KINDS = {
    "runc": _RuntimeKind((1, 0), ("--rootless", "true")),
    "crun": _RuntimeKind((1, 0), ("--cgroup-manager", "disabled")),
}


@cache
def find_runtime(name: str) -> tuple[str, ...]:
    """Returns the path of the runtime `name` (a path, or found on PATH) and its options.

    Raises SandboxError if there is none, or packhorse cannot use it.
    """
    program = shutil.which(name)
    if program is None:
        raise _unfit_error(f"there is no OCI runtime {name}", "it is not installed, or not on PATH")
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise _unfit_error(f"{program} cannot be started", error.strerror or "") from error
    except subprocess.TimeoutExpired as error:
        raise _unfit_error(
            f"{program} is not an OCI runtime that packhorse can use",
            f"it does not answer --version within {_TIMEOUT:.0f} seconds",
        ) from error
    match = re.match(r"(\w+) version (?:release-)?(\d+)\.(\d+)", done.stdout)
    if match is None:
        said = (done.stdout + done.stderr).strip().splitlines()
        why = f"it answers --version with {said[0]!r}" if said else "it does not answer --version"
        raise _unfit_error(f"{program} is not an OCI runtime that packhorse can use", why)
    runtime, major, minor = match.groups()
    kind = _RUNTIME_KINDS.get(runtime)
    if kind is None:
        raise _unfit_error(f"packhorse cannot use {runtime}", f"it can use {' and '.join(_RUNTIME_KINDS)}")
    if (int(major), int(minor)) < kind.oldest:
        needed = ".".join(map(str, kind.oldest))
        raise _unfit_error(
            f"{program} is too old", f"it is {runtime} {major}.{minor}, and {needed} is needed"
        )
    return (str(Path(program).absolute()), *kind.options)


def _unfit_error(what: str, why: str) -> SandboxError:
    return SandboxError(what, why=why, fix=_OTHERWISE, check="engines")


class OciRuntime:
    """An OCI runtime. `runtime` comes from `find_runtime`; `init` is the first process's native program."""

    def __init__(self, namespace: Namespace, *, runtime: Sequence[str], init: Path) -> None:
        self._runtime = runtime
        self._init = init
        self._idmap = namespace.idmap
        self._reach = PathAccess(namespace.idmap)
        self._namespace = namespace

    def start(self, spec: SandboxSpec, layout: Layout, on_started: Callable[[int], None]) -> Container:
        """Starts a monitor with the sandbox's plan; see `runner.Runtime`."""
        with ExitStack() as stack:
            namespace = self._namespace
            if self._idmap.mode is MapMode.SINGLE:
                namespace = stack.enter_context(userns.make_namespace(_make_root_map()))
            make = partial(
                Container,
                ["userns", str(namespace.fd), *self._options(spec, layout, namespace.idmap)],
                self._make_plan(spec, layout, namespace.idmap),
                init=self._init,
                inputs=[namespace.fd],
            )
            container = _retry_while_busy(make)
            try:
                on_started(container.pid)
            except BaseException:
                container.close()
                raise
            return container

    def shell_line(self, spec: SandboxSpec, layout: Layout) -> str:
        """See `runner.Runtime`. The line makes its own user namespace, for an ordinary user with one id.

        It lacks pasta, so the sandbox has only loopback.
        """
        idmap = self._idmap if self._idmap.mode is MapMode.ROOT else _make_root_map()
        plan = self._make_plan(spec, layout, idmap)
        order = make_order(spec.command)
        plan |= {"control": -1, "channel": -1, "init": str(self._init), "order": order}
        options = self._options(spec, layout, idmap)
        words = words_of(spec.command)
        return layout.repeat_line([*MONITOR, "9", *options], {9: json.dumps(plan).encode()}, words)

    def _options(self, spec: SandboxSpec, layout: Layout, idmap: IdMap) -> list[str]:
        options = userns.map_options(idmap)
        if idmap.mode is MapMode.ROOT:
            options += self._reach.options(spec, [layout.skeleton, Path(self._runtime[0]), self._init])
        return [word for option in options for word in option]

    def _make_plan(self, spec: SandboxSpec, layout: Layout, idmap: IdMap) -> dict[str, Any]:
        """Makes a `MonitorPlan` without descriptors; HostError for a user whom the namespace lacks."""
        self._idmap.to_outside(spec.uid, spec.gid)
        single = idmap.mode is MapMode.SINGLE
        first = (0, 0) if single else (spec.uid, spec.gid)
        others = single and (spec.uid, spec.gid) != first
        maps = (f"{spec.uid} 0 1\n", f"{spec.gid} 0 1\n") if others else ()
        return {
            "user": [spec.uid, spec.gid] if idmap.mode is MapMode.ROOT else [],
            "mounts": make_mounts(spec, layout),
            "config": make_config(spec, layout, root=monitor.ROOT, user=first, maps=maps),
            "runtime": list(self._runtime),
        }


def _retry_while_busy(make: Callable[[], Container]) -> Container:
    for _ in range(_TRIES - 1):
        with suppress(RuntimeBusy):
            return make()
    return make()


def _make_root_map() -> IdMap:
    """Returns the map in which the invoking user's own id is root, because runtimes start as root.

    The first process then makes a namespace for the command, in which that id is the command's.
    """
    return IdMap(MapMode.SINGLE, (Extent(0, os.geteuid(), 1),), (Extent(0, os.getegid(), 1),))
