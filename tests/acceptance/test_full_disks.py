"""A build on a full disk says so, and what to do, wherever it meets the end of the disk."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fakes import users
from fakes.installation import REPOSITORY
from fakes.users import RANGE, SINGLE
from lanes import first_in_test
from torture.power import Disk

VIEW = Path("/mnt")
CODES = {0, 6, 21, 51}
"""21 and 51 are those of a buildpack that met the end of the disk itself, or the limit before it."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it makes users and a file system")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that every user can pass through, with a small file system at `disk`."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        disk = Disk(Path(folder) / "disk", inodes=1000)
        disk.make()
        yield Path(folder)
        disk.unmount()


@pytest.mark.parametrize(
    ("name", "work", "step"),
    first_in_test(
        [("root", "overlay", 2), ("root", "copies", 6), (RANGE, "overlay", 6), (SINGLE, "overlay", 6)]
    ),
)
def test_a_build_on_a_full_disk_ends_with_6_and_says_what_to_do(
    folder: Path, name: str, work: str, step: int
) -> None:
    if name != "root":
        users.ensure(name)
    place = folder / work
    place.mkdir()
    place.chmod(0o777)
    packages = Path(pytest.__file__).parents[1]
    if packages.is_relative_to(REPOSITORY):
        packages = VIEW / packages.relative_to(REPOSITORY)
    done = subprocess.run(
        [
            # The clone may lie where the user cannot go, so he sees it elsewhere.
            *("unshare", "--mount", "sh", "-c", 'mount --bind "$1" "$2" && cd "$2" && shift 2 && exec "$@"'),
            *("sh", str(REPOSITORY), str(VIEW), "runuser", "-u", name, "--", "env"),
            *(f"PYTHONPATH={packages}:{VIEW}/src:{VIEW}/tests", "PYTHONDONTWRITEBYTECODE=1"),
            *(users.interpreter(name), "-m", "fakes.full_disk", str(folder / "disk"), str(place)),
            *map(str, range(6, 60, step)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [outcome for outcome in outcomes if outcome["code"] not in CODES] == []
    failed = [(outcome["code"], "\n".join(outcome["said"])) for outcome in outcomes if outcome["code"]]
    assert [
        said for _, said in failed if "No space left" not in said and "free on the disk" not in said
    ] == []
    assert [said for _, said in failed if "Read-only" in said] == []
    full = [said for code, said in failed if code == 6]
    assert len(full) > 1 and all("packhorse gc" in said for said in full)
