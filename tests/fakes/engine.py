"""A real docker engine of our own: directories, socket and processes apart from any other on the machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 60.0


@dataclass(frozen=True)
class Engine:
    """A running dockerd; `socket` is where it listens."""

    socket: Path

    def docker(self, *arguments: str) -> str:
        """What the docker client prints for these arguments, stripped; fails when it fails."""
        done = self._run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def answers(self) -> bool:
        """Whether the engine is up."""
        return self._run("version").returncode == 0

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["docker", "--host", f"unix://{self.socket}", *arguments]
        return subprocess.run(command, capture_output=True, text=True)


@contextmanager
def dockerd(directory: Path) -> Iterator[Engine]:
    """Starts an engine that keeps everything below `directory`, and ends it and its containerd; needs root.

    Containers have `--network host` or none: the engine makes no bridge and touches no firewall.
    """
    engine = Engine(directory / "docker.sock")
    arguments = [
        # Its mounts are its own, and go with it, as it goes with this process, however that ends.
        *("setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "slave"),
        "dockerd",
        f"--data-root={directory / 'data'}",
        f"--exec-root={directory / 'exec'}",
        f"--pidfile={directory / 'dockerd.pid'}",
        f"--host=unix://{engine.socket}",
        "--storage-driver=vfs",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
    ]
    with (directory / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + _PATIENCE
        while not engine.answers():
            running = process.poll() is None and time.monotonic() < end
            assert running, (directory / "dockerd.log").read_text()[-3000:]
            time.sleep(0.1)
        yield engine
    finally:
        process.terminate()
        process.wait(_PATIENCE)
        assert str(directory) not in Path("/proc/self/mountinfo").read_text()
