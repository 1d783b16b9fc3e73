"""login and logout: what they try, what they write, who reads it; and that nobody prints a password."""

from __future__ import annotations

import base64
import json
import os
import pty
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.command import START, Command
from fakes.credential_helper import FakeHelper
from fakes.docker_registry import serve
from fakes.small_image import stored_image, tar_of
from packhorse.oci.layout import Layout
from packhorse.oci.place import push_image
from packhorse.testing import FakeRegistry, Fault

HTPASSWD = "me:$2b$05$bZFwjuul5no64QZhXNwauO2sNZSxSDFY/vne/.rCTkYyavDA5yhT.\n"  # the password is "pw"
PASSWORD = "hunter2-is-the-password"


@pytest.fixture
def packhorse(tmp_path: Path) -> Command:
    return Command(tmp_path / "home")


@pytest.fixture(params=["token", "basic"])
def server(request: pytest.FixtureRequest) -> Iterator[FakeRegistry]:
    with FakeRegistry(users={"me": PASSWORD}, basic=request.param == "basic") as server:
        yield server


def log_in(packhorse: Command, host: str, password: str = PASSWORD, **environ: str) -> str:
    packhorse.ok("login", "-u", "me", "--password-stdin", host, given=f"{password}\n", **environ)
    return packhorse.said


def layout(folder: Path) -> str:
    push_image(stored_image(tar_of({"a": b"a" * 5000})), Layout(folder / "layout", "a"))
    return f"oci:{folder / 'layout'}:a"


def test_a_login_is_tried_kept_used_and_forgotten(
    packhorse: Command, server: FakeRegistry, tmp_path: Path
) -> None:
    image, place = layout(tmp_path), f"docker://{server.host}/team/app:1"
    said = packhorse.fails(5, "copy", image, place)
    assert f"there are no credentials for {server.host}" in said
    assert f"packhorse login {server.host}" in said
    log_in(packhorse, server.host)
    file = packhorse.home / ".docker" / "config.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    packhorse.ok("copy", image, place)
    packhorse.ok("logout", server.host)
    assert json.loads(file.read_text()) == {"auths": {}}
    packhorse.fails(5, "inspect", place)
    assert packhorse.run("logout", server.host).stderr == f"not logged in to {server.host}\n"


def test_wrong_credentials_are_refused_and_not_kept(packhorse: Command, server: FakeRegistry) -> None:
    said = packhorse.fails(5, "login", "-u", "me", "--password-stdin", server.host, given="wrong-one")
    assert f"{server.host} refused the login" in said
    assert not (packhorse.home / ".docker").exists()


def test_a_password_that_is_no_text_is_refused(packhorse: Command) -> None:
    said = subprocess.run(
        [sys.executable, "-P", str(START), "login", "-u", "me", "--password-stdin", "localhost:1"],
        env=packhorse.environ,
        input=b"p\xe4ss\n",
        capture_output=True,
    )
    assert (said.returncode, b"have to be UTF-8" in said.stderr) == (2, True), said.stderr


def test_what_else_is_in_the_file_stays_and_a_link_stays_a_link(packhorse: Command, tmp_path: Path) -> None:
    (packhorse.home / ".docker").mkdir()
    kept = tmp_path / "dotfiles.json"
    before = json.dumps(
        {
            "psFormat": "table {{.ID}}\\t\u00e4",
            "auths": {"a.example": {"auth": "YTpi", "email": "a@a.example"}},
            "proxies": {"default": {}, "b": [None, True, 12345678901234567890, 0.5]},
            "HttpHeaders": None,
        },
        indent="\t",
    )
    kept.write_text(before)
    (packhorse.home / ".docker" / "config.json").symlink_to(kept)
    with FakeRegistry(users={"me": PASSWORD}) as server:
        log_in(packhorse, server.host)
        assert (packhorse.home / ".docker" / "config.json").is_symlink()
        entry = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        added = f',\n\t\t"{server.host}": {{\n\t\t\t"auth": "{entry}"\n\t\t}}'
        assert kept.read_text() == before.replace('a@a.example"\n\t\t}', f'a@a.example"\n\t\t}}{added}')
        packhorse.ok("logout", server.host)
    assert kept.read_text() == before


def test_skopeo_reads_what_login_writes_and_the_other_way_round(packhorse: Command, tmp_path: Path) -> None:
    (packhorse.home / "run").mkdir()
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}
    with serve(tmp_path, auth=auth) as host:
        log_in(packhorse, host, "pw")
        packhorse.ok("copy", layout(tmp_path), f"docker://{host}/team/app:1")

        def peer(*words: str) -> str:
            done = subprocess.run(words, env=packhorse.environ, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert '"1"' in peer("skopeo", "list-tags", "--tls-verify=false", f"docker://{host}/team/app")
        packhorse.ok("logout", host)
        peer("skopeo", "login", "--tls-verify=false", "-u", "me", "-p", "pw", host)
        packhorse.ok("inspect", f"docker://{host}/team/app:1")
        assert "there still are some" in packhorse.run("logout", host).stderr


def test_a_helper_that_the_file_names_keeps_the_password(packhorse: Command, tmp_path: Path) -> None:
    helper = FakeHelper(tmp_path / "bin")
    file = packhorse.home / ".docker" / "config.json"
    file.parent.mkdir()
    file.write_text('{"credsStore": "fake"}')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    with FakeRegistry(users={"me": PASSWORD}) as server:
        log_in(packhorse, server.host, PATH=path)
        assert helper.kept == {server.host: {"Username": "me", "Secret": PASSWORD}}
        assert json.loads(file.read_text()) == {"credsStore": "fake", "auths": {server.host: {}}}
        packhorse.ok("copy", layout(tmp_path), f"docker://{server.host}/app", PATH=path)
        packhorse.ok("logout", server.host, PATH=path)
        assert helper.kept == {}
        FakeHelper(tmp_path / "bin", behaviour="fail")
        words = ("login", "-u", "me", "--password-stdin", server.host)
        said = packhorse.fails(7, *words, given=PASSWORD, PATH=path)
        assert "`docker-credential-fake store` ended with status 2: the keyring is locked" in said
        assert "no such program on PATH" in packhorse.fails(7, *words, given=PASSWORD)


def test_an_auth_file_that_is_named_is_written(packhorse: Command, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    with FakeRegistry(users={"me": PASSWORD}) as server:
        log_in(packhorse, f"{server.host}/team", REGISTRY_AUTH_FILE=str(file))
        assert list(json.loads(file.read_text())["auths"]) == [f"{server.host}/team"]
        named = {"REGISTRY_AUTH_FILE": str(file)}
        packhorse.ok("copy", layout(tmp_path), f"docker://{server.host}/team/app", **named)
        packhorse.fails(5, "copy", layout(tmp_path), f"docker://{server.host}/other/app", **named)


def test_a_file_that_is_broken_or_cannot_be_written_is_left_alone(packhorse: Command, tmp_path: Path) -> None:
    file = packhorse.home / ".docker" / "config.json"
    file.parent.mkdir()
    file.write_text(f'{{"auths": {{\n"{PASSWORD}"')
    with FakeRegistry(users={"me": PASSWORD}) as server:
        words = ("login", "-u", "me", "--password-stdin", server.host)
        assert "config.json is not JSON" in packhorse.fails(8, *words, given=PASSWORD)
        assert file.read_text() == f'{{"auths": {{\n"{PASSWORD}"'
        packhorse.fails(6, *words, given=PASSWORD, DOCKER_CONFIG=str(file))
    assert PASSWORD not in packhorse.said


@pytest.mark.parametrize(
    ("words", "given", "code"),
    [
        (["login", "-u", "me", "a.example"], "", 2),
        (["login", "--password-stdin", "a.example"], PASSWORD, 2),
        (["login", "-u", "me", "--password-stdin", "a.example"], "", 2),
        (["login", "-u", "me", "--password-stdin", "a.example"], f"{PASSWORD}\n{PASSWORD}", 2),
        (["login", "-u", "me:x", "--password-stdin", "a.example"], PASSWORD, 2),
        (["login", "-u", "me", "--password-stdin", "not a registry"], PASSWORD, 3),
        (["login", "-u", "me", "--password-stdin", f"https://me:{PASSWORD}@a.example"], PASSWORD, 3),
        (["login", "-u", "me", "--password-stdin", "unknown.invalid"], PASSWORD, 5),
        (["logout", "name"], "", 3),
    ],
)
def test_wrong_words_are_told_without_the_password(
    packhorse: Command, words: list[str], given: str, code: int
) -> None:
    packhorse.fails(code, *words, given=given)
    assert PASSWORD not in packhorse.said


def test_a_person_is_asked_and_the_password_does_not_show(packhorse: Command) -> None:
    with FakeRegistry(users={"me": PASSWORD}) as server:
        shown = bytearray()

        def answer(descriptor: int) -> bytes:
            data = os.read(descriptor, 1024)
            shown.extend(data)
            for question, reply in ((b"Username: ", b"me\n"), (b"Password: ", PASSWORD.encode() + b"\n")):
                if data.endswith(question):
                    os.write(descriptor, reply)
            return b""

        pid, descriptor = pty.fork()
        if pid == 0:
            program = shutil.which("packhorse", path=Path(sys.executable).parent) or "packhorse"
            os.execve(program, [program, "login", server.host], packhorse.environ)
        while True:
            try:
                answer(descriptor)
            except OSError:  # the other end is closed
                break
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
        assert b"logged in to" in shown
        assert PASSWORD.encode() not in shown


FAULTS = [
    Fault(method="GET", path="/token", status=500, times=9),
    Fault(method="GET", path="/token", body=b"{}"),
    Fault(method="GET", path="/token", cut_response=3, times=9),
    Fault(method="GET", path="/v2/", status=401, headers={"www-authenticate": "Bearer realm=hunter"}),
    Fault(method="HEAD", path="blobs", status=403, times=9),
    Fault(method="POST", path="uploads", status=429, headers={"retry-after": "99"}),
    Fault(method="PUT", path="manifests", status=400, body=b"\x1b[31m no"),
    Fault(method="PUT", path="uploads", status=413),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.method} {fault.path} {fault.status}")
def test_no_failure_prints_a_password_or_a_token(packhorse: Command, fault: Fault, tmp_path: Path) -> None:
    with FakeRegistry(users={"me": PASSWORD}) as server:
        log_in(packhorse, server.host)
        server.faults.append(Fault(**vars(fault)))
        packhorse.run("--verbose", "copy", layout(tmp_path), f"docker://{server.host}/app")
        packhorse.run("--verbose", "inspect", f"docker://{server.host}/app")
        server.users = {"me": "changed"}
        server.token_scopes.clear()
        refused = packhorse.fails(5, "--verbose", "inspect", f"docker://{server.host}/app")
        assert f"the credentials are those for {server.host} in" in refused
        encoded = json.loads((packhorse.home / ".docker" / "config.json").read_text())["auths"][server.host]
        for secret in (PASSWORD, encoded["auth"], *server.token_scopes):
            assert secret not in packhorse.said
