"""Each line of the doctor says what is wrong where something is; a fix is whole or not at all."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from fakes.users import let_pass
from packhorse.base import installation
from packhorse.doctor import machine
from packhorse.doctor import machine as engines
from packhorse.doctor import sandbox as apparmor
from packhorse.doctor.checks import CHECKS, apply, is_usable, run_checks, shell_lines
from packhorse.doctor.probe import CheckResult, CheckState, Fix, HostProbe, SandboxTrial
from packhorse.doctor.sandbox import apparmor_restriction, user_namespaces
from packhorse.errors import HostError, InputError, NotFoundError
from packhorse.host.folders import Folders
from packhorse.linux import bubblewrap
from packhorse.sandbox.process import find_check
from packhorse.store.store import Store

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers here does so at last, on a busy machine too."""
    for module in (engines, machine):
        monkeypatch.setattr(module, "_TIMEOUT", 60)


def line(name: str, home: Path, **environ: str) -> CheckResult:
    """The line `name` for a user whose things are below `home`."""
    found = {"PATH": os.environ["PATH"], "PACKHORSE_HOME": str(home), **environ}
    (only,) = run_checks(found, names=[name])
    return only


def test_every_line_that_an_error_names_exists_and_is_documented() -> None:
    named = set()
    for path in (REPOSITORY / "src" / "packhorse").rglob("*.py"):
        if "_bundled" not in path.parts:
            named |= set(re.findall(r'check="([^"]+)"', path.read_text()))
    assert named and named <= set(CHECKS)
    page = (REPOSITORY / "docs" / "how-to" / "doctor.md").read_text()
    assert re.findall(r"^\| `([a-z][a-z-]+)` \|", page, re.MULTILINE) == list(CHECKS)


@pytest.mark.system
def test_every_line_has_the_name_it_is_asked_by_and_helps_where_something_is_missing(tmp_path: Path) -> None:
    lines = run_checks({"PACKHORSE_HOME": str(tmp_path)})
    assert [line.name for line in lines] == list(CHECKS)
    for found in lines:
        assert found.finding
        assert (found.state is CheckState.OK) == (found.remedy == "")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_line_is_told_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no line 'moon'[\s\S]*user-namespaces"):
        run_checks({"PACKHORSE_HOME": str(tmp_path)}, names=["moon"])


def test_builds_work_with_less_and_not_without_what_is_missing() -> None:
    assert is_usable(
        [CheckResult(CheckState.OK, "", name="a"), CheckResult(CheckState.LIMITED, "", name="b")]
    )
    assert not is_usable(
        [CheckResult(CheckState.OK, "", name="a"), CheckResult(CheckState.MISSING, "", name="b")]
    )


def test_a_store_that_is_there_is_opened_and_left_as_it_was(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    before = sorted(tmp_path.rglob("*"))
    found = line("store", tmp_path)
    assert (found.state, found.finding) == (CheckState.OK, f"0 images at {tmp_path}/store")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_of_another_version_is_missing(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    (tmp_path / "store" / "version").write_text("99\n")
    found = line("store", tmp_path)
    assert found.state is CheckState.MISSING and "version '99'" in found.finding and found.remedy


def test_a_file_where_the_store_would_be_is_missing(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    assert line("store", tmp_path).state is CheckState.MISSING


@pytest.mark.parametrize("program", installation.HELPERS)
def test_an_installation_that_lacks_a_program_is_missing(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert line("installation", tmp_path).state is CheckState.OK
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    for path in installation.BUNDLED.iterdir():
        if path.name != program:
            (bundled / path.name).symlink_to(path)
    monkeypatch.setattr(installation, "BUNDLED", bundled)
    assert line("installation", tmp_path).state is CheckState.MISSING


@pytest.mark.system
def test_no_store_can_be_made_where_nobody_can_write() -> None:
    found = line("store", Path("/proc/nowhere"))
    assert found.state is CheckState.MISSING and "none can be made: /proc" in found.finding
    assert line("overlay", Path("/proc/nowhere")).remedy == "see store"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("http://", "not the address"),
        ("http://[::", "not the address"),
        ("http://localhost:99999", "not the address"),
        ("http://me:secret@127.0.0.1:1", "(127.0.0.1:1): Connection refused"),
        ("127.0.0.1:1", "(127.0.0.1:1): Connection refused"),
        ("http://\0:1", ""),
        (f"http://{'a' * 300}:1", ""),
    ],
)
def test_a_proxy_that_does_not_answer_is_named_without_its_password(
    value: str, says: str, tmp_path: Path
) -> None:
    found = line("proxy", tmp_path, https_proxy=value)
    assert found.state is CheckState.LIMITED
    assert says in found.finding and "secret" not in repr(found)


def test_a_proxy_that_answers_is_ok(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = line("proxy", tmp_path, HTTPS_PROXY=f"http://me:secret@127.0.0.1:{port}")
    assert (found.state, found.finding) == (CheckState.OK, f"answers: HTTPS_PROXY 127.0.0.1:{port}")


def test_certificates_that_are_none_are_limited(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("no certificate\n")
    found = line("certificates", tmp_path, SSL_CERT_FILE=str(bundle))
    assert found.state is CheckState.LIMITED and str(bundle) in found.finding
    found = line("certificates", tmp_path, CURL_CA_BUNDLE=str(tmp_path / "gone"))
    assert found.state is CheckState.LIMITED and "CURL_CA_BUNDLE names" in found.finding


def test_tools_of_the_default_builder_that_are_missing_are_installed_by_fix(tmp_path: Path) -> None:
    found = line("default-builder", tmp_path, PATH="/nowhere")
    assert found.state is CheckState.LIMITED and "mmdebstrap" in found.finding
    assert "apt-get install" in found.remedy and "mmdebstrap" in found.remedy
    assert found.fix and found.fix.commands[0][:2] == ("apt-get", "install")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            b'{"Version": "99.1", "ApiVersion": "1.41", "Platform": {"Name": "Engine"}}',
            "(Engine 99.1, API 1.41)",
        ),
        (b"[]", "(its answer cannot be understood)"),
        (b"\xff", "(its answer cannot be understood)"),
    ],
)
def test_an_engine_that_is_found_is_asked_for_its_version(answer: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + answer)

        thread = threading.Thread(target=serve)
        thread.start()
        found = line("engines", tmp_path, DOCKER_HOST=f"unix://{path}", PATH="/nowhere")
        thread.join()
    assert found.state is CheckState.OK and f"{path} {says}" in found.finding


@pytest.mark.parametrize(
    ("words", "check"),
    [
        ("bwrap: Can't make overlay mount on /newroot/ with options upperdir=x: Invalid argument", "overlay"),
        ("bwrap: prctl(PR_SET_SECCOMP): Invalid argument", "seccomp"),
        ("bwrap: No permissions to creating new namespace, likely because", "user-namespaces"),
        ("bwrap: setting up uid map: Permission denied", "user-namespaces"),
        ("packhorse: /proc/12/gid_map does not take '0 1 1': Operation not permitted", "user-namespaces"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "user-namespaces"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "bubblewrap"),
    ],
)
def test_a_runtimes_words_lead_to_the_line_that_they_are_about(words: str, check: str) -> None:
    assert find_check(words, "bubblewrap") == check
    assert check in CHECKS


def test_a_profile_names_its_program_literally() -> None:
    text = apparmor.profile(Path("/home/a b/{x,y}*[z]?/bwrap"))
    assert r'"/home/a b/\{x,y\}\*\[z\]\?/bwrap" flags=(unconfined)' in text
    assert "\n  userns,\n" in text
    for name in ('/a"b', "/a\nb", "/a\\b"):
        with pytest.raises(InputError):
            apparmor.profile(Path(name))


def restricted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str) -> None:
    """A machine whose kernel says this of itself; there is no such kernel to test on."""
    for name, text in (("_ENABLED", "Y\n"), ("_RESTRICTION", value)):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(apparmor, name, tmp_path / name)


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_apparmors_restriction_is_mended_by_a_profile_for_bubblewrap_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    let_pass(tmp_path)
    home = {"PACKHORSE_HOME": str(tmp_path)}
    restricted(monkeypatch, tmp_path, "1\n")
    assert line("apparmor", tmp_path).finding.endswith("not root's")
    os.seteuid(54321)
    try:
        with HostProbe(home, Folders.find(home)) as examined:
            examined.trial = SandboxTrial(HostError("no", why="bwrap: setting up uid map"), "user-namespaces")
            found = apparmor_restriction(examined)
            about = user_namespaces(examined)
            examined.trial = SandboxTrial()
            works = apparmor_restriction(examined)
    finally:
        os.seteuid(0)
    assert (found.state, about.remedy, works.state) == (
        CheckState.MISSING,
        "see the line apparmor",
        CheckState.OK,
    )
    assert found.fix
    ((target, text),) = found.fix.files
    program = bubblewrap.find().resolve()
    assert target == apparmor.profile_path(program) and f'"{program}"' in text
    assert found.fix.commands == (("apparmor_parser", "--replace", str(target)),)
    restricted(monkeypatch, tmp_path, "0\n")
    assert line("apparmor", tmp_path).finding == "does not restrict user namespaces"


def test_every_install_has_a_profile_of_its_own() -> None:
    assert apparmor.profile_path(Path("/a/bwrap")) != apparmor.profile_path(Path("/b/bwrap"))
    assert apparmor.profile_path(Path("/a/bwrap")) == apparmor.profile_path(Path("/a/bwrap"))


@pytest.mark.system
def test_a_fix_puts_its_files_in_place_before_its_commands(tmp_path: Path) -> None:
    target = tmp_path / "profile"
    fix = Fix("fix", (("cp", str(target), str(tmp_path / "loaded")),), ((target, "text\n"),))
    apply(fix)
    apply(fix)
    assert (tmp_path / "loaded").read_text() == "text\n"
    assert target.stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loaded", "profile"]


@pytest.mark.system
def test_a_fix_that_fails_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "profile"
    with pytest.raises(HostError, match="status 1"):
        apply(Fix("fix", (("false",),), ((target, "text\n"),)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.system
def test_a_fix_whose_file_cannot_be_put_in_place_leaves_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "profile"
    target.mkdir()
    with pytest.raises(HostError, match="mv -fT"):
        apply(Fix("fix", (), ((target, "text\n"),)))
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.system
def test_what_a_fix_runs_is_shown_before(tmp_path: Path) -> None:
    fix = Fix("fix", (("load", "a b"),), ((tmp_path / "f", "text"),))
    prefix = "" if os.geteuid() == 0 else "sudo "
    assert shell_lines(fix) == [
        f"{prefix}install -m 0644 FILE {tmp_path}/.f.new",
        f"{prefix}mv -fT {tmp_path}/.f.new {tmp_path}/f",
        f"{prefix}load 'a b'",
    ]


@pytest.mark.system
def test_apparmors_parser_takes_a_profile_for_any_path(tmp_path: Path) -> None:
    """But for what only version 4 knows: `userns`, and the ABI that has it."""
    text = apparmor.profile(Path("/home/a b/ü/{x,y}*[z]?^@/bwrap"))
    old = text.replace("abi <abi/4.0>,\n", "").replace("  userns,\n", "")
    file = tmp_path / "profile"
    file.write_text(old)
    words = ["apparmor_parser", "--skip-kernel-load", "--skip-cache", "--names", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [apparmor.profile_name(Path("/home/a b/ü/{x,y}*[z]?^@/bwrap"))], done.stderr
