"""Which of Node.js and Bun an image has, by what starts the application and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nodejs import outputs
from nodejs.managers.choice import Choice
from nodejs.programs import Engines
from nodejs.project import Project
from nodejs.start import StartCommand, find_start, start_of_script
from nodejs.versions import RequestedVersion

from fakes.build_context import build_context
from packhorse.errors import InputError


def started(app: Path, manifest: dict[str, Any]) -> StartCommand:
    found = find_start(Project(app, manifest), {}, generated=False)
    assert found is not None
    return found


def engines(app: Path, manifest: dict[str, Any], *said: RequestedVersion) -> tuple[bool, bool]:
    """Whether Bun is in the image, and whether Node.js is."""
    project = Project(app, manifest)
    image = Engines.of(build_context(app), project, find_start(project, {}, generated=False), said)
    return bool(image.bun), image.node


@pytest.mark.parametrize(
    ("script", "bun", "node"),
    [
        ("bun index.ts", True, False),
        ("bun run src/index.tsx --port 80", True, False),
        ("NODE_ENV=production bun --hot index.ts", True, False),
        ("echo ready && bun index.ts", True, False),
        ("bun index.ts $PORT", True, False),
        ("bun run serve", True, False),
        ("bun run plain", False, True),
        ("bunx next start", False, True),
        ("bunx --bun next start", True, True),
        ("bun --bun run plain", True, True),
        ("bun --env-file=.env run serve", True, True),
        ("bun dist/server", True, True),
        ("node migrate.js && bun index.ts", True, True),
        ("exec bun index.ts", True, False),
        ("eval node x && bun index.ts", True, True),
        ("concurrently 'bun run serve' 'node b.js'", True, True),
        ("sh -c 'bun index.ts'", True, True),
        ("bun index.ts | tee log", True, True),
        ("node bun", False, True),
        ("serve bun", False, True),
    ],
)
def test_the_start_script_decides_what_is_in_the_image(
    tmp_path: Path, script: str, bun: bool, node: bool
) -> None:
    scripts = {"start": script, "serve": "bun index.ts", "plain": "node a.js"}
    assert engines(tmp_path, {"scripts": scripts}) == (bun, node)


@pytest.mark.parametrize(
    "script",
    ["bun index.ts", "bun run index.ts", "bun --hot index.ts", "bun dist/server", "bun --bun run x", "bun ."],
)
def test_what_bun_has_to_run_stays_its_own(tmp_path: Path, script: str) -> None:
    found = started(tmp_path, {"scripts": {"start": script, "x": "next start"}})
    assert " ".join(found.command) == script
    assert found.gets_signals


def test_a_file_without_its_ending_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "server.ts").touch()
    assert started(tmp_path, {"scripts": {"start": "bun server"}}).command == ("bun", "server")
    assert started(tmp_path, {"scripts": {"start": "bun serve"}}).command == ("serve",)


@pytest.mark.parametrize(
    "script", ["bun", "bun install && node a.js", "bun add x", "bun pm ls", "bunx", "bun x"]
)
def test_what_bun_cannot_do_in_an_image_is_told(tmp_path: Path, script: str) -> None:
    with pytest.raises(InputError, match=r"calls bunx? for something that an image cannot do") as caught:
        started(tmp_path, {"scripts": {"start": script}})
    assert "bun server.ts" in caught.value.fix


@pytest.mark.parametrize(
    "said",
    [
        {"engines": {"bun": "1"}},
        {"devDependencies": {"@types/bun": "latest"}},
        {"devEngines": {"runtime": [{"name": "bun", "version": "^1.3"}]}},
    ],
)
def test_an_application_that_asks_for_bun_is_run_by_it(tmp_path: Path, said: dict[str, Any]) -> None:
    (tmp_path / "index.ts").touch()
    assert started(tmp_path, {"module": "index.ts", **said}).command == ("bun", "index.ts")
    assert started(tmp_path, said).command == ("bun", "index.ts")
    assert engines(tmp_path, said) == (True, False)
    assert started(tmp_path, {**said, "engines": {"node": "22", "bun": "1"}}).command == ("node", "index.ts")


def test_bun_finds_what_its_templates_have(tmp_path: Path) -> None:
    types = {"devDependencies": {"bun-types": "latest"}}
    with pytest.raises(InputError, match="nothing to start") as caught:
        started(tmp_path, types)
    assert '"start": "bun <your file>.ts"' in caught.value.fix
    (tmp_path / "src").mkdir()
    (tmp_path / "src/index.ts").touch()
    assert started(tmp_path, types).command == ("bun", "src/index.ts")
    assert started(tmp_path, {"module": "src/index.js", **types}).command == ("bun", "src/index.js")
    assert engines(tmp_path, {"module": "src/index.js", **types}) == (True, False)
    project = Project(tmp_path, {"scripts": {"start": "bun src/index.js"}, "engines": {"node": "22"}})
    found = find_start(project, {}, generated=False)
    assert outputs.choose_start(build_context(tmp_path), project, found, dev=False) == found


def test_node_js_is_there_for_who_says_a_version(tmp_path: Path) -> None:
    assert engines(tmp_path, {"scripts": {"start": "bun index.ts"}}, RequestedVersion(".nvmrc", "22")) == (
        True,
        True,
    )


def test_processes_beside_web_decide_too_what_is_in_the_image(tmp_path: Path) -> None:
    def there(web: str, worker: str) -> tuple[bool, bool]:
        project = Project(tmp_path, {"scripts": {"start": web, "worker": worker}})
        found = find_start(project, {}, generated=False)
        image = Engines.of(build_context(tmp_path), project, found, (), (start_of_script(project, "worker"),))
        return bool(image.bun), image.node

    assert there("bun index.ts", "bun worker.ts") == (True, False)
    assert there("bun index.ts", "node worker.js") == (True, True)
    assert there("node index.js", "bun worker.ts") == (True, True)
    assert there("node index.js", "node worker.js") == (False, True)


def test_the_version_of_bun_is_that_of_engines_or_runtime() -> None:
    of = Project(Path("/nowhere"), {"devEngines": {"runtime": {"name": "bun", "version": "^1.3"}}})
    choice = Choice.of_bun(of)
    assert (choice.range, choice.source) == ("^1.3", "package.json devEngines.runtime: ^1.3")
    assert Choice.of_bun(Project(Path("/nowhere"))).source == "the newest"
    with pytest.raises(InputError, match=r"engines\.bun is not a range of versions: newest"):
        Choice.of_bun(Project(Path("/nowhere"), {"engines": {"bun": "newest"}}))
