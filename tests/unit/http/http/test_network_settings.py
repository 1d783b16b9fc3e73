"""What the environment says about certificates and proxies."""

from __future__ import annotations

import pytest

from packhorse.errors import InputError
from packhorse.http.transport import Settings, make_ssl_context

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_is_read_under_each_of_its_names(name):
    assert Settings.from_environment({name: PROXY}).proxy_for("https://example.com/") == PROXY


def test_lower_case_wins():
    environ = {"https_proxy": PROXY, "HTTPS_PROXY": "http://other.example"}
    assert Settings.from_environment(environ).proxy == PROXY


def test_a_proxy_without_a_scheme_is_one_of_http():
    assert Settings.from_environment({"https_proxy": "proxy.example:3128"}).proxy == PROXY


@pytest.mark.parametrize("url", ["http://localhost:5000/", "https://127.0.0.1/", "https://[::1]/"])
def test_this_machine_needs_no_proxy(url):
    assert Settings(proxy=PROXY).proxy_for(url) == ""


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("*", "https://anything.example/"),
        ("example.com", "https://example.com/"),
        ("example.com", "https://registry.example.com/"),
        (".example.com", "https://registry.example.com/"),
        ("*.example.com", "https://registry.example.com/"),
        ("Example.COM", "https://registry.example.com/"),
        ("example.com:8443", "https://example.com:8443/"),
        ("example.com:443", "https://example.com/"),
        ("10.0.0.0/8", "https://10.1.2.3:5000/"),
        ("10.1.2.3", "https://10.1.2.3/"),
        ("fd00::/8", "https://[fd00::1]/"),
        ("one.example, example.com", "https://example.com./"),
    ],
)
def test_no_proxy_covers(no_proxy, url):
    assert Settings.from_environment({"https_proxy": PROXY, "no_proxy": no_proxy}).proxy_for(url) == ""


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("", "https://example.com/"),
        ("example.com", "https://notexample.com/"),
        ("example.com", "https://example.com.evil.example/"),
        ("example.com:8443", "https://example.com/"),
        ("10.0.0.0/8", "https://11.1.2.3/"),
        (",.,", "https://example.com/"),
    ],
)
def test_no_proxy_does_not_cover(no_proxy, url):
    assert Settings.from_environment({"https_proxy": PROXY, "NO_PROXY": no_proxy}).proxy_for(url) == PROXY


def test_the_password_of_a_proxy_is_not_shown():
    assert "hunter2" not in repr(Settings(proxy="http://me:hunter2@proxy.example"))


def test_the_first_certificate_variable_that_is_set_counts():
    settings = Settings.from_environment(
        {"SSL_CERT_FILE": "", "REQUESTS_CA_BUNDLE": "/one.pem", "CURL_CA_BUNDLE": "/two.pem"}
    )
    assert (settings.ca_bundle, settings.ca_variable) == ("/one.pem", "REQUESTS_CA_BUNDLE")


@pytest.mark.parametrize("content", [None, b"this is no certificate"])
def test_a_bundle_that_cannot_be_used_is_named_with_its_variable(tmp_path, content):
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(InputError) as caught:
        make_ssl_context(Settings(ca_bundle=str(bundle), ca_variable="SSL_CERT_FILE"))
    assert str(bundle) in caught.value.what
    assert "SSL_CERT_FILE" in caught.value.why
