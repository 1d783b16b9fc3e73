"""A step as bubblewrap's options, without any descriptor; called by `bubblewrap`. Nothing is opened or made.

The same options start the step and stand in the line with which a user repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from packhorse.base.step import Bind, Command, Mount, Network, SandboxSpec
from packhorse.errors import SandboxError
from packhorse.sandbox.confinement import CAPABILITIES, MASKED_FILES, READ_ONLY
from packhorse.sandbox.layout import Layout

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
