"""Runs sandboxes with bubblewrap, the default runtime. Made by `host.wiring`, called by `runner`.

bubblewrap makes the namespaces and mounts. Its child is process 1 inside and becomes `launcher/init`, which
reports through its socket that it has started; if bubblewrap fails, the socket closes. packhorse waits until
bubblewrap has failed by itself: if it is killed too early, its child waits for ever. SIGPIPE could do that as
well, so bubblewrap reports into a memory file, not into a pipe. The same options start a sandbox and stand in
the shell line that repeats a command.

**User namespace.** For an ordinary user, bubblewrap enters the namespace itself. It keeps the user's own id
until the mounts are made, so it reaches all that the user can reach. For root, `linux.userns_exec` starts
bubblewrap with the shifted id of the sandbox's user. So bubblewrap has no right of root, and when it is
killed, its child ends too: the kernel delivers that signal only between equal ids (*tried*). The shifted id
cannot pass a home of mode 0700 and owns nothing on this machine; `mounts.PathAccess` opens the way.

**Abstract sockets** belong to a network, not to a file tree. On the machine's network a sandbox would reach
those of its user's desktop, which trust every process with the user's id. Landlock keeps a thread, and all
that it starts, from them. A thread cannot undo that, so one thread does nothing but start sandboxes.
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
"""Where the sandbox has a copy of `launcher/init`: in the tmpfs that covers /proc/1.

It has its own directory, because a layer's `env` may be a link to /proc/1, and every file there would become
a variable.
"""


def options(spec: SandboxSpec, layout: Layout, *, init: int = -1) -> list[str]:
    """Returns bubblewrap's options for a sandbox, without user namespace, filter and command.

    `init` is a descriptor of the program that is copied to INIT; -1 leaves it out.
    """
    return [
        *("--uid", str(spec.uid), "--gid", str(spec.gid)),
        # Root inside (an image extension's RUN) has the capabilities that docker gives it, others have none.
        *("--cap-drop", "ALL"),
        *(word for name in CAPABILITIES if spec.uid == 0 for word in ("--cap-add", name)),
        *_root_options(spec, layout),
        *_kernel_options(layout, spec.limits.shared_memory_size, init),
        *(word for mount in spec.mounts for word in _mount_options(mount, layout.place)),
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *(("--unshare-net",) if spec.network is not Network.HOST else ()),
        *("--hostname", spec.hostname),
        # Together with --unshare-pid, this ends all processes inside when bubblewrap or packhorse dies.
        "--die-with-parent",
        "--new-session",
    ]


def command_options(command: Command) -> list[str]:
    """Returns the options for a command that bubblewrap itself executes, in the shell line."""
    return [
        *(word for name, value in sorted(command.env.items()) for word in ("--setenv", name, value)),
        *("--chdir", command.cwd),
        *(("--argv0", command.argv[0]) if command.executable else ()),
    ]


def _root_options(spec: SandboxSpec, layout: Layout) -> list[str]:
    if spec.root is None:
        raise SandboxError("a sandbox needs a root file system")
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
    # Process 1 has the ids of the commands. Through /proc/1/exe a command could change the mode of init's
    # file on this machine (*tried*), and through /proc/1/mem it could take init over.
    yield from ("--perms", "0555", "--tmpfs", "/proc/1")
    yield from ("--perms", "0555", "--file", str(init), INIT) if init >= 0 else ()
    yield from ("--remount-ro", "/proc/1")
    # bubblewrap's /dev belongs to the sandbox's user. Only /dev/shm is writable, as in a container.
    size = ("--size", str(shared_memory)) if shared_memory else ()
    yield from ("--dev", "/dev", "--perms", "1777", *size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev")


def _mount_options(mount: Mount, place: Callable[[str], str]) -> Iterator[str]:
    target = place(mount.target)
    if isinstance(mount, Bind):
        yield from ("--bind" if mount.writable else "--ro-bind", str(mount.source), target)
        return
    writable = mount.upper is not None and mount.work is not None
    if not mount.lowers and not writable:
        raise SandboxError(f"the mount at {mount.target} has no source")
    if len(mount.lowers) + writable < 2:
        # An overlay needs two layers; a bind of the only one looks the same.
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
    """Makes the command line that starts bubblewrap in the user namespace of one `idmap`."""

    def __init__(self, idmap: IdMap, program: Path) -> None:
        self._idmap = idmap
        self._program = program
        self._reach = PathAccess(idmap)

    def words(self, spec: SandboxSpec, layout: Layout) -> list[str] | None:
        """Returns the command line up to bubblewrap's own options; None if bubblewrap itself enters."""
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
    """Returns whether an id inside has the number of the invoking user's own id, but is another id outside.

    bubblewrap compares the numbers, and then does not change its id (0.11, switch_to_user_with_privs).
    """
    own = os.getuid(), os.getgid()
    return any(
        inside == mine != outside
        for inside, mine, outside in zip((spec.uid, spec.gid), own, owner, strict=True)
    )


def start(words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Starts a process that cannot reach abstract sockets; `options` are those of Popen.

    A process that asks to end with its parent (PR_SET_PDEATHSIG) ends with this process, whose starting
    thread lasts as long.
    """

    def popen() -> subprocess.Popen[bytes]:
        return subprocess.Popen(words, **options)

    return _thread().submit(popen).result()


@cache
def _thread() -> ThreadPoolExecutor:
    thread = ThreadPoolExecutor(1, thread_name_prefix="sandboxes")
    # As an `initializer`, it would hide its error: the executor logs that and raises BrokenThreadPool.
    thread.submit(syscalls.restrict_abstract_sockets).result()
    return thread


_INTERVAL = 1
"""Milliseconds between two checks whether bubblewrap has made its child."""


class BubblewrapProcess(Process):
    """A started bubblewrap.

    `words` start it. `userns` is the descriptor of its namespace, or the word that stands for it in `words`.
    `init` is the program that its child becomes; `options` gets a descriptor of it and returns bubblewrap's
    options. `on_started` gets the id of the child as soon as that has its namespaces; mounts may be missing.
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
                # Else Ctrl-C would end bubblewrap, and the sandbox with it, before packhorse can react.
                process_group=0,
                cwd="/",
                env={},
                umask=0o022,
                # Root's groups have to go. `linux.userns_exec` drops them itself; only without it does Popen,
                # which then has to copy this process's page tables.
                extra_groups=[] if os.geteuid() == 0 and isinstance(userns, int) else None,
            )

    def _wait_for_mounts(self, on_started: Callable[[int], None]) -> None:
        ready = select.poll()
        ready.register(self.init.fileno(), select.POLLIN)
        early, gone = None, None
        while early is None and not ready.poll(_INTERVAL):
            early = self._find_child()
        if early is not None:
            try:
                on_started(early)
            except (FileNotFoundError, ProcessLookupError) as error:
                gone = error
        is_ready = self._wait_until_ready()
        pid = self._read_info("child-pid")
        if pid is None or not is_ready:
            message = self.read_error()
            if message.startswith("bwrap: execvp "):
                why = message.rpartition(": ")[2]
                raise SandboxError(
                    "the sandbox's first process cannot be started", why=why, check="installation"
                )
            assert self._process is not None
            status = self._process.returncode
            raise SandboxError(
                "the sandbox cannot be made",
                why=message or f"bubblewrap ended with status {status} and printed no reason",
                check=find_check(message, "bubblewrap"),
            )
        if gone is not None:  # the child is there, so `on_started` has missed something else
            raise gone
        if early is None:
            on_started(pid)
        self._hold(pid)

    def read_error(self) -> str:
        """See `Process`."""
        assert self._process is not None
        self._process.wait()
        return os.pread(self._said.fileno(), 65536, 0).decode(errors="replace").strip()

    def _find_child(self) -> int | None:
        """Returns the id of bubblewrap's child once that has its own root, else None.

        Before, the child brings up the loopback of a new network. That fails if pasta has done so (*tried*),
        and `on_started` starts pasta.
        """
        pid = self._read_info("child-pid")
        if pid is not None:
            with suppress(OSError):
                if not os.path.samestat(os.stat(f"/proc/{pid}/root/"), os.stat("/")):  # noqa: PTH116
                    return pid
        return None

    def _read_info(self, name: str) -> int | None:
        """Returns the number that bubblewrap has reported under `name`, None if it has not yet."""
        for line in os.pread(self._status.fileno(), 65536, 0).splitlines():
            with suppress(ValueError):
                document = json.loads(line)
                if name in document:
                    return int(document[name])
        return None


@contextmanager
def _memory_file(words: Sequence[str]) -> Iterator[int]:
    """Yields a descriptor from which bubblewrap reads the options `words`.

    Every user could read them on a command line.
    """
    if any("\0" in word for word in words):
        raise SandboxError("a path of the sandbox has a NUL character")
    descriptor = os.memfd_create("options", os.MFD_CLOEXEC)
    try:
        with FileIO(descriptor, "w", closefd=False) as file:
            file.write(b"".join(os.fsencode(word) + b"\0" for word in words))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


class Bubblewrap:
    """The runtime bubblewrap. Its sandboxes end with this process, however that ends.

    `init` is the native program that becomes their first process.
    """

    def __init__(self, namespace: Namespace, *, init: Path, program: Path | None = None) -> None:
        self._namespace = namespace
        self._init = init
        self._program = program or find()
        self._entry = UsernsExec(namespace.idmap, self._program)

    def start(
        self, spec: SandboxSpec, layout: Layout, on_started: Callable[[int], None]
    ) -> BubblewrapProcess:
        """Starts bubblewrap with the sandbox's options; see `runner.Runtime`."""
        words = self._entry.words(spec, layout)
        return BubblewrapProcess(
            words or [str(self._program)],
            userns=USERNS if words else self._namespace.fd,
            options=lambda init: options(spec, layout, init=init),
            init=self._init,
            on_started=on_started,
        )

    def shell_line(self, spec: SandboxSpec, layout: Layout) -> str:
        """See `runner.Runtime`. The line makes its own user namespace.

        It lacks pasta, so the sandbox has only loopback, and it lacks a user's subordinate ids, so files of
        other ids appear as nobody's.
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
