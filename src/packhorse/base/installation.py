"""Where the native programs are that every install has beside its Python code; under every arrow.

They are made by the package's build hook, of what is in `launcher/`. What of it gets into images is
`base.installation`'s.

What every install of packhorse carries beside its Python code: native programs and the bundled buildpacks.

Made by the package's build hook. Called by `builder.default`, `build.execute` and `run`.
"""

from __future__ import annotations

import json
from pathlib import Path

from packhorse.base.target import Target
from packhorse.errors import HostError

BUNDLED = Path(__file__).parents[1] / "_bundled"

HELPERS = ("terminal", "init", "leash", "network")
"""The programs that run beside or within a sandbox on this machine, and are in no builder."""


def find_program(name: str) -> Path:
    """The program `name`, for this machine; HostError when it is not there."""
    path = BUNDLED / name / f"{name}-linux-{Target.host().arch}"
    if not path.is_file():
        raise incomplete_install_error()
    return path


def incomplete_install_error() -> HostError:
    """The error for an install in which something is missing."""
    return HostError(
        "this packhorse is not installed whole",
        why="its native programs and buildpacks are missing",
        fix="install it again: pip install . (or make setup, in a clone)",
        check="installation",
    )


def digest() -> str:
    """Tells one bundle from another: hexadecimal, over all of its content that gets into builders."""
    return str(_manifest()["digest"])


def launcher_version() -> str:
    """The launcher's own version; it changes only when its bytes do (design: the launcher is native)."""
    return str(_manifest()["launcher"])


def launcher(arch: str) -> bytes:
    """The launcher for an architecture (`amd64`, `arm64`); raises HostError when there is none."""
    path = BUNDLED / "launcher" / f"launcher-linux-{arch}"
    if not path.is_file():
        raise HostError(
            f"packhorse has no launcher for {arch}",
            why="it has one for amd64 and for arm64",
            check="installation",
        )
    return path.read_bytes()


def terminal() -> Path:
    """The program that gives a step a terminal (`sandbox.terminal`), for this machine."""
    return find_program("terminal")


def init() -> Path:
    """The program that steps begin as whose command is said later (`sandbox.init`), for this machine."""
    return find_program("init")


def buildpacks() -> list[Path]:
    """The directories of the bundled buildpacks, staged, in the order they are tried."""
    return sorted(path.parent for path in BUNDLED.glob("buildpacks/*/*/buildpack.toml"))


def _manifest() -> dict[str, object]:
    try:
        value = json.loads((BUNDLED / "bundle.json").read_text())
    except OSError as error:
        raise incomplete_install_error() from error
    return dict(value)
