"""What a package manager says it has installed in a layer of modules, kept in a layer beside it.

On the arrow plan → layers. Called by `nodejs.modules`. With it the manager can bring the modules up to date
(`managers.port.Amender`). It names machines and times, so the image does not have it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from packhorse import sdk
from packhorse.sdk.dataclass import dataclass

from .project import digest


def beside(layer: str) -> str:
    """The name of the layer with the record of another."""
    return f"{layer}-record"


@dataclass(frozen=True, slots=True)
class Record:
    """The record called `file` of the modules in `layer`, made from `key`."""

    context: sdk.BuildContext
    layer: sdk.Layer
    key: Mapping[str, str]
    file: str

    @property
    def name(self) -> str:
        """The name of the layer that has it."""
        return beside(self.layer.name)

    def last(self) -> bytes:
        """That of the last build, for outdated modules; empty where it is missing, or one of other modules.

        Asked for before `keep`.
        """
        decision = self.layer.decision
        if not isinstance(decision, sdk.Outdated):
            return b""
        if self.context.recall(self.name).get("key") != _digest(decision.before):
            return b""
        path = self.context.layers / self.name / self.file
        return path.read_bytes() if path.is_file() else b""

    def keep(self) -> None:
        """Has the next build find it."""
        key = _digest(self.key)
        kept = self.context.layer(self.name, key={self.layer.name: key}, cache=True, facts={"key": key})
        made = self.layer.path / "node_modules" / self.file
        if not kept.kept and made.is_file():
            (kept.path / self.file).write_bytes(made.read_bytes())


def _digest(key: Mapping[str, str]) -> str:
    return digest(json.dumps(key, sort_keys=True).encode())
