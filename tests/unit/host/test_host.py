"""What a build takes over from its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.host.machine import BUNDLE, certificates, loopback_ports, network


def test_proxies_are_handed_on_in_both_cases() -> None:
    variables = network({"https_proxy": "http://proxy:3128", "NO_PROXY": "local"}).variables
    assert variables["HTTPS_PROXY"] == variables["https_proxy"] == "http://proxy:3128"
    assert variables["NO_PROXY"] == variables["no_proxy"] == "local"
    assert "HTTP_PROXY" not in variables


def test_nothing_else_of_the_callers_environment_is_handed_on() -> None:
    assert "SECRET" not in network({"SECRET": "x", "NPM_TOKEN": "y"}).variables


def test_the_bundle_of_certificates_is_the_one_that_the_user_names(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("certificates")
    assert certificates({"SSL_CERT_FILE": str(bundle)}) == bundle.resolve()
    settings = network({"SSL_CERT_FILE": str(bundle)})
    assert (bundle.resolve(), BUNDLE) in [(mount.source, mount.target) for mount in settings.mounts]
    assert settings.variables["NODE_EXTRA_CA_CERTS"] == BUNDLE


def test_a_named_bundle_that_is_not_there_is_passed_over() -> None:
    assert certificates({"SSL_CERT_FILE": "/no/such/file"}) != Path("/no/such/file")


@pytest.mark.parametrize(
    ("value", "ports"),
    [
        ("http://localhost:3128", (3128,)),
        ("http://user:pass@127.0.0.1:8080/", (8080,)),
        ("https://[::1]:4873/path", (4873,)),
        ("http://127.8.9.1:1/", (1,)),
        ("http://proxy.example:3128", ()),
        ("http://localhost.example:3128", ()),
        ("http://localhost:99999", ()),
        ("localhost:3128", ()),
        ("", ()),
    ],
)
def test_ports_of_the_loopback_are_found_in_urls(value: str, ports: tuple[int, ...]) -> None:
    assert loopback_ports({"HTTP_PROXY": value}) == ports
