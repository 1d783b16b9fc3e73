"""Decides whether a layer is kept, outdated or replaced, by comparing its key with the last build's key.

Called by `sdk.context` (buildpack.md "Layer Types", "Layer Content Metadata (TOML)", "Environment Variable
Modification Rules"). Nothing may touch a kept layer: the layers may be an overlay over trees of the last
build, and a chmod or an open for writing makes a layer count as changed.

`<layer>.toml` has `[types]`, which the lifecycle does not restore (B-079), and in `[metadata]` the tables
`key` (the inputs) and `facts` (values for the next build).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

from packhorse.base.dataclass import dataclass, field
from packhorse.base.go_toml import toml_bytes
from packhorse.errors import BuildError
from packhorse.sdk import arguments

Action = Literal["append", "default", "override", "prepend"]
Phase = Literal["all", "build", "launch"]

_RESERVED = {"build", "launch", "store"}
_START_LENGTH = 256
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Kept:
    """The layer of the last build is used again; `same` names the inputs."""

    same: tuple[str, ...]

    def __str__(self) -> str:
        return f"kept: same {', '.join(self.same)}"


@dataclass(frozen=True, slots=True)
class Outdated:
    """The directory is as the last build made it from the key `before`; the buildpack has to update it."""

    causes: tuple[str, ...]
    before: Mapping[str, str]

    def __str__(self) -> str:
        return f"outdated: {', '.join(self.causes)}"


@dataclass(frozen=True, slots=True)
class Replaced:
    """The directory is empty; without `causes` the last build had no such layer."""

    causes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"replaced: {', '.join(self.causes)}" if self.causes else "new"


@dataclass(frozen=True, slots=True)
class Types:
    """Where a layer is needed: in the image, for later buildpacks, in the next build."""

    launch: bool = False
    build: bool = False
    cache: bool = False


@dataclass(frozen=True, slots=True)
class LayerRequest:
    """What a buildpack requests of a layer. A non-empty `renew` is a reason to replace it in any case.

    `follows` has the names in the key whose changes only make the layer outdated.
    """

    types: Types
    key: Mapping[str, str]
    facts: Mapping[str, str] = field(default_factory=dict)
    renew: str = ""
    follows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Restored:
    """What the lifecycle restored of a layer: the key and facts of the last build, and its directory."""

    key: Mapping[str, str]
    facts: Mapping[str, str]
    has_directory: bool

    @classmethod
    def read(cls, layers: Path, name: str) -> Restored | None:
        """Reads `<layers>/<name>.toml`; None if it is missing or this SDK did not write it."""
        try:
            table = tomllib.loads((layers / f"{name}.toml").read_text())
        except (FileNotFoundError, tomllib.TOMLDecodeError, UnicodeDecodeError):
            return None
        metadata = table.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("key"), dict):
            return None
        facts = metadata.get("facts", {})
        return cls(
            key=_only_texts(metadata["key"]),
            facts=_only_texts(facts) if isinstance(facts, dict) else {},
            has_directory=(layers / name).is_dir(),
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's directory, and the decision about it.

    Every method that writes raises BuildError on a kept layer: values that it would write belong to the key.
    """

    name: str
    path: Path
    decision: Kept | Outdated | Replaced
    types: Types = field(default_factory=Types)

    @property
    def kept(self) -> bool:
        """Whether the layer is finished. The directory of a kept layer for launch only is not restored."""
        return isinstance(self.decision, Kept)

    def empty(self) -> None:
        """Empties the directory, if it cannot be updated; raises BuildError on a kept layer."""
        self._refuse_kept()
        _empty(self.path)

    def set_env(
        self,
        name: str,
        value: str,
        *,
        action: Action = "override",
        phase: Phase = "all",
        process: str = "",
        delimiter: str | None = None,
    ) -> None:
        """Sets a variable for later buildpacks, for launch, or both (B-116 to B-126).

        `process` limits `phase="launch"` to one process type. `delimiter` separates the values that append
        and prepend join. Raises BuildError for a setting without effect, or with a bad one.
        """
        self._refuse_kept()
        arguments.check_variable("the name of a variable", name)
        arguments.check_text(f"the value of {name}", value)
        if delimiter is not None:
            arguments.check_text(f"the delimiter of {name}", delimiter)
        arguments.check_choice(f"the action for {name}", action, get_args(Action))
        arguments.check_choice(f"the phase of {name}", phase, get_args(Phase))
        _check_action(name, action, delimiter)
        self._check_phase(name, phase)
        _check_process(process)
        if process and phase != "launch":
            raise BuildError(
                f"{name} is set for process {process} and phase {phase}",
                why="only a launch has processes",
                fix='write phase="launch"',
            )
        directory = self.path / ("env" if phase == "all" else f"env.{phase}") / process
        self._write(directory / f"{name}.{action}", value)
        if delimiter:
            self._write(directory / f"{name}.delim", delimiter)

    def add_exec_d(self, source: Path, *, name: str, process: str = "") -> None:
        """Copies a program that runs before each launch, or before that of one process type (B-100).

        Raises BuildError if it is neither a native program nor a script that names its interpreter.
        """
        self._refuse_kept()
        _check_exec_d(name, process)
        arguments.check_type(f"the exec.d program {name}", source, Path)
        self._check_phase(f"the exec.d program {name}", "launch")
        try:
            with source.open("rb") as file:
                start = file.read(_START_LENGTH)
        except OSError as error:
            raise BuildError(
                f"the exec.d program {name} cannot be read",
                why=f"{source}: {error.strerror or error}",
                fix="give the path of a file that the buildpack has, or makes first",
            ) from error
        _check_executable(name, start)
        target = self.path / "exec.d" / process / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, target)
        target.chmod(0o755)

    def write_exec_d(self, name: str, script: str, *, process: str = "") -> None:
        """Writes a script that runs before each launch. TOML that it writes to descriptor 3 sets variables.

        Its first line must name an interpreter of the run image, such as `#!/bin/sh`; else raises BuildError.
        """
        self._refuse_kept()
        _check_exec_d(name, process)
        arguments.check_text(f"the exec.d script {name}", script)
        self._check_phase(f"the exec.d script {name}", "launch")
        _check_executable(name, script.encode(errors="surrogateescape"))
        path = self.path / "exec.d" / process / name
        self._write(path, script)
        path.chmod(0o755)

    def _check_phase(self, what: str, phase: str) -> None:
        """Raises BuildError if the layer does not exist in that phase: the setting would have no effect."""
        wanted = ("launch", "build") if phase == "all" else (phase,)
        if not any(getattr(self.types, kind) for kind in wanted):
            raise BuildError(
                f"{what} would have no effect in layer {self.name}",
                why=f"the layer is for neither {' nor '.join(wanted)}"
                if len(wanted) > 1
                else f"it is for {phase}, and the layer is not",
                fix=f"take the layer with {' or '.join(f'{kind}=True' for kind in wanted)}",
            )

    def _write(self, path: Path, value: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)

    def _refuse_kept(self) -> None:
        if self.kept:
            raise BuildError(
                f"the buildpack writes into layer {self.name}, which it keeps from the last build",
                fix="write only if the layer is not kept, and put what you write into its key",
            )


def take_layer(layers: Path, name: str, asked: LayerRequest) -> Layer:
    """Keeps layer `name` if its key has not changed, else empties it; writes `<name>.toml` in both cases.

    A layer that differs only in what it follows stays as it is. A non-empty `renew` replaces it in any case.
    Raises BuildError for a name that is reserved (B-065) or cannot be a directory, and for keys and facts
    that are not str.
    """
    types, key, facts, renew = asked.types, asked.key, asked.facts, asked.renew
    check_name(name)
    _check_types(name, types)
    arguments.check_table(f"the key of layer {name}", key, at_least=1)
    arguments.check_table(f"the facts of layer {name}", facts)
    arguments.check_text(f"renew of layer {name}", renew)
    _check_follows(name, asked)
    decision = _decide(Restored.read(layers, name), asked)
    directory = layers / name
    if isinstance(decision, Replaced):
        _empty(directory)
    if not isinstance(decision, Kept):
        for path in sbom_files(layers, name):
            path.unlink()
    metadata: dict[str, object] = {"key": dict(key), "facts": dict(facts)}
    table = {
        "types": {"launch": types.launch, "build": types.build, "cache": types.cache},
        "metadata": {part: value for part, value in metadata.items() if value},
    }
    (layers / f"{name}.toml").write_bytes(toml_bytes(table))
    return Layer(name, directory, decision, types)


def sbom_files(layers: Path, name: str) -> Iterable[Path]:
    """The SBOM files of layer `name`, or of `launch` or `build`."""
    return [path for path in layers.iterdir() if path.name.startswith(f"{name}.sbom.")]


def check_name(name: str) -> None:
    """Raises BuildError for a name that no layer can have: it becomes a directory."""
    arguments.check_file_name("the name of a layer", name)
    if name in _RESERVED:
        raise BuildError(
            f"the name of a layer cannot be {name!r}", fix=f"{', '.join(sorted(_RESERVED))} are reserved"
        )


def _check_types(name: str, types: Types) -> None:
    for kind in ("launch", "build", "cache"):
        arguments.check_bool(f"{kind} of layer {name}", getattr(types, kind))
    if types == Types():
        raise BuildError(
            f"layer {name} is for nothing",
            why="it would be discarded after this build",
            fix="say what it is for: launch=True (the image), build=True (later buildpacks), cache=True "
            "(the next build); for temporary files, use tempfile",
        )


def _check_follows(name: str, asked: LayerRequest) -> None:
    arguments.check_texts(f"what layer {name} follows", asked.follows)
    unknown = [word for word in asked.follows if word not in asked.key]
    if unknown:
        raise BuildError(
            f"layer {name} follows {unknown[0]!r}, which is not in its key",
            fix=f"name one of {', '.join(asked.key)}, or nothing",
        )


def _check_exec_d(name: str, process: str) -> None:
    arguments.check_file_name("the name of an exec.d program", name)
    _check_process(process)


def _check_process(process: str) -> None:
    if process != "":
        arguments.check_process_type("the process", process)


def _check_action(name: str, action: str, delimiter: str | None) -> None:
    if action in ("append", "prepend") and delimiter is None:
        raise BuildError(
            f"{action} for {name} has no delimiter",
            why="the value would be joined to the existing one as one word",
            fix='write delimiter=":" or delimiter=" ", or delimiter="" if that is what you want',
        )
    if name == "PATH" and action == "override":
        raise BuildError(
            "PATH would have this value only",
            why='an action is "override", unless you say otherwise',
            fix='write action="prepend", delimiter=":"; the layer\'s bin is on PATH without that',
        )


def _check_executable(name: str, start: bytes) -> None:
    line = start.partition(b"\n")[0]
    if line.startswith(b"#!") and line.endswith(b"\r"):
        raise BuildError(
            f"the exec.d program {name} cannot be run",
            why="its lines end with CR and LF, and the CR would count as the end of the interpreter's name",
            fix="write its lines with LF",
        )
    if not start.startswith((b"#!", b"\x7fELF")):
        raise BuildError(
            f"the exec.d program {name} cannot be run",
            why="it is no native program, and its first line names no interpreter",
            fix="begin it with #!/bin/sh, or another interpreter that the run image has",
        )


def _decide(restored: Restored | None, asked: LayerRequest) -> Kept | Outdated | Replaced:
    types, key, renew = asked.types, asked.key, asked.renew
    if restored is None:
        return Replaced()
    differing = dict(_list_changes(restored.key, key))
    changes = tuple(differing.values())
    if renew:
        return Replaced((renew, *changes))
    if changes:
        only = restored.key.keys() == key.keys() and set(differing).issubset(asked.follows)
        there = types.cache and restored.has_directory
        return Outdated(changes, restored.key) if only and there else Replaced(changes)
    if types.cache and not restored.has_directory:
        return Replaced(("its directory was not restored",))
    # Without cache, only a launch layer that no later buildpack needs is kept, in the last image (B-047).
    if not types.cache and (types.build or not types.launch):
        return Replaced(("it is not cached",))
    return Kept(tuple(key))


def _list_changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each name that differs, with the difference in words; in the order of `now`, missing names last."""
    for name, value in now.items():
        if name not in before:
            yield name, f"{name} is new"
        elif before[name] != value:
            yield name, f"{name} changed ({_shorten(before[name])} → {_shorten(value)})"
    yield from ((name, f"{name} is gone") for name in before if name not in now)


def _shorten(value: str) -> str:
    """The value for a message; of a digest, its first digits."""
    digest = _DIGEST.fullmatch(value)
    return f"sha256 {digest[1][:8]}…" if digest else value or "none"


def _empty(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        import shutil  # not needed if all layers are kept

        shutil.rmtree(path)
    path.mkdir()


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copyfile(source, target)


def _only_texts(table: Mapping[str, object]) -> dict[str, str]:
    return {name: value for name, value in table.items() if isinstance(value, str)}
