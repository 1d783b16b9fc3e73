"""How bubblewrap gets into the namespace of a step; called by `bubblewrap`.

A user's bubblewrap enters by itself. It stays the user until the step's mounts are made, and so reaches all
that the user can reach. Root's is started by `base.entrance` as the shifted id that the step will have, for
three reasons: that id passes no 0700 home and owns nothing of the machine's ids, which mounts made before
amend (`reach`); bubblewrap holds no right of root; and when it is killed, the kernel lets its signal through
to the step, which it does between equal ids only (*tried*: otherwise the step lives on).
"""

from __future__ import annotations

import os
from pathlib import Path

from packhorse.base import userns
from packhorse.base.step import SandboxSpec
from packhorse.base.userns import IdMap, MapMode
from packhorse.errors import SandboxError
from packhorse.sandbox.layout import Layout
from packhorse.sandbox.reach import PathAccess

USERNS = "@"
"""Stands for the namespace's descriptor in a command line that goes through `base.entrance`."""


class UsernsExec:
    """Decides for each step of one namespace."""

    def __init__(self, idmap: IdMap, program: Path) -> None:
        self._idmap = idmap
        self._program = program
        self._reach = PathAccess(idmap)

    def words(self, spec: SandboxSpec, layout: Layout) -> list[str] | None:
        """The command line before bubblewrap's own options; None when bubblewrap is to enter by itself."""
        owner = self._idmap.to_outside(spec.uid, spec.gid)
        if self._idmap.mode is not MapMode.ROOT:
            if _is_ambiguous(spec, owner):
                raise SandboxError(
                    f"user {spec.uid}:{spec.gid} cannot exist in this sandbox",
                    why="bubblewrap confuses it with the invoking user, who has another id inside",
                )
            return None
        options = [
            *userns.map_options(self._idmap),
            ("become", f"{owner[0]}:{owner[1]}"),
            *self._reach.options(spec, [layout.skeleton, self._program]),
        ]
        return [*userns.command("hand", options), "--", str(self._program)]


def _is_ambiguous(spec: SandboxSpec, owner: tuple[int, int]) -> bool:
    """Whether an id inside is written like the invoking user's own outside, and is not his.

    Bubblewrap compares the numbers, and then does not change its id (0.11, switch_to_user_with_privs).
    """
    own = os.getuid(), os.getgid()
    return any(
        inside == mine != outside
        for inside, mine, outside in zip((spec.uid, spec.gid), own, owner, strict=True)
    )
