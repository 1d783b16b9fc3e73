"""Buildpacks staged with the files that they would download."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.builder.package import stage_buildpack
from packhorse.errors import InputError, NotFoundError
from packhorse.sdk.dependencies import Dependencies


def test_a_bundled_buildpack_is_staged_with_files(tmp_path: Path) -> None:
    (tmp_path / "node.tgz").write_bytes(b"an archive")
    stage_buildpack("packhorse/nodejs", tmp_path / "staged", [("node", "1.0.0", tmp_path / "node.tgz")])
    found = Dependencies.read(tmp_path / "staged/dependencies").find("node", "1.0.0")
    assert found is not None and found.read_bytes() == b"an archive"
    assert (tmp_path / "staged/lib/packhorse/sdk").is_dir()
    stage_buildpack(str(tmp_path / "staged"), tmp_path / "again", [])
    assert Dependencies.read(tmp_path / "again/dependencies").versions("node") == ("1.0.0",)


def test_what_cannot_be_staged_is_said(tmp_path: Path) -> None:
    for source in ("acme/none", "docker://acme/bp", "urn:cnb:registry:acme/bp", str(tmp_path / "nosuch.cnb")):
        with pytest.raises(NotFoundError, match="to stage") as missing:
            stage_buildpack(source, tmp_path / "x", [])
        assert missing.value.why is not None and missing.value.fix is not None
        assert str(Path(source).absolute()) in missing.value.why and "packhorse/nodejs" in missing.value.why
        assert "directory" in missing.value.fix and "not an image" in missing.value.fix
    with pytest.raises(InputError, match="is not a buildpack's directory") as wrong:
        stage_buildpack(str(tmp_path), tmp_path / "x", [])
    assert wrong.value.fix
    (tmp_path / "buildpack.toml").touch()
    with pytest.raises(InputError, match="is inside "):
        stage_buildpack(str(tmp_path), tmp_path / "x", [])
    with pytest.raises(InputError, match="exists"):
        stage_buildpack("packhorse/nodejs", tmp_path, [])
    assert [path.name for path in tmp_path.iterdir()] == ["buildpack.toml"]


def test_what_fails_leaves_nothing_so_that_it_can_be_tried_again(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "out" / "staged"
    source.mkdir()
    (source / "buildpack.toml").touch()
    (source / "main.py").touch()
    (source / "requirements.txt").write_text("packaging\n")
    (source / "programs.txt").write_text("no-such-program\n")
    with pytest.raises(InputError, match="no-such-program"):
        stage_buildpack(str(source), target, [])
    with pytest.raises(InputError, match="cannot be copied"):
        stage_buildpack("packhorse/nodejs", target, [("node", "1", tmp_path / "missing")])
    assert list(target.parent.iterdir()) == []
    (source / "programs.txt").unlink()
    stage_buildpack(str(source), target, [])
    assert (target / "lib/packaging/requirements.py").is_file()
    assert [path.name for path in target.parent.iterdir()] == ["staged"]
