"""Applications of Bun's users, which Node.js or Bun runs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import tomllib
import urllib.request
from pathlib import Path

import pytest

from fakes.nodejs import (
    NOWHERE,
    build,
    built,
    contents,
    installed,
    laid_out,
    node,
    staged,
    take_layers,
    write,
)
from fakes.npm_registry import npm_registry
from lanes import first_in_test
from packhorse.sdk.testing import Workbench

BUN = "1.4.5"


@pytest.fixture(scope="module")
def buildpack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return staged(tmp_path_factory.mktemp("staged"))


def lock(bench: Workbench) -> None:
    """Makes the lock as a developer does."""
    command = ["npm", "exec", "--yes", "--silent", f"--package=bun@{BUN}", "--", "bun", "install"]
    done = subprocess.run([*command, "--lockfile-only"], cwd=bench.source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def first(buildpack: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workbench, str]:
    """A workspace, built once, and what that said: `web` needs `ui`, which a devDependency compiles."""
    bench = laid_out(buildpack, tmp_path_factory.mktemp("bun"))
    members: dict[str, dict[str, object]] = {
        "apps/web": {"dependencies": {"ui": "workspace:*", "ms": "2.0.0"}},
        "apps/api": {"dependencies": {"mime": "1.6.0"}},
        "packages/ui": {
            "main": "dist.js",
            "dependencies": {"ms": "2.1.3"},
            "scripts": {"build": "mustache view.json dist.mustache > dist.js"},
            "devDependencies": {"mustache": "4.2.0"},
        },
    }
    manifests = {
        f"{path}/package.json": json.dumps({"name": path.split("/")[1], "version": "1.0.0", **manifest})
        for path, manifest in members.items()
    }
    write(
        bench,
        {
            "name": "mono",
            "engines": {"node": "22"},
            "packageManager": f"bun@{BUN}",
            "workspaces": ["apps/*", "packages/*"],
            "scripts": {"start": "node apps/web/index.js", "build": "bun run --filter '*' build"},
        },
        lock=False,
        **{
            "apps/web/index.js": "console.log(require('ui'), require('ms/package.json').version)",
            "packages/ui/view.json": '{"time": "2s"}',
            "packages/ui/dist.mustache": "module.exports = require('ms')('{{time}}')",
        },
        **manifests,
    )
    lock(bench)
    return bench, built(bench)


def elsewhere(first: Workbench, path: Path, **env: str) -> Workbench:
    """A bench with the source and the layers of another."""
    bench = laid_out(first.buildpack, path, **env)
    shutil.copytree(first.source, bench.source, dirs_exist_ok=True)
    take_layers(bench, first, "[nb]*")
    return bench


def test_a_workspace_is_installed_built_and_run_by_node_js(first: tuple[Workbench, str]) -> None:
    bench, output = first
    assert f"Bun {BUN} (package.json packageManager: bun@{BUN})" in output
    assert "$ bun run build" in output
    assert 'architecture = "amd64"' in (bench.layers / "bun.toml").read_text()
    assert node(bench, "apps/web/index.js") == "2000 2.0.0\n"
    assert installed(bench.layers / "modules") == {"ms", "mime"}

    modules = [bench.layers / name for name in ("modules", "modules-build")]
    made = contents(*modules)
    output = built(dataclasses.replace(bench, env=NOWHERE))
    assert "layer modules kept: same " in output and "$ bun install" not in output
    assert contents(*modules) == made


def test_the_same_source_gives_the_same_bytes_and_modes(first: tuple[Workbench, str]) -> None:
    bench, _ = first
    modules = bench.layers / "modules"
    made = contents(modules)
    shutil.rmtree(modules)
    (bench.layers / "modules.toml").unlink()
    home = bench.scratch / "home"
    home.mkdir()
    umask = os.umask(0o077)
    try:
        built(dataclasses.replace(bench, env={"HOME": str(home)}))
    finally:
        os.umask(umask)
    assert contents(modules) == made
    assert all(path.is_symlink() or path.is_dir() or path.stat().st_nlink == 1 for path in modules.rglob("*"))


def test_a_member_gets_what_it_needs(first: tuple[Workbench, str], tmp_path: Path) -> None:
    bench = elsewhere(first[0], tmp_path, BP_NODE_PROJECT_PATH="apps/web")
    manifest = bench.source / "apps/web/package.json"
    manifest.write_text(
        json.dumps({**json.loads(manifest.read_text()), "scripts": {"start": "node index.js"}})
    )
    output = built(bench)
    assert "left out, because apps/web does not need it: apps/api" in output
    assert node(bench, "apps/web/index.js") == "2000 2.0.0\n"
    assert installed(bench.layers / "modules") == {"ms"}


SERVER = """
import ms from "ms";
const server = Bun.serve({ port: 0, fetch: () => new Response(`${ms("2s") as number}`) });
process.on("SIGTERM", () => { console.log("ended"); process.exit(0); });
console.log(server.port);
"""


def test_bun_runs_what_its_start_script_says_and_ends_with_sigterm(
    first: tuple[Workbench, str], tmp_path: Path
) -> None:
    bench = laid_out(first[0].buildpack, tmp_path)
    take_layers(bench, first[0], "[nb]*")
    manifest = {"name": "served", "packageManager": f"bun@{BUN}", "dependencies": {"ms": "2.1.3"}}
    manifest["scripts"] = {"start": "bun run --silent serve", "serve": "bun index.ts"}
    (bench.source / "package.json").write_text(json.dumps(manifest))
    (bench.source / "index.ts").write_text(SERVER)
    lock(bench)
    output = built(dataclasses.replace(bench, env={"BP_NODE_VERSION": "22"}))
    assert "layer bun kept: same bun, architecture" in output
    assert "Bun is in the image (package.json scripts.start)" in output
    output = built(bench)
    assert "Node.js is not in the image, because only Bun is called" in output

    types = {
        name: tomllib.loads((bench.layers / f"{name}.toml").read_text())["types"] for name in ("node", "bun")
    }
    assert (types["node"]["launch"], types["bun"]["launch"]) == (False, True)
    bill = json.loads((bench.layers / "bun.sbom.cdx.json").read_text())
    assert [part["purl"] for part in bill["components"]] == [f"pkg:npm/bun@{BUN}"]
    (process,) = bench.launch()["processes"]
    assert process["command"] == ["bun", "index.ts"]
    run = subprocess.Popen(
        [bench.layers / "bun/bin/bun", "index.ts"], cwd=bench.app, env={}, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{run.stdout.readline().strip()}/") as answer:
        assert answer.read() == b"2000"
    run.send_signal(signal.SIGTERM)
    assert run.communicate()[0] == "ended\n"
    assert run.returncode == 0


@pytest.mark.parametrize("linker", first_in_test(["isolated", "hoisted"]))
def test_what_is_installed_inside_is_pruned(
    linker: str, first: tuple[Workbench, str], tmp_path: Path
) -> None:
    bench = elsewhere(first[0], tmp_path)
    (bench.source / "bunfig.toml").write_text(f'[install]\nlinker = "{linker}"\n')
    manifest = bench.source / "packages/ui/package.json"
    said = json.loads(manifest.read_text())
    said["scripts"]["prepare"] = "mustache --version > prepared"
    said["devDependencies"]["@types/ms"] = "2.1.0"
    manifest.write_text(json.dumps(said))
    lock(bench)
    output = built(bench)
    assert "packages/ui: package.json has a script prepare" in output
    assert node(bench, "apps/web/index.js") == "2000 2.0.0\n"
    left = list((bench.app / "node_modules").rglob("*"))
    assert installed(bench.app) - {"web", "api", "ui"} == {"ms", "mime"}
    assert not [path for path in left if path.is_symlink() and not path.exists()]
    (slice_,) = bench.launch()["slices"]
    assert {"node_modules", "apps/web/node_modules"} <= set(slice_["paths"])
    made = contents(*(bench.app / path for path in slice_["paths"]))
    # Bun keeps what it downloads by registry, so the same one is asked for, and cannot be reached.
    built(dataclasses.replace(bench, env=dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")))
    assert contents(*(bench.app / path for path in slice_["paths"])) == made


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"ms": "2.0.0"', '"ms": "2.1.2"', "error: bun.lock does not match package.json\n"),
        ('"name": "mono"', '"name": "mono", "dependencies": {"ms": "1.0.0"}', "run `bun install` and commit"),
    ],
)
def test_a_lock_out_of_step_is_explained(
    old: str, new: str, said: str, first: tuple[Workbench, str], tmp_path: Path
) -> None:
    bench = elsewhere(first[0], tmp_path)
    for name in ("package.json", "apps/web/package.json"):
        path = bench.source / name
        path.write_text(path.read_text().replace(old, new))
    outcome = build(bench)
    assert outcome.status == 3
    assert said in outcome.output


def test_who_has_no_network_no_token_or_another_archive_is_told(
    first: tuple[Workbench, str], tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    bench = elsewhere(first[0], tmp_path / "one", HOME=str(tmp_path), **NOWHERE)
    (bench.source / "bunfig.toml").touch()
    assert "error: Bun cannot reach the package registry (ECONNREFUSED)\n" in build(bench).output

    (tmp_path / "two").mkdir()
    bench = elsewhere(first[0], tmp_path / "two", HOME=str(tmp_path))
    path = bench.source / "bun.lock"
    path.write_text(path.read_text().replace("sha512-6Flz", "sha512-AAAA"))
    assert "error: a downloaded package is not the requested one (EINTEGRITY)\n" in build(bench).output


def test_private_packages_and_their_install_scripts(first: tuple[Workbench, str], tmp_path: Path) -> None:
    with npm_registry("TOKEN-1") as registry:
        manifest = {"name": "@acme/one", "version": "1.0.0", "scripts": {"postinstall": "echo made > made"}}
        registry.publish("@acme/one", {"package.json": json.dumps(manifest), "index.js": ""})
        bench = elsewhere(first[0], tmp_path, NPM_TOKEN="TOKEN-1")
        shutil.rmtree(bench.source)
        bench.source.mkdir()
        address = registry.url.removeprefix("http:")
        settings = f"@acme:registry={registry.url}\n{address}:_authToken=${{NPM_TOKEN}}\n"
        (bench.source / ".npmrc").write_text(settings)
        said = {"engines": {"node": "22", "bun": BUN}, "packageManager": f"bun@{BUN}"}
        scripts = {"start": "node index.js"}
        write(
            bench,
            {"name": "user", "dependencies": {"@acme/one": "1.0.0"}, "scripts": scripts, **said},
            lock=False,
            **{"index.js": "require('@acme/one')"},
        )
        output = built(bench)
        assert "warning: there is no bun.lock, so the newest versions that fit are installed" in output
        node(bench, "index.js")
        for path in bench.layers.rglob("*"):
            assert not path.is_file() or path.is_symlink() or b"TOKEN-1" not in path.read_bytes()

        (tmp_path / "refused").mkdir()
        refused = elsewhere(first[0], tmp_path / "refused", NPM_TOKEN="wrong", HOME=str(tmp_path))
        refused = dataclasses.replace(refused, source=bench.source)
        assert "error: the package registry refused access (E401)\n" in build(refused).output
