"""Provides Node.js and npm as layers.

Called by `buildpack`. The layer `node` has `bin/node`, in most builds for launch too. The layer `node-build`
has npm and the headers (65 MB), which only a build needs. If the request is the same as in the last build,
its version is used again without asking the registry.

A newer release schedule than the buildpack's own, the npm package node-releases, is kept in the layer
`releases`. It is fetched for an LTS name that the buildpack does not know, and if BP_NODE_UPDATE asks for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

from packhorse import sdk
from packhorse.errors import FormatError, HostError, InputError, NetworkError, NotFoundError
from packhorse.sdk.dataclass import dataclass

from . import versions
from .registry import QUIET, Registry
from .versions import ReleaseLine, Releases, Request, major

_SCHEDULE_LAYER = "releases"
_SCHEDULE_PACKAGE = "node-releases"
_SHOWN = 5
_SCHEDULE_FILE = PurePosixPath("data/release-schedule/release-schedule.json")


def provide_releases(context: sdk.BuildContext, snapshot: Releases, names: Iterable[str]) -> Releases:
    """The release lines, also those called `names` if they exist.

    Raises NetworkError if the registry cannot be asked, and FormatError if its answer is not a schedule.
    """
    version = context.recall(_SCHEDULE_LAYER).get("version", "")
    releases = snapshot
    if version:
        path = context.layers / _SCHEDULE_LAYER / _SCHEDULE_FILE.name
        releases = read_schedule(path, snapshot) if path.is_file() else snapshot
    unknown = set(names) - {line.codename for line in releases.lts_lines}
    if unknown or versions.wants_update(context.env):
        version = _newest_schedule(context, unknown)
    if not version:
        return snapshot
    layer = context.layer(
        _SCHEDULE_LAYER, key={_SCHEDULE_PACKAGE: version}, cache=True, facts={"version": version}
    )
    path = layer.path / _SCHEDULE_FILE.name
    if not layer.kept:
        import tempfile

        from . import archive
        from .registry import Registry

        with tempfile.TemporaryDirectory() as folder:
            (found,) = Registry(context).fetch([f"{_SCHEDULE_PACKAGE}@{version}"], into=Path(folder))
            archive.unpack(found, lambda inner: path if inner == _SCHEDULE_FILE else None)
    return read_schedule(path, snapshot)


def _newest_schedule(context: sdk.BuildContext, unknown: Iterable[str]) -> str:
    import nodesemver

    from .registry import Registry

    try:
        published = Registry(context).versions(_SCHEDULE_PACKAGE)
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
            f"the package registry has no release of {_SCHEDULE_PACKAGE}",
            why=f"it has {', '.join(published[:_SHOWN])}",
            fix="write the major version of Node.js instead of a name, and leave BP_NODE_UPDATE out",
        )
    return newest


def read_schedule(path: Path, snapshot: Releases) -> Releases:
    """Reads the lines of the file at `path`, and adds lines of `snapshot` that it lacks.

    A line has its codename only after the first day of long-term support. Raises FormatError.
    """
    try:
        table: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
        read = [
            _release_line(name, entry) for name, entry in table.items() if name.removeprefix("v").isdigit()
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(
            f"the npm package {_SCHEDULE_PACKAGE} is not as expected", why=f"{type(error).__name__}: {error}"
        ) from error
    lines = {line.major: line for line in (*snapshot.lines, *read)}
    oldest = snapshot.lines[0].major
    return Releases(tuple(lines[number] for number in sorted(lines) if number >= oldest), snapshot.npm)


def _release_line(name: str, entry: dict[str, Any]) -> ReleaseLine:
    supported = "lts" in entry and date.fromisoformat(entry["lts"]) <= date.today()
    return ReleaseLine(
        int(name.removeprefix("v")),
        ends=date.fromisoformat(entry["end"]),
        codename=str(entry.get("codename", "")).lower() if supported else "",
    )


ARCHITECTURES = {"amd64": "x64", "arm64": "arm64"}
"""The names of architectures in the names of npm packages."""

_VERSION = re.compile(r"\s*[v=]?((?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2})\s*")
_NPM_COMMANDS = {"npm": "npm-cli.js", "npx": "npx-cli.js"}


@dataclass(frozen=True, slots=True)
class Runtime:
    """A Node.js with its npm; `env` has the variables for running their commands.

    `headers` is the directory with `include` for compiling native modules.
    """

    version: str
    npm: str
    env: Mapping[str, str]
    headers: str


def provide_node(context: sdk.BuildContext, request: Request, releases: Releases, *, launch: bool) -> Runtime:
    """Makes or keeps the layers `node`, in the image for `launch`, and `node-build` for `request`.

    Raises NotFoundError if no version matches, NetworkError, FormatError for an archive that is not the
    published one, and HostError if this Node.js does not run in the build image.
    """
    arch = ARCHITECTURES.get(context.target.arch)
    if arch is None:
        raise InputError(f"there is no Node.js for {context.target}", fix="build for amd64 or arm64")
    package = f"node-linux-{arch}"
    registry = Registry(context)
    version = resolve_version(context, registry, package, request, releases)
    npm = _npm_for(version, releases)
    context.log.detail(f"Node.js {version} ({'; '.join(request.followed_sources(version))})")
    for sentence in request.ignored_sources(version):
        context.log.warning(sentence)
    _warn_of_end(context.log, version, releases)

    asked = {"request": f"{package} {request.text}", "version": version}
    key = {"Node.js": version, "architecture": context.target.arch}
    node = context.layer("node", key=key, launch=launch, build=True, cache=True, facts=asked)
    tools = context.layer("node-build", key={**key, "npm": npm}, build=True, cache=True)
    if not (node.kept and tools.kept):
        import tempfile  # not needed if the layers are kept

        with tempfile.TemporaryDirectory() as folder:
            try:
                archives = registry.fetch([f"{package}@{version}", f"npm@{npm}"], into=Path(folder))
            except NotFoundError:
                _look_up(context, registry, package, request, releases)  # its error lists the versions
                raise
            _fill_layers(node, tools, *archives)
            # For later buildpacks that build native modules.
            if not tools.kept:
                tools.set_env(nodedir_variable(npm), str(tools.path), phase="build")
        if not node.kept:
            _check_runs(context, node, version)
    path = f"{tools.path / 'bin'}:{node.path / 'bin'}:{context.env.get('PATH', '')}"
    env = {
        **QUIET,
        "PATH": path,
        nodedir_variable(npm): str(tools.path),
        # Python runs node-gyp from the layer, and must not write into it.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Runtime(version, npm, env, str(tools.path))


def resolve_version(
    context: sdk.BuildContext, registry: Registry, package: str, request: Request, releases: Releases
) -> str:
    """The version to use: the last build's for the same request, an exact version, else the newest."""
    if last := versions.last_version(context, "node", f"{package} {request.text}"):
        return last
    named = _VERSION.fullmatch(request.first.range)
    if named and releases.npm_for(named[1]):
        return named[1]
    return _look_up(context, registry, package, request, releases)


def _look_up(
    context: sdk.BuildContext, registry: Registry, package: str, request: Request, releases: Releases
) -> str:
    """The newest published version that the request allows; raises NotFoundError without one."""
    for list_versions in (registry.offline_versions, registry.versions):
        published = [version for version in list_versions(package) if releases.npm_for(version)]
        version = request.choose(published, releases)
        if version:
            return version
        if published and list_versions == registry.offline_versions:
            context.log.detail(
                f"none of the available versions matches {request.first.range}: {', '.join(published)}"
            )
    said = request.first.requested
    raise NotFoundError(
        f"no Node.js matches {request.first.range} ({said})",
        why=f"the newest of each line are {', '.join(_newest_per_line(published))}",
        fix=f"ask for one of these lines in {said.source}",
    )


def _newest_per_line(published: list[str]) -> list[str]:
    import nodesemver

    majors = sorted({major(version) for version in published}, reverse=True)
    return [nodesemver.max_satisfying(published, str(number), loose=True) for number in majors]


def _npm_for(version: str, releases: Releases) -> str:
    npm = releases.npm_for(version)
    if npm is None:
        raise NotFoundError(
            f"Node.js {version} is too old", why="no npm that this buildpack knows supports it"
        )
    return npm


def _warn_of_end(log: sdk.Log, version: str, releases: Releases) -> None:
    line = releases.line(version)
    if line and line.ends < date.today():
        active = releases.lts_lines[-1].major
        log.warning(
            f"Node.js {line.major} has had no security fixes since {line.ends}; the active LTS is {active}"
        )


def _fill_layers(node: sdk.Layer, tools: sdk.Layer, node_archive: Path, npm_archive: Path) -> None:
    """Unpacks both archives at once into the layers that are new."""
    from concurrent.futures import ThreadPoolExecutor

    from . import archive

    def node_file(path: PurePosixPath) -> Path | None:
        if path.parts[0] == "include":
            return None if tools.kept else tools.path / path
        wanted = path == PurePosixPath("bin/node") or path == PurePosixPath("LICENSE")
        return node.path / path if wanted and not node.kept else None

    with ThreadPoolExecutor(1) as beside:
        npm = beside.submit(_fill_npm, tools, npm_archive)
        archive.unpack(node_archive, node_file)
        npm.result()


def _fill_npm(tools: sdk.Layer, npm_archive: Path) -> None:
    from . import archive

    if tools.kept:
        return
    home = PurePosixPath("lib/node_modules/npm")
    archive.unpack(npm_archive, lambda path: tools.path / home / path)
    (tools.path / "bin").mkdir()
    for name, script in _NPM_COMMANDS.items():
        (tools.path / "bin" / name).symlink_to(PurePosixPath("..") / home / "bin" / script)


def nodedir_variable(npm: str) -> str:
    """The variable that tells node-gyp where the headers are, so that it does not download them.

    From npm 11 on, npm warns that it does not know the old variable.
    """
    return "npm_config_nodedir" if major(npm) < 11 else "npm_package_config_node_gyp_nodedir"


def _check_runs(context: sdk.BuildContext, node: sdk.Layer, version: str) -> None:
    """Starts the new Node.js once, so that a missing library is an error now and not at launch."""
    try:
        context.capture([str(node.path / "bin/node"), "--version"], env={"NODE_OPTIONS": ""})
    except sdk.CommandFailed as failure:
        raise HostError(
            f"Node.js {version} does not run in this build image",
            why=failure.why,
            fix="use a builder whose images have the library (from 25 on Node.js needs libatomic.so.1), "
            "or ask for an older line in package.json engines.node",
        ) from failure
