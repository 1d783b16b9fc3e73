"""What a user is told of the port on which an image listens."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from packhorse.base.sandbox import Network, Port
from packhorse.run import Publication, announce_ports, is_web
from packhorse.sandbox.network import Listener

OPEN, LOOPBACK = Listener(3000, loopback=False), Listener(3000, loopback=True)


def told(publication: Publication, found: Sequence[Listener]) -> str:
    """The one line about an image that listens where `found` says."""
    lines: list[str] = []
    came = threading.Event()

    def tell(line: str) -> None:
        lines.append(line)
        came.set()

    with announce_ports(publication, lambda: found, tell):
        assert came.wait(60)
    (line,) = lines
    return line


@pytest.mark.system
@pytest.mark.parametrize(
    ("ports", "network", "found", "line"),
    [
        ([Port(80, 3000)], Network.OWN, [OPEN], "port 3000 of the image is at http://localhost:80"),
        (
            [Port(80, 3000, "10.0.0.1")],
            Network.OWN,
            [LOOPBACK],
            "port 3000 of the image is at http://10.0.0.1:80 "
            "(only from this machine: it listens on 127.0.0.1, not on 0.0.0.0)",
        ),
        (
            [Port(80, 8080)],
            Network.OWN,
            [OPEN],
            "nothing in the image listens on the published port 8080; it listens on port 3000: "
            "packhorse run -p 80:3000 app",
        ),
        (
            [Port(80, 8080, "::1")],
            Network.OWN,
            [Listener(9229, loopback=True), OPEN],
            "nothing in the image listens on the published port 8080; it listens on port 3000 and 9229: "
            "packhorse run -p [::1]:80:3000 app",
        ),
        (
            [],
            Network.OWN,
            [OPEN],
            "it listens on port 3000, which is not published; to reach it: packhorse run -p 3000:3000 app",
        ),
        ([], Network.HOST, [OPEN], "port 3000 of the image is at http://localhost:3000"),
        (
            [Port(8080, 8080)],
            Network.HOST,
            [OPEN],
            "nothing in the image listens on the published port 8080; it listens on port 3000, "
            "at http://localhost:3000",
        ),
        (
            [Port(80, 3000), Port(81, 3001)],
            Network.OWN,
            [OPEN],
            "port 3000 of the image is at http://localhost:80; "
            "nothing in the image listens on the published port 3001",
        ),
        (
            [],
            Network.OWN,
            [Listener(80, loopback=False)],
            "it listens on port 80, which is not published; to reach it: packhorse run -p 8080:80 app",
        ),
    ],
)
def test_one_line_says_where_the_image_listens(
    ports: Sequence[Port], network: Network, found: Sequence[Listener], line: str
) -> None:
    assert told(Publication("app", tuple(ports), network, web=True), found) == line


def test_an_image_that_listens_nowhere_is_looked_at_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packhorse.run._TIMEOUT", 0.5)
    publication = Publication("app", (Port(80, 8080),), Network.OWN, web=True)
    assert told(publication, []) == "nothing in the image listens on the published port 8080"


@pytest.mark.parametrize(
    "publication",
    [
        Publication("app", (), Network.OWN, web=False),
        Publication("app", (Port(53, 53, "", "udp"),), Network.OWN, web=False),
        Publication("app", (), Network.NONE, web=True),
    ],
)
def test_nothing_is_looked_at_where_no_port_matters(publication: Publication) -> None:
    def look() -> list[Listener]:
        raise AssertionError("looked")

    before = threading.active_count()
    with announce_ports(publication, look, print):
        assert threading.active_count() == before


def test_the_process_type_web_is_known_by_its_command() -> None:
    assert is_web(("/cnb/process/web", "--port")) and is_web(("web",))
    assert not is_web(("/usr/bin/web",)) and not is_web(()) and not is_web(("sh", "web"))
