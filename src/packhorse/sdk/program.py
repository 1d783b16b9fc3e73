"""Runs a buildpack's function: makes its context from the environment, and writes its result to files.

Called at the end of a buildpack's main.py (buildpack.md "Buildpack Interface"). Only this module of the SDK
reads `os.environ`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.base.log import Log
from packhorse.base.target import Distro, Target
from packhorse.errors import BuildError, FormatError, PackhorseError, UsageError
from packhorse.sdk import arguments
from packhorse.sdk.context import BuildContext, Descriptor, DetectContext, Platform
from packhorse.sdk.plan import Fail, Pass, Require

# Modules that only a build or an error needs are imported where they are used.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from packhorse.sdk.launch import BuildResult

    Detect = Callable[[DetectContext], Pass | Fail]
    Build = Callable[[BuildContext], BuildResult]

_DETECT_FAILED = 100
_INTERRUPTED = 130
_PATHS = {
    "detect": ("CNB_PLATFORM_DIR", "CNB_BUILD_PLAN_PATH"),
    "build": ("CNB_LAYERS_DIR", "CNB_PLATFORM_DIR", "CNB_BP_PLAN_PATH"),
}


def main(*, detect: Detect, build: Build) -> NoReturn:
    """Runs `detect` or `build` by the program's name, and ends the process with its status.

    Detect: 0 for pass, 100 for fail, else an error (B-016). Build: 0, or the exit code of the error.
    """
    os.umask(0o022)  # modes are part of a layer's digest, so the caller's umask must not decide them
    log = Log(sys.stdout, sys.stderr, colour=_wants_colour(os.environ))
    try:
        invocation = Invocation.read(sys.argv, os.environ)
        if invocation.phase == "detect":
            status = run_detect(invocation, detect, log=log)
        else:
            status = run_build(invocation, build, log=log)
    except PackhorseError as error:
        log.error(_add_location(error, Path(sys.argv[0])))
        status = error.exit_code
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the author's function may raise anything
        import traceback

        traceback.print_exc()
        log.error(_defect_error(error, Path(sys.argv[0])))
        status = PackhorseError.exit_code
    sys.exit(status)


@dataclass(frozen=True, slots=True)
class Invocation:
    """Which executable was called, on which application, with which environment and paths.

    `paths` has the paths of the phase by the names of their variables.
    """

    phase: str
    app: Path
    env: Mapping[str, str]
    buildpack: Path
    paths: Mapping[str, Path]

    @classmethod
    def read(cls, argv: Sequence[str], env: Mapping[str, str]) -> Invocation:
        """Takes the phase from `argv[0]`, and each path from its variable or its position (B-012, B-057).

        Raises UsageError if the program is not called detect or build, or a path is missing.
        """
        executable = Path(argv[0])
        phase = executable.name
        if phase not in _PATHS:
            raise UsageError(
                f"called as {phase}",
                why="a buildpack has bin/detect and bin/build",
                fix='they run lib/packhorse/sdk/start.py with their own path as first argument: "$0" "$@"',
            )
        positional = dict(zip(_PATHS[phase], argv[1:], strict=False))
        paths = {name: env.get(name) or positional.get(name, "") for name in _PATHS[phase]}
        missing = [name for name, path in paths.items() if not path]
        if missing:
            raise UsageError(
                f"{', '.join(missing)} not set", why=f"bin/{phase} is run by a lifecycle, not by hand"
            )
        return cls(
            phase,
            app=Path.cwd(),
            env=env,
            buildpack=Path(env.get("CNB_BUILDPACK_DIR") or executable.absolute().parents[1]),
            paths={name: Path(path) for name, path in paths.items()},
        )

    def detect_context(self, log: Log) -> DetectContext:
        """Reads the platform directory. The descriptor is read at its first use."""
        return DetectContext(
            app=self.app,
            buildpack=Descriptor.read_later(self.buildpack),
            platform=Platform.read(self.paths["CNB_PLATFORM_DIR"]),
            target=_read_target(self.env),
            exec_env=self.env.get("CNB_EXEC_ENV") or "production",
            env=self.env,
            log=log,
        )

    def build_context(self, log: Log) -> BuildContext:
        """As `detect_context`; also reads the buildpack plan and the store of the last build."""
        base = self.detect_context(log)
        layers = self.paths["CNB_LAYERS_DIR"]
        stored = layers / "store.toml"
        return BuildContext(
            app=base.app,
            buildpack=base.buildpack,
            platform=base.platform,
            target=base.target,
            exec_env=base.exec_env,
            env=base.env,
            log=log,
            layers=layers,
            plan=_read_plan(self.paths["CNB_BP_PLAN_PATH"]),
            store=_read_toml(stored).get("metadata", {}) if stored.exists() else {},
        )


def run_detect(invocation: Invocation, detect: Detect, *, log: Log) -> int:
    """Runs `detect` and writes the build plan; returns the exit status."""
    result = detect(invocation.detect_context(log))
    _check_result("detect", result, Pass, Fail)
    if isinstance(result, Fail):
        log.detail(result.reason)
        return _DETECT_FAILED
    _write(invocation.paths["CNB_BUILD_PLAN_PATH"], result.plan.table(), empty=True)
    return 0


def run_build(invocation: Invocation, build: Build, *, log: Log) -> int:
    """Runs `build` and writes launch.toml, build.toml and store.toml; returns the exit status."""
    from packhorse.sdk.launch import BuildResult

    context = invocation.build_context(log)
    log.title(context.buildpack.title)
    result = build(context)
    _check_result("build", result, BuildResult)
    _check_layers(context.layers)
    _write(context.layers / "launch.toml", result.launch.table())
    _write(context.layers / "build.toml", {"unmet": [{"name": name} for name in result.unmet]})
    if result.store is not None:
        _write(context.layers / "store.toml", {"metadata": dict(result.store)})
    return 0


def _check_result(function: str, result: object, *kinds: type) -> None:
    if not isinstance(result, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise BuildError(
            f"{function} returned {arguments.describe(result)}, not {names}",
            why="this is a defect of the buildpack" + (": is a `return` missing?" if result is None else ""),
            fix=f"its function {function} ends with: return sdk.{kinds[0].__name__}(…)",
        )


def _check_layers(layers: Path) -> None:
    """Raises BuildError for a directory that is no layer, because the lifecycle would discard it silently."""
    for path in sorted(layers.iterdir()):
        if path.is_dir() and not path.with_name(f"{path.name}.toml").exists():
            raise BuildError(
                f"{path} is not a layer",
                why="the buildpack made the directory itself, so it would be discarded",
                fix=f'take the layer first: context.layer("{path.name}", key=…, launch=True)',
            )


def _add_location(error: PackhorseError, executable: Path) -> PackhorseError:
    """Adds the buildpack's line that called the SDK to an error that the SDK raised."""
    import traceback

    root = executable.absolute().parents[1]
    *callers, innermost = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in callers if _is_own(Path(frame.filename), root)]
    if type(error) is not BuildError or not own or _is_own(Path(innermost.filename), root):
        return error
    where = f"{os.path.relpath(own[-1].filename, root)} line {own[-1].lineno}"
    return BuildError(error.what, why=error.why, fix=f"{error.fix} ({where})" if error.fix else where)


def _defect_error(error: Exception, executable: Path) -> PackhorseError:
    """The error for an uncaught exception, with the last line of the buildpack's own code."""
    import traceback

    root = executable.absolute().parents[1]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename]
    own = [frame for frame in frames if _is_own(Path(frame.filename), root)]
    at = (own or frames)[-1]
    said = "".join(traceback.format_exception_only(error)).strip()
    where = os.path.relpath(at.filename, root) if own else at.filename
    return PackhorseError(
        "the buildpack has a defect",
        why=f"bin/{executable.name} ended at {where} line {at.lineno}: {said}",
        fix="report it to its author with the traceback above",
    )


def _is_own(file: Path, root: Path) -> bool:
    path = Path(os.path.normpath(file.absolute()))
    return path.is_relative_to(root) and not path.is_relative_to(root / "lib")


def _read_plan(path: Path) -> tuple[Require, ...]:
    try:
        return tuple(
            Require(entry["name"], entry.get("metadata", {})) for entry in _read_toml(path).get("entries", [])
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"cannot use the buildpack plan {path}", why="an entry has no name") from error


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot read {path}", why=str(error)) from error


def _write(path: Path, table: Mapping[str, object], *, empty: bool = False) -> None:
    """Writes a file of the buildpack interface; writes no file without content, unless it may be `empty`."""
    from packhorse.base.go_toml import toml_bytes  # not needed if detection fails

    if empty or any(table.values()):
        path.write_bytes(toml_bytes(table))


def _read_target(env: Mapping[str, str]) -> Target:
    """The target that the lifecycle names (B-103); before Buildpack API 0.10, this machine's."""
    host = Target.host()
    distro = env.get("CNB_TARGET_DISTRO_NAME", "")
    return Target(
        os=env.get("CNB_TARGET_OS") or host.os,
        arch=env.get("CNB_TARGET_ARCH") or host.arch,
        variant=env.get("CNB_TARGET_ARCH_VARIANT", ""),
        distro=Distro(distro, env.get("CNB_TARGET_DISTRO_VERSION", "")) if distro else None,
    )


def _wants_colour(env: Mapping[str, str]) -> bool:
    """Whether standard output is a terminal and NO_COLOR is not set. A lifecycle reads a pipe."""
    return not env.get("NO_COLOR") and sys.stdout.isatty()
