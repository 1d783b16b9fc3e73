"""Finds the parts of an install that are not Python code: native programs and the bundled buildpacks.

The package's build hook puts them into `_bundled`. It compiles the programs from `launcher/`.
"""

from __future__ import annotations

import json
from pathlib import Path

from packhorse.base.target import Target
from packhorse.errors import HostError

BUNDLED = Path(__file__).parents[1] / "_bundled"

HELPERS = ("terminal", "init", "leash", "network")
"""The programs that run beside or inside a sandbox on this machine. No builder contains them."""


def find_program(name: str) -> Path:
    """Returns the path of the program `name` for this machine; HostError if it is missing."""
    path = BUNDLED / name / f"{name}-linux-{Target.host().arch}"
    if not path.is_file():
        raise incomplete_install_error()
    return path


def incomplete_install_error() -> HostError:
    """Returns the error for an incomplete install."""
    return HostError(
        "this installation of packhorse is incomplete",
        why="its native programs and buildpacks are missing",
        fix="install it again: pip install . (or make setup, in a clone)",
        check="installation",
    )


def digest() -> str:
    """Returns a hexadecimal digest of all bundled content that goes into builders."""
    return str(_manifest()["digest"])


def launcher_version() -> str:
    """Returns the launcher's own version, which changes only when its bytes change."""
    return str(_manifest()["launcher"])


def launcher(arch: str) -> bytes:
    """Returns the launcher for an architecture (`amd64`, `arm64`); HostError if there is none."""
    path = BUNDLED / "launcher" / f"launcher-linux-{arch}"
    if not path.is_file():
        raise HostError(
            f"packhorse has no launcher for {arch}",
            why="it has one for amd64 and for arm64",
            check="installation",
        )
    return path.read_bytes()


def buildpacks() -> list[Path]:
    """Returns the directories of the bundled buildpacks, in the order in which they are tried."""
    return sorted(path.parent for path in BUNDLED.glob("buildpacks/*/*/buildpack.toml"))


def _manifest() -> dict[str, object]:
    try:
        value = json.loads((BUNDLED / "bundle.json").read_text())
    except OSError as error:
        raise incomplete_install_error() from error
    return dict(value)
