"""The start command: direct where it can be, through a shell that steps aside where it must."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from nodejs.project import Project
from nodejs.start import Start, find

from packhorse.errors import InputError


def start(directory: Path, generated: bool = False, **scripts: str) -> Start:
    found = find(Project(directory, {"scripts": scripts}), generated=generated)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("node src/index.js", ("node", "src/index.js")),
        ("node 'my server.js' --port 80", ("node", "my server.js", "--port", "80")),
        ("exec node a.js", ("node", "a.js")),
        ("next start -p 8080", ("next", "start", "-p", "8080")),
        ("node a.js --port $PORT", ("sh", "-c", "exec node a.js --port $PORT")),
        ("A=1 B='2 3' node a.js", ("sh", "-c", "A=1 B='2 3' exec node a.js")),
        ("A=1 exec node a.js", ("sh", "-c", "A=1 exec node a.js")),
        ("cd server && node a.js", ("sh", "-c", "cd server && exec node a.js")),
    ],
)
def test_node_gets_the_signals_of_these_scripts(
    tmp_path: Path, script: str, command: tuple[str, ...]
) -> None:
    found = start(tmp_path, start=script)
    assert found.command == command
    assert found.gets_signals


@pytest.mark.parametrize(
    "script", ["node a.js | tee log", "node a.js & node b.js", "node -e 'a; b' && node c; d"]
)
def test_a_script_whose_shell_must_stay_is_left_as_it_is_and_said(tmp_path: Path, script: str) -> None:
    found = start(tmp_path, start=script)
    assert found.command == ("sh", "-c", script)
    assert not found.gets_signals


@pytest.mark.parametrize(
    "script", ["A='1 2' B=x env", "true && A=1 env", "A=$HOME env", "cd / && true && env", "env | cat"]
)
def test_a_rewritten_script_does_what_npm_would_do(script: str, tmp_path: Path) -> None:
    def output(argv: tuple[str, ...]) -> list[str]:
        env = {"PATH": os.environ["PATH"], "HOME": "/h"}
        out = subprocess.run(argv, env=env, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        return sorted(line for line in out.splitlines() if not line.startswith("_="))

    assert output(start(tmp_path, start=script).command) == output(("sh", "-c", script))


def test_prestart_runs_first_and_stops_the_start_when_it_fails(tmp_path: Path) -> None:
    command = start(tmp_path, prestart="echo before", start="echo started").command
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "before\nstarted\n"
    command = start(tmp_path, prestart="false", start="echo started").command
    assert subprocess.run(command, check=False, capture_output=True, text=True).stdout == ""


def test_a_script_that_only_runs_another_is_followed(tmp_path: Path) -> None:
    found = start(tmp_path, start="npm run serve", serve="npm run -s real", real="node a.js")
    assert found.command == ("node", "a.js")


@pytest.mark.parametrize(
    "script", ["npm run a && node b.js", "npx serve", "npm run missing", "npm run start"]
)
def test_a_script_that_needs_npm_is_refused_since_it_is_not_in_the_image(tmp_path: Path, script: str) -> None:
    with pytest.raises(InputError, match="not in the image"):
        start(tmp_path, start=script)


@pytest.mark.parametrize("script", ["", "node 'a.js"])
def test_a_script_that_cannot_be_read_is_refused(tmp_path: Path, script: str) -> None:
    with pytest.raises(InputError):
        start(tmp_path, start=script)


@pytest.mark.parametrize("main", ["lib/server.js", "lib/server", "lib"])
def test_main_is_found_as_node_finds_it(tmp_path: Path, main: str) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/server.js").touch()
    (tmp_path / "lib/index.js").touch()
    assert find(Project(tmp_path, {"main": main}), generated=False) == Start(
        ("node", main), "package.json main"
    )


def test_main_may_be_made_by_the_build(tmp_path: Path) -> None:
    manifest: dict[str, Any] = {"main": "dist/a.js"}
    found = find(Project(tmp_path, manifest), generated=True)
    assert found is not None
    assert found.command == ("node", "dist/a.js")


def test_a_missing_main_gives_way_to_an_entry_file(tmp_path: Path) -> None:
    (tmp_path / "index.js").touch()
    (tmp_path / "app.js").touch()
    assert find(Project(tmp_path, {"main": "gone.js"}), generated=False) == Start(
        ("node", "app.js"), "there is app.js"
    )


def test_a_procfile_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web: node x.js\n")
    assert find(Project(tmp_path), generated=False) is None


def test_nothing_to_start_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to start") as caught:
        find(Project(tmp_path, {"main": "gone.js"}), generated=False)
    assert "main names gone.js" in caught.value.why
    assert '"start": "node' in caught.value.fix
