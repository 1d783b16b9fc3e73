"""The sample buildpack of the tutorial in packhorse's sandbox, built and started with `sdk.testing`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fakes.installation import REPOSITORY, Home
from packhorse.errors import BuildpackFailed
from packhorse.sdk.testing import build_image

SAMPLE = REPOSITORY / "samples/buildpacks/greeting"


@pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")
def test_an_image_of_the_sample_is_built_and_started(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKHORSE_HOME", str(home.path))
    monkeypatch.setenv("PATH", f"{home.program.parent}:{os.environ['PATH']}")
    (tmp_path / "greeting.txt").write_text("good morning\n")
    image = build_image("greeting-test", SAMPLE, tmp_path, env={"X": "1"}, options=["--network", "none"])
    assert "layer greeting new" in image.output and image.id.startswith("sha256:")
    assert image.run().output == "GOOD MORNING\n"
    again = build_image("greeting-test", SAMPLE, tmp_path, options=["--network", "none"])
    assert "layer greeting kept" in again.output and "has changed since" not in again.output
    with image:
        assert image.run("-c", 'echo "$A"', entrypoint="sh", env={"A": "given"}).output == "given\n"
    assert image.run().status != 0
    mine = Path(shutil.copytree(SAMPLE, tmp_path / "mine"))
    with build_image("greeting-test", mine, tmp_path):
        (mine / "main.py").write_text((mine / "main.py").read_text().replace("upper", "title"))
        again = build_image("greeting-test", mine, tmp_path)
        assert f"{mine} has changed since the last build of this image" in again.output
        assert again.run().output == "GOOD MORNING\n"  # as the message says
        again = build_image("greeting-test", mine, tmp_path, options=["--clear-cache"])
        assert again.run().output == "Good Morning\n" and "has changed since" not in again.output
    with pytest.raises(BuildpackFailed, match=r"\(exit status 20\)"):
        (tmp_path / "greeting.txt").rename(tmp_path / "other.txt")
        build_image("greeting-test", SAMPLE, tmp_path)
