"""Node.js and npm as layers: the version asked for is looked up, fetched, and split by where it is needed.

On the arrow plan → layers. Called by `nodejs.buildpack`. Layer `node` has `bin/node`, mostly for launch, too;
`node-build` has npm and the headers (65 MB) that only a build needs. A version found by the last build for
the same request is used again without asking the registry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path, PurePosixPath

from packhorse import sdk
from packhorse.errors import HostError, InputError, NotFoundError
from packhorse.sdk.dataclass import dataclass

from . import update
from .registry import QUIET, Registry
from .releases import Releases, major
from .request import Request

ARCHITECTURES = {"amd64": "x64", "arm64": "arm64"}
"""Our names of architectures → those in names of npm packages."""

_VERSION = re.compile(r"\s*[v=]?((?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2})\s*")
_NPM_COMMANDS = {"npm": "npm-cli.js", "npx": "npx-cli.js"}


@dataclass(frozen=True, slots=True)
class Runtime:
    """A Node.js with its npm; `env` has the variables with which to run their commands.

    `headers` is the directory whose `include` native modules are compiled with.
    """

    version: str
    npm: str
    env: Mapping[str, str]
    headers: str


def provide(context: sdk.BuildContext, request: Request, releases: Releases, *, launch: bool) -> Runtime:
    """Makes or keeps the layers `node`, in the image for `launch`, and `node-build` for `request`.

    Raises NotFoundError when no version matches, NetworkError, FormatError for an archive that is not the
    published one, and HostError when this Node.js does not run in the build image.
    """
    arch = ARCHITECTURES.get(context.target.arch)
    if arch is None:
        raise InputError(f"there is no Node.js for {context.target}", fix="build for amd64 or arm64")
    package = f"node-linux-{arch}"
    registry = Registry(context)
    version = resolve(context, registry, package, request, releases)
    npm = _npm_for(version, releases)
    context.log.detail(f"Node.js {version} ({'; '.join(request.followed(version))})")
    for sentence in request.passed_over(version):
        context.log.warning(sentence)
    _warn_of_end(context.log, version, releases)

    asked = {"request": f"{package} {request.text}", "version": version}
    key = {"Node.js": version, "architecture": context.target.arch}
    node = context.layer("node", key=key, launch=launch, build=True, cache=True, facts=asked)
    tools = context.layer("node-build", key={**key, "npm": npm}, build=True, cache=True)
    if not (node.kept and tools.kept):
        import tempfile  # which a build that keeps its layers does without

        with tempfile.TemporaryDirectory() as folder:
            try:
                archives = registry.fetch([f"{package}@{version}", f"npm@{npm}"], into=Path(folder))
            except NotFoundError:
                _look_up(context, registry, package, request, releases)  # says what there is
                raise
            _fill(node, tools, *archives)
            # For later buildpacks that build native modules.
            if not tools.kept:
                tools.set_env(nodedir(npm), str(tools.path), phase="build")
        if not node.kept:
            _try_out(context, node, version)
    path = f"{tools.path / 'bin'}:{node.path / 'bin'}:{context.env.get('PATH', '')}"
    env = {
        **QUIET,
        "PATH": path,
        nodedir(npm): str(tools.path),
        # node-gyp is run by Python out of the layer, which a build must leave as it is.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Runtime(version, npm, env, str(tools.path))


def resolve(
    context: sdk.BuildContext, registry: Registry, package: str, request: Request, releases: Releases
) -> str:
    """The version to use: the last build's for the same request, the one that is named, else the newest."""
    if last := update.last(context, "node", f"{package} {request.text}"):
        return last
    named = _VERSION.fullmatch(request.first.range)
    if named and releases.npm_for(named[1]):
        return named[1]
    return _look_up(context, registry, package, request, releases)


def _look_up(
    context: sdk.BuildContext, registry: Registry, package: str, request: Request, releases: Releases
) -> str:
    """The newest version that is published and asked for; NotFoundError when there is none."""
    for versions in (registry.brought, registry.versions):
        published = [version for version in versions(package) if releases.npm_for(version)]
        version = request.choose(published, releases)
        if version:
            return version
        if published and versions == registry.brought:
            context.log.detail(f"none of those at hand fits {request.first.range}: {', '.join(published)}")
    said = request.first.said
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
        active = releases.supported_long[-1].major
        log.warning(
            f"Node.js {line.major} has had no security fixes since {line.ends}; the active LTS is {active}"
        )


def _fill(node: sdk.Layer, tools: sdk.Layer, node_archive: Path, npm_archive: Path) -> None:
    """Spreads the archives over the layers that are new, both at once."""
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


def nodedir(npm: str) -> str:
    """The variable that tells node-gyp where the headers are; it would download them from elsewhere.

    From npm 11 on the old one makes npm itself warn of an unknown setting.
    """
    return "npm_config_nodedir" if major(npm) < 11 else "npm_package_config_node_gyp_nodedir"


def _try_out(context: sdk.BuildContext, node: sdk.Layer, version: str) -> None:
    """Starts the new Node.js once, so that a missing library is named now and not at launch."""
    try:
        context.capture([str(node.path / "bin/node"), "--version"], env={"NODE_OPTIONS": ""})
    except sdk.CommandFailed as failure:
        raise HostError(
            f"Node.js {version} does not run in this build image",
            why=failure.why,
            fix="use a builder whose images have the library (from 25 on Node.js needs libatomic.so.1), "
            "or ask for an older line in package.json engines.node",
        ) from failure
