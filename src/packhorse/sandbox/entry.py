"""How bubblewrap gets into the namespace of a step; called by `bubblewrap`.

A user's bubblewrap enters by itself. It stays the user until the step's mounts are made, and so reaches all
that the user can reach. Root's is started by `base.entrance` as the shifted id that the step will have, for
three reasons: that id passes no 0700 home and owns nothing of the machine's ids, which mounts made before
amend; bubblewrap holds no right of root; and when it is killed, the kernel lets its signal through to the
step, which it does between equal ids only (*tried*: otherwise the step lives on).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from packhorse.base import entrance, userns
from packhorse.base.step import Step
from packhorse.base.userns import IdMap, Mode
from packhorse.errors import SandboxError
from packhorse.sandbox.layout import Layout
from packhorse.sandbox.sources import private_sources, sources

USERNS = "@"
"""Stands for the namespace's descriptor in a command line that goes through `base.entrance`."""


class Entry:
    """Decides for each step of one namespace; remembers which file systems can show other owners."""

    def __init__(self, idmap: IdMap, program: Path) -> None:
        self._idmap = idmap
        self._program = program
        self._presentable: dict[int, bool] = {}

    def words(self, step: Step, layout: Layout) -> list[str] | None:
        """The command line before bubblewrap's own options; None when bubblewrap is to enter by itself."""
        owner = self._idmap.outside(step.uid, step.gid)
        if self._idmap.mode is not Mode.ROOT:
            if _mistaken(step, owner):
                raise SandboxError(
                    f"user {step.uid}:{step.gid} cannot be had in this sandbox",
                    why="bubblewrap takes it for the invoking user, who has another id inside",
                )
            return None
        reach = self._shut_out([*sources(step), layout.skeleton, self._program])
        present = [_presented(path, owner) for path in self._foreign(step)]
        options = [
            *userns.map_options(self._idmap),
            ("become", f"{owner[0]}:{owner[1]}"),
            *(("reach", str(path)) for path in reach),
            *present,
        ]
        return [*userns.command("hand", options), "--", str(self._program)]

    def _shut_out(self, paths: Iterable[Path]) -> list[Path]:
        uids, gids = userns.ids(self._idmap.uids), userns.ids(self._idmap.gids)
        names = userns.reachable_names(list(paths))
        return [path for path in names if entrance.blocked(str(path), uids, gids)]

    def _foreign(self, step: Step) -> Sequence[Path]:
        """What is only read, belongs to ids that the namespace has not, and can be shown as the user's own.

        So it looks as if its owner had started the step himself. Never for what can be written: new files
        would belong to that owner outside, root perhaps, and could be setuid.
        """
        found = []
        for path in dict.fromkeys(private_sources(step)):
            status = path.stat()
            if self._idmap.inside(status.st_uid, status.st_gid) != (entrance.OVERFLOW, entrance.OVERFLOW):
                continue
            if status.st_dev not in self._presentable:
                self._presentable[status.st_dev] = userns.presentable(path)
            if self._presentable[status.st_dev]:
                found.append(path.resolve())
        return found


def _mistaken(step: Step, owner: tuple[int, int]) -> bool:
    """Whether an id inside is written like the invoking user's own outside, and is not his.

    Bubblewrap compares the numbers, and then does not change its id (0.11, switch_to_user_with_privs).
    """
    own = os.getuid(), os.getgid()
    return any(
        inside == mine != outside
        for inside, mine, outside in zip((step.uid, step.gid), own, owner, strict=True)
    )


def _presented(path: Path, owner: tuple[int, int]) -> tuple[str, str]:
    status = path.stat()
    uids, gids = ((status.st_uid, owner[0], 1),), ((status.st_gid, owner[1], 1),)
    return "present", f"{path}={entrance.format_ids(uids)}={entrance.format_ids(gids)}"
