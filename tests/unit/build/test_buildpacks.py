"""What `--buildpack` takes, and which of its directories have changed since the last build."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from packhorse.build import buildpacks
from packhorse.errors import InputError


@pytest.mark.parametrize(
    ("file", "counts"),
    [("main.py", True), ("bin/build", True), ("__pycache__/main.pyc", False), (".git/index", False)],
)
def test_a_file_that_is_newer_than_the_build_is_a_change(tmp_path: Path, file: str, counts: bool) -> None:
    for name in ("main.py", "bin/build", file):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1000, 1000))
    names = [str(tmp_path), "some/id"]
    assert buildpacks.find_changed(names, 1000) == ()
    os.utime(tmp_path / file, (1001, 1001))
    assert buildpacks.find_changed(names, 1000) == ((str(tmp_path),) if counts else ())


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("docker://h.example/bp:1", "a buildpack in an image", "--builder"),
        ("docker:/h.example/bp", "a buildpack in an image", "--builder"),
        ("https://h.example/bp.tgz", "a buildpack behind a URL", "download it, unpack it"),
        ("s3://bucket/bp.cnb", "a buildpack behind a URL", "download it, unpack it"),
        ("urn:cnb:registry:a/b@1", "the buildpack registry", "--builder"),
        ("urn:cnb:builder", "the builder's order", "one by one"),
        ("from=builder", "the builder's order", "one by one"),
        ("file:///some/bp", "a file: URL", "name the directory: /some/bp"),
        ("bp.cnb", "a buildpack in a file", "unpack it"),
        ("./bp.tgz", "a buildpack in a file", "unpack it"),
    ],
)
def test_what_only_pack_takes_is_named_with_what_works_instead(
    name: str, what: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("bp.cnb", "bp.tgz"):
        (tmp_path / file).touch()
    (tmp_path / "directory").mkdir()
    buildpacks.require_supported(["directory", "some/id@1", "urn:cnb:builder:some/id@1", "./none", "C:x"])
    with pytest.raises(InputError) as raised:
        buildpacks.require_supported(["directory", name])
    assert raised.value.what.startswith(f"--buildpack {name} is not supported yet: {what}")
    assert fix in raised.value.fix and "ID@VERSION" in raised.value.why
