"""Staging a buildpack that is written on the SDK."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from packhorse.errors import InputError
from packhorse.platform.package import needs_staging, stage

REPOSITORY = Path(__file__).parents[3]
NODEJS = REPOSITORY / "buildpacks" / "nodejs"


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): (path.stat().st_mode, path.read_bytes()) for path in found}


def test_a_staged_buildpack_runs_with_any_python_and_nothing_installed(tmp_path: Path) -> None:
    stage(NODEJS, tmp_path / "staged")
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/lib'];"
        "import nodejs.buildpack, nodesemver, packhorse.sdk; print(packhorse.sdk.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(tmp_path / "staged")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().startswith(str(tmp_path))


def test_the_same_source_is_staged_to_the_same_bytes_and_modes_whatever_the_umask(tmp_path: Path) -> None:
    stage(NODEJS, tmp_path / "one")
    before = os.umask(0o077)
    try:
        stage(NODEJS, tmp_path / "two")
    finally:
        os.umask(before)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert {mode & 0o777 for mode, _ in files(tmp_path / "one").values()} == {0o644, 0o755}


def test_a_source_needs_staging_and_a_staged_one_does_not(tmp_path: Path) -> None:
    stage(NODEJS, tmp_path / "staged")
    assert needs_staging(NODEJS)
    assert not needs_staging(tmp_path / "staged")
    assert not needs_staging(tmp_path)


def test_a_dependency_that_is_not_installed_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "requirements.txt").write_text("# none\nno-such-distribution>=1\n")
    with pytest.raises(InputError, match="no-such-distribution is not installed"):
        stage(source, tmp_path / "staged")


def test_native_programs_are_staged_for_every_architecture_and_executable(tmp_path: Path) -> None:
    stage(NODEJS, tmp_path / "staged")
    programs = {
        path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "staged/lib/programs").iterdir()
    }
    assert programs == {"node-options-linux-amd64": 0o755, "node-options-linux-arm64": 0o755}


def test_a_program_that_packhorse_does_not_have_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "requirements.txt").touch()
    (source / "programs.txt").write_text("# none\nno-such-program\n")
    with pytest.raises(InputError, match="packhorse has no program no-such-program"):
        stage(source, tmp_path / "staged")


def test_links_of_a_strangers_buildpack_are_not_followed(tmp_path: Path) -> None:
    source, secret = tmp_path / "source", tmp_path / "secret"
    source.mkdir()
    secret.write_text("credentials")
    (source / "requirements.txt").touch()
    (source / "main.py").touch()
    (source / "link").symlink_to(secret)
    (source / "machine").symlink_to("/")
    stage(source, tmp_path / "staged")
    assert (tmp_path / "staged" / "link").readlink() == secret
    assert (tmp_path / "staged" / "machine").is_symlink()
    (source / "lib").symlink_to(tmp_path / "elsewhere")
    assert not needs_staging(source)
