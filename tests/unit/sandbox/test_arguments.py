"""A step becomes bubblewrap's options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from packhorse.base.sandbox import Bind, Command, Network, Overlay, Root, SandboxSpec
from packhorse.errors import SandboxError
from packhorse.sandbox.bubblewrap import command_options, options
from packhorse.sandbox.init import words_of
from packhorse.sandbox.mounts import Layout, private_sources, sources

LAYOUT = Layout(Path("/points"), place=lambda target: target)
STEP = SandboxSpec(argv=("/bin/build",), root=Root(Path("/root-tree")))


def words(spec: SandboxSpec, layout: Layout = LAYOUT) -> str:
    return " ".join(options(spec, layout))


def test_a_root_is_read_only_over_the_mount_points() -> None:
    assert "--overlay-src /points --overlay-src /root-tree --ro-overlay / " in words(STEP)


def test_a_root_with_an_upper_is_written_there() -> None:
    spec = replace(STEP, root=Root(Path("/t"), Path("/up"), Path("/work")))
    assert "--overlay-src /points --overlay-src /t --overlay /up /work / " in words(spec)


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        (Bind(Path("/a"), "/b"), "--ro-bind /a /b"),
        (Bind(Path("/a"), "/b", writable=True), "--bind /a /b"),
        (Overlay((Path("/l"),), "/b"), "--ro-bind /l /b"),
        (Overlay((Path("/l"), Path("/m")), "/b"), "--overlay-src /l --overlay-src /m --ro-overlay /b"),
        (Overlay((), "/b", Path("/u"), Path("/w")), "--bind /u /b"),
        (
            Overlay((Path("/l"), Path("/m")), "/b", Path("/u"), Path("/w")),
            "--overlay-src /l --overlay-src /m --overlay /u /w /b",
        ),
    ],
)
def test_each_mount_has_its_options(mount: Bind | Overlay, expected: str) -> None:
    assert f" {expected} --unshare-pid" in words(replace(STEP, mounts=(mount,)))


def test_mounts_keep_their_order_and_go_to_their_place() -> None:
    spec = replace(STEP, mounts=(Bind(Path("/a"), "/x"), Bind(Path("/b"), "/x/y")))
    moved = Layout(Path("/points"), place=lambda target: f"/moved{target}")
    assert "--ro-bind /a /moved/x --ro-bind /b /moved/x/y" in words(spec, moved)


def test_an_overlay_of_nothing_is_an_error() -> None:
    with pytest.raises(SandboxError, match="/b"):
        words(replace(STEP, mounts=(Overlay((), "/b"),)))


def test_a_step_without_a_root_is_an_error() -> None:
    with pytest.raises(SandboxError, match="root file system"):
        words(replace(STEP, root=None))


def test_only_the_hosts_network_is_shared() -> None:
    assert "--unshare-net" not in words(replace(STEP, network=Network.HOST))
    assert "--unshare-net" in words(replace(STEP, network=Network.OWN))
    assert "--unshare-net" in words(replace(STEP, network=Network.NONE))


def test_only_root_inside_has_capabilities_and_those_of_docker_only() -> None:
    assert "--cap-add" not in words(STEP)
    as_root = words(replace(STEP, uid=0, gid=0))
    assert "--cap-drop ALL --cap-add CAP_AUDIT_WRITE" in as_root
    assert "SYS_ADMIN" not in as_root and "ALL --cap-add ALL" not in as_root


@pytest.mark.parametrize("spec", [STEP, replace(STEP, attached=True), replace(STEP, terminal=True)])
def test_no_step_is_in_the_session_of_the_users_terminal(spec: SandboxSpec) -> None:
    assert "--new-session" in words(spec)


def test_the_environment_is_set_word_by_word() -> None:
    options = command_options(Command(("x",), env={"B": "x y", "A": ""}))
    place = options.index("--setenv")
    assert options[place : place + 6] == ["--setenv", "A", "", "--setenv", "B", "x y"]


def test_a_launcher_is_executed_under_the_name_of_a_process() -> None:
    command = Command(("web", "--port"), executable="/cnb/lifecycle/launcher")
    assert command_options(command)[-2:] == ["--argv0", "web"]
    assert words_of(command) == ["/cnb/lifecycle/launcher", "--port"]


def test_masked_paths_cannot_be_read_or_written() -> None:
    layout = replace(LAYOUT, masked=("/proc/keys", "/proc/acpi"))
    assert "--ro-bind /dev/null /proc/keys --tmpfs /proc/acpi --remount-ro /proc/acpi" in words(STEP, layout)


def test_all_sources_are_named(tmp_path: Path) -> None:
    spec = replace(
        STEP,
        root=Root(Path("/t"), Path("/ru"), Path("/rw")),
        mounts=(Bind(Path("/a"), "/b"), Overlay((Path("/l"),), "/c", Path("/u"), Path("/w"))),
    )
    assert [str(path) for path in sources(spec)] == (["/t", "/ru", "/rw", "/a", "/l", "/u", "/w"])


def test_what_is_only_read_and_shut_to_others_is_named(tmp_path: Path) -> None:
    for name, mode in (("open", 0o755), ("shut", 0o700)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    mounts = (
        Bind(tmp_path / "open", "/a"),
        Bind(tmp_path / "shut", "/b"),
        Bind(tmp_path / "shut", "/c", writable=True),
        Overlay((Path("/lower"),), "/d", Path("/upper"), Path("/work")),
    )
    found = list(private_sources(replace(STEP, mounts=mounts)))
    assert found == [tmp_path / "shut", Path("/lower")]
