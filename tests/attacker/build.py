"""Compiles the attacker, a static program that runs in any image; called by the tests that attack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ("-static", "-std=c11", "-D_GNU_SOURCE", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wshadow")


def build(target: Path, *names: str) -> Path:
    """Compiles the C files `names` of this directory to the program `target`; returns it."""
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{os.uname().machine}-linux-musl"]
    words = [*compiler, *FLAGS, "-o", str(target), *(str(SOURCES / name) for name in names)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def attacker(target: Path) -> Path:
    """The program of main.c."""
    return build(target, "main.c", "files.c", "kernel.c", "processes.c", "sockets.c", "network.c")
