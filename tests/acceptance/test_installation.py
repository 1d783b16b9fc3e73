"""Installing packhorse from a clone, by pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from fakes.installation import NOT_SOURCE, REPOSITORY


def test_a_wheel_is_built_without_touching_what_an_editable_install_of_the_clone_uses(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(REPOSITORY, clone, ignore=NOT_SOURCE)
    bundled = clone / "src/packhorse/_bundled"
    before = _listing(bundled)
    assert bundled / "bundle.json" in before
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        + ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(clone)],
        check=True,
    )
    assert _listing(bundled) == before
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read("packhorse/_bundled/bundle.json") == (bundled / "bundle.json").read_bytes()
    assert len(names) == len(set(names))
    assert "packhorse/_bundled/launcher/launcher-linux-arm64" in names


def _listing(directory: Path) -> dict[Path, tuple[int, int]]:
    """Every file and directory, with its inode and the time of its last change (in nanoseconds)."""
    return {
        path: (path.stat().st_ino, path.stat().st_ctime_ns) for path in (directory, *directory.rglob("*"))
    }
