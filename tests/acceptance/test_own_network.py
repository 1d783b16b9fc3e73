"""A network of a step's own keeps the step from this machine's loopback, whoever runs it, whatever it tries.

What is tried is in tests/attacker/network.c. test_sandbox_users.py runs this as users too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from attacker import build, victim
from fakes.attack import Done
from fakes.place import ENV, RUNTIMES, Place, place
from packhorse.base.sandbox import Bind, Network, SandboxSpec
from packhorse.host import wiring
from packhorse.sandbox import network

ATTEMPTS = (
    *("host-loopback", "host-loopback6", "host-any-address", "host-loopback-device"),
    *("host-loopback6-device", "host-datagram-device", "host-datagram-packet-info"),
    *("host-datagram-unicast", "host-own-address", "host-crafted-packet", "host-crafted-frame"),
    *("sniff", "raw-socket"),
)


@dataclass
class Services:
    """What listens on this machine; `given` says where, `visits` who was there."""

    given: dict[str, str]
    visits: Path


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    home = tmp_path_factory.mktemp("victim")
    process = subprocess.Popen(
        [sys.executable, "-I", victim.__file__],
        env={"HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None and process.stdin is not None
        given = json.loads(process.stdout.readline())
        visits = home / victim.VISITS
        visits.touch()
        yield Services(given, visits)
    finally:
        process.communicate()


@pytest.fixture(scope="module")
def attacker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = build.attacker(tmp_path_factory.mktemp("attacker") / "attacker")
    program.chmod(0o755)
    return program


@pytest.fixture(params=[(runtime, uid) for runtime in RUNTIMES for uid in (0, 1000)], ids=str)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    best, reason = network.find_network()
    assert best is Network.OWN, reason
    runtime, uid = request.param
    tmp_path.chmod(0o755)
    with place(tmp_path, runtime, user=uid) as made:
        yield made


def attack(here: Place, services: Services, attacker: Path, *names: str) -> SandboxSpec:
    spec = here.spec("", Bind(attacker, "/attacker"))
    return SandboxSpec(
        argv=("/attacker", *names),
        env={**ENV, **services.given},
        root=spec.root,
        mounts=spec.mounts,
        uid=here.user,
        gid=here.user,
        network=Network.OWN,
    )


def test_no_packet_of_a_step_reaches_a_service_of_this_machine(
    here: Place, services: Services, attacker: Path
) -> None:
    before = services.visits.read_text()
    result, output = here.run(attack(here, services, attacker, *ATTEMPTS))
    outcomes = Done(result.status, output).attempts
    assert set(outcomes) == set(ATTEMPTS), output
    assert {name: outcome for name, outcome in outcomes.items() if not outcome.startswith("E")} == {}
    assert services.visits.read_text() == before


def test_a_chosen_port_is_reached_and_counted(here: Place, services: Services, attacker: Path) -> None:
    before = services.visits.read_text()
    sandbox = wiring.make_runner(
        here.namespace,
        here.base / "scratch",
        runtime=here.runtime,
        loopback=[int(services.given["HOST_PORT"])],
    )
    output: list[bytes] = []
    with sandbox.open(attack(here, services, attacker, "host-loopback")) as room:
        room.run(output.append)
    assert b"got SECRET-service" in b"".join(output), output
    assert services.visits.read_text() != before


def test_a_step_speaks_to_itself_on_any_loopback_address(here: Place) -> None:
    """The routes that keep packets inside take nothing from whoever names no device."""
    script = """
for address in 127.0.0.1 127.8.8.8; do
    (exec 3<>/dev/tcp/$address/9) 2>&1 | grep -m 1 -o 'Connection refused'
done
"""
    spec = here.spec(script)
    result, output = here.run(
        spec, argv=("bash", "-c", script), network=Network.OWN, uid=here.user, gid=here.user
    )
    assert output.split("\n") == ["Connection refused", "Connection refused", ""], result
