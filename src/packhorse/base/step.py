"""One process in a sandbox, as data: what runs, what it sees, and what came of it.

A phase makes a `Step` of argv, env and cwd; `platform` adds root, mounts and network; `sandbox` turns it into
a process. The same values serve `packhorse run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Protocol

from packhorse.base.dataclass import dataclass, field
from packhorse.base.tree import TreeEdit

Output = Callable[[bytes], None]
"""Takes what a process writes to stdout and stderr, in chunks, in order, on one thread."""


class Network(Enum):
    """Which network a step has: none but loopback, its own (through pasta), or the host's."""

    NONE = "none"
    OWN = "own"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Bind:
    """A host file or directory seen at `target`.

    One that is `owned`, and not writable, is seen as if all of it belonged to the step's user.
    """

    source: Path
    target: str
    writable: bool = False
    owned: bool = False


@dataclass(frozen=True, slots=True)
class Overlay:
    """Directories seen as one at `target`; `lowers` are bottom first and never written.

    With `upper` and `work` (empty, same file system, beside each other) it is writable; without, read-only.
    """

    lowers: tuple[Path, ...]
    target: str
    upper: Path | None = None
    work: Path | None = None


Mount = Bind | Overlay


@dataclass(frozen=True, slots=True)
class Root:
    """The root file system of a step: one merged tree, read-only unless it has an upper of its own."""

    tree: Path
    upper: Path | None = None
    work: Path | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """A published port: host address and port, and the port inside."""

    host_port: int
    port: int
    address: str = ""
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a step may use of this machine: all its processes together, and what it writes.

    `memory` and `file_size` are in bytes, `processes` counts threads too; `disk` (bytes) and `inodes` are
    what has to stay free on the file systems that it writes to. 0 is no limit. `shared_memory` is what files
    in /dev/shm may take, docker's unless another is given. An `expendable` step is ended when it meets any of
    them, or when the machine runs out of memory; another has only what goes beyond refused, as far as the
    kernel can.
    """

    memory: int = 0
    processes: int = 0
    file_size: int = 0
    disk: int = 0
    inodes: int = 0
    shared_memory: int = 64 << 20
    expendable: bool = False

    @property
    def shared_memory_size(self) -> int:
        """The size of /dev/shm in bytes: no larger than the memory; 0 for the kernel's own choice."""
        return min((size for size in (self.shared_memory, self.memory) if size), default=0)


@dataclass(frozen=True, slots=True)
class Step:
    """What to run. `env` is the whole environment: nothing is inherited.

    `uid` and `gid` are ids inside the sandbox. `scratch` says that what the step writes is seen by nobody
    else, so that several may be open at once. With an `attached` step this process's stdin, stdout and stderr
    exchange bytes, with that of `terminal` a terminal of the step's own.
    `held` steps (`argv` empty) run nothing and are opened for their tree, unless they are `deferred`: what
    such a step runs (argv, env and cwd) may be said while it is held. `executable` is what is executed when
    it is not `argv[0]` (the launcher chooses its process by argv[0]). `hostname` is the name the step sees.
    `limits` hold for everything that the step starts.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    root: Root | None = None
    mounts: tuple[Mount, ...] = ()
    uid: int = 1000
    gid: int = 1000
    network: Network = Network.HOST
    ports: tuple[Port, ...] = ()
    attached: bool = False
    terminal: bool = False
    scratch: bool = False
    deferred: bool = False
    executable: str = ""
    hostname: str = "packhorse"
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Result:
    """How a step ended: its exit status (128 + n when signal n ended it) and its wall time in seconds.

    `exceeded` says which limit it met, in words for a user; empty when none.
    """

    status: int
    seconds: float = 0.0
    command: str = ""  # a line that starts the same step from a shell, for a failing build
    exceeded: str = ""


class Room(Protocol):
    """A step whose mounts are made and whose process is held before its first instruction."""

    @property
    def tree(self) -> TreeEdit:
        """The file tree as the step sees it; usable before `run`, and after it until the room is closed."""
        ...

    def run(self, output: Output | None) -> Result:
        """Lets the process go and waits for it. An attached step gives `output` nothing.

        Without `output`, what any other prints goes to this process's stdout.

        Raises SandboxError when the process could not be started (CommandNotFound and NotExecutable where
        that is why).
        """
        ...

    def signal(self, number: int) -> None:
        """Sends a signal to the step's first process; ignored when it is gone. Safe from a signal handler."""
        ...
