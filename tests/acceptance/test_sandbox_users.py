"""The same steps as ordinary users, with subordinate ids and without: what holds for root holds for them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
RANGE, SINGLE = "ph-range", "ph-single"
TABLES = (Path("/etc/subuid"), Path("/etc/subgid"))


def user(name: str, *, subordinate: bool) -> None:
    """Makes the user when there is none, with subordinate ids or without."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "--create-home", name], check=True)
    for table in TABLES:
        lines = table.read_text().splitlines() if table.exists() else []
        others = [line for line in lines if not line.startswith(f"{name}:")]
        if subordinate and others == lines:
            # Above every extent that is there.
            start = max((sum(map(int, line.split(":")[1:])) for line in lines), default=100_000)
            table.write_text("\n".join([*lines, f"{name}:{max(start, 100_000)}:65536"]) + "\n")
        elif not subordinate:
            table.write_text("".join(f"{line}\n" for line in others))


def interpreter(name: str) -> str:
    """A python that the user may execute; that of the tests may stand in a home that is shut."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        done = subprocess.run(
            ["runuser", "-u", name, "--", candidate, "-c", check], capture_output=True, check=False
        )
        if done.returncode == 0:
            return candidate
    pytest.fail(f"{name} can execute no python from 3.11")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
@pytest.mark.parametrize("name", [RANGE, SINGLE])
def test_all_steps_do_as_users_what_they_do_as_root(name: str) -> None:
    user(name, subordinate=name == RANGE)
    if name == RANGE:
        assert shutil.which("newuidmap"), "the package uidmap is needed"
    packages = Path(pytest.__file__).parents[1]
    places = (packages, REPOSITORY / "src", REPOSITORY / "tests")
    tests = [
        "tests/acceptance/test_sandbox_steps.py",
        "tests/contract/test_tree.py",
        "tests/contract/test_runner.py",
    ]
    done = subprocess.run(
        [
            *("runuser", "-u", name, "--", "env", f"PYTHONPATH={':'.join(map(str, places))}"),
            *("PYTHONDONTWRITEBYTECODE=1", interpreter(name), "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *tests,
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "failed" not in done.stdout
