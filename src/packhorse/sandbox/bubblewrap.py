"""The runtime bubblewrap: a step as its options, its process, and how it enters the step's namespace.

The same options start the step and stand in the line with which a user repeats it.

How bubblewrap gets into the namespace of a step; called by `bubblewrap`.

A user's bubblewrap enters by itself. It stays the user until the step's mounts are made, and so reaches all
that the user can reach. Root's is started by `linux.userns_exec` as the shifted id of the step, for
three reasons: that id passes no 0700 home and owns nothing of the machine's ids, which mounts made before
amend (`reach`); bubblewrap holds no right of root; and when it is killed, the kernel lets its signal through
to the step, which it does between equal ids only (*tried*: otherwise the step lives on).

The thread that starts sandboxes, which reach no abstract socket of this machine; called by the runtimes.

Abstract sockets belong to a network, not to a file tree: with the machine's network a step would reach those
of its user's desktop, which take whoever has the user's id for the user. Landlock keeps a thread, and all
that it starts, from abstract sockets of others. It cannot be taken back, so there is a thread for it.

Bubblewrap as a process that makes a sandbox and waits for its end; called by `bubblewrap`.

Bubblewrap makes the namespaces and mounts, and its child, which is process 1 inside, becomes `launcher/init`.
That says through its socket when it is there; the socket ends when bubblewrap fails.

Bubblewrap is left to come to that end by itself: killed before it has let its child go on, or by SIGPIPE
while it reports the child, it would leave the child waiting for ever. So its reports go into memory, not into
a pipe.

The runtime bubblewrap, the default one; made by `host.wiring`, called by `runner`.

A step's options are `arguments`', its way into the namespace `entry`'s, its process `bubblewrap_process`'.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any

from packhorse.base.sandbox import Bind, Command, Mount, Network, SandboxSpec
from packhorse.errors import SandboxError
from packhorse.linux import syscalls, userns
from packhorse.linux.bubblewrap import find
from packhorse.linux.userns import IdMap, MapMode, Namespace
from packhorse.sandbox import seccomp
from packhorse.sandbox.init import words_of
from packhorse.sandbox.mounts import Layout, PathAccess
from packhorse.sandbox.process import Process, find_check
from packhorse.sandbox.seccomp import CAPABILITIES, MASKED_FILES, READ_ONLY

INIT = "/proc/1/program/init"
"""A copy of `launcher/init`. Where /proc/1 is covered, process 1 has no descriptors with names.

It has its own directory: a layer's env may be a link to /proc/1, and every file there would be a variable.
"""


def options(spec: SandboxSpec, layout: Layout, *, init: int = -1) -> list[str]:
    """The options of a sandbox; without namespace, filter and command.

    `init` is a descriptor of the program that its first process becomes, found at INIT.
    """
    return [
        *("--uid", str(spec.uid), "--gid", str(spec.gid)),
        # Root inside (an image extension's RUN) has what docker gives it; anybody else has nothing.
        *("--cap-drop", "ALL"),
        *(word for name in CAPABILITIES if spec.uid == 0 for word in ("--cap-add", name)),
        *_root_options(spec, layout),
        *_kernel_options(layout, spec.limits.shared_memory_size, init),
        *(word for mount in spec.mounts for word in _mount_options(mount, layout.place)),
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *(("--unshare-net",) if spec.network is not Network.HOST else ()),
        *("--hostname", spec.hostname),
        # With --unshare-pid, nothing survives the death of bubblewrap or of this process; neither does it
        # alone.
        "--die-with-parent",
        "--new-session",
    ]


def command_options(command: Command) -> list[str]:
    """The options for a command that bubblewrap itself is to execute."""
    return [
        *(word for name, value in sorted(command.env.items()) for word in ("--setenv", name, value)),
        *("--chdir", command.cwd),
        *(("--argv0", command.argv[0]) if command.executable else ()),
    ]


def _root_options(spec: SandboxSpec, layout: Layout) -> list[str]:
    if spec.root is None:
        raise SandboxError("a step in a sandbox needs a root file system")
    below = ["--overlay-src", str(layout.skeleton), "--overlay-src", str(spec.root.tree)]
    if spec.root.upper is None or spec.root.work is None:
        return [*below, "--ro-overlay", "/"]
    return [*below, "--overlay", str(spec.root.upper), str(spec.root.work), "/"]


def _kernel_options(layout: Layout, shared_memory: int, init: int) -> Iterator[str]:
    yield from ("--proc", "/proc")
    yield from (word for path in READ_ONLY for word in ("--ro-bind-try", path, path))
    for path in layout.masked:
        if path in MASKED_FILES:
            yield from ("--ro-bind", "/dev/null", path)
        else:
            yield from ("--tmpfs", path, "--remount-ro", path)
    # Process 1 has the step's own ids: through /proc/1/exe a step could change the mode of its program on
    # this machine, which may be the user's own (*tried*), through /proc/1/mem take it over.
    yield from ("--perms", "0555", "--tmpfs", "/proc/1")
    yield from ("--perms", "0555", "--file", str(init), INIT) if init >= 0 else ()
    yield from ("--remount-ro", "/proc/1")
    # Bubblewrap's /dev belongs to the step's user; only /dev/shm is to be written, as in a container.
    size = ("--size", str(shared_memory)) if shared_memory else ()
    yield from ("--dev", "/dev", "--perms", "1777", *size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev")


def _mount_options(mount: Mount, place: Callable[[str], str]) -> Iterator[str]:
    target = place(mount.target)
    if isinstance(mount, Bind):
        yield from ("--bind" if mount.writable else "--ro-bind", str(mount.source), target)
        return
    writable = mount.upper is not None and mount.work is not None
    if not mount.lowers and not writable:
        raise SandboxError(f"nothing is to be mounted at {mount.target}")
    if len(mount.lowers) + writable < 2:
        # An overlay has at least two layers; of one alone it is the same as a bind.
        source = mount.upper if writable else mount.lowers[0]
        yield from ("--bind" if writable else "--ro-bind", str(source), target)
        return
    for lower in mount.lowers:
        yield from ("--overlay-src", str(lower))
    if writable:
        yield from ("--overlay", str(mount.upper), str(mount.work), target)
    else:
        yield from ("--ro-overlay", target)


USERNS = "@"
"""Stands for the namespace's descriptor in a command line that goes through `linux.userns_exec`."""


class UsernsExec:
    """Decides for each step of one namespace."""

    def __init__(self, idmap: IdMap, program: Path) -> None:
        self._idmap = idmap
        self._program = program
        self._reach = PathAccess(idmap)

    def words(self, spec: SandboxSpec, layout: Layout) -> list[str] | None:
        """The command line before bubblewrap's own options; None when bubblewrap is to enter by itself."""
        owner = self._idmap.to_outside(spec.uid, spec.gid)
        if self._idmap.mode is not MapMode.ROOT:
            if _is_ambiguous(spec, owner):
                raise SandboxError(
                    f"user {spec.uid}:{spec.gid} cannot exist in this sandbox",
                    why="bubblewrap confuses it with the invoking user, who has another id inside",
                )
            return None
        options = [
            *userns.map_options(self._idmap),
            ("become", f"{owner[0]}:{owner[1]}"),
            *self._reach.options(spec, [layout.skeleton, self._program]),
        ]
        return [*userns.command("hand", options), "--", str(self._program)]


def _is_ambiguous(spec: SandboxSpec, owner: tuple[int, int]) -> bool:
    """Whether an id inside is written like the invoking user's own outside, and is not his.

    Bubblewrap compares the numbers, and then does not change its id (0.11, switch_to_user_with_privs).
    """
    own = os.getuid(), os.getgid()
    return any(
        inside == mine != outside
        for inside, mine, outside in zip((spec.uid, spec.gid), own, owner, strict=True)
    )


def start(words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Starts a process, with options as Popen's. One that ends with its parent ends with this process."""

    def popen() -> subprocess.Popen[bytes]:
        return subprocess.Popen(words, **options)

    return _thread().submit(popen).result()


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        1, thread_name_prefix="sandboxes", initializer=syscalls.restrict_abstract_sockets
    )


_OFTEN = 1
"""Milliseconds after which it is looked whether bubblewrap has made its child."""


class BubblewrapProcess(Process):
    """A started bubblewrap.

    `read_error` start it; `userns` is the descriptor of its namespace, or what stands for that in
    `read_error`. `init` is the program that its child becomes; `options` are made with a descriptor of that.
    `on_started` is told of the child, which has its namespaces then and not yet all of its mounts.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        userns: int | str,
        options: Callable[[int], Sequence[str]],
        init: Path,
        on_started: Callable[[int], None] = lambda pid: None,
    ) -> None:
        super().__init__()
        try:
            self._start(words, userns, options, init)
            self._wait_for_mounts(on_started)
        except BaseException:
            self.close()
            raise

    def _start(
        self, words: Sequence[str], userns: int | str, options: Callable[[int], Sequence[str]], init: Path
    ) -> None:
        with ExitStack() as theirs:
            channel = self.init.take_descriptor(theirs)
            program = theirs.enter_context(init.open("rb")).fileno()
            given = theirs.enter_context(_memory_file(options(program)))
            self._status, self._said = (
                self._own.enter_context(FileIO(os.memfd_create(name, os.MFD_CLOEXEC), "r+"))
                for name in ("status", "said")
            )
            nothing = theirs.enter_context(FileIO(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)))
            status = self._status.fileno()
            passed = (channel, program, status, given)
            # `--sync-fd` makes bubblewrap close the namespace's descriptor, which its child would inherit.
            line = [*words, "--userns", str(userns), "--sync-fd", str(userns), "--args", str(given)]
            line += ["--json-status-fd", str(status), "--as-pid-1", "--"]
            line += [INIT, str(channel)]
            self._process = start(
                line,
                pass_fds=(*passed, userns) if isinstance(userns, int) else passed,
                stdin=nothing.fileno(),
                stdout=self._said.fileno(),
                stderr=self._said.fileno(),
                # Ctrl-C would end bubblewrap, and with it the sandbox, before anybody is asked.
                process_group=0,
                cwd="/",
                env={},
                umask=0o022,
                # Who hands over a namespace gives up root's groups itself; to do it here costs a copy of this
                # process's page tables.
                extra_groups=[] if os.geteuid() == 0 and isinstance(userns, int) else None,
            )

    def _wait_for_mounts(self, on_started: Callable[[int], None]) -> None:
        ready = select.poll()
        ready.register(self.init.fileno(), select.POLLIN)
        early, gone = None, None
        while early is None and not ready.poll(_OFTEN):
            early = self._find_child()
        if early is not None:
            try:
                on_started(early)
            except (FileNotFoundError, ProcessLookupError) as error:
                gone = error
        is_ready = self._wait_until_ready()
        told = self._read_info("child-pid")
        if told is None or not is_ready:
            words = self.read_error()
            if words.startswith("bwrap: execvp "):
                why = words.rpartition(": ")[2]
                raise SandboxError(
                    "what a sandbox begins as cannot be started", why=why, check="installation"
                )
            raise SandboxError("the sandbox cannot be made", why=words, check=find_check(words, "bubblewrap"))
        if gone is not None:  # something else than a child that fails, which has said why
            raise gone
        if early is None:
            on_started(told)
        self._hold(told)

    def read_error(self) -> str:
        """See `Process`."""
        assert self._process is not None
        self._process.wait()
        return os.pread(self._said.fileno(), 65536, 0).decode(errors="replace").strip()

    def _find_child(self) -> int | None:
        """Bubblewrap's child, once it has a root of its own.

        Before that it brings up the loopback of a new network, which fails if somebody else has (*tried*:
        pasta does).
        """
        pid = self._read_info("child-pid")
        if pid is not None:
            with suppress(OSError):
                if not os.path.samestat(os.stat(f"/proc/{pid}/root/"), os.stat("/")):  # noqa: PTH116
                    return pid
        return None

    def _read_info(self, name: str) -> int | None:
        """What bubblewrap has reported under `name`, so far."""
        for line in os.pread(self._status.fileno(), 65536, 0).splitlines():
            with suppress(ValueError):
                document = json.loads(line)
                if name in document:
                    return int(document[name])
        return None


@contextmanager
def _memory_file(words: Sequence[str]) -> Iterator[int]:
    """A descriptor from which bubblewrap reads `read_error`: its own command line could be read by
    every user.
    """
    if any("\0" in word for word in words):
        raise SandboxError("a step's environment or paths have a NUL character")
    descriptor = os.memfd_create("options", os.MFD_CLOEXEC)
    try:
        with FileIO(descriptor, "w", closefd=False) as file:
            file.write(b"".join(os.fsencode(word) + b"\0" for word in words))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


class Bubblewrap:
    """A Runtime. Its sandboxes end with this process, however that ends.

    `init` is the native program that is the first process in them.
    """

    def __init__(self, namespace: Namespace, *, init: Path, program: Path | None = None) -> None:
        self._namespace = namespace
        self._init = init
        self._program = program or find()
        self._entry = UsernsExec(namespace.idmap, self._program)

    def start(
        self, spec: SandboxSpec, layout: Layout, on_started: Callable[[int], None]
    ) -> BubblewrapProcess:
        """Starts bubblewrap with the step's options; see `runner.Runtime`."""
        words = self._entry.words(spec, layout)
        return BubblewrapProcess(
            words or [str(self._program)],
            userns=USERNS if words else self._namespace.fd,
            options=lambda init: options(spec, layout, init=init),
            init=self._init,
            on_started=on_started,
        )

    def shell_line(self, spec: SandboxSpec, layout: Layout) -> str:
        """See `runner.Runtime`. The line makes its own namespace.

        What it cannot carry: pasta (the step then has loopback only), and for a user with subordinate ids
        those (files of other ids appear as nobody's).
        """
        words = self._entry.words(spec, layout)
        start = [*words, "--userns", USERNS] if words else [str(self._program), "--unshare-user"]
        document = b"".join(
            os.fsencode(word) + b"\0" for word in (*options(spec, layout), *command_options(spec.command))
        )
        documents = {9: document, 8: seccomp.make_filter()}
        return layout.repeat_line(
            [*start, "--args", "9", "--seccomp", "8"], documents, words_of(spec.command)
        )
