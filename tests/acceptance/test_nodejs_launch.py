"""Which Node.js an application gets, what its build keeps, and how it starts: one application, built and run.

The image `launched` is built in steps, each on what the one before left: with the real npm and registry, in
the sandbox, and started by the real launcher.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.installation import Home

SERVER = """
const v8 = require("v8");
process.on("SIGTERM", () => { console.log("SIGTERM for " + process.pid); process.exit(0); });
console.log(JSON.stringify({
  words: process.argv.slice(2), greeting: process.env.GREETING, mode: process.env.NODE_ENV,
  options: process.env.NODE_OPTIONS, node: process.version, built: require("./dist/built.json"),
}));
if (process.env.STAY) setInterval(() => {}, 1000);
"""
BUILD = """
const fs = require("fs");
const kept = ".next/cache/count", before = fs.existsSync(kept) ? Number(fs.readFileSync(kept)) : 0;
fs.mkdirSync(".next/cache", { recursive: true });
fs.writeFileSync(kept, String(before + 1));
fs.mkdirSync("dist", { recursive: true });
fs.writeFileSync("dist/built.json", JSON.stringify({ count: before + 1, mode: process.env.NODE_ENV || "" }));
"""
MANIFEST: dict[str, Any] = {
    "name": "launched",
    "version": "1.0.0",
    "engines": {"node": ">=16 <17 || 20"},
    "scripts": {
        "build": "node build.js",
        "start": "cross-env GREETING=hello npm run serve -- --loud",
        "serve": "node server.js",
        "poststart": "echo never",
    },
    "devDependencies": {"cross-env": "7.0.3"},
}


class Launched:
    """The application's source, and packhorse to build and run it."""

    def __init__(self, home: Home, source: Path) -> None:
        self.home, self.source = home, source

    def write(self, **files: str) -> None:
        """Adds files to the source."""
        for name, content in files.items():
            (self.source / name).write_text(content)

    def build(self, *options: str, status: int = 0, **changes: Any) -> str:
        """Builds it with `changes` in its manifest; what that says."""
        self.write(**{"package.json": json.dumps({**MANIFEST, **changes})})
        done = self.home.run("build", "launched", "--path", self.source, *options)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Starts its process."""
        return self.home.run("run", *options, "launched")

    def said(self, *options: str) -> dict[str, Any]:
        """What its process says of itself."""
        done = self.run(*options)
        assert done.returncode == 0, done.stdout + done.stderr
        said = json.loads(done.stdout)
        assert isinstance(said, dict)
        return said


@pytest.fixture(scope="module")
def launched(home: Home, common: Path) -> Iterator[tuple[Launched, str]]:
    """The application, built, and what its build said."""
    source = common / f"launched-{os.getpid()}"
    source.mkdir()
    app = Launched(home, source)
    app.write(**{"server.js": SERVER, "build.js": BUILD, ".nvmrc": "v16\r\n", ".node-version": "18\n"})
    yield app, app.build()
    shutil.rmtree(source)


@pytest.fixture
def app(launched: tuple[Launched, str]) -> Launched:
    return launched[0]


def test_sources_that_agree_are_followed_and_the_one_that_does_not_is_named(
    launched: tuple[Launched, str],
) -> None:
    said = launched[1]
    assert "Node.js 16.20.2 (package.json engines.node: >=16 <17 || 20; .nvmrc: v16)" in said
    assert "warning: .node-version: 18 is not followed: package.json engines.node comes first" in said


def test_the_start_script_runs_without_npm_and_without_a_program_of_the_devdependencies(
    launched: tuple[Launched, str],
) -> None:
    app, said = launched
    assert "web: GREETING=hello node server.js --loud (package.json scripts.start)" in said
    assert "warning: the script poststart is not run" in said
    found = app.said()
    assert (found["words"], found["greeting"], found["mode"]) == (["--loud"], "hello", "production")
    assert app.said("-e", "NODE_ENV=staging")["mode"] == "staging"


def test_sigterm_reaches_node_which_is_the_process(app: Launched) -> None:
    process = app.home.start("run", "-e", "STAY=1", "launched")
    try:
        assert process.stdout is not None and process.stdout.readline().startswith("{")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.startswith("SIGTERM for ")) == (0, True), out + err
    finally:
        process.kill()


def test_the_heap_is_sized_by_the_containers_memory_unless_the_user_does_it(app: Launched) -> None:
    assert app.said().get("options") is None
    assert app.said("--memory", "256m")["options"] == "--max-old-space-size=192"
    own = "NODE_OPTIONS=--max-old-space-size=99"
    assert app.said("--memory", "256m", "-e", own)["options"] == "--max-old-space-size=99"
    off = app.said("--memory", "256m", "-e", "BPL_NODE_OPTIMIZE_MEMORY=false")
    assert off.get("options") is None


def test_the_inspector_opens_on_request_and_a_wrong_port_ends_the_start(app: Launched) -> None:
    debugged = app.run(
        "-e", "BPL_DEBUG_ENABLED=true", "-e", "BPL_DEBUG_PORT=5858", "-e", "BPL_NODE_SOURCE_MAPS=true"
    )
    assert "Debugger listening on ws://127.0.0.1:5858/" in debugged.stderr
    assert json.loads(debugged.stdout)["options"] == "--enable-source-maps --inspect=127.0.0.1:5858"
    wrong = app.run("-e", "BPL_DEBUG_ENABLED=true", "-e", "BPL_DEBUG_PORT=none")
    assert wrong.returncode == 82
    assert "error: BPL_DEBUG_PORT is not a port. Set it to a number from 1 to 65535." in wrong.stderr


def test_frameworks_caches_come_back_without_the_network_and_are_not_in_the_image(app: Launched) -> None:
    before = app.said()["built"]["count"]
    again = app.build("--network", "none")
    assert "layer node kept: same Node.js" in again
    assert "layer build-cache kept" in again
    assert app.said()["built"] == {"count": before + 1, "mode": ""}
    files = app.home.ok("run", "--entrypoint", "sh", "launched", "-c", "ls -A /workspace /workspace/dist")
    assert ".next" not in files
    assert "built.json" in files


def test_what_is_asked_for_anew_asks_the_registry(app: Launched) -> None:
    for options in (["-e", "BP_NODE_UPDATE=1"], ["--clear-cache"]):
        said = app.build("--network", "none", *options, "-e", "npm_config_fetch_retries=0", status=51)
        assert "npm cannot reach the package registry" in said


def test_the_release_schedule_is_fetched_when_asked_for_and_then_kept(app: Launched) -> None:
    assert "layer releases new" in app.build("-e", "BP_NODE_UPDATE=1")
    assert "layer releases kept: same node-releases" in app.build("--network", "none")


def test_a_procfile_names_the_processes_and_web_is_the_default(app: Launched) -> None:
    lines = ("\ufeff# processes", "web: node old.js", "Web: npm start", "worker: echo hi $WHO && yarn serve")
    app.write(Procfile="\r\n".join(lines))
    said = app.build("--network", "none")
    (app.source / "Procfile").unlink()
    assert "warning: Procfile: line 3 replaces an earlier line for the process web" in said
    assert "web: GREETING=hello node server.js --loud (Procfile web)" in said
    found = app.said()
    assert (found["words"], found["greeting"]) == (["--loud"], "hello")
    worker = app.run("--entrypoint", "worker", "-e", "WHO=you")
    first, second = worker.stdout.splitlines()
    assert first == "hi you"
    assert (json.loads(second)["words"], json.loads(second).get("greeting")) == ([], None)


def test_what_cannot_start_is_an_error_of_the_build_that_says_what_to_change(app: Launched) -> None:
    def error(**changes: Any) -> str:
        return app.build("--network", "none", status=51, **changes)

    made = "node build.js && echo page > dist/index.html"
    static = error(scripts={"build": made, "start": "vite"}, devDependencies={})
    assert "error: this is a static site: the build made files for a web server, in dist" in static
    missing = error(scripts={"start": "gulp serve"}, devDependencies={})
    assert "error: the start command runs gulp, which is not in the image" in missing
    gone = error(scripts={"start": "node dist/gone.js"}, devDependencies={})
    assert "error: the start command runs dist/gone.js, which is not there after the build" in gone
