"""How root's sandboxes, whose ids pass no 0700 home and own nothing of the machine's, come to a step's paths.

As options of `base.entrance`, which makes mounts for it; called by `entry` and `oci`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from packhorse.base import entrance, userns
from packhorse.base.step import SandboxSpec
from packhorse.base.userns import IdMap
from packhorse.sandbox.sources import private_sources, sources


class PathAccess:
    """The options for each step of one namespace."""

    def __init__(self, idmap: IdMap) -> None:
        self._idmap = idmap

    def options(self, spec: SandboxSpec, paths: Iterable[Path]) -> list[tuple[str, str]]:
        """What makes the step's sources, and other `paths`, reachable, and its user's own where only read."""
        owner = self._idmap.to_outside(spec.uid, spec.gid)
        reach = self._closed_paths([*sources(spec), *paths])
        return [
            *(("reach", str(path)) for path in reach),
            *(_present_option(path, owner) for path in self._foreign_sources(spec)),
        ]

    def _closed_paths(self, paths: Iterable[Path]) -> list[Path]:
        uids, gids = userns.as_tuples(self._idmap.uids), userns.as_tuples(self._idmap.gids)
        names = userns.reachable_names(list(paths))
        return [path for path in names if entrance.find_closed_directories(str(path), uids, gids)]

    def _foreign_sources(self, spec: SandboxSpec) -> Sequence[Path]:
        """What is only read, belongs to ids that the namespace has not, and can be shown as the user's own.

        So it looks as if its owner had started the step himself. Never for what can be written: new files
        would belong to that owner outside, root perhaps, and could be setuid.
        """
        found = []
        for path in dict.fromkeys(private_sources(spec)):
            try:
                status = path.stat()
            except FileNotFoundError:  # who mounts it will say so
                continue
            if self._idmap.to_inside(status.st_uid, status.st_gid) != (entrance.OVERFLOW, entrance.OVERFLOW):
                continue
            if userns.supports_idmapping(path):
                found.append(path.resolve())
        return found


def _present_option(path: Path, owner: tuple[int, int]) -> tuple[str, str]:
    status = path.stat()
    uids, gids = ((status.st_uid, owner[0], 1),), ((status.st_gid, owner[1], 1),)
    return "present", f"{path}={entrance.format_ids(uids)}={entrance.format_ids(gids)}"
