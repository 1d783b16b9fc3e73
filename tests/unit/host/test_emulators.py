"""Which architectures this machine runs programs of, itself or with an emulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.base.target import Target
from packhorse.host.machine import can_run

RISCV = "riscv64", b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00"
S390X = "s390x", b"\x7fELF\x02\x02\x01" + bytes(9) + b"\x00\x02\x00\x16"


def entry(magic: bytes, *, state: str = "enabled", flags: str = "OCF") -> str:
    """What the kernel says of an emulator."""
    return (
        f"{state}\ninterpreter /usr/bin/qemu-static\nflags: {flags}\noffset 0\nmagic {magic.hex()}\nmask ff\n"
    )


@pytest.mark.parametrize(("arch", "magic"), [RISCV, S390X])
def test_an_emulator_that_the_kernel_holds_open_runs_its_architecture(
    tmp_path: Path, arch: str, magic: bytes
) -> None:
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "python").write_text("enabled\ninterpreter /usr/bin/python3\nflags: \nextension .py\n")
    assert not can_run(arch, tmp_path)
    (tmp_path / "qemu").write_text(entry(magic))
    assert can_run(arch, tmp_path) and not can_run("ppc64le", tmp_path)
    for other in (entry(magic, state="disabled"), entry(magic, flags="OC")):
        (tmp_path / "qemu").write_text(other)
        assert not can_run(arch, tmp_path)


def test_the_machines_own_programs_need_no_emulator(tmp_path: Path) -> None:
    assert can_run(Target.host().arch, tmp_path / "not-mounted") and can_run("", tmp_path)
    assert can_run({"amd64": "386", "arm64": "arm"}[Target.host().arch], tmp_path)
    assert not can_run("riscv64", tmp_path / "not-mounted")
