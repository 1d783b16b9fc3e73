"""The networks a step can have, and `pasta`, which gives it one of its own; for `runner` and `platform`.

With the host's network a step reaches what listens on the host's loopback (databases, agents). With its own
it has the host's routes and name service through pasta, and nothing else: `launcher/network` keeps packets
to loopback addresses from pasta, which would connect to the host's. Choosing is `platform`'s; saying so,
`cli`'s.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path

from packhorse.base import native
from packhorse.base.dataclass import dataclass, replace
from packhorse.base.step import Bind, Network, Port, Step
from packhorse.errors import InputError, SandboxError
from packhorse.sandbox.process import Leash

NAME_SERVER = "169.254.1.1"
"""Where name service is in a network of its own: pasta hands what is sent there to the host's resolver."""

_WITHOUT = "Use --network host, or none."
TUN = Path("/dev/net/tun")
_LOWEST_PORT = 1024  # that anybody may listen at
_USER_NAMESPACE = 0xB701  # NS_GET_USERNS (ioctl_nsfs(2))
_OWNER = 0xB704  # NS_GET_OWNER_UID
_RESOLV_CONF = "/etc/resolv.conf"


def available() -> tuple[Network, str]:
    """The best network on this machine, and why it is not an own one (empty when it is)."""
    if shutil.which("pasta") is None:
        return Network.HOST, "pasta is not installed (package passt)"
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Network.HOST, f"{TUN} cannot be used: {error.strerror}"
    return Network.OWN, ""


def check_ports(step: Step) -> None:
    """Raises InputError when the step's ports cannot be published on its network."""
    if not step.ports or step.network is Network.OWN:
        return
    if step.network is Network.NONE:
        raise InputError("a step without a network publishes no ports", fix="Leave out -p or --network none.")
    _, reason = available()
    lowest = _lowest_port()
    low = [port.port for port in step.ports if port.port < lowest]
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
    moved = [port for port in step.ports if port.host_port != port.port or port.address]
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


def name_service(resolv_conf: str) -> str:
    """The resolv.conf for a network of its own: the host's search list and options, and pasta's server."""
    kept = [
        line for line in resolv_conf.splitlines() if line.split()[:1] in (["search"], ["options"], ["domain"])
    ]
    return "\n".join([f"nameserver {NAME_SERVER}", *kept]) + "\n"


def with_name_service(step: Step, path: Path) -> Step:
    """The step, with a resolv.conf, the new file `path`, that serves in a network of its own."""
    if step.network is not Network.OWN:
        return step
    given = [mount for mount in step.mounts if isinstance(mount, Bind) and mount.target == _RESOLV_CONF]
    text = ""
    with suppress(OSError):  # a machine without any, or a link to a resolver's that does not run
        text = (given[0].source if given else Path(_RESOLV_CONF)).read_text(errors="replace")
    path.write_text(name_service(text))
    path.chmod(0o644)
    others = [mount for mount in step.mounts if mount not in given]
    return replace(step, mounts=(*others, Bind(path, _RESOLV_CONF)))


@dataclass(frozen=True, slots=True)
class Ends:
    """The descriptors that pasta is given: the step's namespaces, and one to write to when it is ready.

    The namespaces are given as descriptors since pasta has too few privileges left to open those of a
    process.
    """

    user: int
    network: int
    ready: int


def arguments(ends: Ends, *, ports: Sequence[Port], loopback: Sequence[int], user: str = "") -> list[str]:
    """The options of pasta; `loopback` are ports of the host's loopback that the step finds at its own.

    `user` is whom root's pasta becomes.
    """
    tcp = [_forward(port) for port in ports if port.protocol == "tcp"]
    udp = [_forward(port) for port in ports if port.protocol == "udp"]
    line = ["--foreground", "--quiet", "--config-net", "--no-map-gw", "--dns-forward", NAME_SERVER]
    if user:
        line += ["--runas", user]
    for option, values in (("-t", tcp), ("-u", udp), ("-T", [str(port) for port in loopback]), ("-U", [])):
        for value in values or ["none"]:
            line += [option, value]
    for option, descriptor in (("--userns", ends.user), ("--netns", ends.network), ("--pid", ends.ready)):
        line += [option, f"/proc/self/fd/{descriptor}"]
    return [*line, "--no-netns-quit"]


def _forward(port: Port) -> str:
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
                "the step's own network cannot be made", why=available()[1], fix=_WITHOUT, check="network"
            )
        with ExitStack() as theirs, ExitStack() as own:
            net = theirs.enter_context(FileIO(f"/proc/{pid}/ns/net")).fileno()
            # The namespace that owns the network: the process itself may be in one below that by now.
            user = theirs.enter_context(FileIO(fcntl.ioctl(net, _USER_NAMESPACE))).fileno()
            configured, ready = _pipe(theirs)
            told, done = os.pipe()
            self._told = own.enter_context(open(told, "rb"))  # noqa: PTH123 -- a descriptor
            theirs.callback(os.close, done)
            become = _owner(user, ready, ports) if os.geteuid() == 0 else ""
            words = arguments(Ends(user, net, ready), ports=ports, loopback=loopback, user=become)
            self._said = own.enter_context(FileIO(os.memfd_create("said", os.MFD_CLOEXEC), "r+"))
            self._leash = Leash(["run", program, *words], pass_fds=(user, net, ready), stderr=self._said)
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
                "the step's own network cannot be made", why=self._words(), fix=_WITHOUT, check="network"
            )

    def let_go(self) -> None:
        """Has pasta end, which takes the kernel a while; `close` waits for it. A second time does nothing."""
        self._leash.let_go()

    def close(self) -> None:
        """Ends pasta."""
        self._own.close()
        self._guard.wait()

    def _words(self) -> str:
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
            [str(native.program("network")), *map(str, (user, net, configured, done))],
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


def _owner(namespace: int, ready: int, ports: Sequence[Port]) -> str:
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
