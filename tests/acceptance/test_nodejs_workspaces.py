"""One application of several in a source: what is installed, built, started, and in the image."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from fakes.nodejs import NOWHERE, build, built, contents, laid_out, staged, write
from packhorse.sdk.testing import Workbench


@pytest.fixture(scope="module")
def buildpack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return staged(tmp_path_factory.mktemp("staged"))


def monorepo(bench: Workbench, *, files: Mapping[str, str] = {}, **root: object) -> None:
    """`apps/web` needs `packages/ui`, which a module for development compiles; `apps/api` does not."""
    members = {
        "apps/web": {"dependencies": {"ui": "1.0.0", "ms": "2.0.0"}, "scripts": {"start": "node index.js"}},
        "apps/api": {"dependencies": {"mime": "1.6.0"}, "scripts": {"build": "exit 3"}},
        "packages/ui": {
            "main": "dist.js",
            "dependencies": {"ms": "2.1.3"},
            "devDependencies": {"mustache": "4.2.0"},
            "scripts": {"build": "mustache view.json dist.mustache > dist.js"},
        },
    }
    manifests = {
        f"{path}/package.json": json.dumps({"name": path.split("/")[1], "version": "1.0.0", **manifest})
        for path, manifest in members.items()
    }
    write(
        bench,
        {"name": "mono", "private": True, "workspaces": ["apps/*", "packages/*"], **root},
        **manifests,
        **files,
        **{
            "apps/web/index.js": "console.log(require('ui'), require('ms/package.json').version)",
            "apps/api/index.js": "",
            "packages/ui/view.json": '{"time": "2s"}',
            "packages/ui/dist.mustache": "module.exports = require('ms')('{{time}}')",
        },
    )


@pytest.fixture(scope="module")
def bench(buildpack: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workbench, str]:
    bench = laid_out(buildpack, tmp_path_factory.mktemp("mono"), BP_NODE_PROJECT_PATH="apps/web")
    monorepo(bench)
    return bench, built(bench)


def test_a_member_is_built_and_started_with_the_members_that_it_needs(bench: tuple[Workbench, str]) -> None:
    workbench, output = bench
    (process,) = workbench.launch()["processes"]
    web = workbench.app / "apps/web"
    assert (process["command"], process["working-dir"]) == (["node", "index.js"], str(web))
    printed = subprocess.run([workbench.layers / "node/bin/node", "index.js"], cwd=web, capture_output=True)
    assert printed.stdout == b"2000 2.0.0\n", printed.stderr
    assert "apps/api" not in output.partition("left out")[0]


def test_the_image_has_nothing_of_other_members_and_of_development(bench: tuple[Workbench, str]) -> None:
    workbench, output = bench
    assert "left out, because apps/web does not need it: apps/api" in output
    assert not (workbench.app / "apps/api").exists()
    names = {path.parent.name for path in (workbench.layers / "modules").rglob("package.json")}
    assert names >= {"ms"} and not names & {"mime", "mustache"}
    listed = {part["purl"] for part in workbench.sbom("launch")["components"]}
    assert listed == {"pkg:npm/ms@2.0.0", "pkg:npm/ms@2.1.3", "pkg:npm/ui@1.0.0"}
    depending = {entry["ref"]: entry.get("dependsOn") for entry in workbench.sbom("launch")["dependencies"]}
    assert depending["pkg:npm/ui@1.0.0"] == ["pkg:npm/ms@2.1.3"]
    assert depending["web@1.0.0"] == ["pkg:npm/ms@2.0.0", "pkg:npm/ui@1.0.0"]


def test_a_second_build_keeps_the_modules_and_asks_nobody(bench: tuple[Workbench, str]) -> None:
    workbench, _ = bench
    modules = workbench.layers / "modules"
    before = contents(modules)
    output = built(dataclasses.replace(workbench, env={**workbench.env, **NOWHERE}))
    assert "layer modules kept" in output and "layer modules-build kept" in output
    assert contents(modules) == before
    printed = subprocess.run(
        [workbench.layers / "node/bin/node", "index.js"], cwd=workbench.app / "apps/web", capture_output=True
    )
    assert printed.stdout == b"2000 2.0.0\n", printed.stderr


def test_the_root_may_use_every_member(buildpack: Path, tmp_path: Path) -> None:
    workbench = laid_out(buildpack, tmp_path, BP_NODE_RUN_SCRIPTS="compile")
    scripts = {"start": "node apps/web/index.js", "compile": "npm run build -w ui"}
    monorepo(workbench, scripts=scripts)
    assert "left out" not in built(workbench)
    command = [workbench.layers / "node/bin/node", "apps/web/index.js"]
    printed = subprocess.run(command, cwd=workbench.app, capture_output=True)
    assert printed.stdout == b"2000 2.0.0\n", printed.stderr
    assert (workbench.layers / "modules/node_modules/mime").is_dir()


def test_members_with_install_scripts_have_real_directories(buildpack: Path, tmp_path: Path) -> None:
    workbench = laid_out(buildpack, tmp_path, BP_NODE_PROJECT_PATH="apps/web")
    monorepo(workbench)
    manifest = workbench.source / "apps/web/package.json"
    said = json.loads(manifest.read_text())
    said["scripts"] = {"postinstall": "node index.js > made || true", "start": "node index.js"}
    manifest.write_text(json.dumps(said))
    output = built(workbench)
    assert (
        "node_modules is a directory of the application: apps/web: package.json has a script postinst"
        in output
    )
    command = [workbench.layers / "node/bin/node", "index.js"]
    printed = subprocess.run(command, cwd=workbench.app / "apps/web", capture_output=True)
    assert printed.stdout == b"2000 2.0.0\n", printed.stderr
    assert not list(workbench.app.rglob("node_modules/mustache"))
    (slice_,) = workbench.launch()["slices"]
    assert "node_modules" in slice_["paths"]


def test_a_path_to_nothing_lists_the_members(buildpack: Path, tmp_path: Path) -> None:
    workbench = laid_out(buildpack, tmp_path, BP_NODE_PROJECT_PATH="apps/none")
    monorepo(workbench)
    outcome = build(workbench)
    assert outcome.status == 3
    assert outcome.output.endswith(
        "error: BP_NODE_PROJECT_PATH names no folder of the source: apps/none\n"
        "  apps/api\n  apps/web\n  packages/ui\n"
    )


def test_turborepo_builds_what_the_application_needs(buildpack: Path, tmp_path: Path) -> None:
    workbench = laid_out(buildpack, tmp_path, BP_NODE_PROJECT_PATH="apps/web")
    tasks = {"tasks": {"build": {"dependsOn": ["^build"], "outputs": ["dist.js"]}}}
    monorepo(
        workbench,
        devDependencies={"turbo": "2.5.8"},
        packageManager="npm@10.9.9",
        engines={"node": "22"},
        files={"turbo.json": json.dumps(tasks)},
    )
    output = built(workbench)
    assert "$ turbo run build --filter=web\n" in output and "ui:build: cache miss" in output
    assert "api:build" not in output
    command = [workbench.layers / "node/bin/node", "index.js"]
    printed = subprocess.run(command, cwd=workbench.app / "apps/web", capture_output=True)
    assert printed.stdout == b"2000 2.0.0\n", printed.stderr
    assert not list((workbench.layers / "modules").rglob("turbo"))


def test_nx_builds_and_names_what_has_no_manifest_of_its_own(buildpack: Path, tmp_path: Path) -> None:
    workbench = laid_out(buildpack, tmp_path, BP_NODE_PROJECT_PATH="apps/web")
    build = {
        "executor": "nx:run-commands",
        "options": {"outputPath": "dist/apps/web", "command": "node apps/web/build.js"},
    }
    write(
        workbench,
        {
            "name": "nx-mono",
            "engines": {"node": "22"},
            "dependencies": {"ms": "2.1.3"},
            "devDependencies": {"nx": "21.5.3"},
        },
        **{
            "nx.json": "{}",
            "apps/web/project.json": json.dumps({"name": "web", "targets": {"build": build}}),
            "apps/web/main.js": "console.log(require('ms')('3s'))",
            "apps/web/build.js": "require('fs').cpSync('apps/web/main.js', 'dist/apps/web/main.js')",
        },
    )
    output = built(workbench)
    assert "$ nx run web:build\n" in output
    (process,) = workbench.launch()["processes"]
    assert process == {"type": "web", "command": ["node", "dist/apps/web/main.js"], "default": True}
    command = [workbench.layers / "node/bin/node", *process["command"][1:]]
    printed = subprocess.run(command, cwd=workbench.app, capture_output=True)
    assert printed.stdout == b"3000\n", printed.stderr
    assert not (workbench.layers / "modules/node_modules/nx").exists()
