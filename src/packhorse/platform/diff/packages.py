"""Lists the packages that differ between two file trees, by dpkg's records and the buildpacks' SBOM files.

Called by `comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping

from packhorse.base.dataclass import dataclass
from packhorse.layers.listing import ListedEntry
from packhorse.platform.sbom import base, contents


@dataclass(frozen=True, slots=True)
class Package:
    """A package that differs, with its version on either side, or several; None where it is not there."""

    name: str
    before: str | None
    after: str | None


def has_package_versions(path: str) -> bool:
    """Whether the file at a path, relative to the root, says which packages there are."""
    return base.is_status(path) or contents.is_sbom(path)


def differing_packages(
    one: Mapping[str, ListedEntry], other: Mapping[str, ListedEntry]
) -> tuple[Package, ...]:
    """The packages that differ, by name. The trees have kept the bytes of what tells their versions."""
    before, after = _versions(one), _versions(other)
    return tuple(
        Package(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def _versions(tree: Mapping[str, ListedEntry]) -> dict[str, str]:
    kept = {path: data for path in sorted(tree) if (data := tree[path].data) is not None}
    sboms = {path: data for path, data in kept.items() if contents.is_sbom(path)}
    records = [data.decode("utf-8", "replace") for path, data in kept.items() if path not in sboms]
    return base.versions(records) | contents.versions(sboms)
