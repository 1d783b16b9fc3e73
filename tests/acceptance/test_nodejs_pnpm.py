"""Applications of pnpm's users: each kind of pnpm, with what their locks, settings and workspaces can say."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.nodejs import NOWHERE, built, contents, laid_out, node, staged, write
from packhorse.sdk.testing import Workbench

OFFLINE = {**NOWHERE, "pnpm_config_registry": NOWHERE["npm_config_registry"]}
VERSIONS = ("9.15.9", "10.34.9", "11.28.11", "12.21.0")
PATCH = """\
diff --git a/index.js b/index.js
--- a/index.js
+++ b/index.js
@@ -1,3 +1,4 @@
+module.exports = () => 'patched'; return;
 /**
  * Helpers.
  */
"""
HOOK = "module.exports = {hooks: {readPackage: p => (delete p.dependencies['kind-of'], p)}}"
Bench = Callable[..., Workbench]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """The bench of an application without modules, for the layers of Node.js 22 and pnpm 10."""
    directory = tmp_path_factory.mktemp("pnpm")
    bench = laid_out(staged(directory), directory)
    write(bench, application(dependencies={}, devDependencies={}), lock=False, **{"index.js": ""})
    built(bench)
    return bench


@pytest.fixture
def bench(first: Workbench, tmp_path: Path) -> Bench:
    """Makes benches that have Node.js 22 from a build before."""

    def make(name: str = "bench", **env: str) -> Workbench:
        (tmp_path / name).mkdir()
        made = laid_out(first.buildpack, tmp_path / name, **env)
        made.layers.mkdir()
        for layer in first.layers.glob("[np]*"):
            if layer.is_dir():
                shutil.copytree(layer, made.layers / layer.name, symlinks=True, copy_function=os.link)
            else:
                shutil.copy(layer, made.layers)
        return made

    return make


def application(version: str = "10.34.9", **said: object) -> dict[str, object]:
    manifest = {
        "name": "app",
        "engines": {"node": "22"},
        "packageManager": f"pnpm@{version}",
        "scripts": {"start": "node index.js"},
        "dependencies": {"ms": "2.1.3", "debug": "4.4.0"},
        "devDependencies": {"mustache": "4.2.0"},
    }
    return {**manifest, **said}


def lock(bench: Workbench, version: str = "10.34.9", **env: str) -> None:
    """Makes the lock as a developer does, with the pnpm of that version."""
    variables = {**os.environ, "PATH": f"{bench.layers}/node/bin:{os.environ['PATH']}", "CI": "true", **env}
    command = ["npm", "exec", "--yes", "--silent", f"--package=pnpm@{version}", "--", "pnpm", "install"]
    done = subprocess.run(
        [*command, "--lockfile-only"], cwd=bench.source, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def installed(*roots: Path) -> set[str]:
    """The names of all packages below some directories, links not followed."""
    found = (path for root in roots for path in root.rglob("package.json"))
    return {path.parent.name for path in found if path.parent.parent.name == "node_modules"}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_pnpm_installs_what_the_lock_says_with_patches_hooks_and_settings(
    version: str, bench: Bench
) -> None:
    workbench = bench()
    patches = {"ms@2.1.3": "patches/ms@2.1.3.patch"}
    is_old = version.startswith("9.")
    settings = f"patchedDependencies:\n  ms@2.1.3: {patches['ms@2.1.3']}\nstoreDir: ./store\n"
    write(
        workbench,
        application(
            version,
            scripts={"build": "mustache view.json page.mustache > page.js", "start": "node index.js"},
            dependencies={"ms": "2.1.3", "is-number": "3.0.0"},
            **({"pnpm": {"patchedDependencies": patches}} if is_old else {}),
        ),
        lock=False,
        **{
            "patches/ms@2.1.3.patch": PATCH,
            ".pnpmfile.cjs": HOOK,
            **({} if is_old else {"pnpm-workspace.yaml": settings}),
            ".npmrc": "public-hoist-pattern[]=*types*\n",
            "view.json": '{"name": "world"}',
            "page.mustache": "module.exports = 'hello {{name}}'",
            "index.js": "console.log(require('./page'), require('ms')('1s'))",
        },
    )
    lock(workbench, version)
    output = built(workbench)
    assert f"pnpm {version} (package.json packageManager: pnpm@{version})" in output
    assert node(workbench, "index.js") == "hello world patched\n"
    assert installed(workbench.layers / "modules") == {"ms", "is-number"}
    left = {path.name for path in (workbench.layers / "modules").iterdir()}
    assert left == {"node_modules", "package.json"}

    (workbench.source / "view.json").write_text('{"name": "again"}')
    output = built(dataclasses.replace(workbench, env=OFFLINE))
    assert "layer modules kept: same " in output and "$ pnpm install" not in output
    assert node(workbench, "index.js") == "hello again patched\n"

    patch = workbench.source / "patches/ms@2.1.3.patch"
    patch.write_text(patch.read_text().replace("patched", "otherwise"))
    lock(workbench, version)
    assert "patches/ms@2.1.3.patch changed" in built(workbench)
    assert node(workbench, "index.js") == "hello again otherwise\n"


def rebuilt(bench: Workbench, *, before: Workbench) -> None:
    """Builds the source of a bench on another one of the same path, with another home and umask."""
    home = bench.scratch / "home"
    home.mkdir()
    if (mine := Path.home() / ".npmrc").exists():
        shutil.copy(mine, home)
    umask = os.umask(0o077)
    try:
        built(dataclasses.replace(bench, env={**before.env, "HOME": str(home)}))
    finally:
        os.umask(umask)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("linker", ["isolated", "hoisted"])
def test_the_same_source_gives_the_same_bytes_and_modes(version: str, linker: str, bench: Bench) -> None:
    workbench = bench()
    write(
        workbench,
        application(version, dependencies={"debug": "4.4.0", "semver": "7.7.2", "send": "0.19.0"}),
        lock=False,
        **{
            "index.js": "console.log(require('debug/package.json').version)",
            ".npmrc": f"node-linker={linker}\n",
            "pnpm-workspace.yaml": f"packages: []\nnodeLinker: {linker}\n",
        },
    )
    lock(workbench, version)
    built(workbench)
    modules = workbench.layers / "modules"
    made = contents(modules)
    assert (modules / "node_modules/debug").is_symlink() == (linker == "isolated")
    shutil.rmtree(modules)
    (workbench.layers / "modules.toml").unlink()
    rebuilt(workbench, before=workbench)
    assert contents(modules) == made
    assert node(workbench, "index.js") == "4.4.0\n"
    assert all(path.is_symlink() or path.is_dir() or path.stat().st_nlink == 1 for path in modules.rglob("*"))
    assert "mustache" not in installed(modules)


def workspace(bench: Workbench, version: str, **files: str) -> None:
    """`apps/web` needs `packages/ui`; `apps/api` does not. The root has a tool that all use."""
    members: dict[str, dict[str, object]] = {
        "apps/web": {
            "dependencies": {"ui": "workspace:*", "ms": "2.0.0"},
            "devDependencies": {"semver": "7.7.2"},
        },
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
    sources = {
        "apps/web/index.js": "console.log(require('ui'), require('ms/package.json').version)",
        "packages/ui/view.json": '{"time": "2s"}',
        "packages/ui/dist.mustache": "module.exports = require('ms')('{{time}}')",
        "pnpm-workspace.yaml": "packages:\n  - apps/*\n  - packages/*\n",
    }
    root = application(
        version,
        dependencies={},
        devDependencies={"left-pad": "1.3.0"},
        scripts={"start": "node apps/web/index.js", "build": "pnpm --recursive run build"},
    )
    write(bench, root, lock=False, **{**manifests, **sources, **files})
    lock(bench, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_member_gets_what_it_needs_and_links_to_its_neighbours(version: str, bench: Bench) -> None:
    workbench = bench(BP_NODE_PROJECT_PATH="apps/web")
    workspace(
        workbench,
        version,
        **{
            "apps/web/package.json": json.dumps(
                {
                    "name": "web",
                    "scripts": {"start": "node index.js"},
                    "version": "1.0.0",
                    "dependencies": {"ui": "workspace:*", "ms": "2.0.0"},
                    "devDependencies": {"semver": "7.7.2"},
                }
            )
        },
    )
    output = built(workbench)
    assert "left out, since apps/web does not need it: apps/api" in output
    assert node(workbench, "apps/web/index.js") == "2000 2.0.0\n"
    assert installed(workbench.layers / "modules") == {"ms"}
    output = built(dataclasses.replace(workbench, env={**workbench.env, **OFFLINE}))
    assert "layer modules kept" in output and "layer modules-build kept" in output
    assert node(workbench, "apps/web/index.js") == "2000 2.0.0\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_workspace_with_install_scripts_is_installed_inside_and_pruned(version: str, bench: Bench) -> None:
    """`prepare` needs a devDependency, so it must not run when these are gone."""
    workbench = bench()
    prepare = {"prepare": "mustache --version > prepared"}
    ui = {
        "name": "ui",
        "version": "1.0.0",
        "main": "dist.js",
        "dependencies": {"ms": "2.1.3"},
        "scripts": {"build": "mustache view.json dist.mustache > dist.js", **prepare},
        "devDependencies": {"mustache": "4.2.0"},
    }
    workspace(workbench, version, **{"packages/ui/package.json": json.dumps(ui)})
    output = built(workbench)
    assert "packages/ui: package.json has a script prepare" in output
    assert node(workbench, "apps/web/index.js") == "2000 2.0.0\n"
    assert (workbench.app / "packages/ui/prepared").read_text() == "4.2.0\n"
    assert installed(workbench.app) == {"ms", "mime"}
    (slice_,) = workbench.launch()["slices"]
    folders = {"node_modules", "apps/api/node_modules", "apps/web/node_modules", "packages/ui/node_modules"}
    assert set(slice_["paths"]) == folders
    places = [workbench.app / folder for folder in folders]
    made = contents(*places)
    assert not [path for path in made if Path(path).is_symlink() and not Path(path).exists()]

    built(dataclasses.replace(workbench, env=OFFLINE))
    assert contents(*places) == made
    shutil.rmtree(workbench.layers / "pnpm-cache")
    (workbench.layers / "pnpm-cache.toml").unlink()
    rebuilt(workbench, before=workbench)
    assert contents(*places) == made


@pytest.mark.parametrize("version", VERSIONS)
def test_the_root_of_a_workspace_runs_the_scripts_of_all_members(version: str, bench: Bench) -> None:
    workbench = bench()
    workspace(workbench, version)
    built(workbench)
    assert node(workbench, "apps/web/index.js") == "2000 2.0.0\n"
    modules = workbench.layers / "modules"
    assert installed(modules) == {"ms", "mime"}
    layers = [workbench.layers / name for name in ("modules", "modules-build")]
    made = contents(*layers)
    built(dataclasses.replace(workbench, env=OFFLINE))
    assert contents(*layers) == made
