"""Staging a buildpack that is written on the SDK."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packhorse.builder.package import needs_staging, read_requirements, stage_directory
from packhorse.errors import InputError

REPOSITORY = Path(__file__).parents[3]
NODEJS = REPOSITORY / "buildpacks" / "nodejs"


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): (path.stat().st_mode, path.read_bytes()) for path in found}


@pytest.mark.system
def test_a_staged_buildpack_runs_with_any_python_and_nothing_installed(tmp_path: Path) -> None:
    stage_directory(NODEJS, tmp_path / "staged")
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
    stage_directory(NODEJS, tmp_path / "one")
    before = os.umask(0o077)
    try:
        stage_directory(NODEJS, tmp_path / "two")
    finally:
        os.umask(before)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert {mode & 0o777 for mode, _ in files(tmp_path / "one").values()} == {0o644, 0o755}


def test_a_source_needs_staging_and_a_staged_one_does_not(tmp_path: Path) -> None:
    stage_directory(NODEJS, tmp_path / "staged")
    assert needs_staging(NODEJS)
    assert not needs_staging(tmp_path / "staged")
    assert not needs_staging(tmp_path)


def test_a_dependency_that_is_not_installed_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "requirements.txt").write_text("# none\nno-such-distribution>=1\n")
    with pytest.raises(InputError, match="no-such-distribution is not installed"):
        stage_directory(source, tmp_path / "staged")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of installed distributions: top needs middle needs leaf, and one needs a native module."""
    site = tmp_path / "site"
    for name, version, files, needs in (
        ("top", "2.0", ["top.py"], ["middle>=1", "absent; python_version < '3'", "extra_ ; extra == 'more'"]),
        ("middle", "1.5", ["middle/__init__.py"], ["leaf", "top"]),
        ("leaf", "0.1", ["leaf.py"], []),
        ("extra_", "1", ["extra_.py"], []),
        ("compiled", "1", ["compiled.cpython-311.so"], []),
        ("indirect", "1", ["indirect.py"], ["compiled"]),
        ("edited", "1", ["__editable__.edited.pth"], []),
    ):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        for file in files:
            (site / file).parent.mkdir(exist_ok=True)
            (site / file).write_text(f"name = {name!r}\n")
        record = [*files, f"{info.name}/METADATA", f"{info.name}/RECORD"]
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in record))
        lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
        lines += [f"Requires-Dist: {need}" for need in needs]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(site))
    return site


def source_with(tmp_path: Path, requirements: str) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "buildpack.toml").touch()
    (source / "main.py").write_text("from packhorse import sdk\n")
    (source / "requirements.txt").write_text(requirements)
    return source


def test_what_is_named_comes_with_all_that_it_needs(tmp_path: Path, installed: Path) -> None:
    stage_directory(source_with(tmp_path, "top >=2  # for this\n"), tmp_path / "staged")
    there = {path.name for path in (tmp_path / "staged/lib").iterdir()}
    assert there == {"packhorse", "top.py", "middle", "leaf.py"}


def test_an_extra_brings_what_it_needs(tmp_path: Path, installed: Path) -> None:
    stage_directory(
        source_with(tmp_path, "top[more]\npackhorse\nnone; python_version < '3'\n"), tmp_path / "staged"
    )
    assert (tmp_path / "staged/lib/extra_.py").exists()


@pytest.mark.parametrize(
    ("requirements", "what", "why"),
    [
        ("top==1.0", "top is installed in version 2.0", "line 1 wants ==1.0"),
        ("\nindirect", "compiled is not pure Python", "indirect (requirements.txt line 2) names it"),
        ("edited", "the modules of edited cannot be found", "editable mode"),
        ("-r other.txt\n\nleaf @ https://example.com/x.whl\n!\nleaf", "cannot be used", "line 3: a URL"),
        ("leaf==0.1 \\\n  --hash=sha256:00", "cannot be used", "line 2: options"),
        ("-r other.txt", "cannot be used", "line 1: options"),
    ],
)
def test_what_cannot_be_staged_is_said_with_its_line(
    tmp_path: Path, installed: Path, requirements: str, what: str, why: str
) -> None:
    source = source_with(tmp_path, requirements)
    with pytest.raises(InputError) as caught:
        stage_directory(source, tmp_path / "staged")
    assert what in caught.value.what and why in caught.value.why and caught.value.fix
    assert not (tmp_path / "staged").exists()


def test_who_installs_it_is_told_with_which_python(tmp_path: Path, installed: Path) -> None:
    with pytest.raises(InputError) as caught:
        stage_directory(source_with(tmp_path, "top>3"), tmp_path / "staged")
    assert f"{sys.executable} -m pip install 'top>3'" in caught.value.fix


def test_a_file_that_is_no_text_or_leads_elsewhere_is_not_read(tmp_path: Path) -> None:
    source = source_with(tmp_path, "")
    (source / "requirements.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match="cannot be read"):
        stage_directory(source, tmp_path / "staged")
    (source / "requirements.txt").unlink()
    (tmp_path / "secret").write_text("top secret\n")
    (source / "requirements.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="is a link out of the buildpack"):
        stage_directory(source, tmp_path / "staged")


def test_without_a_list_of_requirements_there_are_none(tmp_path: Path) -> None:
    source = source_with(tmp_path, "")
    (source / "requirements.txt").unlink()
    assert needs_staging(source)
    stage_directory(source, tmp_path / "staged")
    assert (tmp_path / "staged/lib/packhorse/sdk").is_dir()
    (source / "main.py").write_text("print('in another manner')\n")
    assert not needs_staging(source)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("abz09.-_[]<>=~!;@#, \\\n\r\t'\"()/:é")))
def test_any_text_is_read_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "requirements.txt").write_text(text)
        try:
            read = read_requirements(Path(folder))
        except InputError as error:
            assert error.issues and all("line " in issue for issue in error.issues)
        else:
            assert all(wanted.requirement.name for wanted in read)


def test_native_programs_are_staged_for_every_architecture_and_executable(tmp_path: Path) -> None:
    stage_directory(NODEJS, tmp_path / "staged")
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
        stage_directory(source, tmp_path / "staged")


def test_links_of_a_strangers_buildpack_are_not_followed(tmp_path: Path) -> None:
    source, secret = tmp_path / "source", tmp_path / "secret"
    source.mkdir()
    secret.write_text("credentials")
    (source / "requirements.txt").touch()
    (source / "main.py").touch()
    (source / "link").symlink_to(secret)
    (source / "machine").symlink_to("/")
    stage_directory(source, tmp_path / "staged")
    assert (tmp_path / "staged" / "link").readlink() == secret
    assert (tmp_path / "staged" / "machine").is_symlink()
    (source / "lib").symlink_to(tmp_path / "elsewhere")
    assert not needs_staging(source)
