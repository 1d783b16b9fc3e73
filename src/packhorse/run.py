"""Starts an image in a sandbox, as `docker run` does, and says on which port it listens. Called by `cli.run`.

The sandbox has the image's files below a writable overlay, which is removed when the image ends. An
application that ignores PORT leaves the published port without a listener, and a browser then only shows a
reset connection. So packhorse says where the image really listens.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.installation import find_program
from packhorse.base.sandbox import Bind, Limits, Network, Port, Root, Sandbox, SandboxSpec
from packhorse.base.target import Target
from packhorse.errors import PackhorseError, RunError
from packhorse.host.locate import PullPolicy, fetch_image
from packhorse.host.machine import BUNDLE, Account, choose_network, find_account, network
from packhorse.host.registries import RegistryOptions
from packhorse.host.wiring import Wiring, cgroups_directory, check_runtime, make_runner
from packhorse.linux import userns
from packhorse.linux.userns import MapMode
from packhorse.oci.types import Config
from packhorse.sandbox import cgroup
from packhorse.sandbox.network import Listener
from packhorse.sandbox.runner import TeardownQueue
from packhorse.store.store import Store

WEB = "web"
"""The process type that serves HTTP, by convention on the port in PORT."""

_FIRST, _GROWTH, _LONGEST = 0.1, 1.3, 2.0
"""Seconds until packhorse first looks for listeners, the growth of each pause, and the longest pause."""

_GRACE = 2.0
"""Seconds that an image may take for its other ports after the first, which may be a debugger's."""

_TIMEOUT = 60.0
"""Seconds after which packhorse stops looking."""

_LOW, _LOW_AT = 1024, 8000
"""On most machines only root can listen on a port below _LOW; every user can on that port plus _LOW_AT."""


_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_KILL_AFTER = 3
"""The SIGINT that kills the image, as with docker: packhorse only forwards those before it."""

_V1_UNLIMITED = (1 << 63) - (1 << 12)
"""What version 1 of control groups writes for no limit: the largest number that is a multiple of a page."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What `announce_ports` needs to know of a command: the image, its published ports and its network.

    `web` says that the command starts the process type `web`, and `options` that it has other options than
    ports.
    """

    name: str
    ports: tuple[Port, ...]
    network: Network
    web: bool
    options: bool = False

    @property
    def wanted_ports(self) -> frozenset[int]:
        """The TCP ports on which the image has to listen."""
        return frozenset(port.port for port in self.ports if port.protocol == "tcp")


def is_web(argv: Sequence[str]) -> bool:
    """Whether a command starts the process type `web` of an image that buildpacks made."""
    return argv[:1] in (("web",), ("/cnb/process/web",))


@contextmanager
def announce_ports(
    publication: Publication, find_listeners: Callable[[], Collection[Listener]], tell: Callable[[str], None]
) -> Iterator[None]:
    """While the block runs, prints one line that says where the image listens, or that it does not.

    Stops looking after that line, or after `_TIMEOUT`.
    """
    if publication.network is Network.NONE or not (publication.wanted_ports or publication.web):
        yield
        return
    over = threading.Event()

    def watch() -> None:
        try:
            line = _wait_for_line(publication, find_listeners, over)
            if line:
                tell(line)
        except (PackhorseError, SystemExit):
            return  # stderr is closed; the image goes on without this line

    thread = threading.Thread(target=watch, name="listening", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _wait_for_line(
    publication: Publication, find_listeners: Callable[[], Collection[Listener]], over: threading.Event
) -> str:
    """Waits until the line is known, and returns it; "" if the image ends before or has nothing to say."""
    began = time.monotonic()
    listening_since = 0.0
    pause = _FIRST
    while not over.wait(pause):
        found, now = find_listeners(), time.monotonic()
        ports = {listener.port for listener in found}
        if found and publication.wanted_ports <= ports:
            return _describe_reachable(publication, found)
        listening_since = listening_since or (now if found else 0.0)
        if listening_since and now - listening_since >= _GRACE:
            return _describe_missing(publication, found)
        if now - began >= _TIMEOUT:
            return _describe_missing(publication, found) if publication.wanted_ports else ""
        pause = min(pause * _GROWTH, _LONGEST)
    return ""


def _describe_reachable(publication: Publication, found: Collection[Listener]) -> str:
    """Returns the line for an image that listens on every published port, or publishes none."""
    if publication.network is Network.HOST:
        ports = [Port(number, number) for number in sorted(publication.wanted_ports) or _numbers(found)]
    elif publication.wanted_ports:
        ports = [port for port in publication.ports if port.protocol == "tcp"]
    else:
        return _describe_missing(publication, found)
    return _describe_addresses(publication, ports, found)


def _describe_addresses(publication: Publication, ports: Sequence[Port], found: Collection[Listener]) -> str:
    """Says at which addresses this machine reaches the ports."""
    return "; ".join(
        f"port {port.port} of the image is at {_address(publication, port)}" for port in ports
    ) + _loopback_warning(found, [port.port for port in ports])


def _describe_missing(publication: Publication, found: Collection[Listener]) -> str:
    """Returns the line for an image that does not listen on all published ports, or publishes none."""
    ports = _numbers(found)
    missing = sorted(publication.wanted_ports - set(ports))
    reached = [port for port in publication.ports if port.protocol == "tcp" and port.port in ports]
    text = f"{_describe_addresses(publication, reached, found)}; " if reached else ""
    text += f"nothing in the image listens on the published port {_join_numbers(missing)}"
    others = [port for port in ports if port not in publication.wanted_ports]
    if not others:
        return text
    listens = f"it listens on port {_join_numbers(others)}"
    if publication.network is Network.HOST:
        here = _address(publication, Port(others[0], others[0]))
        return f"{text}; {listens}, at {here}"
    asked = [port for port in publication.ports if port.port in missing]
    option = (
        f"-p {_host_part(asked)}{others[0]}" if asked else f"-p {_unprivileged_port(others[0])}:{others[0]}"
    )
    words = f"packhorse run {option} {'… ' if publication.options else ''}{publication.name}"
    if not missing:
        return f"{listens}, which is not published; to reach it: {words}"
    return f"{text}; {listens}: {words}"


def _unprivileged_port(port: int) -> int:
    """Suggests a port of this machine that every user can publish `port` at, for example 8080 for 80."""
    return port if port >= _LOW else port + _LOW_AT


def _numbers(found: Collection[Listener]) -> list[int]:
    """Lists the ports; those that listen only on loopback come last."""
    return [each.port for each in sorted(found, key=lambda each: (each.loopback, each.port))]


def _join_numbers(ports: Sequence[int]) -> str:
    return " and ".join(map(str, ports))


def _host_part(asked: Sequence[Port]) -> str:
    port = asked[0]
    address = f"[{port.address}]" if ":" in port.address else port.address
    return f"{address}:{port.host_port}:" if address else f"{port.host_port}:"


def _address(publication: Publication, port: Port) -> str:
    host = port.address if port.address not in ("", "0.0.0.0", "::") else "localhost"
    host = f"[{host}]" if ":" in host else host
    return f"{'http://' if publication.web else ''}{host}:{port.host_port}"


def _loopback_warning(found: Collection[Listener], ports: Collection[int]) -> str:
    """Returns what to add if the image listens only on loopback, else ""."""
    ports_on_loopback = [each.port for each in found if each.loopback and each.port in ports]
    return " (only from this machine: it listens on 127.0.0.1, not on 0.0.0.0)" if ports_on_loopback else ""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the user asks for, with the meanings of `docker run`.

    `entrypoint` None and `user` "" keep the image's own. `sandbox` is the name or path of an OCI runtime, or
    "" for bubblewrap.
    """

    name: str
    arguments: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[Bind, ...] = ()
    ports: tuple[Port, ...] = ()
    user: str = ""
    working_dir: str = ""
    interactive: bool = False
    terminal: bool = False
    network: Network | None = None
    sandbox: str = ""
    limits: Limits = field(default_factory=Limits)
    pull: PullPolicy = PullPolicy.IF_NOT_PRESENT
    docker_host: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    registry_options: RegistryOptions = field(default_factory=RegistryOptions)


def run(request: RunRequest, store: Store, say: Callable[[str], None], tell: Callable[[str], None]) -> int:
    """Starts the image and waits for it; returns its exit status (128 + n if signal n ended it).

    `say` prints a line before the image starts. `tell` prints one while it runs, from another thread. Raises
    RunError, CommandNotFound and NotExecutable if the image cannot be started.
    """
    if request.terminal and request.interactive and not sys.stdin.isatty():
        raise RunError(
            "the input device is not a TTY", why="-it needs a terminal as standard input", fix="leave out -t"
        )
    for port in request.ports:
        check_port(port)
    check_runtime(request.sandbox)
    wiring = Wiring(
        store,
        registry_options=request.registry_options,
        environ=request.environ,
        docker_host=request.docker_host,
    )
    image = fetch_image(wiring, request.name, target=Target.host(), say=say, pull=request.pull)
    config = image.config
    store.remove_leftovers()
    with TeardownQueue() as parting, store.scratch() as scratch:
        user = request.user or config.user
        # The account is in the image's /etc/passwd, which any map can read. But a tree for another map takes
        # time and space of its own, so the first map is that of the likely account.
        who = find_account(store.root(image, userns.choose_map(*_guess_ids(user))), user)
        idmap = userns.choose_map(who.uid, who.gid)
        if idmap.mode is MapMode.SINGLE and who.uid == 0:
            say("the image has no user but root, because this user has no subordinate ids (/etc/subuid)")
        with userns.make_namespace(idmap) as namespace:
            spec = _step(request, config, who, store.root(image, namespace.idmap), scratch)
            spec = _add_network(spec, request, say)
            terminal = find_program("terminal") if request.terminal else None
            own = _directory(scratch / "sandbox")
            runner = make_runner(
                namespace,
                own,
                runtime=request.sandbox,
                terminal=terminal,
                groups=cgroups_directory(store),
                parting=None if request.volumes else parting,
            )
            with _input(request), runner.open(spec) as room, _signals(room):
                if room.tree.stat(spec.cwd) is None:
                    raise RunError(
                        f"the image has no directory {spec.cwd} to start in",
                        fix="name another with --workdir",
                    )
                with announce_ports(_publication(request, spec), room.find_listeners, tell):
                    return room.run(None).status


def _guess_ids(user: str) -> tuple[int, int]:
    """The user and group ids that a config's User most likely has; its names are in the image."""
    numbers = re.fullmatch("([0-9]{1,10})(?::([0-9]{1,10}))?", user or "0")
    return (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (1000, 1000)


def _publication(request: RunRequest, spec: SandboxSpec) -> Publication:
    plain = RunRequest(name=request.name, ports=request.ports[:1])
    others = replace(
        request,
        network=None,
        pull=plain.pull,
        docker_host="",
        environ=plain.environ,
        registry_options=plain.registry_options,
    )
    return Publication(request.name, request.ports, spec.network, is_web(spec.argv), options=others != plain)


def _step(request: RunRequest, config: Config, account: Account, tree: Path, scratch: Path) -> SandboxSpec:
    argv = _argv(request, config)
    outside = network(request.environ)
    upper, work = _directory(scratch / "upper"), _directory(scratch / "work")
    if os.geteuid() == 0:
        # The kernel mounts an overlay read-only if its work directory's owner is no id of the namespace.
        top = tree.stat()
        for path in (upper, work):
            os.chown(path, top.st_uid, top.st_gid)
    return SandboxSpec(
        argv=argv,
        env=_environment(request, config, account, argv),
        cwd=request.working_dir or config.working_dir or "/",
        root=Root(tree, upper, work),
        mounts=(
            *(mount for mount in outside.mounts if mount.target != BUNDLE),
            _control_groups(request.limits, scratch),
            *request.volumes,
        ),
        uid=account.uid,
        gid=account.gid,
        ports=request.ports,
        attached=not request.terminal,
        terminal=request.terminal,
        limits=request.limits,
    )


def _control_groups(limits: Limits, scratch: Path) -> Bind:
    """Makes the files in which a program reads its limits, for both versions of control groups.

    Node.js, Java and others choose the size of their heap by these files, and helpers of some buildpacks
    (Paketo's for Node.js) end the start without them. The image sees nothing else of control groups.
    """
    known = (number for number in (limits.memory, cgroup.memory_allowed()) if number)
    memory, processes = min(known, default=0), limits.processes or "max"
    folder = _directory(scratch / "cgroup")
    for name, value in {
        "cgroup.controllers": "cpu memory pids",
        "memory.max": memory or "max",
        "memory.high": "max",
        "memory.swap.max": "max",
        "cpu.max": "max 100000",
        "pids.max": processes,
        "memory/memory.limit_in_bytes": memory or _V1_UNLIMITED,
        "memory/memory.soft_limit_in_bytes": _V1_UNLIMITED,
        "cpu/cpu.cfs_period_us": 100000,
        "cpu/cpu.cfs_quota_us": -1,
        "pids/pids.max": processes,
    }.items():
        file = folder / name
        if not file.parent.exists():
            _directory(file.parent)
        file.write_text(f"{value}\n")
        file.chmod(0o644)  # the image's user must be able to read it, whatever the umask
    return Bind(folder, "/sys/fs/cgroup")


def _argv(request: RunRequest, config: Config) -> tuple[str, ...]:
    """Joins entrypoint and arguments as docker does: the user's entrypoint drops the image's arguments."""
    if request.entrypoint is not None:
        argv = ((request.entrypoint,) if request.entrypoint else ()) + request.arguments
    else:
        argv = config.entrypoint + (request.arguments or config.cmd)
    if not argv:
        raise RunError(
            "the image has no command to start", fix=f"name one: packhorse run {request.name} COMMAND"
        )
    return argv


def _environment(
    request: RunRequest, config: Config, account: Account, argv: tuple[str, ...]
) -> dict[str, str]:
    """Returns the image's variables and the user's, which win.

    By convention a web process listens on the port in PORT. That is the published port, unless the image or
    the user sets PORT.
    """
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": account.home}
    if request.terminal:
        env["TERM"] = request.environ.get("TERM", "xterm")
    published = [port.port for port in request.ports if port.protocol == "tcp"]
    if published and is_web(argv):
        env["PORT"] = str(published[0])
    of_image = {name: value for name, _, value in (entry.partition("=") for entry in config.env) if name}
    return env | of_image | dict(request.env)


def _add_network(spec: SandboxSpec, request: RunRequest, say: Callable[[str], None]) -> SandboxSpec:
    network, reason = choose_network(request.network)
    if reason:
        say(f"the image uses this machine's network, and reaches what listens on its loopback: {reason}")
    return replace(spec, network=network)


@contextmanager
def _signals(room: Sandbox) -> Iterator[None]:
    """Forwards signals to the image. With -it Ctrl-C is not a signal here, but a byte for its terminal."""
    interrupts = 0

    def forward(number: int, frame: FrameType | None) -> None:
        room.signal(number)

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        room.signal(signal.SIGKILL if interrupts >= _KILL_AFTER else number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _input(request: RunRequest) -> Iterator[None]:
    """Gives the image an empty standard input without -i, as docker does."""
    if request.interactive:
        yield
        return
    kept, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(nothing)


def _directory(path: Path) -> Path:
    path.mkdir()
    path.chmod(0o755)
    return path


def free_port() -> int:
    """Finds a TCP port of this machine that is free now."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def check_port(port: Port) -> None:
    """Raises RunError if the port of this machine cannot be used: it is taken, or only root may use it."""
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    with socket.socket(family, _KINDS[port.protocol]) as one:
        # Closed connections hold a port for a while; with this option they do no harm.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(port.protocol == "tcp"))
        try:
            one.bind((port.address, port.host_port))
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.EACCES:
                why = "only root may use ports below 1024"
            raise RunError(
                f"port {port.host_port} of this machine cannot be used",
                why=why,
                fix=f"choose another: -p OTHER:{port.port}",
            ) from error
