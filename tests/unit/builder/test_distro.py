"""How the default builder's roots are made: what is read and chosen, and what is said of failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.builder.distro.files import PackageChange, changed_packages, wanted_packages
from packhorse.builder.distro.mmdebstrap import apt_settings, choose_mode, explain_failure, mmdebstrap_command
from packhorse.errors import HostError, NetworkError
from packhorse.host.distribution import AptSource, Suite, host_sources, host_suite

BOOKWORM = Suite("debian", "12", "bookworm")
NOBLE = Suite("ubuntu", "24.04", "noble")


def os_release(id: str, version: str, codename: str) -> str:
    return f'# a comment\nID={id}\nVERSION_ID="{version}"\nVERSION_CODENAME={codename}\n'


@pytest.mark.parametrize(
    "suite", [BOOKWORM, Suite("debian", "13", "trixie"), NOBLE, Suite("ubuntu", "26.04", "r")], ids=str
)
def test_a_supported_release_is_told_from_os_release(suite: Suite) -> None:
    assert host_suite(os_release(suite.id, suite.version, suite.codename)) == suite


@pytest.mark.parametrize(
    ("id", "version", "codename"),
    [
        ("debian", "11", "bullseye"),
        ("debian", "", "forky"),
        ("ubuntu", "22.04", "jammy"),
        ("ubuntu", "24.03", "x"),
        ("linuxmint", "22", "wilma"),
        ("", "", ""),
    ],
)
def test_any_other_system_is_told_to_name_a_builder(id: str, version: str, codename: str) -> None:
    with pytest.raises(HostError) as raised:
        host_suite(os_release(id, version, codename))
    assert "--builder" in raised.value.fix


def test_deb822_sources_of_the_distribution_are_found_and_others_left_out(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\n"
        "Suites: bookworm\n bookworm-updates\n"
        "Components: main contrib\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
        "Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\n"
        "Components: main\n\n"
        "Types: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\nEnabled: no\n"
    )
    (tmp_path / "sources.list.d" / "vendor.sources").write_text(
        "Types: deb\nURIs: https://vendor.example/deb\nSuites: bookworm\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/vendor.gpg\n\n"
        "Types: deb\nURIs: https://inline.example/deb\nSuites: bookworm\nComponents: main\nSigned-By:\n"
        " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"
    )
    (tmp_path / "sources.list.d" / "switched-off.sources.disabled").write_text(
        "Types: deb\nURIs: http://disabled.example/debian\nSuites: bookworm\nComponents: main\n"
    )
    assert host_sources(BOOKWORM, apt=tmp_path) == (
        AptSource("http://mirror.example/debian", "bookworm", ("main",)),
        AptSource("http://mirror.example/debian", "bookworm-updates", ("main",)),
        AptSource("http://mirror.example/debian-security", "bookworm-security", ("main",)),
    )


def test_one_line_sources_of_the_distribution_are_found_and_others_left_out(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "# deb http://comment.example/ubuntu noble main\n"
        "deb http://mirror.example/ubuntu/ noble main restricted universe # ours\n"
        "deb [arch=amd64 signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://fixes.example/u "
        "noble-security main\n"
        "deb-src http://mirror.example/ubuntu/ noble main\n"
        "deb [signed-by=/etc/apt/keyrings/vendor.asc] https://vendor.example/apt noble main\n"
        "deb https://other.example/apt noble stable\n"
        "deb http://mirror.example/ubuntu/ jammy main\n"
        "deb cdrom:[Ubuntu]/ noble main\n"
    )
    assert host_sources(NOBLE, apt=tmp_path) == (
        AptSource("http://mirror.example/ubuntu/", "noble", ("main", "universe")),
        AptSource("http://fixes.example/u", "noble-security", ("main",)),
    )


def test_without_a_mirror_of_the_release_the_error_names_the_file_to_add_it_to(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://mirror.example/debian bookworm-security main\n")
    with pytest.raises(HostError) as raised:
        host_sources(BOOKWORM, apt=tmp_path)
    assert str(tmp_path / "sources.list") in raised.value.fix


def test_a_source_is_bound_to_the_distributions_key_whatever_the_host_trusts() -> None:
    line = AptSource("http://mirror.example/debian", "bookworm", ("main",)).line(BOOKWORM.keyring)
    assert line == (f"deb [signed-by={BOOKWORM.keyring}] http://mirror.example/debian bookworm main")


def test_the_build_image_has_what_the_run_image_has_and_the_run_image_no_compiler() -> None:
    assert set(wanted_packages("run")) < set(wanted_packages("build"))
    assert {"build-essential", "git", "python3"} <= set(wanted_packages("build"))
    assert not {"build-essential", "gcc", "apt", "git", "python3"} & set(wanted_packages("run"))


def test_changed_packages_tells_new_gone_and_other_versions_only() -> None:
    changes = changed_packages({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"})
    assert changes == (PackageChange("b", "1", "2"), PackageChange("c", "1", ""), PackageChange("d", "", "1"))
    assert [str(change) for change in changes] == ["b 1 → 2", "c 1 → (gone)", "d (new) → 1"]


def tool_path(directory: Path, *tools: str) -> str:
    for tool in tools:
        (directory / tool).touch(mode=0o755)
    return str(directory)


def test_root_needs_only_mmdebstrap(tmp_path: Path) -> None:
    assert choose_mode(root=True, range_of_ids=False, path=tool_path(tmp_path, "mmdebstrap")) == "root"


def test_a_user_with_subordinate_ids_gets_a_user_namespace(tmp_path: Path) -> None:
    assert choose_mode(root=False, range_of_ids=True, path=tool_path(tmp_path, "mmdebstrap")) == "unshare"


def test_a_user_without_subordinate_ids_pretends_to_be_root(tmp_path: Path) -> None:
    path = tool_path(tmp_path, "mmdebstrap", "fakechroot", "fakeroot")
    assert choose_mode(root=False, range_of_ids=False, path=path) == "fakechroot"


def test_missing_tools_are_named_with_the_command_that_installs_them(tmp_path: Path) -> None:
    with pytest.raises(HostError) as raised:
        choose_mode(root=False, range_of_ids=False, path=tool_path(tmp_path, "fakeroot"))
    assert "sudo apt-get install mmdebstrap fakechroot\n" in raised.value.fix


def test_proxies_and_mirror_settings_of_the_host_are_taken_over_and_its_trust_and_indexes_not() -> None:
    settings = apt_settings(
        'APT::Architecture "amd64";\nAcquire "";\nAcquire::http "";\nAcquire::http::Proxy "http://proxy.example:1/";\n'
        'Acquire::https::CaInfo "/etc/ca.pem";\nAcquire::Check-Valid-Until "false";\n'
        'Acquire::AllowInsecureRepositories "1";\nAcquire::Languages:: "de";\nAcquire::GzipIndexes "true";\n'
        'DPkg::Post-Invoke:: "rm -f /x";\n'
    )
    host = [line for line in settings.splitlines() if line.startswith("Acquire")]
    assert host == [
        'Acquire::http "";',
        'Acquire::http::Proxy "http://proxy.example:1/";',
        'Acquire::https::CaInfo "/etc/ca.pem";',
        'Acquire::Check-Valid-Until "false";',
    ]
    assert "DPkg" not in settings


def test_no_proxy_nor_mirror_is_on_the_command_line() -> None:
    command = mmdebstrap_command(
        ["tzdata"], suite=BOOKWORM, arch="amd64", mode="unshare", apt_conf=Path("/scratch/apt.conf")
    )
    assert command[-3:] == ["bookworm", "-", "-"]
    assert "--setup-hook=upload /scratch/apt.conf /etc/apt/apt.conf.d/98packhorse" in command
    assert not any("://" in argument for argument in command)


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        ("dpkg: error: x: No space left on device", HostError, "free space"),
        (
            "E: Failed to fetch http://m.example/x  Could not resolve 'm.example'",
            NetworkError,
            "apt-get update",
        ),
        ("W: GPG error: http://m.example x InRelease: NO_PUBKEY 1234", NetworkError, "keyring"),
        ("E: Failed to fetch x  The following signatures were invalid: EXPKEYSIG 1", NetworkError, "keyring"),
        ("E: something else", HostError, "--builder"),
    ],
)
def test_a_failure_of_mmdebstrap_says_what_to_do(line: str, kind: type[Exception], told: str) -> None:
    error = explain_failure(1, ["I: running apt-get update...", line, "E: mmdebstrap failed to run"])
    assert type(error) is kind
    assert line in error.why
    assert "running" not in error.why
    assert told in error.fix


def test_an_end_by_a_signal_is_named() -> None:
    assert "SIGKILL" in explain_failure(-9, []).why
