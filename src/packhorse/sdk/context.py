"""Defines the inputs of a buildpack: a context for detect and one for build.

`sdk.program` makes them from the environment (buildpack.md "Buildpack Interface").
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

# Every build runs every detection, so modules that detection does not need are imported where they are used.
# `typing` is one of them. A type checker takes TYPE_CHECKING for true because of its name.
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
    """A buildpack's `buildpack.toml`, and the directory of that file."""

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
            table = tomllib.loads(path.read_text("utf-8-sig"))  # an editor may write a byte order mark
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
        """As `read`, but reads at the first use of another field: most detections use none."""
        unread = cls.__new__(cls)
        object.__setattr__(unread, "directory", directory)
        return unread

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """Reads the file for a descriptor from `read_later`."""
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
    """The platform directory. `env` has the variables that the user set for this build (B-110)."""

    directory: Path
    env: Mapping[str, str]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads `<directory>/env`, which may be missing. Values keep their last newline."""
        folder = directory / "env"
        names = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        return cls(directory, {path.name: path.read_text(errors="surrogateescape") for path in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectContext:
    """The inputs of detection. `env` is the process environment, with the settings of the platform, the
    operator and the user. `exec_env` is `production` unless the platform says otherwise (B-008)."""

    app: Path
    buildpack: Descriptor
    platform: Platform
    target: Target
    exec_env: str
    env: Mapping[str, str]
    log: Log

    @property
    def bindings(self) -> Bindings:
        """The platform's service bindings for this build. Raises InputError for a broken one."""
        from packhorse.sdk.bindings import Bindings

        return Bindings.find(self.env, self.platform.directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext(DetectContext):
    """The inputs of a build. `layers` is this buildpack's own directory, `plan` the entries to provide."""

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
        """Takes a layer: keeps it if `key` equals the last build's key, else empties it. Logs the decision.

        `key` maps names of everything that the layer is made from to values: a version, a digest. If only
        values differ that the layer `follows`, the layer is outdated: its directory is as the last build made
        it, and the buildpack updates it to what it would make in an empty one. `facts` is not compared;
        `recall` returns it in the next build. A non-empty `renew` is a reason to replace the layer in any
        case. A second call in one build returns the same Layer. Raises BuildError for a name that no layer
        can have, for values that are not str, for a `follows` that is not in the key, and for a second call
        with other arguments.
        """
        from packhorse.sdk.layer import LayerRequest, Types, take_layer

        types = Types(launch=launch, build=build, cache=cache)
        asked = LayerRequest(types, key, facts or {}, renew, follows)
        if name in self._layers_taken:
            before, taken = self._layers_taken[name]
            if asked != before:
                raise BuildError(
                    f"layer {name} is taken a second time in one build, with other arguments",
                    why="its directory may have files from the first time",
                    fix="give each layer a name of its own",
                )
            return taken
        taken = take_layer(self.layers, name, asked)
        self._layers_taken[name] = replace(asked, key=dict(key), facts=dict(facts or {})), taken
        self.log.detail(f"layer {name} {taken.decision}")
        return taken

    def recall(self, name: str) -> Mapping[str, str]:
        """Returns the facts of layer `name` from the last build; empty if it was not restored."""
        from packhorse.sdk.layer import Restored

        restored = Restored.read(self.layers, name)
        return restored.facts if restored else {}

    @property
    def dependencies(self) -> Dependencies:
        """The files that this buildpack was staged with, and those of mirrors that are directories here."""
        from packhorse.sdk.dependencies import Dependencies
        from packhorse.sdk.download import Mirrors

        mirrors = Mirrors(self.env, self.bindings)
        return Dependencies.read(self.buildpack.directory / "dependencies", *mirrors.directories())

    def fetch(self, source: Source, target: Path) -> Path:
        """Downloads a file to `target` and verifies it.

        Uses a file in `dependencies` or a mirror if there is one.

        Raises NetworkError, NotFoundError, FormatError for another file, and InputError for a wrong setting.
        """
        from packhorse.sdk.download import Downloads, Source

        arguments.check_type("the source of a download", source, Source)
        arguments.check_type("the target of a download", target, Path)
        downloads = Downloads(self.env, self.bindings, self.dependencies, self.log)
        return downloads.fetch(source, target)

    def write_sbom(self, part: Layer | str, bill: Bill) -> None:
        """Writes the SBOM of a layer (or its name), of the rest of the image ("launch") or of the build
        ("build").

        Writes every format that the buildpack declares, and removes all if the user sets BP_DISABLE_SBOM.
        Raises BuildError if no format is declared, there is no such layer, or the layer is kept: then its
        SBOM is kept too.
        """
        from packhorse.sdk.layer import Layer, check_name, sbom_files
        from packhorse.sdk.sbom import FORMATS, Bill

        arguments.check_type("the part of an SBOM", part, Layer, str)
        arguments.check_type("an SBOM", bill, Bill)
        name = part.name if isinstance(part, Layer) else part
        if name not in ("launch", "build"):
            check_name(name)
            if not (self.layers / f"{name}.toml").is_file():
                raise BuildError(
                    f"the SBOM is for layer {name}, which does not exist",
                    fix=f'write "launch" or "build", or take the layer first: context.layer("{name}", …)',
                )
        if isinstance(part, Layer) and part.kept:
            raise BuildError(
                f"the buildpack writes the SBOM of layer {part.name}, which it keeps",
                fix="write it only if the layer is not kept: the lifecycle restores the last one",
            )
        declared = [entry.partition(";")[0].strip() for entry in self.buildpack.sbom_formats]
        formats = [FORMATS[name] for name in declared if name in FORMATS]
        if not formats:
            raise BuildError(
                f"{self.buildpack.id} declares no format for SBOMs",
                fix=f"its buildpack.toml needs sbom-formats = [{', '.join(map(repr, FORMATS))}]",
            )
        # The lifecycle has restored the SBOM of a kept layer, in the formats of the last build.
        for path in sbom_files(self.layers, name):
            path.unlink()
        if self.env.get("BP_DISABLE_SBOM", "").lower() in ("1", "true"):
            return
        for ending, write in formats:
            (self.layers / f"{name}.sbom.{ending}").write_bytes(write(bill))

    def exec_d(self, name: str) -> Path:
        """The program `exec.d/<name>` of this buildpack: `<name>-<os>-<arch>` if it exists, else the script
        `<name>`.

        Also finds native programs that it was staged with (`programs.txt`). Raises NotFoundError.
        """
        directory = self.buildpack.directory
        native = directory / "exec.d" / f"{name}-{self.target.os}-{self.target.arch}"
        for path in (native, directory / "lib/programs" / native.name, directory / "exec.d" / name):
            if path.is_file():
                return path
        raise NotFoundError(
            f"{self.buildpack.id} has no exec.d/{name}",
            why=f"nor exec.d/{native.name}",
            fix=f"put one of them into the buildpack's directory, {directory}",
        )

    def run(
        self, argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Runs a command in the application's directory, shows its output, and returns the end of the output.

        `env` adds to the environment. Raises CommandFailed, or HostError if there is no such command.
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
            raise BuildError(f"cwd of the command is {cwd}, which is not a directory", fix="make it first")
