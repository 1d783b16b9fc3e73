"""`packhorse build --dry-run` and `packhorse detect`, with the default builder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fakes.installation import Home

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")


def test_a_dry_run_prints_the_plan_that_a_build_then_follows(home: Home, sample: Path) -> None:
    words = ("planned", "--path", sample, "--env", "SECRET=hunter2", "--network", "none")
    shown = home.run("build", *words, "--dry-run")
    assert (shown.returncode, shown.stderr) == (0, ""), shown.stderr
    assert "docker.io/library/planned:latest" in shown.stdout and "previous      none" in shown.stdout
    assert "hunter2" not in shown.stdout and "SECRET" in shown.stdout
    plan = json.loads(home.ok("build", *words, "--dry-run", "--format", "json"))
    assert "planned" not in home.ok("images")
    home.ok("build", "--quiet", *words[:-2], cwd=sample)
    built = json.loads(home.ok("inspect", "planned", "--output", "json"))["built_with"]
    assert built["builder"] == plan["provenance"]["builder"] and built["env"] == plan["env"] == ["SECRET"]
    after = json.loads(home.ok("build", *words, "--dry-run", "--format", "json"))
    assert after["previous"]["id"] == home.image_id("planned")


def test_a_dry_run_fails_as_the_build_does(home: Home, sample: Path, tmp_path: Path) -> None:
    for words in (
        ("x", "--path", "nosuch"),
        ("x", "--path", sample, "--buildpack", "nosuch"),
        ("x", "--path", sample, "--output", "oci-archive:no/x.tar"),
        ("x", "--path", sample, "--builder", "localhost:1/x"),
        ("x", "--path", sample, "--run-image", "localhost:1/x"),
        ("localhost:1/x", "--path", sample, "--publish"),
    ):
        built, planned = (home.run("build", *words, *more, cwd=tmp_path) for more in ((), ("--dry-run",)))
        assert built.returncode == planned.returncode != 0, (words, planned.stderr)
        assert built.stderr == planned.stderr and planned.stdout == ""
    wrong = home.run("build", "x", "--path", sample, "--format", "json")
    assert wrong.returncode == 2 and "--format is for --dry-run" in wrong.stderr


def test_detect_says_who_would_build_and_makes_no_image(home: Home, sample: Path, tmp_path: Path) -> None:
    images = home.ok("images", "--quiet", "--no-trunc")
    taken = home.run("detect", sample)
    assert taken.returncode == 0 and "would build: packhorse/nodejs@" in taken.stdout, taken.stderr
    (tmp_path / "readme.txt").write_text("nothing to build")
    refused = home.run("detect", tmp_path, "--output", "json")
    assert refused.returncode == 20 and "error: no buildpack takes this source" in refused.stderr
    told = json.loads(refused.stdout)
    assert told["group"] is None and [each["builds"] for each in told["tried"]] == [False, False]
    assert [(each["id"], each["result"], each["status"]) for each in told["buildpacks"]] == [
        ("packhorse/nodejs", "fail", 100),
        ("packhorse/procfile", "fail", 100),
    ]
    assert home.ok("images", "--quiet", "--no-trunc") == images
