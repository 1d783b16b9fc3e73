"""A person who waits is told what goes on and how far it is."""

from __future__ import annotations

import os
import pty
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from packhorse.base.progress import Task
from packhorse.cli.output import Console
from packhorse.cli.waiting import describe_task, watch

pytestmark = pytest.mark.system

PATIENCE = 30


@pytest.fixture
def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    """One whose lines go to the file `said`, as in a log of a build server."""
    with (tmp_path / "said").open("w") as file:
        monkeypatch.setattr("sys.stderr", file)
        console = Console({})
        watch(console)
        yield console


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_takes_long_is_told_with_what_is_done_and_for_how_long(console: Console, tmp_path: Path) -> None:
    said = tmp_path / "said"
    began = time.monotonic()
    with console.meter.task("copying app", unit="B", total=644_000_000) as task:
        task.add(120_000_000)
        until(lambda: said.read_text() != "")
        assert time.monotonic() - began >= 2
        until(lambda: said.read_text().count("\n") == 2)
    first, second = said.read_text().splitlines()
    assert first.startswith("     copying app: 120 MB of 644 MB, ")
    assert second != first


def test_a_phase_without_a_word_is_told(console: Console, tmp_path: Path) -> None:
    with console.phase("export"):
        until(lambda: "     export: " in (tmp_path / "said").read_text())


@pytest.mark.parametrize(
    ("command", "places", "doing"),
    [
        ("inspect", 1, "reading"),
        ("sbom", 1, "reading"),
        ("diff", 2, "comparing"),
        ("copy --all-tags", 2, "copying the tags of"),
    ],
)
def test_commands_that_ask_a_silent_registry_say_what_they_do(
    tmp_path: Path, command: str, places: int, doing: str
) -> None:
    code = "import sys; from packhorse.cli.main import main; sys.exit(main())"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"docker://127.0.0.1:{silent.getsockname()[1]}/app"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *command.split(), *[place] * places],
            env={**os.environ, "PACKHORSE_HOME": str(tmp_path)},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        with process:
            try:
                assert process.stderr is not None
                assert process.stderr.readline().strip().startswith(doing)
            finally:
                process.kill()


def test_nobody_is_told_with_quiet(console: Console, tmp_path: Path) -> None:
    console.adjust(quiet=True, verbose=False, no_color=False)
    with console.meter.task("copying app") as task:
        until(lambda: time.monotonic() - task.began > 3)
    assert (tmp_path / "said").read_text() == ""


def test_on_a_terminal_one_line_is_drawn_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        console = Console({})
        watch(console)
        drawn = b""
        with console.meter.task("unpacking", unit="layers", total=600) as task:
            while drawn.count(b"of 600 layers") < 3:
                assert select.select([master], [], [], PATIENCE)[0]
                drawn += os.read(master, 4096)
                task.add(1)
        assert b"\n" not in drawn
        console.say("done")
        drawn = b""
        while b"done" not in drawn:  # the line may have been drawn once more just before
            assert select.select([master], [], [], PATIENCE)[0]
            drawn += os.read(master, 4096)
        assert drawn.partition(b"done")[0].endswith(b"\r\x1b[K     ")
    os.close(master)


def test_a_reader_that_has_gone_ends_the_command_with_its_next_line(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        monkeypatch.setattr("sys.stderr", gone)
        console = Console({})
        watch(console)
        with console.meter.task("copying app"):
            until(lambda: os.readlink(f"/proc/self/fd/{write}") == os.devnull)
        with pytest.raises(SystemExit) as ended:
            console.say("done")
        assert ended.value.code == 141


@pytest.mark.parametrize(
    ("unit", "total", "told"),
    [("", 0, "x: 0 s"), ("B", 0, "x: 1.5 kB, 0 s"), ("B", 3000, "x: 1.5 kB of 3.0 kB, 0 s")],
)
def test_what_is_not_known_is_left_out(unit: str, total: int, told: str) -> None:
    task = Task("x", unit, total)
    task.add(1500)
    assert describe_task(task) == told


def test_a_step_that_was_told_once_is_told_again_with_its_time(console: Console, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with console.activity("making it"):
        console.progress("fetching")
        console.progress("unpacking")
        until(lambda: "unpacking: " in said.read_text())
    assert "fetching: " not in said.read_text() and console.meter.tasks == []
