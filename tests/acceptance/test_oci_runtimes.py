"""`--sandbox runc`: the same images by another sandbox, as every kind of user; words where it cannot be.

What a step is, sees and may do there is in `test_sandbox_steps`, which holds for every sandbox.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.test_build_and_run import memory_seen
from acceptance.test_interruptions import WAITS, assert_nothing_is_left, source
from fakes import linux, users
from fakes.installation import Home
from fakes.place import place
from fakes.shell_buildpack import SERVER, shell_buildpack
from fakes.web import answer, free_port
from lanes import first_in_test
from packhorse.base.sandbox import Overlay
from packhorse.errors import SandboxError
from packhorse.linux.processes import read_proc

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


@pytest.mark.parametrize("user", first_in_test(["", users.RANGE, users.SINGLE]))
def test_a_runtime_builds_the_same_image_and_runs_it(
    user: str, own_home: Home, new_home: Callable[[str], Home], sample: Path, sample_id: str
) -> None:
    home = new_home(user) if user else own_home
    assert home.ok("build", "--quiet", "--sandbox", "runc", "sample", "--path", sample) == sample_id
    port = free_port()
    process = home.start("run", "--sandbox", "runc", "-p", f"{port}:{port}", "sample")
    try:
        assert b'"packhorse"' in answer(
            port, failed=lambda: process.poll() is not None and process.communicate()
        )
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, "SIGTERM: finishing open requests" in out) == (0, True)
    finally:
        process.kill()
    assert home.ok("run", "--sandbox", "runc", "--user", "0", "--entrypoint", "id", "sample", "-u") == "0"
    assert memory_seen(home, "--sandbox", "runc", "--memory", "64m") == "67108864"


@pytest.fixture(scope="module")
def own_home(own_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The worker's home, in which the builder is unpacked."""
    folder = tmp_path_factory.mktemp("first")
    buildpack = shell_buildpack(folder / "buildpack", build=SERVER)
    own_home.ok(
        *("build", "first", "--sandbox", "runc", "--path", source(folder / "app"), "--buildpack", buildpack)
    )
    return own_home


@pytest.mark.parametrize("number", first_in_test([signal.SIGTERM, signal.SIGINT, signal.SIGKILL]))
@pytest.mark.parametrize("phase", first_in_test(["build", "detect"]))
def test_a_build_that_ends_early_leaves_no_container(
    phase: str, number: signal.Signals, own_home: Home, tmp_path: Path
) -> None:
    app = source(tmp_path / "app")
    scripts = {"build": SERVER, phase: WAITS}
    buildpack = shell_buildpack(tmp_path / "buildpack", **scripts)
    until = {"detect": "===> detect", "build": "waiting"}[phase]
    words = ("build", "app", "--sandbox", "runc", "--path", app, "--buildpack", buildpack, "--verbose")
    process = own_home.start(*words)
    assert process.stderr is not None
    try:
        assert any(until in line for line in process.stderr)
        if phase == "detect":
            linux.wait_for_descendant(process.pid, "sleep", "1000")
        below = linux.descendants(process.pid)
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert linux.gone(below)
    # Not with pathlib: other tests' groups come and go meanwhile.
    assert "step" not in {name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names}
    if number == signal.SIGKILL:
        assert str(own_home.path) not in read_proc("mountinfo")
    else:
        assert process.returncode == 128 + number
        assert_nothing_is_left(own_home, process)


def test_a_runtime_that_cannot_serve_is_said_before_anything_is_made(home: Home, sample: Path) -> None:
    done = home.run("build", "unmade", "--sandbox", "none-such", "--path", sample)
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.splitlines()[0] == "error: there is no OCI runtime none-such"
    done = home.run("run", "--sandbox", "/bin/true", "sample")
    assert done.returncode == 125
    assert "/bin/true is not an OCI runtime that packhorse can use" in done.stderr


def runtime(directory: Path, script: str) -> str:
    """A runtime that is a shell script, which every user can start."""
    directory.chmod(0o755)
    path = directory / "runtime"
    path.write_text(f'#!/bin/sh\n[ "$1" != --version ] || {{ echo runc version 1.1.5; exit; }}\n{script}\n')
    path.chmod(0o755)
    return str(path)


REFUSES = """
echo 'time="2026-01-01T00:00:00Z" level=warning msg="a \\\\"quoted\\\\" warning"' >&2
echo 'time="2026-01-01T00:00:00Z" level=error msg="runc run failed: no such thing"' >&2
exit 1
"""


def test_a_refusal_is_told_in_the_runtimes_own_words(tmp_path: Path) -> None:
    with place(tmp_path, runtime(tmp_path, REFUSES)) as here, pytest.raises(SandboxError) as raised:
        here.run(here.spec("true"))
    assert raised.value.why.splitlines() == ['a "quoted" warning', "runc run failed: no such thing"]
    assert "--sandbox" in raised.value.fix


@pytest.mark.parametrize(("times", "made"), [(2, True), (99, False)])
def test_a_runtime_that_is_busy_for_a_moment_is_asked_again(tmp_path: Path, times: int, made: bool) -> None:
    calls = tmp_path / "calls"
    calls.touch(0o666)
    calls.chmod(0o666)
    busy = f"""
    echo >> {calls}
    [ $(wc -l < {calls}) -gt {times} ] && exec runc "$@"
    echo "nsexec[8]: could not ensure we are a cloned binary: Device or resource busy" >&2
    exit 1
    """
    with place(tmp_path, runtime(tmp_path, busy)) as here:
        if made:
            here.run(here.spec("true"))
        else:
            with pytest.raises(SandboxError, match="the sandbox cannot be made"):
                here.run(here.spec("true"))
    assert len(calls.read_text()) == (3 if made else 4)


def test_a_runtime_that_ends_without_a_container_is_an_error(tmp_path: Path) -> None:
    with place(tmp_path, runtime(tmp_path, "exit 0")) as here, pytest.raises(SandboxError):
        here.run(here.spec("true"))


HANGS = """
import sys
from pathlib import Path
from fakes.place import place
with place(Path(sys.argv[1]), sys.argv[2]) as here:
    print("ready", flush=True)
    here.run(here.spec("true"))
"""


@pytest.mark.parametrize("number", first_in_test([signal.SIGINT, signal.SIGKILL]))
def test_a_runtime_that_hangs_ends_with_whoever_waits_for_it(number: int, tmp_path: Path) -> None:
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    base = tmp_path / "base"
    base.mkdir()
    program = runtime(tmp_path, f"echo > {fifo}; sleep 300 & wait")
    child = subprocess.Popen(
        [sys.executable, "-c", HANGS, str(base), program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    fifo.read_bytes()
    below = linux.descendants(child.pid)
    assert len(below) >= 3
    child.send_signal(number)
    child.communicate(timeout=60)
    assert linux.gone(below)


@pytest.mark.torture
def test_any_number_of_directories_can_be_seen_as_one(tmp_path: Path) -> None:
    with place(tmp_path, "runc") as here:
        lowers = tuple(here.directory() for _ in range(400))
        for number, lower in enumerate(lowers):
            (lower / f"file-{number}").touch()
        _, output = here.run(here.spec("ls /seen | grep -c ^file-", Overlay(lowers, "/seen")))
        assert output == "400\n"
        too_many = tuple(lowers[0] / name for name in map(str, range(501)))
        for lower in too_many:
            lower.mkdir()
        with pytest.raises(SandboxError, match="/seen"):
            here.run(here.spec("true", Overlay(too_many, "/seen")))
