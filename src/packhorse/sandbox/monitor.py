"""Makes the mounts of a sandbox and runs an OCI runtime in them. `oci` starts it as a child process.

The command line is `python … PLAN OPTIONS -- [COMMAND…]`. PLAN is a descriptor of a `MonitorPlan` in JSON.
`linux.userns_exec` defines the options. COMMAND replaces the plan's command when a user repeats it by hand.

The monitor enters the sandbox's user namespace and forks the first process of a new PID namespace. That
process has its own mount namespace, with the sandbox's tree at ROOT and the runtime's state on a tmpfs. It
starts the runtime there as the namespace's root, who has no rights on this machine. However it ends, the
runtime leaves nothing behind: the kernel ends all processes of a PID namespace with its first one, and
removes mounts with the last process that sees them. The first process ends when the other end of the socket
`control` closes. Errors go to stderr.

All sources of mounts are opened first, by name, as the sandbox's user. From then on they are named by
descriptor: so the options of an overlay with many layers fit into one page and need no escapes. Targets are
resolved below the tree that is being made and through no link, so nothing is mounted or made anywhere else.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import stat
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, TypedDict

from packhorse.linux import syscalls, userns_exec
from packhorse.linux.userns_exec import UsernsExecError
from packhorse.sandbox import seccomp
from packhorse.sandbox.init import ENDED, REFUSED, SIZE, START, Order, decode, encode, encode_request

# Threads and pathlib are not needed here; a process that has threads cannot enter a user namespace.
# ruff: noqa: PTH102, PTH119, PTH123, PTH208

_PAGE = 4096
"""The most bytes of options that mount(2) takes, with their NUL."""

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS


class MountSpec(TypedDict):
    """A bind mount of `source`, or an overlay of `lowers`, bottom first, with `upper` and `work`.

    `source` is "" for an overlay; `upper` and `work` are "" for a read-only one. `target` is absolute, and no
    link is in it.
    """

    target: str
    source: str
    lowers: list[str]
    upper: str
    work: str
    writable: bool


class PreparedMounts:
    """Mounts with open sources. `make` mounts them in order; the first one is the root."""

    def __init__(self, mounts: Sequence[MountSpec]) -> None:
        self._mounts = [(mount, _open_sources(mount)) for mount in mounts]

    def make(self, directory: str) -> int:
        """Mounts the tree at the empty `directory`; returns a descriptor of its root."""
        (first, held), *others = self._mounts
        target = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _mount(first, held, target)
        root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for mount, held in others:
            target = _open_target(
                root, mount["target"], as_directory=bool(not mount["source"]) or _is_directory(held)
            )
            _mount(mount, held, target)
        return root


def _open_sources(mount: MountSpec) -> list[int]:
    """Opens the sources of a mount: one detached mount, or the lowers and then upper and work if any."""
    if mount["source"]:
        descriptor = syscalls.clone_mount(mount["source"], recursive=True)
        attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        syscalls.restrict_mount(
            descriptor, attributes if mount["writable"] else attributes | syscalls.MOUNT_ATTR_RDONLY
        )
        return [descriptor]
    names = [*mount["lowers"], *(name for name in (mount["upper"], mount["work"]) if name)]
    return [os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for name in names]


def _mount(mount: MountSpec, held: Sequence[int], target: int) -> None:
    if mount["source"]:
        syscalls.attach_mount_at(held[0], target)
    else:
        _mount_overlay(mount, held, target)
    for descriptor in (*held, target):
        os.close(descriptor)


def _mount_overlay(mount: MountSpec, held: Sequence[int], target: int) -> None:
    count = len(mount["lowers"])
    layers = ":".join(str(descriptor) for descriptor in reversed(held[:count]))
    options = f"userxattr,lowerdir={layers}"
    if mount["upper"]:
        options += f",upperdir={held[count]},workdir={held[count + 1]}"
    if len(options) >= _PAGE:
        raise UsernsExecError(f"{count} directories are too many for one overlay at {mount['target']}")
    os.chdir("/proc/self/fd")
    try:
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount("overlay", f"/proc/self/fd/{target}", "overlay", flags, options)
    except OSError as error:
        raise UsernsExecError(
            f"an overlay cannot be mounted at {mount['target']}: {error.strerror}"
        ) from error
    finally:
        os.chdir("/")


def _open_target(root: int, path: str, *, as_directory: bool) -> int:
    """Opens the mount point `path`, and makes it if it is missing."""
    try:
        return _open(root, path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise UsernsExecError(f"nothing can be mounted at {path}: {error.strerror}") from error
    try:
        above, _, name = path.rpartition("/")
        parent = _open_target(root, above or "/", as_directory=True)
        try:
            _make(parent, name, as_directory=as_directory)
        finally:
            os.close(parent)
        return _open(root, path)
    except OSError as error:
        raise UsernsExecError(f"the mount point {path} cannot be made: {error.strerror}") from error


def _open(root: int, path: str) -> int:
    return syscalls.openat2(root, path, os.O_PATH, resolve=_RESOLVE)


def _make(parent: int, name: str, *, as_directory: bool) -> None:
    if as_directory:
        os.mkdir(name, 0o755, dir_fd=parent)
    else:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))


def _is_directory(held: Sequence[int]) -> bool:
    return stat.S_ISDIR(os.fstat(held[0]).st_mode)


_COVERED = "/run"
"""A directory of the host that a tmpfs covers, in the monitor's mount namespace only."""

ROOT = f"{_COVERED}/root"
"""Where the runtime finds the sandbox's tree."""

_BUNDLE, _STATE, _PID = (f"{_COVERED}/{name}" for name in ("bundle", "state", "pid"))
_CGROUPS = "/sys/fs/cgroup"
_FAILED = 125


class MonitorPlan(TypedDict):
    """What to make. Descriptors are numbers of this process.

    `user` has the ids inside that the mounts are made with; empty for the ids of the caller. `runtime` is the
    runtime's program and options. `init` is the program of the sandbox's first process: a path or a
    descriptor. `channel` is that process's end of its socket; if it is -1, the monitor makes a socket and
    sends `order` to it. When the first process has started, the monitor sends the descriptors of the tree,
    the mount namespace and that process to the socket `control`, unless it is -1.
    """

    user: list[int]
    mounts: list[MountSpec]
    config: dict[str, Any]
    runtime: list[str]
    init: int | str
    channel: int
    control: int
    order: Order


def main(words: list[str]) -> int:
    """Makes the sandbox and waits for its end; returns the status of its first process, or of `order`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        given, *rest = words
        plan = _read_plan(int(given))
        options, command = userns_exec.parse_options(rest)
        if command:
            asked = plan["order"]
            if command != [asked["executable"], *asked["arguments"][1:]]:
                asked |= {"executable": command[0], "arguments": command}
        init = plan["init"]
        programs = [
            os.open(plan["runtime"][0], os.O_PATH),
            init if isinstance(init, int) else os.open(init, os.O_PATH),
        ]
        _enter_namespace(options, plan["user"])
        child = os.fork()
        if child == 0:
            _run_as_first(plan, *programs)
        _close_all()
        _, status = os.waitpid(child, 0)
    except (UsernsExecError, OSError) as error:
        return _print_error(error)
    return _shell_status(status)


def _shell_status(status: int) -> int:
    """Converts a status of wait(2) to a shell's: 128 + n if signal n ended the process."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _read_plan(descriptor: int) -> MonitorPlan:
    with open(descriptor, "rb") as file:
        plan: MonitorPlan = json.load(file)
    return plan


def _print_error(error: Exception) -> int:
    text = f"{error.filename or 'this machine'}: {error.strerror}" if isinstance(error, OSError) else error
    print(text, file=sys.stderr, flush=True)
    return _FAILED


def _enter_namespace(options: userns_exec.Options, user: list[int]) -> None:
    namespace = options.userns if options.userns >= 0 else userns_exec.new_namespace(options)
    userns_exec.arrange_mounts(options)
    syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
    os.close(namespace)
    if user:
        _set_ids(*user)
    syscalls.unshare(syscalls.CLONE_NEWPID)


def _set_ids(uid: int, gid: int) -> None:
    """Takes ids of the user namespace and keeps all capabilities over it."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _run_as_first(plan: MonitorPlan, runtime: int, init: int) -> None:
    """Runs as the first process of the PID namespace; never returns."""
    status = _FAILED
    try:
        status = _run(plan, runtime, init)
    except (UsernsExecError, OSError) as error:
        _print_error(error)
    finally:
        os._exit(status)


def _run(plan: MonitorPlan, runtime: int, init: int) -> int:
    root = _make_tree(plan["mounts"])
    if os.geteuid() != 0:  # with a single id it is 0 already, and setgroups(2) is denied
        _set_ids(0, 0)
    syscalls.die_with_parent()
    syscalls.restrict_abstract_sockets()  # see `bubblewrap`
    os.mkdir(_BUNDLE)
    with open(f"{_BUNDLE}/config.json", "w") as file:
        json.dump(plan["config"], file)
    ours, theirs = (None, plan["channel"]) if plan["channel"] >= 0 else _socket_pair()
    given = [theirs, init]
    _start(plan["runtime"], runtime, given, plan["control"])
    for descriptor in {runtime, *given} - {0, 1, 2}:
        os.close(descriptor)
    with open(_PID) as file:
        pid = int(file.read())
    first = os.pidfd_open(pid)
    if ours is None:
        _report(plan["control"], root, first)
    else:
        return _run_order(ours, plan["order"])
    return _wait(pid, first, plan["control"])


def _run_order(channel: socket.socket, asked: Order) -> int:
    """Asks init to run a command with this process's stdin, stdout and stderr; returns its status."""
    file = os.memfd_create("order")
    os.write(file, encode(asked, seccomp.make_filter()))
    socket.send_fds(channel, [encode_request(START, 0)], [file, 0, 1, 2])
    while data := channel.recv(SIZE):
        answer = decode(data)
        if answer["kind"] == REFUSED:
            print(f"{asked['executable']}: {os.strerror(answer['reason'])}", file=sys.stderr, flush=True)
        if answer["kind"] == ENDED:
            return answer["value"]
    return _FAILED


def _make_tree(mounts: list[MountSpec]) -> int:
    """Makes the mounts; returns a descriptor of the sandbox's root."""
    syscalls.unshare(syscalls.CLONE_NEWNS)  # a mount namespace of this process alone
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
    prepared = PreparedMounts(mounts)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("tmpfs", _COVERED, "tmpfs", flags, "mode=0755")
    os.mkdir(ROOT)
    root = prepared.make(ROOT)
    syscalls.mount("proc", "/proc", "proc", flags | syscalls.MS_NOEXEC)
    _hide_control_groups()
    return root


def _hide_control_groups() -> None:
    """Keeps the runtime from making control groups, which would be left behind when it is killed."""
    with suppress(OSError):  # nothing is mounted there
        syscalls.restrict_mount(syscalls.AT_FDCWD, syscalls.MOUNT_ATTR_RDONLY, _CGROUPS)
    with suppress(OSError):
        # Where version 2 is mounted beside version 1, crun refuses to work.
        syscalls.mount("tmpfs", f"{_CGROUPS}/unified", "tmpfs", syscalls.MS_RDONLY)


def _socket_pair() -> tuple[socket.socket, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours, theirs.detach()


def _start(words: list[str], program: int, given: list[int], control: int) -> None:
    """Runs the runtime, which ends when it has executed the sandbox's first process."""
    name, *options = words
    line = [os.path.basename(name), "--root", _STATE, *options, "run", "--detach", "--no-new-keyring"]
    line += ["--preserve-fds", str(len(given)), "--bundle", _BUNDLE, "--pid-file", _PID, "step"]
    pid = os.fork()
    if pid == 0:
        try:
            _execute(line, program, given)
        except OSError as error:
            os._exit(_print_error(error))
    child = os.pidfd_open(pid)
    _watch(child, control)
    os.close(child)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        os._exit(_FAILED)  # the runtime has printed why


def _execute(line: list[str], program: int, given: list[int]) -> None:
    """Executes the runtime, which passes on the descriptors from 3 on. All its output goes to stderr."""
    above = 3 + len(given)
    # First move all descriptors out of the range of the numbers that they will have.
    program, *given = (fcntl.fcntl(descriptor, fcntl.F_DUPFD, above) for descriptor in (program, *given))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for number, descriptor in enumerate(given):
        os.dup2(descriptor, 3 + number)
    _close_all({program, *range(above)})
    syscalls.restore_signals()
    os.execve(f"/proc/self/fd/{program}", line, {})


def _close_all(kept: Collection[int] = (0, 1, 2)) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with suppress(OSError):  # the directory that is listed
                os.close(int(name))


def _report(control: int, root: int, first: int) -> None:
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    with socket.socket(fileno=os.dup(control)) as channel:
        socket.send_fds(channel, [b"\0"], [root, mounts, first])
    os.close(mounts)
    os.close(root)


def _wait(pid: int, first: int, control: int) -> int:
    """Waits for the sandbox's first process; returns its status."""
    _watch(first, control)
    while True:
        ended, status = os.wait()
        if ended == pid:
            return _shell_status(status)


def _watch(process: int, control: int) -> None:
    """Waits until a process has ended; ends this one, and so the sandbox, when `control` closes."""
    waiting = select.poll()
    waiting.register(process, select.POLLIN)
    if control >= 0:
        waiting.register(control, 0)  # POLLHUP
    while True:
        ready = {descriptor for descriptor, _ in waiting.poll()}
        if control in ready:
            os._exit(128 + signal.SIGKILL)
        if process in ready:
            return
