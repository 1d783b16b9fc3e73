"""What the lifecycle hands a buildpack, as values: a context for detect and one for build.

On the arrows source → plan and plan → layers (buildpack.md "Buildpack Interface"). Made by `sdk.program` from
the environment; a test makes one by hand (`sdk.testing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.log import Log
from packhorse.base.target import Target
from packhorse.errors import BuildError, FormatError, NotFoundError
from packhorse.sdk import arguments
from packhorse.sdk.plan import Require

# Every buildpack detects in every build: what a detection does without is imported where it is used. That is
# `typing`, too: to a type checker TYPE_CHECKING is true by its name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from packhorse.sdk.bindings import Bindings
    from packhorse.sdk.dependencies import Dependencies
    from packhorse.sdk.download import Source
    from packhorse.sdk.layer import Layer, LayerRequest
    from packhorse.sdk.sbom import Bill


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A buildpack's own `buildpack.toml`, and the directory it lies in."""

    directory: Path
    id: str
    version: str
    name: str = ""
    homepage: str = ""
    sbom_formats: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads `<directory>/buildpack.toml`; raises FormatError if it is missing or lacks id or version."""
        import tomllib

        path = directory / "buildpack.toml"
        try:
            table = tomllib.loads(path.read_text("utf-8-sig"))  # an editor may have left a mark
            buildpack = table["buildpack"]
            return cls(
                directory,
                id=buildpack["id"],
                version=buildpack["version"],
                name=buildpack.get("name", ""),
                homepage=buildpack.get("homepage", ""),
                sbom_formats=tuple(buildpack.get("sbom-formats", ())),
                metadata=table.get("metadata", {}),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"cannot use {path}", why=f"{type(error).__name__}: {error}") from error

    @classmethod
    def read_later(cls, directory: Path) -> Self:
        """As `read`, once anything but `directory` is asked for: most detections need nothing of it."""
        unread = cls.__new__(cls)
        object.__setattr__(unread, "directory", directory)
        return unread

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """A field that is not there yet: of what `at` has made, before it was read."""
            fields = type(self).__match_args__
            if name not in fields or name == "directory":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name)
            read = type(self).read(self.directory)
            for each in fields:
                object.__setattr__(self, each, getattr(read, each))
            return getattr(self, name)

    @property
    def title(self) -> str:
        """The name and version, as the first line of a log."""
        return f"{self.name or self.id} {self.version}"


@dataclass(frozen=True, slots=True)
class Platform:
    """The platform directory: `env` has what the user set for this build, one variable a file (B-110)."""

    directory: Path
    env: Mapping[str, str]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads `<directory>/env`; a platform without one sets nothing. Values keep their last newline."""
        folder = directory / "env"
        names = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        return cls(directory, {path.name: path.read_text(errors="surrogateescape") for path in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectContext:
    """What detection may look at. `env` is the process environment: the platform's, the operator's and
    the user's settings in force; `exec_env` is `production` unless the platform says otherwise (B-008)."""

    app: Path
    buildpack: Descriptor
    platform: Platform
    target: Target
    exec_env: str
    env: Mapping[str, str]
    log: Log

    @property
    def bindings(self) -> Bindings:
        """The service bindings that the platform has for this build. Raises InputError for a broken one."""
        from packhorse.sdk.bindings import Bindings

        return Bindings.find(self.env, self.platform.directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext(DetectContext):
    """What a build works with; `layers` is this buildpack's own directory, `plan` the entries it provides."""

    layers: Path
    plan: tuple[Require, ...] = ()
    store: Mapping[str, Any] = field(default_factory=dict)
    _layers_taken: dict[str, tuple[LayerRequest, Layer]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def layer(
        self,
        name: str,
        *,
        key: Mapping[str, str],
        launch: bool = False,
        build: bool = False,
        cache: bool = False,
        facts: Mapping[str, str] | None = None,
        renew: str = "",
        follows: tuple[str, ...] = (),
    ) -> Layer:
        """Takes a layer: kept as it is when `key` is the last build's, else an empty directory; says which.

        `key` maps what the layer is made from, in words for people, to its value: a version, a digest.
        Where only names in it differ that the layer `follows`, it is outdated: a directory as the last build
        made it, which is to become what would be made in an empty one. `facts` is for `recall` in the
        next build and does not count. A non-empty `renew` replaces the layer and is the cause. A second time
        in one build it is the same Layer. Raises BuildError for a name that no layer can have, for what is
        not text, for following what is not in the key, and for a second time with something else.
        """
        from packhorse.sdk.layer import LayerRequest, Types, take_layer

        types = Types(launch=launch, build=build, cache=cache)
        asked = LayerRequest(types, key, facts or {}, renew, follows)
        if name in self._layers_taken:
            before, taken = self._layers_taken[name]
            if asked != before:
                raise BuildError(
                    f"layer {name} is taken a second time in one build, and otherwise",
                    why="its directory may have what the first time put there",
                    fix="give each layer a name of its own",
                )
            return taken
        taken = take_layer(self.layers, name, asked)
        self._layers_taken[name] = replace(asked, key=dict(key), facts=dict(facts or {})), taken
        self.log.detail(f"layer {name} {taken.decision}")
        return taken

    def recall(self, name: str) -> Mapping[str, str]:
        """The facts of layer `name` from the last build; empty when nothing of it was restored."""
        from packhorse.sdk.layer import Restored

        restored = Restored.read(self.layers, name)
        return restored.facts if restored else {}

    @property
    def dependencies(self) -> Dependencies:
        """The files that this buildpack was staged with, and those of a mirror that is a directory here."""
        from packhorse.sdk.dependencies import Dependencies
        from packhorse.sdk.download import Mirrors

        mirrors = Mirrors(self.env, self.bindings)
        return Dependencies.read(self.buildpack.directory / "dependencies", *mirrors.directories())

    def fetch(self, source: Source, target: Path) -> Path:
        """Downloads a file to `target`, verified; from a mirror, or not at all, where it is to be had here.

        Raises NetworkError, NotFoundError, FormatError when it is another file, InputError for a wrong
        setting.
        """
        from packhorse.sdk.download import Downloads, Source

        arguments.check_type("what is to be fetched", source, Source)
        arguments.check_type("the target of a download", target, Path)
        downloads = Downloads(self.env, self.bindings, self.dependencies, self.log)
        return downloads.fetch(source, target)

    def write_sbom(self, part: Layer | str, bill: Bill) -> None:
        """Writes the bill of materials of a layer (or its name), of what else is in the image ("launch") or
        was in the build ("build").

        In every format that the buildpack declares; none is left where the user sets BP_DISABLE_SBOM. Raises
        BuildError when none is declared, there is no such layer, or it is kept (and so is its bill).
        """
        from packhorse.sdk.layer import Layer, check_name, sbom_files
        from packhorse.sdk.sbom import FORMATS, Bill

        arguments.check_type("the part of a bill of materials", part, Layer, str)
        arguments.check_type("a bill of materials", bill, Bill)
        name = part.name if isinstance(part, Layer) else part
        if name not in ("launch", "build"):
            check_name(name)
            if not (self.layers / f"{name}.toml").is_file():
                raise BuildError(
                    f"the bill of materials is for {name}, of which there is no layer",
                    fix=f'write "launch" or "build", or take the layer first: context.layer("{name}", …)',
                )
        if isinstance(part, Layer) and part.kept:
            raise BuildError(
                f"the buildpack writes the bill of materials of layer {part.name}, which it keeps",
                fix="write it only if the layer is not kept: the lifecycle brings the last one back",
            )
        declared = [entry.partition(";")[0].strip() for entry in self.buildpack.sbom_formats]
        formats = [FORMATS[name] for name in declared if name in FORMATS]
        if not formats:
            raise BuildError(
                f"{self.buildpack.id} declares no format for bills of materials",
                fix=f"its buildpack.toml wants sbom-formats = [{', '.join(map(repr, FORMATS))}]",
            )
        # The lifecycle has brought back that of a kept layer, in the formats of the last build.
        for path in sbom_files(self.layers, name):
            path.unlink()
        if self.env.get("BP_DISABLE_SBOM", "").lower() in ("1", "true"):
            return
        for ending, write in formats:
            (self.layers / f"{name}.sbom.{ending}").write_bytes(write(bill))

    def exec_d(self, name: str) -> Path:
        """The program `exec.d/<name>` of this buildpack: `<name>-<os>-<arch>` if there is one, else a script.

        Native programs that it was staged with (`programs.txt`) are found, too. Raises NotFoundError.
        """
        directory = self.buildpack.directory
        native = directory / "exec.d" / f"{name}-{self.target.os}-{self.target.arch}"
        for path in (native, directory / "lib/programs" / native.name, directory / "exec.d" / name):
            if path.is_file():
                return path
        raise NotFoundError(
            f"{self.buildpack.id} has no exec.d/{name}",
            why=f"nor exec.d/{native.name}",
            fix=f"the buildpack's directory wants one of them; it is {directory}",
        )

    def run(
        self, argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Runs a command in the application's directory, showing its output; returns the end of that.

        `env` adds to the environment. Raises CommandFailed, or HostError when there is no such command.
        """
        from packhorse.sdk import command

        _check_command(argv, cwd, env)
        return command.run(argv, cwd=cwd or self.app, env={**self.env, **(env or {})}, log=self.log)

    def capture(
        self, argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Runs a command silently and returns its standard output; raises as `run` does."""
        from packhorse.sdk import command

        _check_command(argv, cwd, env)
        return command.capture(argv, cwd=cwd or self.app, env={**self.env, **(env or {})})


def _check_command(argv: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None) -> None:
    arguments.check_texts("the command", argv, at_least=1)
    if env is not None:
        arguments.check_table("env of the command", env)
        for name in env:
            arguments.check_variable("a name in env of the command", name)
    if cwd is not None:
        arguments.check_type("cwd of the command", cwd, Path)
        if not cwd.is_dir():
            raise BuildError(f"cwd of the command is {cwd}, which is no directory", fix="make it before")
