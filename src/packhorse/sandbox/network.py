"""Gives a sandbox its own network with `pasta`, and finds the ports on which a sandbox listens.

On the host's network, a sandbox reaches what listens on the host's loopback (databases, agents). On its own,
pasta gives it the host's routes and name service and nothing else: `launcher/network` keeps packets to
loopback addresses from pasta, which would deliver them to the host's loopback. The caller chooses the
network, and the command line tells the user which.

The kernel lists the listening TCP ports of each network. On the host's network that list is the whole
machine's, so the sandbox's sockets are found by the open descriptors of its processes.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.installation import find_program
from packhorse.base.sandbox import Bind, Network, Port, SandboxSpec
from packhorse.errors import InputError, SandboxError
from packhorse.linux.processes import read_proc
from packhorse.sandbox.process import ParentDeathGuard

_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_LOOPBACK_6 = "00000000000000000000000001000000"
_MAPPED = "0000000000000000FFFF0000"  # the beginning of an IPv6 address that stands for an IPv4 address


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A TCP port on which a process listens; `loopback` means that it listens on loopback only."""

    port: int
    loopback: bool


def find_listeners(pid: int, *, own_network: bool) -> frozenset[Listener]:
    """Returns the ports on which the sandbox with the first process `pid` listens; none after its end.

    A port with listeners on loopback and elsewhere is not `loopback`.
    """
    found: dict[int, bool] = {}
    inodes = None if own_network else frozenset(_open_sockets(pid))
    for port, loopback, inode in _listening_sockets(pid):
        if inodes is None or inode in inodes:
            found[port] = loopback and found.get(port, True)
    return frozenset(Listener(port, loopback) for port, loopback in found.items())


def _listening_sockets(pid: int) -> Iterator[tuple[int, bool, str]]:
    """Yields the port, whether it is on loopback, and the inode of each listening socket in a network."""
    for name in ("net/tcp", "net/tcp6"):
        with suppress(OSError):  # the process is gone, or the kernel has no IPv6
            for line in read_proc(name, pid).splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN:
                    address, _, port = fields[1].partition(":")
                    yield int(port, 16), _is_loopback(address), fields[9]


def _is_loopback(address: str) -> bool:
    """Returns whether an address of /proc/net/tcp is loopback. Every 32 bits of it are in host byte order."""
    return address == _LOOPBACK_6 or (
        address.removeprefix(_MAPPED)[6:] == "7F" and len(address.removeprefix(_MAPPED)) == 8
    )


def _open_sockets(pid: int) -> Iterator[str]:
    """Yields the inodes of all sockets that a process and its descendants have open."""
    for process in _process_tree(pid):
        with suppress(OSError):  # it has ended
            for descriptor in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor))  # noqa: PTH115
                    if found:
                        yield found[1]


def _process_tree(pid: int) -> Iterator[int]:
    """Yields a process and its descendants; orphans become children of the namespace's first process."""
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        yield process
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208
                with suppress(OSError):
                    waiting += map(int, read_proc(f"task/{thread}/children", process).split())


NAME_SERVER = "169.254.1.1"
"""The name server in a sandbox's own network. pasta forwards its queries to the host's resolver."""

_WITHOUT = "Use --network host, or none."
TUN = Path("/dev/net/tun")
_LOWEST_PORT = 1024  # the lowest port for ordinary users, by default
_USER_NAMESPACE = 0xB701  # NS_GET_USERNS (ioctl_nsfs(2))
_OWNER = 0xB704  # NS_GET_OWNER_UID
_RESOLV_CONF = "/etc/resolv.conf"


def find_network() -> tuple[Network, str]:
    """Returns the best network that this machine offers, and why it is not `OWN` (empty if it is)."""
    if shutil.which("pasta") is None:
        return Network.HOST, "pasta is not installed (package passt)"
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Network.HOST, f"{TUN} cannot be used: {error.strerror}"
    return Network.OWN, ""


def check_ports(spec: SandboxSpec) -> None:
    """Raises InputError if the sandbox's ports cannot be published on its network."""
    if not spec.ports or spec.network is Network.OWN:
        return
    if spec.network is Network.NONE:
        raise InputError(
            "an image without a network cannot publish ports", fix="Leave out -p or --network none."
        )
    _, reason = find_network()
    lowest = _lowest_port()
    low = [port.port for port in spec.ports if port.port < lowest]
    if low:
        raise InputError(
            f"the image cannot listen on port {low[0]} of the host's network",
            why=f"only the machine's root can use ports below {lowest} there; the image's root cannot",
            fix=f"Have it listen on another one ({lowest} or above)"
            + (
                f". In its own network it could, but this machine cannot make one: {reason}."
                if reason
                else ""
            )
            + ("" if reason else ", or leave out --network: in its own network the image can."),
        )
    moved = [port for port in spec.ports if port.host_port != port.port or port.address]
    if moved:
        raise InputError(
            "on the host's network, a port has the same number outside and inside",
            issues=[f"{port.address or '*'}:{port.host_port} is not {port.port} inside" for port in moved],
            fix=f"Use the same number outside and inside. The image cannot have its own network: {reason}."
            if reason
            else "Use the same number outside and inside, or leave out --network.",
        )


def _lowest_port() -> int:
    """Returns the lowest port of this machine on which processes without capabilities may listen."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return _LOWEST_PORT


def make_resolv_conf(resolv_conf: str) -> str:
    """Makes the resolv.conf of an own network: the host's search list and options, and NAME_SERVER."""
    kept = [
        line for line in resolv_conf.splitlines() if line.split()[:1] in (["search"], ["options"], ["domain"])
    ]
    return "\n".join([f"nameserver {NAME_SERVER}", *kept]) + "\n"


def with_name_service(spec: SandboxSpec, path: Path) -> SandboxSpec:
    """Adds a resolv.conf for pasta's name server, the new file `path`, to a sandbox with its own network."""
    if spec.network is not Network.OWN:
        return spec
    replaced = [mount for mount in spec.mounts if isinstance(mount, Bind) and mount.target == _RESOLV_CONF]
    text = ""
    with suppress(OSError):  # the machine has none, or a link to a file that no resolver has made
        text = (replaced[0].source if replaced else Path(_RESOLV_CONF)).read_text(errors="replace")
    path.write_text(make_resolv_conf(text))
    path.chmod(0o644)
    others = [mount for mount in spec.mounts if mount not in replaced]
    return replace(spec, mounts=(*others, Bind(path, _RESOLV_CONF)))


@dataclass(frozen=True, slots=True)
class PastaDescriptors:
    """Descriptors for pasta: the sandbox's user and network namespaces, and a pipe to write to when ready.

    pasta itself no longer has the rights to open the namespaces of a process.
    """

    user: int
    network: int
    ready: int


def pasta_options(
    ends: PastaDescriptors, *, ports: Sequence[Port], loopback: Sequence[int], user: str = ""
) -> list[str]:
    """Returns pasta's options. `ports` are published; `loopback` are ports of the host's loopback that the
    sandbox finds at its own. `user` is the user that a pasta of root becomes.
    """
    tcp = [_forward_option(port) for port in ports if port.protocol == "tcp"]
    udp = [_forward_option(port) for port in ports if port.protocol == "udp"]
    line = ["--foreground", "--quiet", "--config-net", "--no-map-gw", "--dns-forward", NAME_SERVER]
    if user:
        line += ["--runas", user]
    for option, values in (("-t", tcp), ("-u", udp), ("-T", [str(port) for port in loopback]), ("-U", [])):
        for value in values or ["none"]:
            line += [option, value]
    for option, descriptor in (("--userns", ends.user), ("--netns", ends.network), ("--pid", ends.ready)):
        line += [option, f"/proc/self/fd/{descriptor}"]
    return [*line, "--no-netns-quit"]


def _forward_option(port: Port) -> str:
    address = f"{port.address}/" if port.address else ""
    return f"{address}{port.host_port}:{port.port}"


class Pasta:
    """A running pasta, and `launcher/network`, which guards its network.

    Both end with `close`, and with this process, however that ends. Raises SandboxError if pasta is missing,
    FileNotFoundError and ProcessLookupError if the process `pid` has ended.
    """

    def __init__(self, pid: int, *, ports: Sequence[Port], loopback: Sequence[int]) -> None:
        program = shutil.which("pasta")
        if program is None:
            raise SandboxError(
                "the sandbox's network cannot be made", why=find_network()[1], fix=_WITHOUT, check="network"
            )
        with ExitStack() as theirs, ExitStack() as own:
            net = theirs.enter_context(FileIO(f"/proc/{pid}/ns/net")).fileno()
            # The user namespace that owns the network; the process itself may be in one below it by now.
            user = theirs.enter_context(FileIO(fcntl.ioctl(net, _USER_NAMESPACE))).fileno()
            configured, ready = _pipe(theirs)
            told, done = os.pipe()
            self._told = own.enter_context(open(told, "rb"))  # noqa: PTH123 -- a descriptor
            theirs.callback(os.close, done)
            become = _choose_owner(user, ready, ports) if os.geteuid() == 0 else ""
            words = pasta_options(
                PastaDescriptors(user, net, ready), ports=ports, loopback=loopback, user=become
            )
            self._said = own.enter_context(FileIO(os.memfd_create("said", os.MFD_CLOEXEC), "r+"))
            self._leash = ParentDeathGuard(
                ["run", program, *words], pass_fds=(user, net, ready), stderr=self._said
            )
            own.callback(self._leash.close)
            self._guard = _start_guard(user, net, configured, done, stderr=self._said)
            self._own = own.pop_all()
        self._ready = False

    def wait(self) -> None:
        """Waits until the sandbox has its network; raises SandboxError if it cannot be made.

        A second call does nothing.
        """
        self._ready = self._ready or bool(self._told.readline())
        if not self._ready:
            self._leash.close()
            self._guard.wait()
            raise SandboxError(
                "the sandbox's network cannot be made", why=self._read_error(), fix=_WITHOUT, check="network"
            )

    def terminate(self) -> None:
        """Ends pasta without waiting, which takes a while; `close` waits. A second call does nothing."""
        self._leash.terminate()

    def close(self) -> None:
        """Ends pasta and waits for it."""
        self._own.close()
        self._guard.wait()

    def _read_error(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip()


def _pipe(stack: ExitStack) -> tuple[int, int]:
    """Makes a pipe; `stack` closes both ends."""
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


def _start_guard(
    user: int, net: int, configured: int, done: int, *, stderr: FileIO
) -> subprocess.Popen[bytes]:
    """Starts `launcher/network`: it opens low ports, waits for pasta, and then keeps loopback packets inside.

    pasta writes to the pipe `configured` when it is ready, and this program then writes to `done`. It ends by
    itself, at the latest when pasta ends.
    """
    try:
        return subprocess.Popen(
            [str(find_program("network")), *map(str, (user, net, configured, done))],
            pass_fds=(user, net, configured, done),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            process_group=0,  # so that Ctrl-C does not reach it
            env={},
        )
    except OSError as error:
        raise SandboxError(
            "the sandbox's network cannot be made", why=f"{error.filename}: {error.strerror}", fix=_WITHOUT
        ) from error


def _is_open_to_all(path: Path) -> bool:
    """Returns whether all users may read and write a file. False if it is missing; pasta reports that."""
    try:
        return path.stat().st_mode & 0o006 == 0o006
    except FileNotFoundError:
        return False


def _choose_owner(namespace: int, ready: int, ports: Sequence[Port]) -> str:
    """Returns the user that root's pasta becomes: the owner of the sandbox's namespace, or root if need be.

    pasta handles all that a sandbox sends, so it should have no rights on this machine. The namespace lets in
    only its owner and root. pasta stays root if the owner is root, for low ports, and if only root can use
    /dev/net/tun (on most machines all users can).
    """
    (owner,) = struct.unpack("I", fcntl.ioctl(namespace, _OWNER, bytes(4)))
    low = any(port.host_port < _LOWEST_PORT for port in ports)
    if owner == 0 or low or not _is_open_to_all(TUN):
        return "0"
    os.fchown(ready, owner, -1)  # pasta opens the pipe by its name in /proc
    return f"{owner}:{owner}"
