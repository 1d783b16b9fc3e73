"""A release schedule newer than the buildpack's own: the npm package node-releases, kept as layer `releases`.

On the arrow source → plan. Called by `nodejs.buildpack`. The registry is asked only for the name of an LTS
line that the buildpack does not know, and by BP_NODE_UPDATE; what was fetched then holds for later builds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

from packhorse import sdk
from packhorse.errors import FormatError, NetworkError, NotFoundError

from . import update
from .releases import Line, Releases

_LAYER = "releases"
_PACKAGE = "node-releases"
_SHOWN = 5
_FILE = PurePosixPath("data/release-schedule/release-schedule.json")


def provide(context: sdk.BuildContext, snapshot: Releases, names: Iterable[str]) -> Releases:
    """The release lines to go by, with those called `names` if there are any such.

    Raises NetworkError when the registry cannot be asked, and FormatError when its answer is no schedule.
    """
    version = context.recall(_LAYER).get("version", "")
    releases = snapshot
    if version:
        path = context.layers / _LAYER / _FILE.name
        releases = read(path, snapshot) if path.is_file() else snapshot
    unknown = set(names) - {line.codename for line in releases.supported_long}
    if unknown or update.asked(context.env):
        version = _newest(context, unknown)
    if not version:
        return snapshot
    layer = context.layer(_LAYER, key={_PACKAGE: version}, cache=True, facts={"version": version})
    path = layer.path / _FILE.name
    if not layer.kept:
        import tempfile

        from . import archive
        from .registry import Registry

        with tempfile.TemporaryDirectory() as folder:
            (found,) = Registry(context).fetch([f"{_PACKAGE}@{version}"], into=Path(folder))
            archive.unpack(found, lambda inner: path if inner == _FILE else None)
    return read(path, snapshot)


def _newest(context: sdk.BuildContext, unknown: Iterable[str]) -> str:
    import nodesemver

    from .registry import Registry

    try:
        published = Registry(context).versions(_PACKAGE)
    except NetworkError as error:
        for name in sorted(unknown):
            raise NetworkError(
                f"this buildpack does not know the LTS line {name} and cannot ask the registry for it",
                why=f"{error.what}\n{error.why}",
                fix="write the major version of Node.js instead of the name",
            ) from error
        raise
    newest: str | None = nodesemver.max_satisfying(published, "*", loose=True)
    if newest is None:
        raise NotFoundError(
            f"the package registry has no release of {_PACKAGE}",
            why=f"it has {', '.join(published[:_SHOWN])}",
            fix="write the major version of Node.js instead of a name, and leave BP_NODE_UPDATE out",
        )
    return newest


def read(path: Path, snapshot: Releases) -> Releases:
    """The lines of the file at `path`, and of `snapshot` those that it does not have.

    A line is in long-term support from its day on, whatever name it has before. Raises FormatError.
    """
    try:
        table: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
        read = [_line(name, entry) for name, entry in table.items() if name.removeprefix("v").isdigit()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(
            f"the npm package {_PACKAGE} is not as expected", why=f"{type(error).__name__}: {error}"
        ) from error
    lines = {line.major: line for line in (*snapshot.lines, *read)}
    oldest = snapshot.lines[0].major
    return Releases(tuple(lines[number] for number in sorted(lines) if number >= oldest), snapshot.npm)


def _line(name: str, entry: dict[str, Any]) -> Line:
    supported = "lts" in entry and date.fromisoformat(entry["lts"]) <= date.today()
    return Line(
        int(name.removeprefix("v")),
        ends=date.fromisoformat(entry["end"]),
        codename=str(entry.get("codename", "")).lower() if supported else "",
    )
