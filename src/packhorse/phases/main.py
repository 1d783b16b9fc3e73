"""Starts a phase of the lifecycle by the name that it is called by, and turns its errors into exit codes.

`/cnb/lifecycle/creator` and the others are links to one program. Called as `lifecycle`, it takes the phase as
its first word, as the reference does. The exit codes are those of platform.md: 11 and 12 for an API that is
not supported, 3 for a wrong command line, and the range of the phase for everything else.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from packhorse.errors import (
    BuildpackApiError,
    DetectFailed,
    PackhorseError,
    PlatformApiError,
    UsageError,
)
from packhorse.phases.console import PhaseConsole
from packhorse.phases.options import Phase, PhaseOptions, parse, usage
from packhorse.spec.api import PlatformApi
from packhorse.version import __version__

_VERBS = {
    "analyze": Phase.ANALYZER,
    "detect": Phase.DETECTOR,
    "restore": Phase.RESTORER,
    "extend": Phase.EXTENDER,
    "build": Phase.BUILDER,
    "export": Phase.EXPORTER,
    "create": Phase.CREATOR,
    "rebase": Phase.REBASER,
}

_MODULES = {phase: verb for verb, phase in _VERBS.items()}
"""The module of each phase, which is imported alone."""

_CODES = {
    Phase.ANALYZER: 32,
    Phase.DETECTOR: 22,
    Phase.RESTORER: 42,
    Phase.EXTENDER: 102,
    Phase.BUILDER: 52,
    Phase.EXPORTER: 62,
    Phase.REBASER: 72,
}
"""The exit code of each phase for an error without one of its own (platform.md "Outputs" of each phase)."""

_INVALID = 3
_DETECT_FIX = (
    "check that -app is the application's directory, and what the order has; -log-level debug says more"
)


def main(words: Sequence[str]) -> int:
    """Runs the phase of a command line, whose first word is the program's name; returns the exit code."""
    name = os.path.basename(words[0]).partition(".")[0]  # noqa: PTH119 -- a word of the command line
    rest = list(words[1:])
    console = PhaseConsole("info")
    try:
        if name == "lifecycle" and rest[:1] == ["-version"]:
            print(__version__)
            return 0
        phase = _find_phase(name, rest)
        return _run(phase, rest)
    except PlatformApiError as error:
        console.fail(error)
        return error.exit_code
    except UsageError as error:
        console.fail(error)
        return _INVALID


def _find_phase(name: str, rest: list[str]) -> Phase:
    """The phase by the program's name, or by the first word, which is removed from `rest`."""
    if name in list(Phase):
        return Phase(name)
    word = rest.pop(0) if rest else ""
    phase = _VERBS.get(word) or (Phase(word) if word in list(Phase) else None)
    if phase is None:
        raise UsageError(
            f"{word!r} is not a phase" if word else "no phase is named", why=f"phases are {', '.join(_VERBS)}"
        )
    return phase


def _run(phase: Phase, words: list[str]) -> int:
    environ = dict(os.environ)
    text = environ.get("CNB_PLATFORM_API", "").strip()
    if not text:
        raise PlatformApiError(
            "CNB_PLATFORM_API is not set", fix="set it to the Platform API of the platform"
        )
    api = PlatformApi.parse(text)
    if any(word in ("-version", "--version") for word in words):
        print(__version__)
        return 0
    if any(word in ("-h", "-help", "--help") for word in words):
        print(usage(phase, api))
        return 0
    options = parse(phase, api, words, environ, cwd=os.getcwd())  # noqa: PTH109 -- as text
    console = PhaseConsole(options.text("log-level"), color=not options.is_set("no-color"))
    for word in options.images:
        if word.startswith("-"):
            console.warn(f"{word} stands after the first argument, so it is not read as a flag")
    try:
        _execute(phase, options, environ, console)
    except (UsageError, PlatformApiError):
        raise
    except PackhorseError as error:
        if isinstance(error, DetectFailed):
            error.fix = _DETECT_FIX
        console.fail(error)
        return _exit_code(phase, error)
    return 0


def _execute(phase: Phase, options: PhaseOptions, environ: dict[str, str], console: PhaseConsole) -> None:
    # Late, so that a wrong command line and -version answer at once.
    from packhorse.fs.rooted import RootedTree
    from packhorse.phases.program import Program
    from packhorse.phases.runner import end_with_children

    def end(number: int, _: FrameType | None) -> None:
        end_with_children(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    program = importlib.import_module(f"packhorse.phases.{_MODULES[phase]}")
    with RootedTree.open_local("/") as tree:
        program.main(Program(options, environ, tree, console))


def _exit_code(phase: Phase, error: PackhorseError) -> int:
    """The error's own code if platform.md has it, else the code of the phase; 1 for a creator."""
    own = error.exit_code
    if isinstance(error, BuildpackApiError) or 20 <= own < 100:
        return own
    return _CODES.get(phase, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
