"""A machine of its own whose control groups are of version 2: Linux as a process (user-mode Linux).

It shows this machine's files, which it can only read, and has 512 MiB of memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

_PATIENCE = 300.0
"""Seconds in which the program has to end."""

_INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cd /
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1
{python} -m {module} 2>&1
echo "ended $?"
while :; do sleep 1; done
"""


def run(module: str, folder: Path) -> tuple[int, str]:
    """Runs a module's main program as root of such a machine: its exit status, and what was printed."""
    init = folder / "init"
    path = ":".join(sys.path)
    init.write_text(_INIT.format(path=path, python=sys.executable, module=module))
    init.chmod(0o755)
    words = ["linux.uml", "mem=512M", "rootfstype=hostfs", "ro", "quiet", f"init={init}", f"uml_dir={folder}"]
    said: list[str] = []
    with subprocess.Popen(
        [*words, "con=null", "con0=null,fd:1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as machine:
        assert machine.stdout is not None
        overdue = threading.Timer(_PATIENCE, os.killpg, (machine.pid, signal.SIGKILL))
        overdue.start()
        for line in machine.stdout:
            said.append(line)
            if line.startswith("ended "):
                break
        overdue.cancel()
        with suppress(ProcessLookupError):
            os.killpg(machine.pid, signal.SIGKILL)  # it may never halt
    assert said and said[-1].startswith("ended "), said
    return int(said[-1].split()[1]), "".join(said[:-1])
