"""The lanes of the tests: a quick test starts no process, and a seed chooses the same slice of torture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lanes

THREE = """
import subprocess
import pytest

@pytest.fixture
def started():
    subprocess.run(["true"])

def test_quick(): pass

@pytest.mark.system
def test_system(): subprocess.run(["true"])

@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.torture)])
def test_either(number): pass
"""


def run(directory: Path, text: str, *options: str) -> tuple[int, str]:
    """Runs pytest with the lanes on one file; returns its status and output."""
    path = directory / "test_lanes_of_this_file.py"
    path.write_text(text)
    words = [sys.executable, "-m", "pytest", "-v", "-p", "lanes", "--rootdir", directory, "-c", os.devnull]
    done = subprocess.run(
        [*words, *options, path],
        env=os.environ | {"PYTHONPATH": str(lanes.TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.system
@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ((), ["test_quick", "test_system", "test_either[1]", "test_either[2]"]),
        (("--lane", "quick"), ["test_quick", "test_either[1]"]),
        (("--lane", "test"), ["test_quick", "test_system", "test_either[1]"]),
        (("--lane", "torture"), ["test_either[2]"]),
        (
            ("--lane", "test", "--torture-seconds", "60"),
            ["test_quick", "test_system", "test_either[1]", "test_either[2]"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_lane_is_run_by_its_name(tmp_path: Path, options: tuple[str, ...], passed: list[str]) -> None:
    status, said = run(tmp_path, THREE, *options)
    assert status == 0, said
    assert [line.split()[0].partition("::")[2] for line in said.splitlines() if " PASSED" in line] == passed


@pytest.mark.system
def test_a_quick_test_that_starts_a_process_fails(tmp_path: Path) -> None:
    for body in ("os.system('true')", "subprocess.run(['true'])", "os.fork() or os._exit(0)"):
        status, said = run(tmp_path, f"import os, subprocess\ndef test_it(): {body}\n", "--lane", "quick")
        assert status == 1, said
        assert "test_it is in the lane `quick` and starts a process" in said, said
    with_set_up = THREE.replace("def test_quick()", "def test_quick(started)")
    status, said = run(tmp_path, with_set_up)
    assert (status, said.count("ERROR at teardown of test_quick")) == (1, 1), said


@pytest.mark.system
def test_the_seed_of_a_slice_is_printed_and_repeats_it(tmp_path: Path) -> None:
    case = "@pytest.mark.torture\n@pytest.mark.parametrize('number', range(40))\ndef test_{}(number): pass\n"
    text = "import pytest\n" + "".join(case.format(name) for name in "abcdefgh")
    _, said = run(tmp_path, text, "--lane", "test", "--torture-seconds", "100")
    passed = [line for line in said.splitlines() if " PASSED" in line]
    assert 4 <= len(passed) <= 10  # nobody has measured them
    seed = said.rpartition("--torture-seed ")[2].split()[0]
    _, said = run(tmp_path, text, "--lane", "test", "--torture-seconds", "100", "--torture-seed", seed)
    assert [line for line in said.splitlines() if " PASSED" in line] == passed


@pytest.mark.system
def test_all_workers_of_a_run_choose_the_same_slice(tmp_path: Path) -> None:
    """xdist runs nothing when its workers have not collected the same tests."""
    case = "@pytest.mark.torture\n@pytest.mark.parametrize('number', range(40))\ndef test_{}(number): pass\n"
    text = "import pytest\n" + "".join(case.format(name) for name in "abcdefgh")
    _, said = run(tmp_path, text, "--lane", "test", "--torture-seconds", "100", "-n", "2")
    assert " passed" in said and "error" not in said


def test_every_recorded_duration_is_of_a_test_that_there_is() -> None:
    for name in lanes.recorded_seconds():
        file, _, function = name.partition("::")
        assert f"def {function}(" in (lanes.TESTS.parent / file).read_text(), name
