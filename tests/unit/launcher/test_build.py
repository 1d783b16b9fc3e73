"""What launcher/build.py makes: static, small, equal bytes for equal sources, quick when nothing changed."""

import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "launcher"
Build = Callable[[Path, Path], dict[str, Path]]

# e_machine of the ELF header.
MACHINES = {"amd64": 62, "arm64": 183}
PROGRAM_INTERPRETER = 3


@pytest.mark.parametrize("architecture", MACHINES)
def test_a_binary_is_static_for_its_architecture_and_small(
    binaries: dict[str, Path], architecture: str
) -> None:
    content = binaries[architecture].read_bytes()
    (machine,) = struct.unpack_from("<H", content, 18)
    offset, size, count = *struct.unpack_from("<Q", content, 32), *struct.unpack_from("<HH", content, 54)
    segments = {struct.unpack_from("<I", content, offset + i * size)[0] for i in range(count)}

    assert content[:7] == b"\x7fELF\x02\x01\x01"
    assert machine == MACHINES[architecture]
    assert PROGRAM_INTERPRETER not in segments
    assert b".symtab" not in content
    assert len(content) < 45_000


@pytest.mark.system
def test_building_in_another_directory_gives_the_same_bytes(
    build: Build, binaries: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "a copy/of the launcher"
    shutil.copytree(SOURCE / "src", copy / "src")

    again = build(copy, tmp_path / "out")

    for architecture, binary in binaries.items():
        assert again[architecture].read_bytes() == binary.read_bytes()


def test_the_version_stands_for_these_bytes(binaries: dict[str, Path]) -> None:
    """A failure means: change VERSION and run ``make sums``."""
    lines = (SOURCE / "SHA256SUMS").read_text().splitlines()

    assert lines == [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in binaries.values()
    ]


def test_nothing_is_compiled_when_nothing_changed(build: Build, binaries: dict[str, Path]) -> None:
    out = binaries["amd64"].parent
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}

    assert build(SOURCE, out) == binaries
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.system
def test_a_missing_binary_is_made_again(build: Build, tmp_path: Path) -> None:
    first = build(SOURCE, tmp_path)
    first["amd64"].unlink()

    assert build(SOURCE, tmp_path)["amd64"].is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "launcher-inputs.sha256",
        "launcher-linux-amd64",
        "launcher-linux-arm64",
    ]


@pytest.mark.system
def test_a_source_that_does_not_compile_is_an_error(build: Build, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/main.c").write_text("int main(void) { return unknown; }\n")

    with pytest.raises(subprocess.CalledProcessError):
        build(tmp_path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.system
def test_the_arm64_binary_starts_a_process(binaries: dict[str, Path], tmp_path: Path) -> None:
    """In an emulator where this machine has another processor (the package qemu-user-static)."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/metadata.toml").write_text(
        "[[processes]]\ntype = 'web'\ncommand = ['/bin/echo', 'always']\nargs = ['default']\ndirect = true\n"
    )
    environment = {"CNB_LAYERS_DIR": str(tmp_path), "CNB_APP_DIR": str(tmp_path), "CNB_PLATFORM_API": "0.15"}
    emulator = [] if os.uname().machine == "aarch64" else ["qemu-aarch64-static", "-0", "/cnb/process/web"]

    done = subprocess.run(
        [*emulator, str(binaries["arm64"])] if emulator else ["/cnb/process/web"],
        executable=None if emulator else binaries["arm64"],
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"always default\n", b"")
