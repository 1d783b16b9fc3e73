"""However a build ends early, it ends soon, leaves nothing behind, and the next one makes the same image."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fakes import linux
from fakes.installation import Home
from fakes.shell_buildpack import SERVER, shell_buildpack
from fakes.small_image import stored_image, tar_of
from fakes.waiting import wait_until
from lanes import first_in_test
from packhorse.linux.processes import read_proc
from packhorse.testing import FakeRegistry, Fault
from torture.ground import prepare
from torture.signals import Interrupter

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")

WAITS = "echo waiting; sleep 1000 & wait"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return source(tmp_path / "app")


@pytest.fixture(scope="module")
def own_home(own_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The worker's home, in which the builder is unpacked and `first` was built."""
    folder = tmp_path_factory.mktemp("first")
    buildpack = shell_buildpack(folder / "buildpack", build=SERVER)
    own_home.ok("build", "first", "--path", source(folder / "app"), "--buildpack", buildpack)
    return own_home


def source(path: Path) -> Path:
    path.mkdir()
    (path / "README").write_text("hello\n")
    return path


@contextmanager
def started(home: Home, app: Path, buildpack: Path, *, until: str) -> Iterator[subprocess.Popen[str]]:
    """A build that has said `until`."""
    process = home.start("build", "app", "--path", app, "--buildpack", buildpack, "--verbose")
    assert process.stderr is not None
    try:
        assert any(until in line for line in process.stderr), f"it never said {until}"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_source_that_goes_away_is_told_and_leaves_nothing(own_home: Home, tmp_path: Path) -> None:
    buildpack = shell_buildpack(tmp_path / "buildpack", build=f"{SERVER}\necho waiting; sleep 8")
    app = source(tmp_path / "app")
    with started(own_home, app, buildpack, until="waiting") as process:
        app.rename(tmp_path / "elsewhere")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 62, said
    assert str(app) in said and "went wrong" not in said
    assert_nothing_is_left(own_home, process)


def living(session: int) -> list[str]:
    """The processes of a session that have not ended."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = read_proc("stat", directory.name).partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, _, _, of = rest.split()[:4]
        if int(of) == session and state != "Z":
            found.append(name)
    return found


def assert_nothing_is_left(home: Home, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while living(process.pid) and time.monotonic() < end:
        time.sleep(0.02)  # what ends with its parent ends just after it
    assert living(process.pid) == []
    assert str(home.path) not in read_proc("mountinfo")
    # What writes trees to the disk when a command has ended has a lease of its own for a while.
    places = [home.path / "store" / name for name in ("scratch", "leases")]
    while left := [path for place in places for path in place.iterdir()]:
        assert time.monotonic() < end, left
        time.sleep(0.02)
    assert list((home.path / "groups").glob("*")) == []


@pytest.mark.parametrize(
    ("number", "whole_group", "status"),
    first_in_test(
        [
            (signal.SIGINT, True, 130),
            (signal.SIGINT, False, 130),
            (signal.SIGTERM, False, 143),
            (signal.SIGHUP, True, 129),
            (signal.SIGQUIT, False, 131),
        ]
    ),
)
@pytest.mark.parametrize("phase", ["detect", "build", "export"])
def test_a_signal_ends_a_build_in_any_phase(
    phase: str, number: int, whole_group: bool, status: int, own_home: Home, app: Path, tmp_path: Path
) -> None:
    detect = WAITS if phase == "detect" else ""
    build = {"build": WAITS, "export": f"{SERVER}\nhead -c 300M /dev/zero > $CNB_LAYERS_DIR/tools/zeros"}
    buildpack = shell_buildpack(tmp_path / "buildpack", detect=detect, build=build.get(phase, SERVER))
    until = {"detect": "===> detect", "build": "waiting", "export": "===> export"}[phase]
    with started(own_home, app, buildpack, until=until) as process:
        if phase == "detect":
            linux.wait_for_descendant(process.pid, "sleep", "1000")
        (os.killpg if whole_group else os.kill)(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert "Traceback" not in said
    reason = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    assert f"error: {reason}" in said
    assert_nothing_is_left(own_home, process)
    assert "app " not in own_home.ok("images")


def test_a_second_signal_does_not_break_off_the_cleaning(own_home: Home, app: Path, tmp_path: Path) -> None:
    many = 'mkdir "$CNB_LAYERS_DIR/many"; cd "$CNB_LAYERS_DIR/many"; touch {1..20000}; ' + WAITS
    buildpack = shell_buildpack(tmp_path / "buildpack", build=many)
    with started(own_home, app, buildpack, until="waiting") as process:
        (files,) = (own_home.path / "store" / "scratch").rglob("many")
        os.kill(process.pid, signal.SIGINT)
        wait_until(lambda: len(os.listdir(files)) < 20_000, "the removal of what was made", glance=0.002)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "cleaning up; once more ends packhorse at once" in said
    assert "error: interrupted" in said
    assert_nothing_is_left(own_home, process)


def test_a_killed_build_leaves_no_process_and_the_next_one_sweeps_up(
    own_home: Home, app: Path, tmp_path: Path
) -> None:
    waits = shell_buildpack(tmp_path / "waits", build=WAITS)
    with started(own_home, app, waits, until="waiting") as process:
        process.kill()
        process.communicate(timeout=60)
    works = shell_buildpack(tmp_path / "works", build=SERVER)
    expected = own_home.image_id("first")
    assert own_home.ok("build", "--quiet", "app", "--path", app, "--buildpack", works) == expected
    assert_nothing_is_left(own_home, process)


def test_a_limit_ends_a_build_with_its_name_and_leaves_nothing(
    own_home: Home, app: Path, tmp_path: Path
) -> None:
    bomb = shell_buildpack(tmp_path / "bomb", build="b() { b | b & }; b; while :; do sleep 1; done")
    process = own_home.start(
        *("build", "app", "--path", app, "--buildpack", bomb, "--limit", "processes=150")
    )
    _, said = process.communicate(timeout=60)
    assert process.returncode == 51
    assert "it met the limit of 150 processes" in said
    assert_nothing_is_left(own_home, process)


def test_a_build_that_takes_longer_than_it_may_ends(own_home: Home, app: Path, tmp_path: Path) -> None:
    waits = shell_buildpack(tmp_path / "waits", build=f'trap "" TERM INT HUP; {WAITS}; {WAITS}')
    process = own_home.start("build", "app", "--path", app, "--buildpack", waits, "--timeout", "1.5s")
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[-1]) == (124, "error: the build took longer than 1.5s")
    assert_nothing_is_left(own_home, process)


def test_a_terminal_that_is_closed_ends_a_build(own_home: Home, app: Path, tmp_path: Path) -> None:
    noisy = shell_buildpack(tmp_path / "noisy", build="trap '' HUP; while :; do echo and again; done")
    master, slave = pty.openpty()
    process = own_home.start(
        *("build", "app", "--path", app, "--buildpack", noisy),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    said = b""
    while b"and again" not in said:
        said = said[-20:] + os.read(master, 4096)
    os.close(master)
    assert process.wait(60) == 129
    assert_nothing_is_left(own_home, process)


@pytest.mark.parametrize("part", ["config", "layer"])
def test_a_registry_that_has_fallen_silent_holds_nobody_up(own_home: Home, tmp_path: Path, part: str) -> None:
    image = stored_image(tar_of({"file": b"x"}))
    (layer,) = image.layers
    assert image.manifest is not None and layer.blob is not None
    with FakeRegistry() as registry:
        digests = {
            "config": registry.put_blob("image", image.config.raw),
            "layer": registry.put_blob("image", b"".join(layer.blob())),
        }
        registry.put_manifest("image", "1", image.manifest.raw, image.manifest.media_type)
        registry.faults.append(Fault(path=digests[part], times=9, delay=60))
        process = own_home.start("copy", f"docker://{registry.host}/image:1", f"oci:{tmp_path}/out:1")
        while not registry.find_requests("GET", digests[part]):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[-1]) == (130, "error: interrupted")
    assert_nothing_is_left(own_home, process)


def test_unpacking_a_builder_is_broken_off(own_home: Home, app: Path, new_home: Callable[[], Home]) -> None:
    home = new_home()
    process = home.start("build", "app", "--path", app)
    while not list(home.path.glob("store/trees/*/.*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert_nothing_is_left(home, process)
    assert list(home.path.glob("store/trees/*/.*")) == []


@pytest.mark.torture
def test_signals_at_random_moments_leave_nothing(program: Path, common: Path) -> None:
    """A few; `torture.signals` sends hundreds."""
    number = int(os.environ.get("PACKHORSE_TESTS_SIGNALS", time.time_ns() % 1_000_000))
    print(f"PACKHORSE_TESTS_SIGNALS={number} repeats it")
    (common / "signals").mkdir()
    interrupter = Interrupter(prepare(common / "signals", program=program), number)
    for kind in interrupter.kinds():
        interrupter.send(kind)
    interrupter.check()


def test_a_reader_that_goes_ends_the_build(own_home: Home, app: Path, tmp_path: Path) -> None:
    noisy = shell_buildpack(tmp_path / "noisy", build=f"for i in {{1..100000}}; do echo $i; done; {WAITS}")
    with started(own_home, app, noisy, until="] 1") as process:
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(60) == 141
    assert_nothing_is_left(own_home, process)


def test_closed_streams_are_no_trouble(home: Home) -> None:
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" images {closed}', home.program],
            env=home.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), closed
    full = subprocess.run(
        ["sh", "-c", 'exec "$0" images > /dev/full', home.program],
        env=home.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (full.returncode, "the output cannot be written" in full.stderr) == (1, True)
