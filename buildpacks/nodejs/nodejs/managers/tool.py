"""Provides a package manager that does not come with Node.js, as a layer for the build.

Called by the managers. It is a package of the registry, fetched through the npm client. If package.json has a
hash, the archive is checked against it. If the request is the same as in the last build, its version is used
again without asking the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from packhorse import sdk
from packhorse.errors import FormatError, InputError, NotFoundError
from packhorse.sdk.dataclass import dataclass, replace

from .. import versions
from ..project import Project
from ..registry import Registry
from ..runtime import Runtime
from .choice import Choice
from .npm import rebuild_with_npm

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Tool:
    """A package manager of one version. Its layer has the package in `package/` and commands in `bin/`."""

    version: str
    path: Path

    def env(self, runtime: Runtime) -> dict[str, str]:
        """The variables of `runtime`, with this tool's commands first on PATH."""
        return {**runtime.env, "PATH": f"{self.path / 'bin'}:{runtime.env['PATH']}"}

    def append_to(self, runtime: Runtime) -> Runtime:
        """`runtime` with this tool's commands last on PATH."""
        env = {**runtime.env, "PATH": f"{runtime.env['PATH']}:{self.path / 'bin'}"}
        return replace(runtime, env=env)


@dataclass(frozen=True, slots=True)
class Package:
    """A manager's package in the registry: `name`, and its `commands`, each with the file that it runs.

    The hash in package.json is of the file `hashed`; empty for the whole archive. `parts` are packages of the
    same version whose files are added: a native program has one for each architecture.
    """

    name: str
    commands: Mapping[str, str]
    hashed: str = ""
    parts: tuple[str, ...] = ()


def provide_tool(
    context: sdk.BuildContext, package: Package, choice: Choice, *, range: str, launch: bool = False
) -> Tool:
    """Makes or keeps the layer named by `choice.manager`, with the newest version in `range`.

    It is in the image for `launch`.

    Raises NotFoundError if there is none, InputError for one that is too old, NetworkError, and FormatError
    for an archive that is not the published one or not the one that package.json names.
    """
    registry = Registry(context)
    name = choice.manager
    version = _resolve_version(context, registry, package, choice, range)
    key = {package.name: version, **({"hash": choice.digest} if choice.digest else {})}
    if package.parts:
        key["architecture"] = context.target.arch
    layer = context.layer(
        name,
        key=key,
        launch=launch,
        build=True,
        cache=True,
        facts={"request": range, "version": version},
    )
    if layer.kept:
        return Tool(version, layer.path)
    import tempfile

    from .. import archive

    with tempfile.TemporaryDirectory() as folder:
        specs = [f"{part}@{version}" for part in (package.name, *package.parts)]
        try:
            found, *parts = registry.fetch(specs, into=Path(folder))
        except NotFoundError as error:
            raise _no_version_error(choice, version, why=error.why) from error
        archive.unpack(found, lambda path: layer.path / "package" / path)
        for part in parts:
            archive.unpack(part, lambda path: layer.path / "package" / path)
        if choice.digest:
            hashed = layer.path / "package" / package.hashed if package.hashed else found
            _verify_hash(hashed, choice.digest, f"{package.name} {version}")
    there = [name for name, script in package.commands.items() if (layer.path / "package" / script).is_file()]
    if name not in there:
        raise too_old_error(choice, version, f"its package has no {package.commands[name]}")
    (layer.path / "bin").mkdir()
    for command in there:
        script = package.commands[command]
        (layer.path / "package" / script).chmod(0o755)
        (layer.path / "bin" / command).symlink_to(PurePosixPath("../package") / script)
    return Tool(version, layer.path)


def too_old_error(choice: Choice, version: str, why: str) -> InputError:
    """The error for a manager that is too old for this buildpack."""
    return InputError(
        f"{choice.manager} {version} is too old for this buildpack ({choice.source})",
        why=why,
        fix=f"ask for a newer one: {choice.place}",
    )


def _resolve_version(
    context: sdk.BuildContext, registry: Registry, package: Package, choice: Choice, range_: str
) -> str:
    """The version to use: an exact one, the last build's for the same request, else the newest."""
    if versions.is_version(range_):
        return range_.strip().lstrip("v=")
    if last := versions.last_version(context, choice.manager, range_):
        return last
    import nodesemver

    for list_versions in (registry.offline_versions, registry.versions):
        published = list_versions(package.name)
        version: str | None = nodesemver.max_satisfying(published, range_, loose=True)
        if version:
            return version
    newest = nodesemver.max_satisfying(published, "*", loose=True)
    raise _no_version_error(choice, range_, why=f"the newest is {newest}")


def _no_version_error(choice: Choice, range_: str, *, why: str) -> NotFoundError:
    return NotFoundError(
        f"no version of {choice.manager} matches {range_} ({choice.source})",
        why=why,
        fix=f"ask for another: {choice.place}",
    )


def _verify_hash(path: Path, digest: str, what: str) -> None:
    import hashlib

    algorithm, _, wanted = digest.partition(".")
    try:
        found = hashlib.new(algorithm)
    except ValueError as error:
        raise FormatError(
            f"package.json packageManager has a hash of an unknown kind: {algorithm}"
        ) from error
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    if found.hexdigest() != wanted:
        raise FormatError(
            f"{what} is not the one that package.json packageManager names",
            why=f"its {algorithm} is {found.hexdigest()}, not {wanted}",
            fix="the registry or a proxy altered it, or package.json is wrong: find out which",
        )


@dataclass(frozen=True, slots=True)
class DownloadedManager:
    """The base of the managers that do not come with Node.js: `tool` for `project`, the root of a workspace.

    `lock` is the name of its lockfile, empty without one.
    """

    context: sdk.BuildContext
    project: Project
    runtime: Runtime
    tool: Tool
    lock: str

    @property
    def generated_files(self) -> tuple[str, ...]:
        """Nothing but node_modules."""
        return ()

    @property
    def version(self) -> str:
        """The version that runs."""
        return self.tool.version

    @property
    def has_lock(self) -> bool:
        """Whether this manager's lockfile exists."""
        return bool(self.lock)

    @property
    def env(self) -> Mapping[str, str]:
        """Node.js and this manager on PATH."""
        return self.tool.env(self.runtime)

    def rebuild(self, directory: Path) -> None:
        """Runs `npm rebuild`, for managers without such a command."""
        rebuild_with_npm(self.context, directory, self.env)
