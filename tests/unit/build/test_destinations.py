"""Places that cannot be written are told before a build, as they would be after it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from packhorse.build.deliver import check_destinations
from packhorse.errors import EngineError, InputError, NetworkError, StoreError
from packhorse.host.wiring import Wiring
from packhorse.oci.reference import Location
from packhorse.testing import FakeRegistry


def parsed(*texts: object) -> list[Location]:
    return [Location.parse(str(text)) for text in texts]


def test_what_can_be_written_is_left_as_it_was(
    wiring: Wiring, registry: FakeRegistry, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    archives = (f"oci-archive:{tmp_path}/a.tar", f"docker-archive:{tmp_path}/b.tar")
    layout, name = f"oci:{tmp_path}/not/there/yet", f"docker://{registry.host}/team/app"
    check_destinations(
        wiring, parsed(*archives, layout, name), tmp_path / "report" / "of" / "it", tmp_path / "boms"
    )
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_an_archive_in_no_directory_or_in_place_of_one_is_refused(
    kind: str, wiring: Wiring, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="nothing can be written to"):
        check_destinations(wiring, parsed(f"{kind}:{tmp_path}/none/a.tar"), None)
    with pytest.raises(StoreError, match="cannot be replaced by an archive"):
        check_destinations(wiring, parsed(f"{kind}:{tmp_path}"), None)


def test_below_a_file_there_is_no_layout_and_no_report(wiring: Wiring, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as raised:
        check_destinations(wiring, parsed(f"oci:{tmp_path}/file/layout"), None)
    assert raised.value.why == f"{tmp_path}/file is not a directory"
    with pytest.raises(InputError, match="no report can be written"):
        check_destinations(wiring, [], tmp_path / "file" / "report")
    with pytest.raises(InputError, match="no SBOM can be written"):
        check_destinations(wiring, [], None, tmp_path / "file" / "boms")


READ_ONLY = """
import sys
from pathlib import Path
from packhorse.errors import PackhorseError
from packhorse.oci.reference import Location
from packhorse.build.deliver import check_destinations
for kind in ("oci", "oci-archive", "docker-archive"):
    try:
        check_destinations(None, [Location.parse(f"{kind}:{sys.argv[1]}/image")], None)
    except PackhorseError as error:
        print(error.why)
"""


@pytest.mark.system
def test_a_file_system_that_is_read_only_takes_nothing(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o ro none "$1"; exec "$2" -c "$3" "$1"'
    words = ["unshare", "--map-root-user", "--mount", "sh", "-e", "-c", mount, "sh"]
    done = subprocess.run(
        [*words, tmp_path, sys.executable, READ_ONLY], capture_output=True, text=True, check=True
    )
    assert done.stdout == "its file system is read-only\n" * 3


def test_an_engine_that_does_not_answer_is_told(wiring: Wiring, tmp_path: Path) -> None:
    away = Wiring(wiring.store, docker_host=f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(EngineError, match="cannot be asked"):
        check_destinations(away, parsed("docker-daemon:app"), None)


def test_a_registry_that_does_not_answer_is_told(wiring: Wiring) -> None:
    with pytest.raises(NetworkError):
        check_destinations(wiring, parsed("docker://localhost:1/app"), None)
