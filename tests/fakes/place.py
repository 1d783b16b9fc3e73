"""A place to run real sandbox steps in: a namespace, a tiny root file system, and directories to mount."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from fakes import tiny_root
from packhorse.base.sandbox import Bind, Mount, Network, Overlay, Result, Root, SandboxSpec
from packhorse.host.wiring import make_runner
from packhorse.linux import userns
from packhorse.linux.userns import Namespace
from packhorse.sandbox.runner import SandboxRunner

ENV = {"PATH": "/bin", "HOME": "/home/cnb"}


RUNTIMES = os.environ.get("PACKHORSE_TESTS_RUNTIMES", "bubblewrap runc").split()
"""The sandboxes that have to do the same; crun can too, where it is installed."""


@dataclass
class Place:
    """Directories below `base`; `root` is shared by all steps, the rest is made when it is asked for."""

    runtime: str
    base: Path
    namespace: Namespace
    root: Path
    sandbox: SandboxRunner
    numbers: Iterator[int]
    user: int = 1000

    def directory(self, *, mode: int = 0o755) -> Path:
        """A new directory that belongs to the step's user."""
        path = self.base / f"directory-{next(self.numbers)}"
        path.mkdir()
        path.chmod(mode)
        os.chown(path, *self.namespace.idmap.to_outside(1000, 1000))
        return path

    def overlay(self, target: str, *lowers: Path) -> Overlay:
        """A writable overlay with a new upper; without lowers over an empty directory."""
        parent = self.directory()
        for name in ("upper", "work"):
            (parent / name).mkdir()
            (parent / name).chmod(0o755)
            os.chown(parent / name, *self.namespace.idmap.to_outside(1000, 1000))
        return Overlay(lowers or (self.directory(),), target, parent / "upper", parent / "work")

    def mounts(self) -> tuple[Mount, ...]:
        """What a buildpack may write: /layers, /workspace, its home and /tmp."""
        return (
            self.overlay("/layers"),
            self.overlay("/workspace"),
            Bind(self.directory(), "/home/cnb", writable=True),
            Bind(self.directory(mode=0o1777), "/tmp", writable=True),
        )

    def spec(self, script: str, *mounts: Mount) -> SandboxSpec:
        """A shell script as a step, without a network."""
        return SandboxSpec(
            argv=("sh", "-c", script), env=ENV, root=Root(self.root), mounts=mounts, network=Network.NONE
        )

    def run(self, spec: SandboxSpec, **changes: object) -> tuple[Result, str]:
        """Runs a step; returns how it ended, and its output."""
        output: list[bytes] = []
        with self.sandbox.open(replace(spec, **changes)) as room:  # type: ignore[arg-type]
            result = room.run(output.append)
        return result, b"".join(output).decode()


@contextmanager
def place(base: Path, runtime: str = "bubblewrap", *, user: int = 1000) -> Iterator[Place]:
    """A place in `base` with the ids that the invoking user can have, and sandboxes made by `runtime`.

    `user` is the id inside that an invoking user has there who has only one.
    """
    with userns.make_namespace(userns.choose_map(user, user)) as namespace:
        root = tiny_root.own(tiny_root.make(base / "root"), namespace)
        scratch = base / "scratch"
        scratch.mkdir()
        try:
            steps = make_runner(namespace, scratch, runtime=runtime, groups=base / "groups")
            yield Place(runtime, base, namespace, root, steps, count(1), user)
        finally:
            tiny_root.remove(root, namespace)
