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

from packhorse.base.rooted import Rooted
from packhorse.base.step import Network, Step
from packhorse.base.userns import Mode, Namespace
from packhorse.errors import SandboxError
from packhorse.sandbox import commands, disk, network
from packhorse.sandbox.layout import Layout, Layouts
from packhorse.sandbox.limits import Bounds
from packhorse.sandbox.parting import Parting
from packhorse.sandbox.process import Process
from packhorse.sandbox.running import RunningSandbox
from packhorse.sandbox.terminal import Terminal


class Runtime(Protocol):
    """What makes sandboxes with the ids of one user namespace."""

    def hold(self, step: Step, layout: Layout, begun: Callable[[int], None]) -> Process:
        """Makes the step's mounts and starts the first process; SandboxError in its own words.

        `begun` is told of that process as soon as it has its namespaces, mounts or not. It reaches no
        abstract socket of others (`starter`).
        """
        ...

    def line(self, step: Step, layout: Layout) -> str:
        """A line for a shell that starts the same step, as long as the build's directories are there.

        Behind its last ` -- ` stands the step's command. OSError when what it reads cannot be written.
        """
        ...


class SandboxRunner:
    """A Runner whose steps are made by `runtime` with the ids of `namespace`.

    `scratch` is a directory that `platform` makes for the build and removes; in it `mount-points-…` and
    `resolv-…` are the runner's. `loopback` are ports of the host's loopback (a proxy's) that steps with a
    network of their own find at theirs. Steps may be opened side by side. `terminal` is the native program
    that steps with a terminal begin as. `groups` is the directory where control groups are noted, made when
    it is missing; without it there are none. `points` is the directory in which mount points are kept, if
    they are. With `parting` a step that is over does not wait until its network and its mounts are taken
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
        groups: Path | None = None,
        points: Path | None = None,
        parting: Parting | None = None,
    ) -> None:
        self._runtime = runtime
        self._idmap = namespace.idmap
        self._scratch = scratch
        self._loopback = tuple(loopback)
        self._terminal = terminal
        self._groups = groups
        self._numbers = count(1)
        self._layouts = Layouts(scratch, namespace.idmap, kept=points)
        self._parting = parting

    @contextmanager
    def open(self, step: Step) -> Iterator[RunningSandbox]:
        """Makes the step's sandbox; leaving the context ends all that still runs there.

        SandboxError, with the runtime's own words, when it cannot be made; DiskFull; InputError for ports
        that cannot be had; HostError for a user that the namespace has not.
        """
        commands.check(step)
        network.check_ports(step)
        number = next(self._numbers)
        step = network.with_name_service(step, self._scratch / f"resolv-{number}.conf")
        layout = self._layouts.of(step)
        places = {layout.place(mount.target) for mount in step.mounts}
        if "/proc" in places:
            raise SandboxError(
                "nothing can be mounted at /proc", why="it is the kernel's, and sandboxes begin with it"
            )
        with ExitStack() as stack:
            terminal = self._terminal_of(step)
            if terminal is not None:
                stack.callback(terminal.close)
            own_memory = places.isdisjoint(("/dev", "/dev/shm"))
            bounds = Bounds(step, records=self._groups, own_shared_memory=own_memory)
            stack.callback(bounds.close)
            owner = self._idmap.outside(step.uid, step.gid)
            editor = owner if self._idmap.mode is Mode.ROOT else None
            networks: list[network.Pasta] = []

            def begun(pid: int) -> None:
                bounds.hold(pid, owner)
                if step.network is Network.OWN:
                    pasta = network.Pasta(pid, ports=step.ports, loopback=self._loopback)
                    stack.callback(self._take_down, pasta)
                    networks.append(pasta)

            with disk.named(self._scratch):
                held = self._runtime.hold(step, layout, begun)
            stack.callback(held.close)
            root = held.open_root(self._unmount)
            tree = stack.enter_context(Rooted(root, idmap=self._idmap, owner=editor, whiteouts=False))
            disk.check(root, step, layout, self._scratch)
            for pasta in networks:
                pasta.wait()
            line = partial(self._runtime.line, layout=layout)
            yield RunningSandbox(step, held, tree, bounds, line, owner=editor, terminal=terminal)

    def _take_down(self, pasta: network.Pasta) -> None:
        if self._parting is None:
            pasta.close()
        else:
            self._parting.network(pasta)

    def _unmount(self, descriptor: int) -> None:
        if self._parting is None:
            os.close(descriptor)
        else:
            self._parting.mounts(descriptor)

    def _terminal_of(self, step: Step) -> Terminal | None:
        if not step.terminal:
            return None
        if self._terminal is None:
            raise SandboxError("a step with a terminal needs the program that makes it")
        return Terminal(self._terminal)
