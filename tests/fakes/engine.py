"""Real container engines of our own: directories, socket and processes apart from others on the machine."""

from __future__ import annotations

import atexit
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packhorse.linux.processes import read_proc

_PATIENCE = 300.0


@dataclass(frozen=True)
class Engine:
    """A running dockerd, or podman behind the same API; `socket` is where it listens."""

    socket: Path

    @property
    def address(self) -> str:
        """The address, as DOCKER_HOST has it."""
        return f"unix://{self.socket}"

    def docker(self, *arguments: str) -> str:
        """What the docker client prints for these arguments, stripped; fails when it fails."""
        done = self._run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def answers(self) -> bool:
        """Whether the engine is up."""
        return self._run("version").returncode == 0

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["docker", "--host", self.address, *arguments]
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
        f"--host={engine.address}",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
    ]
    with _running(engine, arguments, directory):
        yield engine


@contextmanager
def podman(directory: Path) -> Iterator[Engine]:
    """Starts podman's service with a storage of its own below `directory`, and ends it; needs root."""
    engine = Engine(directory / "podman.sock")
    arguments = [
        *("setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "slave"),
        "podman",
        f"--root={directory / 'data'}",
        f"--runroot={directory / 'run'}",
        f"--tmpdir={directory / 'tmp'}",
        "--storage-driver=vfs",
        *("system", "service", "--time=0", engine.address),
    ]
    with _running(engine, arguments, directory):
        yield engine


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Engine]]] = {"docker": dockerd, "podman": podman}


@cache
def shared(kind: str) -> Engine:
    """An engine that all tests of this process share, ended with it."""
    stack = ExitStack()
    atexit.register(stack.close)
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{kind}-")))
    return stack.enter_context(ENGINES[kind](directory))


def emptied(kind: str) -> Engine:
    """The shared engine, without any image."""
    engine = shared(kind)
    images = engine.docker("images", "--quiet", "--no-trunc").split()
    if images:
        engine.docker("rmi", "--force", *dict.fromkeys(images))
    return engine


@contextmanager
def _running(engine: Engine, arguments: Sequence[str], directory: Path) -> Iterator[None]:
    log_file = directory / "engine.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + _PATIENCE
        while not engine.answers():
            running = process.poll() is None and time.monotonic() < end
            assert running, log_file.read_text()[-3000:]
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(_PATIENCE)
        assert str(directory) not in read_proc("mountinfo")
