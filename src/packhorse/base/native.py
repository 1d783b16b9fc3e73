"""Where the native programs are that every install has beside its Python code; under every arrow.

They are made by the package's build hook, of what is in `launcher/`. What of it gets into images is
`platform.bundle`'s.
"""

from __future__ import annotations

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
