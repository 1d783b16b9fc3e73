"""What the programs on PATH that benchmarks may use say of their versions. Called by `__main__`."""

from __future__ import annotations

import shutil
import subprocess
import sys

from bench.measure import packhorse

_COMMANDS = {
    "pack": ["pack", "--version"],
    "docker": ["dockerd", "--version"],
    "buildah": ["buildah", "--version"],
    "skopeo": ["skopeo", "--version"],
    "umoci": ["umoci", "--version"],
    "tar": ["tar", "--version"],
    "sha256sum": ["sha256sum", "--version"],
    "node": ["node", "--version"],
}


def versions() -> dict[str, str]:
    """Name → its own words, of those there are."""
    commands = {"packhorse": list(map(str, [*packhorse(), "--version"])), **_COMMANDS}
    found = {name: _said(command) for name, command in commands.items() if shutil.which(command[0])}
    return {**found, "Python": sys.version.split()[0]}


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else ""
