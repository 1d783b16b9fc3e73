"""Tells the user of `packhorse run` on which port the image listens, when it does; called by `platform.run`.

An application that ignores PORT leaves a published port without a listener, and a browser shows no more than
a reset connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from packhorse.base.dataclass import dataclass
from packhorse.base.step import Network, Port
from packhorse.errors import PackhorseError
from packhorse.sandbox.listeners import Listener

WEB = "web"
"""The process type that serves HTTP, by convention on the port in PORT."""

_FIRST, _GROWTH, _LONGEST = 0.1, 1.3, 2.0
"""Seconds until the first look, by how much each pause is longer than the last, and the longest pause."""

_GRACE = 2.0
"""Seconds that an image has for its other ports once it listens on one: a debugger's may come first."""

_TIMEOUT = 60.0
"""Seconds after which an image that does not listen is not looked at any more."""

_LOW, _LOW_AT = 1024, 8000
"""Ports below the first number are root's on most machines; the second above them is one for everybody."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What was asked for: the image `name`, the `ports` published, the `network`; `web` is the process type.

    `options` says that the command has other options than the ports.
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
    """While the block runs, tells one line on where the image listens, or that it does not.

    Nothing is looked at once that was told, or after a minute.
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
            return  # stderr is closed; the image goes on without it

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
    """What to tell, once it is known; empty when the image ends before."""
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
    """The line for an image that listens on every published port, or publishes none."""
    if publication.network is Network.HOST:
        ports = [Port(number, number) for number in sorted(publication.wanted_ports) or _numbers(found)]
    elif publication.wanted_ports:
        ports = [port for port in publication.ports if port.protocol == "tcp"]
    else:
        return _describe_missing(publication, found)
    return _describe_addresses(publication, ports, found)


def _describe_addresses(publication: Publication, ports: Sequence[Port], found: Collection[Listener]) -> str:
    """Where this machine reaches published ports on which the image listens."""
    return "; ".join(
        f"port {port.port} of the image is at {_address(publication, port)}" for port in ports
    ) + _loopback_warning(found, [port.port for port in ports])


def _describe_missing(publication: Publication, found: Collection[Listener]) -> str:
    """The line for an image that does not listen on all published ports, or publishes none."""
    ports = _numbers(found)
    missing = sorted(publication.wanted_ports - set(ports))
    reached = [port for port in publication.ports if port.protocol == "tcp" and port.port in ports]
    nobody = f"{_describe_addresses(publication, reached, found)}; " if reached else ""
    nobody += f"nothing in the image listens on the published port {_join_numbers(missing)}"
    others = [port for port in ports if port not in publication.wanted_ports]
    if not others:
        return nobody
    listens = f"it listens on port {_join_numbers(others)}"
    if publication.network is Network.HOST:
        here = _address(publication, Port(others[0], others[0]))
        return f"{nobody}; {listens}, at {here}"
    asked = [port for port in publication.ports if port.port in missing]
    option = (
        f"-p {_host_part(asked)}{others[0]}" if asked else f"-p {_unprivileged_port(others[0])}:{others[0]}"
    )
    words = f"packhorse run {option} {'… ' if publication.options else ''}{publication.name}"
    if not missing:
        return f"{listens}, which is not published; to reach it: {words}"
    return f"{nobody}; {listens}: {words}"


def _unprivileged_port(port: int) -> int:
    """The port of this machine to publish `port` at: 8080 for 80, since the low ones may be root's alone."""
    return port if port >= _LOW else port + _LOW_AT


def _numbers(found: Collection[Listener]) -> list[int]:
    """The ports, those first that are not on loopback alone."""
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
    """What to add when the image listens on loopback alone."""
    alone = [each.port for each in found if each.loopback and each.port in ports]
    return " (for this machine alone: it listens on 127.0.0.1, not on 0.0.0.0)" if alone else ""
