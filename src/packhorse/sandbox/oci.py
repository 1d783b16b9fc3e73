"""The runtime of `--sandbox runc`: any OCI runtime that can start a container, made by `platform.wiring`.

A step is a plan (`oci_config`) that a child carries out (`monitor`) as a container (`container`). The runtime
is started inside the step's user namespace, whose root is nobody to this machine; so the three id modes are
the same to it, and it needs no daemon, no control groups and no rights.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from packhorse.base import userns
from packhorse.base.dataclass import dataclass
from packhorse.base.step import SandboxSpec
from packhorse.base.userns import Extent, IdMap, MapMode, Namespace
from packhorse.errors import SandboxError
from packhorse.sandbox import commands, monitor, oci_config
from packhorse.sandbox.container import MONITOR, Container, RuntimeBusy
from packhorse.sandbox.layout import Layout
from packhorse.sandbox.reach import PathAccess

_TIMEOUT = 10.0
"""Seconds within which a runtime says its version."""

_TRIES = 4
"""How often a container is asked for while the runtime is busy."""

_OTHERWISE = "choose another, or leave out --sandbox: bubblewrap comes with packhorse"


@dataclass(frozen=True, slots=True)
class _RuntimeKind:
    """What differs between runtimes: the oldest version that serves, and the options before the command."""

    oldest: tuple[int, int]
    options: tuple[str, ...] = ()


_RUNTIME_KINDS = {
    "runc": _RuntimeKind((1, 0), ("--rootless", "true")),
    "crun": _RuntimeKind((1, 0), ("--cgroup-manager", "disabled")),
}


@cache
def find_runtime(name: str) -> tuple[str, ...]:
    """The runtime `name`, on PATH or a path, and the options it needs; SandboxError if it cannot serve."""
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
            f"{program} is not an OCI runtime that packhorse can use", "it never answers --version"
        ) from error
    told = re.match(r"(\w+) version (?:release-)?(\d+)\.(\d+)", done.stdout)
    if told is None:
        said = (done.stdout + done.stderr).strip().splitlines()
        why = f"it answers --version with {said[0]!r}" if said else "it does not answer --version"
        raise _unfit_error(f"{program} is not an OCI runtime that packhorse can use", why)
    kind = _RUNTIME_KINDS.get(told[1])
    if kind is None:
        raise _unfit_error(f"packhorse cannot use {told[1]}", f"it can use {' and '.join(_RUNTIME_KINDS)}")
    if (int(told[2]), int(told[3])) < kind.oldest:
        needed = ".".join(map(str, kind.oldest))
        raise _unfit_error(
            f"{program} is too old", f"it is {told[1]} {told[2]}.{told[3]}, and {needed} is needed"
        )
    return (str(Path(program).absolute()), *kind.options)


def _unfit_error(what: str, why: str) -> SandboxError:
    return SandboxError(what, why=why, fix=_OTHERWISE, check="engines")


class OciRuntime:
    """A Runtime. `runtime` is what `find` gives, `init` the native program that is the first process."""

    def __init__(self, namespace: Namespace, *, runtime: Sequence[str], init: Path) -> None:
        self._runtime = runtime
        self._init = init
        self._idmap = namespace.idmap
        self._reach = PathAccess(namespace.idmap)
        self._namespace = namespace

    def start(self, spec: SandboxSpec, layout: Layout, on_started: Callable[[int], None]) -> Container:
        """Starts a monitor with the step's plan; see `runner.Runtime`."""
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
            held = _retry_while_busy(make)
            try:
                on_started(held.pid)
            except BaseException:
                held.close()
                raise
            return held

    def shell_line(self, spec: SandboxSpec, layout: Layout) -> str:
        """See `runner.Runtime`. It makes its own namespace, for a user with the user's own id alone.

        What it cannot carry: pasta (the step then has loopback only).
        """
        idmap = self._idmap if self._idmap.mode is MapMode.ROOT else _make_root_map()
        plan = self._make_plan(spec, layout, idmap)
        order = commands.make_order(spec.command)
        plan |= {"control": -1, "channel": -1, "init": str(self._init), "order": order}
        options = self._options(spec, layout, idmap)
        words = commands.words_of(spec.command)
        return layout.repeat_line([*MONITOR, "9", *options], {9: json.dumps(plan).encode()}, words)

    def _options(self, spec: SandboxSpec, layout: Layout, idmap: IdMap) -> list[str]:
        options = userns.map_options(idmap)
        if idmap.mode is MapMode.ROOT:
            options += self._reach.options(spec, [layout.skeleton, Path(self._runtime[0]), self._init])
        return [word for option in options for word in option]

    def _make_plan(self, spec: SandboxSpec, layout: Layout, idmap: IdMap) -> dict[str, Any]:
        """A `monitor.MonitorPlan` without descriptors; HostError for a user that the namespace has not."""
        self._idmap.to_outside(spec.uid, spec.gid)
        single = idmap.mode is MapMode.SINGLE
        first = (0, 0) if single else (spec.uid, spec.gid)
        others = single and (spec.uid, spec.gid) != first
        maps = (f"{spec.uid} 0 1\n", f"{spec.gid} 0 1\n") if others else ()
        return {
            "user": [spec.uid, spec.gid] if idmap.mode is MapMode.ROOT else [],
            "mounts": oci_config.make_mounts(spec, layout),
            "config": oci_config.make_config(spec, layout, root=monitor.ROOT, user=first, maps=maps),
            "runtime": list(self._runtime),
        }


def _retry_while_busy(make: Callable[[], Container]) -> Container:
    for _ in range(_TRIES - 1):
        with suppress(RuntimeBusy):
            return make()
    return make()


def _make_root_map() -> IdMap:
    """The map in which the user's own id is root: runtimes act as that before they are anybody else.

    The first process then makes a namespace for the command in which the id is the step's.
    """
    return IdMap(MapMode.SINGLE, (Extent(0, os.geteuid(), 1),), (Extent(0, os.getegid(), 1),))
