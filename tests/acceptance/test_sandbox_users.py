"""The same steps as ordinary users, with subordinate ids and without: what holds for root holds for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fakes import users
from fakes.users import RANGE, SINGLE

REPOSITORY = Path(__file__).parents[2]
VIEW = Path("/mnt")
TESTS = (
    "tests/acceptance/test_builds_without_overlays.py",
    "tests/acceptance/test_cache_images.py",
    "tests/acceptance/test_fast_builds.py",
    "tests/acceptance/test_limits.py",
    "tests/acceptance/test_run_terminal.py",
    "tests/acceptance/test_sandbox_scripts.py",
    "tests/acceptance/test_sandbox_steps.py",
    "tests/acceptance/test_shut_entries.py",
    "tests/acceptance/test_store_overlay.py",
    "tests/acceptance/test_store_trees.py",
    "tests/contract/test_layer_cache.py",
    "tests/contract/test_tree.py",
    "tests/contract/test_runner.py",
    "tests/golden/test_images.py",
)
STEPS = (
    "tests/acceptance/test_sandbox_scripts.py",
    "tests/acceptance/test_sandbox_steps.py",
    "tests/acceptance/test_shut_entries.py",
    "tests/contract/test_tree.py",
    "tests/contract/test_runner.py",
)
"""Those of them that are run in `make test`."""

PATIENT = (
    "tests/acceptance/test_cache_images.py::"
    "test_a_registry_that_does_not_answer_costs_the_cache_and_not_the_build"
)
"""Waits for a quarter of a minute, whoever the user is."""


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


@pytest.mark.parametrize("name", [RANGE, SINGLE])
def test_steps_do_as_users_what_they_do_as_root(name: str) -> None:
    run_as(name, "--lane", "test", *STEPS)


@pytest.mark.torture
@pytest.mark.parametrize("name", [RANGE, SINGLE])
def test_all_that_runs_in_sandboxes_does_as_users_what_it_does_as_root(name: str) -> None:
    run_as(name, "--deselect", PATIENT, *TESTS)


@pytest.mark.torture
@pytest.mark.parametrize("name", [RANGE, SINGLE])
def test_a_network_of_their_own_keeps_users_steps_from_this_machine(name: str, tmp_path: Path) -> None:
    tun = tmp_path / "tun"
    os.mknod(tun, 0o20666, os.makedev(10, 200))
    tun.chmod(0o666)
    run_as(name, "tests/acceptance/test_own_network.py", tun=tun)


def run_as(name: str, *words: str, tun: Path = Path("/dev/net/tun")) -> None:
    """Runs tests as a user, to whom `tun` is /dev/net/tun."""
    users.ensure(name)
    if name == RANGE:
        assert shutil.which("newuidmap"), "the package uidmap is needed"
    packages = Path(pytest.__file__).parents[1]
    if packages.is_relative_to(REPOSITORY):
        packages = VIEW / packages.relative_to(REPOSITORY)
    # The clone may lie where the user cannot go, so he sees it elsewhere.
    mounts = 'mount --bind "$3" /dev/net/tun && mount --bind "$1" "$2" && cd "$2" && shift 3 && exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", mounts),
            *("sh", str(REPOSITORY), str(VIEW), str(tun), "runuser", "-u", name, "--", "env"),
            *(
                f"PYTHONPATH={packages}:{VIEW}/src:{VIEW}/tests",
                "PYTHONDONTWRITEBYTECODE=1",
                f"HOME=/home/{name}",
            ),
            *(users.interpreter(name), "-m", "pytest", "-q", "-p", "no:cacheprovider", *words),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "failed" not in done.stdout
