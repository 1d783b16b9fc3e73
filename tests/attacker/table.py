"""The attempts and what may come of them, as attempts.toml has them; makes the tables of SECURITY.md.

`python tests/attacker/table.py` writes them there; test_attack_table.py fails when they are not current.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DIRECTORY = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing that is tried. `outcome` is `refused`, `inside` or `allowed`, with the reason.

    With a `network` it is so with that alone, and refused with any other. `phase` is the only one (`detect`,
    `build`) in which it is tried.
    """

    name: str
    group: str
    tries: str
    outcome: str = "refused"
    why: str = ""
    network: str = ""
    phase: str = ""
    landlock: int = 0

    def expected(self, network: str, landlock: int) -> str:
        """The outcome in a step with this network, on a kernel that has this Landlock."""
        if network == "host" and landlock < self.landlock:
            return "allowed"
        return self.outcome if self.network in ("", network) else "refused"


def attempts() -> Iterator[Attempt]:
    """Every attempt of the attacker."""
    for group, entries in tomllib.loads((_DIRECTORY / "attempts.toml").read_text()).items():
        for name, entry in entries.items():
            fields = {"tries": entry} if isinstance(entry, str) else entry
            yield Attempt(name, group, **fields)


@dataclass(frozen=True, slots=True)
class Plant:
    """Something that a buildpack leaves where packhorse reads, or uses up; see plants.toml.

    `twice` says that the app is built again with it.
    """

    name: str
    tries: str
    outcome: str
    script: str
    says: str = ""
    options: tuple[str, ...] = ()
    twice: bool = False
    everywhere: bool = False


def plants() -> Iterator[Plant]:
    """Everything that is planted."""
    for name, fields in tomllib.loads((_DIRECTORY / "plants.toml").read_text()).items():
        yield Plant(name, **fields | {"options": tuple(fields.get("options", ()))})
