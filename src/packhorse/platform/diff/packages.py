"""Which of a distribution's packages differ between two file trees, by what dpkg has recorded in each.

Called by `comparison`. Reading dpkg's records is `bill.base`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

from packhorse.base.dataclass import dataclass
from packhorse.layers.listing import Entry
from packhorse.platform.bill.base import versions


@dataclass(frozen=True, slots=True)
class Package:
    """A package that differs, with its version on either side; None where it is not installed."""

    name: str
    before: str | None
    after: str | None


def differing_packages(one: Mapping[str, Entry], other: Mapping[str, Entry]) -> tuple[Package, ...]:
    """The packages that differ, by name. The trees have kept the bytes of dpkg's records."""
    before, after = versions(_records(one)), versions(_records(other))
    return tuple(
        Package(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def _records(tree: Mapping[str, Entry]) -> list[str]:
    found = (tree[path].data for path in sorted(tree))
    return [data.decode("utf-8", "replace") for data in found if data is not None]
