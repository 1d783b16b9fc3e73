"""Networks: what pasta is told, which ports can be had, and which name server a step sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from packhorse.base.sandbox import Bind, Network, Port, SandboxSpec
from packhorse.errors import InputError
from packhorse.sandbox import network
from packhorse.sandbox.network import PastaDescriptors

ENDS = PastaDescriptors(user=5, network=6, ready=7)


def test_nothing_is_forwarded_unless_it_is_asked_for() -> None:
    words = " ".join(network.pasta_options(ENDS, ports=(), loopback=()))
    assert "-t none -u none -T none -U none" in words
    assert "--no-map-gw" in words


def test_published_ports_and_loopback_ports_are_forwarded() -> None:
    ports = (Port(8080, 80), Port(53, 5353, "127.0.0.1", "udp"), Port(9000, 9000))
    words = " ".join(network.pasta_options(ENDS, ports=ports, loopback=(3128, 4873)))
    assert "-t 8080:80 -t 9000:9000 -u 127.0.0.1/53:5353 -T 3128 -T 4873 -U none" in words


def test_namespaces_are_given_as_descriptors() -> None:
    words = " ".join(network.pasta_options(ENDS, ports=(), loopback=()))
    assert "--userns /proc/self/fd/5 --netns /proc/self/fd/6 --pid /proc/self/fd/7" in words


def test_the_name_server_is_pastas_and_the_rest_is_the_hosts() -> None:
    text = "# made by something\nnameserver 127.0.0.53\nsearch example.org\nnameserver ::1\noptions edns0\n"
    assert network.make_resolv_conf(text) == "nameserver 169.254.1.1\nsearch example.org\noptions edns0\n"


STEP = SandboxSpec(argv=("web",), ports=(Port(8080, 8000), Port(9000, 9000), Port(7000, 7000, "127.0.0.1")))


def test_a_network_of_its_own_takes_any_port() -> None:
    network.check_ports(replace(STEP, network=Network.OWN))


def test_on_the_hosts_network_ports_cannot_be_moved() -> None:
    with pytest.raises(InputError) as raised:
        network.check_ports(replace(STEP, network=Network.HOST))
    assert raised.value.issues == ("*:8080 is not 8000 inside", "127.0.0.1:7000 is not 7000 inside")
    network.check_ports(replace(STEP, network=Network.HOST, ports=(Port(9000, 9000),)))


def test_on_the_hosts_network_nobody_listens_on_the_ports_of_root() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    ports = (Port(lowest - 1, lowest - 1),)
    with pytest.raises(InputError, match=f"cannot listen on port {lowest - 1} of the host's network"):
        network.check_ports(replace(STEP, network=Network.HOST, ports=ports))


def test_without_a_network_there_are_no_ports() -> None:
    with pytest.raises(InputError, match="cannot publish ports"):
        network.check_ports(replace(STEP, network=Network.NONE))


def test_a_machine_without_name_servers_of_its_own_has_pastas(tmp_path: Path) -> None:
    """As where /etc/resolv.conf is a link to what a resolver would write that does not run."""
    nowhere = Bind(tmp_path / "nowhere", "/etc/resolv.conf")
    spec = SandboxSpec(argv=("true",), mounts=(nowhere,), network=Network.OWN)
    shown = network.with_name_service(spec, tmp_path / "made")
    assert (tmp_path / "made").read_text() == "nameserver 169.254.1.1\n"
    assert shown.mounts == (Bind(tmp_path / "made", "/etc/resolv.conf"),)
