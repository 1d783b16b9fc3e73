"""The processes of a Procfile: what the image runs for each, and what happens to one that cannot start."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from nodejs.processes import Processes
from nodejs.programs import Engines
from nodejs.start import StartCommand
from nodejs.workspace import Workspace

from fakes.build_context import build_context
from packhorse.errors import InputError

MANIFEST: dict[str, Any] = {
    "scripts": {"start": "NODE_ENV=t node server.js", "work": "node worker.js"},
    "devDependencies": {"prisma": "6"},
}


class Source:
    """An application with a Procfile; `log` is what reading and checking it says."""

    def __init__(self, app: Path, text: str, manifest: dict[str, Any] = MANIFEST, **env: str) -> None:
        (app / "package.json").write_text(json.dumps(manifest))
        (app / "Procfile").write_text(text)
        for name in ("server.js", "worker.js"):
            (app / name).touch()
        self.said = io.StringIO()
        self.context = build_context(app, env={"PATH": "/nowhere", **env}, said=self.said)
        self.workspace = Workspace.read(app, env.get("BP_NODE_PROJECT_PATH", ""))

    def read(self) -> Processes:
        return Processes.read(self.context, self.workspace)

    def checked(self) -> Mapping[str, StartCommand]:
        """Its processes but `web` when the build is over."""
        found = self.read()
        return found.check_others(self.context, self.workspace, Engines("", node=True), "24.0.0")


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("node server.js --x", ("node", "server.js", "--x")),
        ("npm start", ("node", "server.js")),
        ("npm run start -- --x", ("node", "server.js", "--x")),
        ("yarn work", ("node", "worker.js")),
        ("npx serve dist", ("serve", "dist")),
        ("node server.js --port $PORT", ("bash", "-c", "exec node server.js --port $PORT")),
        (
            "npm run work && npm start",
            ("bash", "-c", "node worker.js && NODE_ENV=t exec node server.js"),
        ),
        ("node a.js | tee log", ("bash", "-c", "node a.js | tee log")),
    ],
)
def test_a_command_runs_directly_where_it_can_and_else_in_bash(
    tmp_path: Path, command: str, argv: tuple[str, ...]
) -> None:
    found = Source(tmp_path, f"web: {command}\n").read()
    assert found.web is not None
    assert found.web.command == argv


def test_web_comes_first_and_has_the_variables_of_the_script_that_it_runs(tmp_path: Path) -> None:
    found = Source(tmp_path, "worker: npm run work\nweb: npm start\n").read()
    assert list(found.starts) == ["web", "worker"]
    assert found.web is not None
    assert found.web.env == {"NODE_ENV": "t"}
    assert list(found.others) == ["worker"]


def test_a_variable_that_names_the_start_goes_before_web(tmp_path: Path) -> None:
    source = Source(tmp_path, "web: npm gone\nworker: npm run work\n", BP_NPM_START_SCRIPT="work")
    assert list(source.read().starts) == ["worker"]
    assert "web of the Procfile is not used" in source.said.getvalue()


def test_web_that_needs_a_package_manager_is_an_error_and_another_process_a_warning(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="the Procfile's web script installs packages at each start: npm install"
    ):
        Source(tmp_path, "web: npm install\n").read()
    source = Source(tmp_path, "release: npm ci\n")
    found = source.read()
    assert found.starts["release"].command == ("bash", "-c", "npm ci")
    assert "warning: the process release of the Procfile cannot start" in source.said.getvalue()


def test_what_reading_the_file_corrects_is_said(tmp_path: Path) -> None:
    source = Source(tmp_path, "Web: node server.js\n")
    assert list(source.read().starts) == ["web"]
    assert "warning: Procfile: line 1: the process type Web is read as web" in source.said.getvalue()


def test_processes_that_the_image_cannot_start_are_warned_of(tmp_path: Path) -> None:
    text = (
        "web: node server.js\nrelease: npx prisma migrate deploy\nother: node gone.js\ngood: node worker.js\n"
        "own: ./gone.sh\n"
    )
    source = Source(tmp_path, text)
    checked = source.checked()
    said = source.said.getvalue()
    assert (
        "the process release of the Procfile cannot start: the start command runs prisma, of the dev" in said
    )
    assert "move prisma to the dependencies" in said
    assert "the process other of the Procfile cannot start: the start command runs gone.js" in said
    assert "the process own of the Procfile cannot start: the start command runs ./gone.sh" in said
    assert said.count("warning") == 3
    assert {type: found.command[0] for type, found in checked.items()} == {
        "release": "prisma",
        "other": "node",
        "good": "node",
        "own": "./gone.sh",
    }


def test_what_runs_in_the_place_of_a_program_that_is_not_there_is_the_process(tmp_path: Path) -> None:
    checked = Source(tmp_path, "dev: nodemon worker.js\n").checked()
    assert checked["dev"].command == ("node", "worker.js")


def test_the_applications_own_procfile_goes_before_that_of_the_source(tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.mkdir()
    (server / "package.json").write_text("{}")
    source = Source(tmp_path, "web: node server/a.js\n", BP_NODE_PROJECT_PATH="server")
    found = source.read()
    assert (found.project.directory, found.web and found.web.file) == (tmp_path, "server/a.js")
    (server / "Procfile").write_text("web: node b.js\n")
    found = source.read()
    assert (found.project.directory, found.web and found.web.file) == (server, "b.js")
