"""An image is built once more from its source, and what is not the same is named."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fakes.installation import Home
from fakes.shell_buildpack import SERVER, shell_buildpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "README").write_text("hello\n")
    return tmp_path / "app"


def test_what_a_buildpack_makes_otherwise_each_time_is_named_to_the_file(
    home: Home, app: Path, tmp_path: Path
) -> None:
    told = 'tr -d - < /proc/sys/kernel/random/uuid > "$CNB_LAYERS_DIR/tools/stamp"'
    own = shell_buildpack(tmp_path / "own", "test/stamp", build=f"{SERVER}\n{told}")
    build = ("--path", app, "--buildpack", own)
    home.ok("build", "--quiet", "stamped", *build, "--env", "SECRET=sekret-0451")
    done = home.run("verify", "stamped", "--path", app)
    assert done.returncode == 3
    assert "--env SECRET" in done.stderr and "from its own machine (test/stamp@1.0.0)" in done.stderr
    page = tmp_path / "page.html"
    done = home.run("verify", "--quiet", "stamped", *build, "--env", "SECRET=sekret-0451", "--html", page)
    assert done.returncode == 1, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == "not reproducible: only test/stamp changed: 6 of 7 layers are the same"
    assert "  ~ /layers/test_stamp/tools/stamp  content" in lines
    assert sum(line.startswith("  ~ /") for line in lines) == 1
    assert "verify" not in home.ok("images")
    assert "/layers/test_stamp/tools/stamp" in page.read_text() and ".stacks" in page.read_text()


def test_a_build_that_is_reproducible_is_said_to_be_wherever_the_image_is(
    home: Home, app: Path, tmp_path: Path
) -> None:
    own = shell_buildpack(tmp_path / "own", "test/steady", build=SERVER)
    build = ("--path", app, "--buildpack", own, "--env", "SECRET=sekret-0451")
    image = home.ok("build", "--quiet", "steady", *build)
    home.ok("copy", "steady", f"oci:{tmp_path / 'layout'}:steady")
    done = home.run("verify", "--quiet", f"oci:{tmp_path / 'layout'}:steady", *build)
    assert (done.returncode, done.stdout) == (
        0,
        f"reproducible: the source gives the same image, {image}\n",
    )
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{tmp_path / 'layout'}:steady"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    recorded = json.loads(json.loads(raw)["annotations"]["io.packhorse.build"])
    assert recorded["env"] == ["SECRET"] and recorded["directories"] == ["test/steady@1.0.0"]
    assert "sekret" not in raw and image == home.image_id("steady")
