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
from fakes.slow import slow_files
from lanes import first_in_test
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
LEAVES_ITSELF = {"CI": "true", "pnpm_config_pm_on_fail": "ignore"}
"""A pnpm that does not see to its own version, nor look for its parts for other systems."""
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
        take_layers(made, first, "[np]*")
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


def lock(bench: Workbench, version: str = "10.34.9") -> None:
    """Makes the lock as a developer does, with the pnpm of that version."""
    variables = {
        **os.environ,
        "PATH": f"{bench.layers}/node/bin:{os.environ['PATH']}",
        "CI": "true",
        **LEAVES_ITSELF,
    }
    command = ["npm", "exec", "--yes", "--silent", f"--package=pnpm@{version}", "--", "pnpm", "install"]
    done = subprocess.run(
        [*command, "--lockfile-only"], cwd=bench.source, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", first_in_test(reversed(VERSIONS)))
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
    (home := bench.scratch / "home").mkdir()
    if (mine := Path.home() / ".npmrc").exists():
        shutil.copy(mine, home)
    umask = os.umask(0o077)
    try:
        built(dataclasses.replace(bench, env={**before.env, "HOME": str(home)}))
    finally:
        os.umask(umask)


@pytest.mark.parametrize(
    ("version", "linker"), first_in_test([("10.34.9", "isolated"), ("11.28.11", "hoisted")])
)
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


def workspace(bench: Workbench, version: str, **scripts: str) -> None:
    """`apps/web` needs `packages/ui`, which has `scripts`; `apps/api` does not need it."""
    members: dict[str, dict[str, object]] = {
        "apps/web": {
            "scripts": {"start": "node index.js"},
            "dependencies": {"ui": "workspace:*", "ms": "2.0.0"},
            "devDependencies": {"semver": "7.7.2"},
        },
        "apps/api": {"dependencies": {"mime": "1.6.0"}},
        "packages/ui": {
            "main": "dist.js",
            "dependencies": {"ms": "2.1.3"},
            "scripts": {"build": "mustache view.json dist.mustache > dist.js", **scripts},
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
    write(bench, root, lock=False, **manifests, **sources)
    lock(bench, version)


@pytest.mark.parametrize("version", first_in_test(["10.34.9", "12.21.0"]))
def test_a_member_gets_what_it_needs_and_links_to_its_neighbours(version: str, bench: Bench) -> None:
    workbench = bench(BP_NODE_PROJECT_PATH="apps/web")
    workspace(workbench, version)
    output = built(workbench)
    assert "left out, because apps/web does not need it: apps/api" in output
    assert node(workbench, "apps/web/index.js") == "2000 2.0.0\n"
    assert installed(workbench.layers / "modules") == {"ms"}
    parts = {part["purl"]: part for part in workbench.sbom("launch")["components"]}
    assert set(parts) == {"pkg:npm/ms@2.0.0", "pkg:npm/ms@2.1.3", "pkg:npm/ui@1.0.0"}
    assert parts["pkg:npm/ms@2.1.3"]["hashes"][0]["alg"] == "SHA-512"
    output = built(dataclasses.replace(workbench, env={**workbench.env, **OFFLINE}))
    assert "layer modules kept" in output and "layer modules-build kept" in output
    assert node(workbench, "apps/web/index.js") == "2000 2.0.0\n"


@pytest.mark.parametrize("version", first_in_test(["11.28.11", "9.15.9"]))
def test_a_workspace_with_install_scripts_is_installed_inside_and_pruned(version: str, bench: Bench) -> None:
    """`prepare` needs a devDependency, so it must not run when these are gone."""
    workbench = bench()
    workspace(workbench, version, prepare="mustache --version > prepared")
    output = built(workbench)
    assert "packages/ui: package.json has a script prepare" in output
    assert node(workbench, "apps/web/index.js") == "2000 2.0.0\n"
    assert (workbench.app / "packages/ui/prepared").read_text() == "4.2.0\n"
    assert installed(workbench.app) == {"ms", "mime"}
    (slice_,) = workbench.launch()["slices"]
    folders = {"node_modules", "apps/api/node_modules", "apps/web/node_modules", "packages/ui/node_modules"}
    assert set(slice_["paths"]) == folders
    places = [workbench.app / folder for folder in folders]
    before = contents(*places)
    assert not [path for path in before if Path(path).is_symlink() and not Path(path).exists()]
    built(dataclasses.replace(workbench, env=OFFLINE))
    assert contents(*places) == before
    shutil.rmtree(workbench.layers / "pnpm-cache")
    (workbench.layers / "pnpm-cache.toml").unlink()
    rebuilt(workbench, before=workbench)
    assert contents(*places) == before


@pytest.mark.parametrize("version", first_in_test(["10.34.9", "9.15.9"]))
def test_of_two_versions_the_same_is_hoisted_however_long_reading_takes(
    version: str, bench: Bench, tmp_path: Path
) -> None:
    """The first member's settings are on a slow disk: pnpm itself would then take it for the last."""
    workbench = bench()
    workspace(workbench, version)
    slow = {"LD_PRELOAD": str(slow_files(tmp_path)), "SLOW_FILE": "apps/web/.npmrc"}
    built(dataclasses.replace(workbench, env=slow))
    for layer in ("modules", "modules-build"):
        hoisted = workbench.layers / layer / "node_modules/.pnpm/node_modules/ms"
        assert os.readlink(hoisted) == "../ms@2.0.0/node_modules/ms"


@pytest.mark.parametrize("version", first_in_test(["10.34.9", "11.28.11"]))
def test_the_root_of_a_workspace_runs_the_scripts_of_all_members(version: str, bench: Bench) -> None:
    workbench = bench()
    workspace(workbench, version)
    built(workbench)
    assert node(workbench, "apps/web/index.js") == "2000 2.0.0\n"
    assert installed(workbench.layers / "modules", workbench.app) == {"ms", "mime"}
    layers = workbench.layers
    places = [layers / "modules", layers / "modules-build", workbench.app / "node_modules"]
    made = contents(*places)
    built(dataclasses.replace(workbench, env=OFFLINE))
    assert contents(*places) == made


@pytest.fixture(scope="module")
def plain(first: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """The source of an application with its lock, to be copied and spoilt."""
    directory = tmp_path_factory.mktemp("plain")
    made = dataclasses.replace(first, source=directory)
    write(made, application(), lock=False, **{"index.js": "console.log(require('ms')('1s'))"})
    lock(made)
    return made


def spoilt(bench: Workbench, plain: Workbench, name: str, old: str, new: str, *, env: dict[str, str]) -> str:
    """What a build says of an application in one of whose files something is replaced."""
    shutil.copytree(plain.source, bench.source, dirs_exist_ok=True)
    text = (bench.source / name).read_text()
    assert old in text
    (bench.source / name).write_text(text.replace(old, new))
    outcome = build(dataclasses.replace(bench, env=env))
    assert outcome.status not in (0, 1), outcome.output
    return outcome.output


@pytest.mark.parametrize("version", first_in_test(["10.34.9", "9.15.9"]))
def test_modules_of_pnpm_that_come_with_the_source_are_used(version: str, bench: Bench) -> None:
    """Their links are relative, and their store was somebody else's."""
    workbench = bench()
    files = {"index.js": "console.log(require('one'))", "pnpm-workspace.yaml": "packages: []\n"}
    store = "node_modules/.pnpm/one@1.0.0/node_modules/one"
    manifest = {"name": "one", "version": "1.0.0", "scripts": {"install": "echo ran > ran"}}
    files[f"{store}/package.json"] = json.dumps(manifest)
    files[f"{store}/index.js"] = "module.exports = require('fs').existsSync(__dirname + '/ran')"
    files["node_modules/.modules.yaml"] = json.dumps(
        {"layoutVersion": 5, "storeDir": "/nowhere/store/v3", "included": {}, "hoistedDependencies": {}}
    )
    said = application(version, dependencies={"one": "1.0.0"}, devDependencies={})
    write(workbench, said, lock=False, **files)
    (workbench.source / "node_modules/one").symlink_to(".pnpm/one@1.0.0/node_modules/one")
    output = built(workbench)
    assert "warning: node_modules comes with the source and is used as it is" in output
    assert node(workbench, "index.js") == ("true\n" if version == "9.15.9" else "false\n")


WRONG = {
    "another range": (
        "package.json",
        '"ms": "2.1.3"',
        '"ms": "2.1.2"',
        "error: pnpm-lock.yaml does not match package.json\n"
        "  specifiers in the lockfile don't match specifiers in package.json:\n"
        "  - ms (lockfile: 2.1.3, manifest: 2.1.2)\n"
        "  run `pnpm install` and commit pnpm-lock.yaml\n",
    ),
    "another archive": (
        "pnpm-lock.yaml",
        "ms@2.1.3:\n    resolution: {integrity: sha512-6Flz",
        "ms@2.1.3:\n    resolution: {integrity: sha512-AAAA",
        "error: a downloaded package is not the requested one (EINTEGRITY)\n",
    ),
    "a merge": (
        "pnpm-lock.yaml",
        "packages:",
        "<<<<<<< HEAD\npackages:",
        "error: pnpm-lock.yaml has conflicts of a merge, the first on line 22\n",
    ),
    "broken": ("pnpm-lock.yaml", "importers:", "importers: [", "pnpm-lock.yaml cannot be read\n"),
    "of the future": (
        "pnpm-lock.yaml",
        "Version: '9.0'",
        "Version: '19.0'",
        "pnpm-lock.yaml cannot be read\n",
    ),
    "a hash": (
        "package.json",
        "pnpm@10.34.9",
        f"pnpm@10.34.9+sha512.{'0' * 128}",
        "error: pnpm 10.34.9 is not the one that package.json packageManager names\n",
    ),
    "no such pnpm": (
        "package.json",
        "pnpm@10.34.9",
        "pnpm@10.999.0",
        "error: no version of pnpm matches 10.999.0 (package.json packageManager: pnpm@10.999.0)\n",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_explained(case: str, bench: Bench, plain: Workbench) -> None:
    name, old, new, said = WRONG[case]
    home = {"HOME": str(bench("home").scratch)}
    if (mine := Path.home() / ".npmrc").exists():
        shutil.copy(mine, home["HOME"])
    assert said in spoilt(bench(), plain, name, old, new, env=home)


@pytest.mark.parametrize("version", first_in_test(["11.28.11", "9.15.9"]))
def test_who_has_no_network_is_told(version: str, bench: Bench, plain: Workbench) -> None:
    workbench = bench()
    write(workbench, application(version, dependencies={}, devDependencies={}), lock=False)
    (workbench.source / "index.js").touch()
    built(workbench)
    env = {**OFFLINE, "pnpm_config_fetch_retries": "0", "HOME": str(workbench.scratch)}
    output = spoilt(workbench, plain, "package.json", "pnpm@10.34.9", f"pnpm@{version}", env=env)
    assert "error: pnpm cannot reach the package registry (ECONNREFUSED)\n" in output


@pytest.mark.parametrize("version", first_in_test(["10.34.9", "11.28.11"]))
def test_private_packages_and_their_install_scripts(version: str, bench: Bench) -> None:
    """pnpm fills variables into the project's own settings, and does not run scripts that are not allowed."""
    with npm_registry("TOKEN-1") as registry:
        manifest = {"name": "@acme/one", "version": "1.0.0", "scripts": {"postinstall": "echo made > made"}}
        registry.publish("@acme/one", {"package.json": json.dumps(manifest), "index.js": ""})
        workbench = bench(NPM_TOKEN="TOKEN-1")
        address = registry.url.removeprefix("http:")
        settings = f"@acme:registry={registry.url}\n{address}:_authToken=${{NPM_TOKEN}}\n"
        allowed = "onlyBuiltDependencies: []\nstrictDepBuilds: false\n"
        (workbench.source / ".npmrc").write_text(settings)
        write(
            workbench,
            application(version, dependencies={"@acme/one": "1.0.0"}, devDependencies={}),
            lock=False,
            **{"index.js": "require('@acme/one')", "pnpm-workspace.yaml": allowed},
        )
        output = built(workbench)
        assert "warning: there is no pnpm-lock.yaml, so the newest versions that fit are installed" in output
        assert "warning: pnpm did not run the install scripts of @acme/one@1.0.0" in output
        assert "`pnpm approve-builds`" in output
        node(workbench, "index.js")

        env = {"NPM_TOKEN": "wrong", "HOME": str(workbench.scratch)}
        refused = dataclasses.replace(bench("refused", **env), source=workbench.source)
        assert "error: the package registry refused access (E401)\n" in build(refused).output
        for path in workbench.layers.rglob("*"):
            assert not path.is_file() or path.is_symlink() or b"TOKEN-1" not in path.read_bytes()
