"""A disk on which one file takes its time: a library for LD_PRELOAD, as the C library of the machine is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SOURCE = Path(__file__).with_name("slow.c")


def slow_files(directory: Path) -> Path:
    """Makes the library in `directory`; opening a path takes longer whose end is $SLOW_FILE."""
    library = directory / "slow.so"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{os.uname().machine}-linux-gnu"]
    subprocess.run([*compiler, "-shared", "-fPIC", "-o", library, _SOURCE], check=True, capture_output=True)
    return library
