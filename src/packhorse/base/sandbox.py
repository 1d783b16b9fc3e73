"""A sandbox and its commands, as data: what a command sees, what runs, and what came of it.

A phase makes `Command`s; `platform` says with a `SandboxSpec` where they run; `sandbox` makes that place and
starts them. The same values serve `packhorse run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Protocol

from packhorse.base.dataclass import dataclass, field
from packhorse.base.tree import TreeEdit
from packhorse.errors import PackhorseError

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

    One that is `is_users_own`, and not writable, is seen as if all of it belonged to the step's user.
    """

    source: Path
    target: str
    writable: bool = False
    is_users_own: bool = False


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
class Command:
    """What to execute in a sandbox. `env` is the whole environment: nothing is inherited.

    `executable` is what is executed when it is not `argv[0]` (the launcher chooses its process by argv[0]).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    executable: str = ""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """A sandbox, and the command that runs in it unless another is given; without `argv` it has none.

    `uid` and `gid` are ids inside the sandbox. With an `attached` step this process's stdin, stdout and
    stderr exchange bytes, with that of `terminal` a terminal of the step's own. `hostname` is the name the
    step sees. `limits` hold for everything that the step starts. Of argv, env, cwd and `executable` see
    `Command`.
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
    executable: str = ""
    hostname: str = "packhorse"
    limits: Limits = Limits()

    @property
    def command(self) -> Command:
        """What runs in it."""
        return Command(self.argv, self.env, self.cwd, self.executable)


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: its exit status (128 + n when signal n ended it) and its wall time in seconds.

    `exceeded` says which limit it met, in words for a user; empty when none.
    """

    status: int
    seconds: float = 0.0
    command: str = ""  # a line that starts the same command from a shell, for a failing build
    exceeded: str = ""


class Sandbox(Protocol):
    """A place whose mounts are made, in which commands run; nothing runs there between two."""

    @property
    def tree(self) -> TreeEdit:
        """The file tree as commands see it."""
        ...

    def run(self, output: Output | None, command: Command | None = None) -> Result:
        """Runs a command, or the one of the step, and ends whatever it has left running.

        An attached step gives `output` nothing. Without `output`, what any other prints goes to this
        process's stdout.

        Raises SandboxError when the command could not be started (CommandNotFound and NotExecutable where
        that is why).
        """
        ...

    def run_all(
        self, commands: Sequence[Command], output: Callable[[int, bytes], None], *, at_once: int
    ) -> Sequence[Result | PackhorseError]:
        """Runs commands side by side, up to `at_once`, and ends whatever they have left running.

        `output` is given the place of a command in `commands` with what that prints. Instead of a result
        there is the error that `run` would raise. A limit that one meets may end all of them.
        """
        ...

    def signal(self, number: int) -> None:
        """Sends a signal to what `run` has started; ignored when it is gone. Safe from a signal handler."""
        ...
