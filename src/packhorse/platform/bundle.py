"""What every install of packhorse carries beside its Python code: native programs and the bundled buildpacks.

Made by the package's build hook. Called by `platform.default_builder`, `build.execute` and `platform.run`.
"""

from __future__ import annotations

import json
from pathlib import Path

from packhorse.base import native
from packhorse.errors import HostError


def digest() -> str:
    """Tells one bundle from another: hexadecimal, over all of its content that gets into builders."""
    return str(_manifest()["digest"])


def launcher_version() -> str:
    """The launcher's own version; it changes only when its bytes do (design: the launcher is native)."""
    return str(_manifest()["launcher"])


def launcher(arch: str) -> bytes:
    """The launcher for an architecture (`amd64`, `arm64`); raises HostError when there is none."""
    path = native.BUNDLED / "launcher" / f"launcher-linux-{arch}"
    if not path.is_file():
        raise HostError(
            f"packhorse has no launcher for {arch}",
            why="it has one for amd64 and for arm64",
            check="installation",
        )
    return path.read_bytes()


def terminal() -> Path:
    """The program that gives a step a terminal (`sandbox.terminal`), for this machine."""
    return native.find_program("terminal")


def init() -> Path:
    """The program that steps begin as whose command is said later (`sandbox.commands`), for this machine."""
    return native.find_program("init")


def buildpacks() -> list[Path]:
    """The directories of the bundled buildpacks, staged, in the order they are tried."""
    return sorted(path.parent for path in native.BUNDLED.glob("buildpacks/*/*/buildpack.toml"))


def _manifest() -> dict[str, object]:
    try:
        value = json.loads((native.BUNDLED / "bundle.json").read_text())
    except OSError as error:
        raise native.incomplete_install_error() from error
    return dict(value)
