"""Opens sandboxes for builds and `run`.

`platform.wiring` makes one `SandboxRunner` a build, over the runtime that the user chose. A sandbox is opened
in a fixed order, whatever the runtime: mount points (`layout`), the first process (the runtime's) and
meanwhile its network (`network`), its tree (`base.rooted`). What happens in an open one is `running`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol

from packhorse.base.rooted import RootedTree
from packhorse.base.step import Network, SandboxSpec
from packhorse.base.userns import MapMode, Namespace
from packhorse.errors import SandboxError
from packhorse.sandbox import commands, disk, network
from packhorse.sandbox.layout import Layout, Layouts
from packhorse.sandbox.limits import LimitEnforcer
from packhorse.sandbox.parting import TeardownQueue
from packhorse.sandbox.process import Process
from packhorse.sandbox.running import RunningSandbox
from packhorse.sandbox.terminal import Terminal


class Runtime(Protocol):
    """What makes sandboxes with the ids of one user namespace."""

    def start(self, spec: SandboxSpec, layout: Layout, on_started: Callable[[int], None]) -> Process:
        """Makes the step's mounts and starts the first process; SandboxError in its own words.

        `on_started` is told of that process as soon as it has its namespaces, mounts or not. It reaches no
        abstract socket of others (`starter`).
        """
        ...

    def shell_line(self, spec: SandboxSpec, layout: Layout) -> str:
        """A line for a shell that starts the same step, as long as the build's directories are there.

        Behind its last ` -- ` stands the step's command. OSError when what it reads cannot be written.
        """
        ...


class SandboxRunner:
    """A Runner whose steps are made by `runtime` with the ids of `namespace`.

    `scratch` is a directory that `platform` makes for the build and removes; in it `mount-points-…` and
    `resolv-…` are the runner's. `loopback` are ports of the host's loopback (a proxy's) that steps with a
    network of their own find at theirs. Steps may be opened side by side. `terminal` is the native program
    that steps with a terminal begin as. `cgroups` is the directory where control groups are noted, made when
    it is missing; without it there are none. `mount_points` is the directory in which mount points are kept,
    if they are. With `teardown` a step that is over does not wait until its network and its mounts are taken
    down.
    """

    def __init__(
        self,
        runtime: Runtime,
        namespace: Namespace,
        *,
        scratch: Path,
        loopback: Sequence[int] = (),
        terminal: Path | None = None,
        cgroups: Path | None = None,
        mount_points: Path | None = None,
        teardown: TeardownQueue | None = None,
    ) -> None:
        self._runtime = runtime
        self._idmap = namespace.idmap
        self._scratch = scratch
        self._loopback = tuple(loopback)
        self._terminal = terminal
        self._cgroups = cgroups
        self._numbers = count(1)
        self._layouts = Layouts(scratch, namespace.idmap, kept=mount_points)
        self._teardown = teardown

    @contextmanager
    def open(self, spec: SandboxSpec) -> Iterator[RunningSandbox]:
        """Makes the step's sandbox; leaving the context ends all that still runs there.

        SandboxError, with the runtime's own words, when it cannot be made; DiskFull; InputError for ports
        that cannot be had; HostError for a user that the namespace has not.
        """
        commands.check(spec)
        network.check_ports(spec)
        number = next(self._numbers)
        spec = network.with_name_service(spec, self._scratch / f"resolv-{number}.conf")
        layout = self._layouts.layout_for(spec)
        places = {layout.place(mount.target) for mount in spec.mounts}
        if "/proc" in places:
            raise SandboxError(
                "nothing can be mounted at /proc", why="it is the kernel's, and sandboxes begin with it"
            )
        with ExitStack() as stack:
            terminal = self._open_terminal(spec)
            if terminal is not None:
                stack.callback(terminal.close)
            own_memory = places.isdisjoint(("/dev", "/dev/shm"))
            bounds = LimitEnforcer(spec, records=self._cgroups, own_shared_memory=own_memory)
            stack.callback(bounds.close)
            owner = self._idmap.to_outside(spec.uid, spec.gid)
            editor = owner if self._idmap.mode is MapMode.ROOT else None
            networks: list[network.Pasta] = []

            def begun(pid: int) -> None:
                bounds.apply(pid, owner)
                if spec.network is Network.OWN:
                    pasta = network.Pasta(pid, ports=spec.ports, loopback=self._loopback)
                    stack.callback(self._remove_network, pasta)
                    networks.append(pasta)

            with disk.explain_full_disk(self._scratch):
                held = self._runtime.start(spec, layout, begun)
            stack.callback(held.close)
            root = held.open_root(self._unmount)
            tree = stack.enter_context(RootedTree(root, idmap=self._idmap, owner=editor, whiteouts=False))
            disk.check(root, spec, layout, self._scratch)
            for pasta in networks:
                pasta.wait()
            line = partial(self._runtime.shell_line, layout=layout)
            yield RunningSandbox(spec, held, tree, bounds, line, owner=editor, terminal=terminal)

    def _remove_network(self, pasta: network.Pasta) -> None:
        if self._teardown is None:
            pasta.close()
        else:
            self._teardown.add_network(pasta)

    def _unmount(self, descriptor: int) -> None:
        if self._teardown is None:
            os.close(descriptor)
        else:
            self._teardown.add_mounts(descriptor)

    def _open_terminal(self, spec: SandboxSpec) -> Terminal | None:
        if not spec.terminal:
            return None
        if self._terminal is None:
            raise SandboxError("a step with a terminal needs the program that makes it")
        return Terminal(self._terminal)
