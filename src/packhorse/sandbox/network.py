"""Gives a sandbox its network, by `pasta` if it has one of its own, and finds the ports it listens on.

On the host's network a sandbox reaches what listens on the host's loopback (databases, agents). With its own,
pasta gives it the host's routes and name service and nothing else: `launcher/network` keeps packets to
loopback addresses from pasta, which would connect to the host's. The caller chooses the network; cli reports
it.

The kernel lists the listening TCP ports. A network of its own has its own table of sockets. On the host's
network the table is the machine's, and the sandbox's sockets are found by the descriptors of its processes.
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

_LISTEN = "0A"  # TCP_LISTEN, as proc_net_tcp.txt of the kernel writes it
_LOOPBACK_6 = "00000000000000000000000001000000"
_MAPPED = "0000000000000000FFFF0000"  # how an IPv6 address begins that stands for one of IPv4


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A TCP port on which somebody listens; with `loopback` only what is on loopback can connect to it."""

    port: int
    loopback: bool


def find_listeners(pid: int, *, own_network: bool) -> frozenset[Listener]:
    """The ports on which the step with the first process `pid` listens; none when it is gone.

    A port on which it listens on loopback and elsewhere is not `loopback`.
    """
    found: dict[int, bool] = {}
    inodes = None if own_network else frozenset(_open_sockets(pid))
    for port, loopback, inode in _listening_sockets(pid):
        if inodes is None or inode in inodes:
            found[port] = loopback and found.get(port, True)
    return frozenset(Listener(port, loopback) for port, loopback in found.items())


def _listening_sockets(pid: int) -> Iterator[tuple[int, bool, str]]:
    """Port, whether it is on loopback alone, and inode of each listening socket of a network namespace."""
    for name in ("net/tcp", "net/tcp6"):
        with suppress(OSError):  # the process is gone, or the kernel has no IPv6
            for line in read_proc(name, pid).splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN:
                    address, _, port = fields[1].partition(":")
                    yield int(port, 16), _is_loopback(address), fields[9]


def _is_loopback(address: str) -> bool:
    """Whether a hexadecimal address is one of loopback; each 32 bits of it are in this machine's order."""
    return address == _LOOPBACK_6 or (
        address.removeprefix(_MAPPED)[6:] == "7F" and len(address.removeprefix(_MAPPED)) == 8
    )


def _open_sockets(pid: int) -> Iterator[str]:
    """The inodes of all sockets that a process and those below it have open."""
    for process in _process_tree(pid):
        with suppress(OSError):  # it is gone meanwhile
            for descriptor in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor))  # noqa: PTH115
                    if found:
                        yield found[1]


def _process_tree(pid: int) -> Iterator[int]:
    """A process and all below it. Orphans of a PID namespace become children of its first process."""
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        yield process
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208
                with suppress(OSError):
                    waiting += map(int, read_proc(f"task/{thread}/children", process).split())


NAME_SERVER = "169.254.1.1"
"""Where name service is in a network of its own: pasta hands what is sent there to the host's resolver."""

_WITHOUT = "Use --network host, or none."
TUN = Path("/dev/net/tun")
_LOWEST_PORT = 1024  # that anybody may listen at
_USER_NAMESPACE = 0xB701  # NS_GET_USERNS (ioctl_nsfs(2))
_OWNER = 0xB704  # NS_GET_OWNER_UID
_RESOLV_CONF = "/etc/resolv.conf"


def find_network() -> tuple[Network, str]:
    """The best network on this machine, and why it is not an own one (empty when it is)."""
    if shutil.which("pasta") is None:
        return Network.HOST, "pasta is not installed (package passt)"
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Network.HOST, f"{TUN} cannot be used: {error.strerror}"
    return Network.OWN, ""


def check_ports(spec: SandboxSpec) -> None:
    """Raises InputError when the step's ports cannot be published on its network."""
    if not spec.ports or spec.network is Network.OWN:
        return
    if spec.network is Network.NONE:
        raise InputError("a step without a network publishes no ports", fix="Leave out -p or --network none.")
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
            "ports cannot be moved on the host's network",
            issues=[f"{port.address or '*'}:{port.host_port} is not {port.port} inside" for port in moved],
            fix=f"Use the same number outside and inside. The image cannot have its own network: {reason}."
            if reason
            else "Use the same number outside and inside, or leave out --network.",
        )


def _lowest_port() -> int:
    """The lowest port of this machine on which processes without capabilities listen."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return _LOWEST_PORT


def make_resolv_conf(resolv_conf: str) -> str:
    """The resolv.conf for a network of its own: the host's search list and options, and pasta's server."""
    kept = [
        line for line in resolv_conf.splitlines() if line.split()[:1] in (["search"], ["options"], ["domain"])
    ]
    return "\n".join([f"nameserver {NAME_SERVER}", *kept]) + "\n"


def with_name_service(spec: SandboxSpec, path: Path) -> SandboxSpec:
    """The step, with a resolv.conf, the new file `path`, that serves in a network of its own."""
    if spec.network is not Network.OWN:
        return spec
    given = [mount for mount in spec.mounts if isinstance(mount, Bind) and mount.target == _RESOLV_CONF]
    text = ""
    with suppress(OSError):  # a machine without any, or a link to a resolver's that does not run
        text = (given[0].source if given else Path(_RESOLV_CONF)).read_text(errors="replace")
    path.write_text(make_resolv_conf(text))
    path.chmod(0o644)
    others = [mount for mount in spec.mounts if mount not in given]
    return replace(spec, mounts=(*others, Bind(path, _RESOLV_CONF)))


@dataclass(frozen=True, slots=True)
class PastaDescriptors:
    """The descriptors that pasta is given: the step's namespaces, and one to write to when it is ready.

    The namespaces are given as descriptors since pasta has too few privileges left to open those of a
    process.
    """

    user: int
    network: int
    ready: int


def pasta_options(
    ends: PastaDescriptors, *, ports: Sequence[Port], loopback: Sequence[int], user: str = ""
) -> list[str]:
    """The options of pasta; `loopback` are ports of the host's loopback that the step finds at its own.

    `user` is whom root's pasta becomes.
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
    """A started pasta, and the program that guards its network.

    Both end with `close`, and with this process however that ends.

    SandboxError when there is no such program, FileNotFoundError and ProcessLookupError when `pid` is gone.
    """

    def __init__(self, pid: int, *, ports: Sequence[Port], loopback: Sequence[int]) -> None:
        program = shutil.which("pasta")
        if program is None:
            raise SandboxError(
                "the step's own network cannot be made", why=find_network()[1], fix=_WITHOUT, check="network"
            )
        with ExitStack() as theirs, ExitStack() as own:
            net = theirs.enter_context(FileIO(f"/proc/{pid}/ns/net")).fileno()
            # The namespace that owns the network: the process itself may be in one below that by now.
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
        """Returns when the step has its network; raises SandboxError when it cannot be made.

        To wait once more does nothing.
        """
        self._ready = self._ready or bool(self._told.readline())
        if not self._ready:
            self._leash.close()
            self._guard.wait()
            raise SandboxError(
                "the step's own network cannot be made", why=self._read_error(), fix=_WITHOUT, check="network"
            )

    def terminate(self) -> None:
        """Has pasta end, which takes the kernel a while; `close` waits for it. A second time does nothing."""
        self._leash.terminate()

    def close(self) -> None:
        """Ends pasta."""
        self._own.close()
        self._guard.wait()

    def _read_error(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip()


def _pipe(stack: ExitStack) -> tuple[int, int]:
    """A pipe, both ends of which are closed with `stack`."""
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


def _start_guard(
    user: int, net: int, configured: int, done: int, *, stderr: FileIO
) -> subprocess.Popen[bytes]:
    """Starts `launcher/network`, which opens low ports, waits for pasta, and then keeps loopback addresses
    inside.

    `configured` is where pasta says that it is ready, `done` where the program says it. It ends by itself,
    and when pasta does.
    """
    try:
        return subprocess.Popen(
            [str(find_program("network")), *map(str, (user, net, configured, done))],
            pass_fds=(user, net, configured, done),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            process_group=0,  # Ctrl-C is not for it
            env={},
        )
    except OSError as error:
        raise SandboxError(
            "the step's own network cannot be made", why=f"{error.filename}: {error.strerror}", fix=_WITHOUT
        ) from error


def _is_open_to_all(path: Path) -> bool:
    """Whether everybody may read and write a file; false where there is none, as pasta will say."""
    try:
        return path.stat().st_mode & 0o006 == 0o006
    except FileNotFoundError:
        return False


def _choose_owner(namespace: int, ready: int, ports: Sequence[Port]) -> str:
    """Whom root's pasta is to be, which handles all that a step sends: nobody to this machine, if it can.

    That is the owner of the step's namespace, whom alone beside root it lets in. It has to be root where the
    owner is, for low ports, and where /dev/net/tun is root's alone (it is open to all on most machines).
    """
    (owner,) = struct.unpack("I", fcntl.ioctl(namespace, _OWNER, bytes(4)))
    low = any(port.host_port < _LOWEST_PORT for port in ports)
    if owner == 0 or low or not _is_open_to_all(TUN):
        return "0"
    os.fchown(ready, owner, -1)  # which pasta opens by its name in /proc
    return f"{owner}:{owner}"
