"""What a buildpack leaves behind that is no plain file, and what comes of it: in an image, or in an error."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from fakes.cases import check_all
from fakes.installation import Home
from fakes.shell_buildpack import SERVER, shell_buildpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")

DEEP = "for i in $(seq {count}); do mkdir {name}; cd {name}; done"
LAYER = 'mkdir -p "$CNB_LAYERS_DIR/odd"; printf "[types]\\nlaunch = true\\n" > "$CNB_LAYERS_DIR/odd.toml"'
REFUSED = {
    "a layer that is nested too deep": (
        f'{LAYER}; cd "$CNB_LAYERS_DIR/odd"; {DEEP.format(count=310, name="d")}',
        62,
        ["/layers/test_shell/odd cannot be a layer", "nested more than"],
    ),
    "an application that is nested too deep": (
        DEEP.format(count=30, name="d" * 200),
        62,
        ["the application cannot be exported", "File name too long"],
    ),
    "a pipe for launch.toml": (
        'mkfifo "$CNB_LAYERS_DIR/launch.toml"',
        52,
        ["test/shell@1.0.0 made something that cannot be used", "launch.toml is not a regular file"],
    ),
    "a link in a circle for a layer": (
        f'{LAYER}; rmdir "$CNB_LAYERS_DIR/odd"; ln -s odd "$CNB_LAYERS_DIR/odd"',
        62,
        ["what test/shell@1.0.0 made cannot be exported", "in a circle"],
    ),
}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app"
    path.mkdir()
    (path / "README").write_text("hello\n")
    return path


def test_what_cannot_be_in_an_image_is_told_with_whose_it_is(home: Home, app: Path, tmp_path: Path) -> None:
    def refuse(number: int, script: str, code: int, words: list[str]) -> None:
        buildpack = shell_buildpack(tmp_path / f"buildpack-{number}", build=script)
        done = home.run("build", f"planted-{number}", "--path", app, "--buildpack", buildpack)
        assert done.returncode == code, done.stderr
        assert all(word in done.stderr for word in words), done.stderr

    check_all({name: partial(refuse, number, *row) for number, (name, row) in enumerate(REFUSED.items())})


def test_odd_entries_of_a_layer_are_at_run_time_what_any_engine_makes_of_them(
    home: Home, app: Path, tmp_path: Path
) -> None:
    """A pipe is a pipe, and a file with the name of a whiteout is a whiteout."""
    script = (
        f'{SERVER}{LAYER}; cd "$CNB_LAYERS_DIR/odd"; mkfifo -m 640 pipe; ln pipe other; ln -s /nowhere link\n'
        'touch .wh.mark "$(printf "caf\\351")"'
    )
    buildpack = shell_buildpack(tmp_path / "buildpack", build=script)
    home.ok("build", "odd", "--path", app, "--buildpack", buildpack)
    look = (
        "cd /layers/test_shell/odd; ls -A | while read i; do stat -c '%n %F %a' \"$i\"; done | tr '\\351' E"
    )
    assert home.ok("run", "--entrypoint", "sh", "odd", "-c", look).splitlines() == [
        "cafE regular empty file 644",
        "link symbolic link 777",
        "other fifo 640",
        "pipe fifo 640",
    ]
