"""What a build may use unless its user says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

from packhorse.host.limits import NAMES, build_limits


def test_a_build_has_every_limit_and_the_machine_keeps_something(tmp_path: Path) -> None:
    limits = build_limits(tmp_path, {})
    disk = os.statvfs(tmp_path)
    assert 0 < limits.memory < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1000 < limits.processes < int(Path("/proc/sys/kernel/pid_max").read_text())
    assert 0 < limits.disk <= 1 << 30
    assert limits.disk * 2 <= disk.f_bavail * disk.f_frsize
    assert 0 <= limits.inodes <= 10_000
    assert limits.file_size > 0
    assert limits.expendable


def test_a_full_disk_forbids_no_file_of_usual_size() -> None:
    full = Path("/proc")
    assert os.statvfs(full).f_bavail == 0
    assert build_limits(full, {}).file_size == 1 << 30


def test_a_user_has_the_last_word(tmp_path: Path) -> None:
    asked = {name: number for number, name in enumerate(NAMES)}
    limits = build_limits(tmp_path, asked)
    assert [getattr(limits, name.replace("-", "_")) for name in NAMES] == list(range(len(NAMES)))
