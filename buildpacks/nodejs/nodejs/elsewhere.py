"""Dependencies that come from no package registry: those that a manifest names by an address.

Pure but for reading manifests. Called by `nodejs.registry`, since what cannot be reached there is not the
registry, and by `nodejs.absent`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packhorse.errors import NetworkError, PackhorseError

from .project import DEPENDENCIES, Project
from .workspace import Workspace

_ADDRESS = re.compile(r"https?://([^\s/'\"`]+)(/[^\s'\"`,;)]*)?")
_LOOKED_UP = re.compile(r"getaddrinfo \w+ (\S+)")
_SHORT = re.compile(r"(?:(github|gitlab|bitbucket):)?([\w.-]+/[\w.-]+)")
_HOSTS = {"github": "github.com", "gitlab": "gitlab.com", "bitbucket": "bitbucket.org"}


def error(code: str, why: str, *, client: str, root: Path) -> NetworkError | None:
    """The error for an address of the manifests that could not be reached; None where `why` names none."""
    for place, name, range_ in requirements(root):
        host, path = _divided(range_)
        if host and _is_named(why, f"{name}@{range_}", host, path):
            return NetworkError(
                f"{client} cannot fetch {name} from {host} ({code})",
                why=f"asked for by: {place} ({range_})\n{why}",
                fix=f"let the build reach {host} (HTTPS_PROXY), or depend on a published version",
            )
    return None


def _is_named(why: str, descriptor: str, host: str, path: str) -> bool:
    """Whether a manager speaks of a dependency: by its name and address, or by its host if that is all."""
    if descriptor in why:
        return True
    addresses = _ADDRESS.findall(why)
    if addresses:
        return any(_is_of(found, host) and path in (way or "") for found, way in addresses)
    return any(_is_of(found, host) for found in _LOOKED_UP.findall(why))


def _is_of(found: str, host: str) -> bool:
    """Whether a host is `host` or one below it, as those are from which GitHub gives archives."""
    return found == host or found.endswith(f".{host}")


def _divided(range_: str) -> tuple[str, str]:
    """Host and path of a range that is an address; empty for any other."""
    if short := _SHORT.fullmatch(range_.partition("#")[0]):
        return _HOSTS[short[1] or "github"], short[2].removesuffix(".git")
    _, is_address, rest = range_.partition("#")[0].partition("://")
    if not is_address:
        return "", ""
    host, _, path = rest.partition("/")
    return host.rpartition("@")[2].partition(":")[0], path.removesuffix(".git")


def requirements(root: Path) -> Iterator[tuple[str, str, str]]:
    """All that the manifests below `root` depend on: where it says so, the name, and the range or address."""
    try:
        workspace = Workspace.read(root, "")
    except PackhorseError:
        return
    projects: dict[str, Project] = {"": workspace.root, **workspace.members}
    for path, project in projects.items():
        for table in (*DEPENDENCIES, "devDependencies"):
            for name, range_ in project.manifest.get(table, {}).items():
                yield f"{path}/package.json {table}".removeprefix("/"), name, str(range_)
