"""Describes a sandbox, its commands and their results as data.

A phase makes `Command`s. A `SandboxSpec` says where they run, for a build and for `packhorse run`. `sandbox`
makes that place and runs the commands in it.
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
"""Receives the stdout and stderr of a process in chunks, in order, on one thread."""


class Network(Enum):
    """Which network a sandbox has: loopback only, its own (through pasta), or the host's."""

    NONE = "none"
    OWN = "own"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Bind:
    """Mounts a host file or directory at `target`.

    With `is_users_own`, and unless it is writable, everything in it appears to belong to the sandbox's user.
    """

    source: Path
    target: str
    writable: bool = False
    is_users_own: bool = False


@dataclass(frozen=True, slots=True)
class Overlay:
    """Mounts several directories as one at `target`. `lowers` are bottom first and never written.

    It is writable if it has `upper` and `work` (empty, beside each other on one file system), else read-only.
    """

    lowers: tuple[Path, ...]
    target: str
    upper: Path | None = None
    work: Path | None = None


Mount = Bind | Overlay


@dataclass(frozen=True, slots=True)
class Root:
    """The root file system of a sandbox: one merged tree, read-only unless it has an `upper`."""

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
    """How much of this machine all processes of a sandbox may use together. 0 is no limit.

    `memory` and `file_size` are in bytes. `processes` counts threads too. `disk` (bytes) and `inodes` must
    stay free on the file systems that the sandbox writes to. `shared_memory` is the size of /dev/shm,
    by default docker's. An `expendable` sandbox is killed if it meets a limit or if the machine runs out of
    memory. In any other the kernel refuses only what exceeds the limit, as far as it can.
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
        """The size of /dev/shm in bytes, at most the memory limit; 0 lets the kernel choose."""
        return min((size for size in (self.shared_memory, self.memory) if size), default=0)


@dataclass(frozen=True, slots=True)
class Command:
    """A command to run in a sandbox. `env` is the whole environment: it inherits nothing.

    `executable` is the program if it is not `argv[0]` (the launcher chooses its process by argv[0]).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    executable: str = ""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """A sandbox and its default command, described by `argv`, `env`, `cwd` and `executable` as in `Command`.

    It has no default command if `argv` is empty. `uid` and `gid` are ids inside the sandbox. `attached`
    connects the command to this process's stdin, stdout and stderr; `terminal` gives it its own terminal.
    `hostname` is the name that commands see. `limits` hold for all processes in the sandbox.
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
        """The default command."""
        return Command(self.argv, self.env, self.cwd, self.executable)


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: its exit status (128 + n if signal n killed it) and its wall time in seconds.

    `exceeded` tells the user which limit it met, "" if none.
    """

    status: int
    seconds: float = 0.0
    command: str = ""  # a shell line that runs the same command again, for a failed build
    exceeded: str = ""


class Sandbox(Protocol):
    """A sandbox whose mounts are made. Nothing runs in it between two commands."""

    @property
    def tree(self) -> TreeEdit:
        """The file tree as commands see it."""
        ...

    def run(self, output: Output | None, command: Command | None = None) -> Result:
        """Runs a command, by default that of the `SandboxSpec`, and kills what it leaves running.

        `output` receives nothing from an attached sandbox. Without `output`, the output of any other goes to
        this process's stdout. Raises SandboxError if the command could not be started, CommandNotFound or
        NotExecutable if that is the reason.
        """
        ...

    def run_all(
        self, commands: Sequence[Command], output: Callable[[int, bytes], None], *, at_once: int
    ) -> Sequence[Result | PackhorseError]:
        """Runs up to `at_once` commands at the same time, and kills what they leave running.

        `output` receives a command's position in `commands` and its output. A command that `run` would raise
        an error for gets that error as its result. A limit that one command meets may end all of them.
        """
        ...

    def signal(self, number: int) -> None:
        """Sends a signal to the command of `run`, if it still runs. A signal handler may call this."""
        ...
