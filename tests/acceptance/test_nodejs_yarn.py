"""The Node.js buildpack with Yarn 1 and with Yarn 2 to 4, with the registry that npm is configured for.

Each test builds a small application as a lifecycle would (`sdk.testing`), on the host and not in a sandbox.
Its lock is made when the test runs, by the Yarn that the build then takes.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes import nodejs
from fakes.nodejs import build, built, contents, laid_out, lay
from fakes.npm_registry import npm_registry
from lanes import first_in_test
from packhorse.sdk.testing import Workbench

NOWHERE = {"npm_config_registry": "http://127.0.0.1:9/", "npm_config_fetch_retries": "0"}
"""The network is set for npm alone."""
PACKAGES = {
    "1": "yarn@1.22.22",
    "2": "@yarnpkg/cli-dist@2.4.2",
    "3": "@yarnpkg/cli-dist@3.8.7",
    "4": "@yarnpkg/cli-dist@4.18.1",
}
WITHOUT_SCRIPTS = {"1": ["--ignore-scripts", "--ignore-engines"], "2": ["--skip-builds"]}
MADE = ("node_modules", ".yarn/unplugged", ".yarn/install-state.gz", ".pnp.cjs", ".pnp.js", ".pnp.loader.mjs")
QUIET = {"YARN_ENABLE_TELEMETRY": "0", "YARN_ENABLE_IMMUTABLE_INSTALLS": "0", "YARN_ENABLE_SCRIPTS": "0"}
DEPENDENCIES = {"dependencies": {"ms": "2.1.3"}, "devDependencies": {"mustache": "4.2.0"}}
SCRIPTS = {"build": "mkdir -p dist && mustache view.json page dist/page", "start": "node a.js"}
FILES = {
    "view.json": '{"name": "world"}',
    "page": "hello {{name}}",
    "a.js": "console.log(require('ms')('1s'))",
}


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nodejs.staged(tmp_path_factory.mktemp("staged"))


@pytest.fixture(scope="module")
def yarns(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A developer's Yarns by their major version."""
    found = {}
    for version, spec in PACKAGES.items():
        folder = tmp_path_factory.mktemp("yarn")
        subprocess.run(["npm", "pack", spec, "--silent"], cwd=folder, check=True, capture_output=True)
        subprocess.run(["tar", "xzf", next(folder.glob("*.tgz"))], cwd=folder, check=True)
        found[version] = folder / "package/bin/yarn.js"
    return found


@pytest.fixture(scope="module")
def node(staged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers with Node.js 22, which every application here runs on."""
    bench = laid_out(staged, tmp_path_factory.mktemp("node"))
    (bench.source / "package.json").write_text('{"engines": {"node": "22"}}')
    (bench.source / "index.js").touch()
    built(bench)
    return bench.layers


@pytest.fixture
def bench(staged: Path, node: Path, tmp_path: Path) -> Workbench:
    """The build before had Node.js and nothing else."""
    bench = laid_out(staged, tmp_path)
    bench.layers.mkdir()
    for name in ("node", "node-build"):
        shutil.copytree(node / name, bench.layers / name, symlinks=True, copy_function=os.link)
        shutil.copy(node / f"{name}.toml", bench.layers)
    return bench


def write(
    bench: Workbench, manifest: dict[str, Any], yarn: Path | None = None, token: str = "", **files: str
) -> None:
    """Writes an application, and its lock as a developer's `yarn` makes it."""
    files["package.json"] = json.dumps({"version": "1.0.0", "engines": {"node": "22"}, **manifest})
    lay(bench, files)
    if yarn:
        lock(bench, yarn, token)


def lock(bench: Workbench, yarn: Path, token: str) -> None:
    (bench.source / "yarn.lock").touch()
    env = {**os.environ, **QUIET}
    if token:
        # What Yarn remembers of a registry it remembers by the host's name alone.
        home = bench.scratch / "home"
        home.mkdir()
        env |= {"NPM_TOKEN": token, "HOME": str(home)}
    version = json.loads((yarn.parents[1] / "package.json").read_text())["version"]
    argv = ["node", yarn, "install", *WITHOUT_SCRIPTS.get(version[0], ["--mode=skip-build"])]
    subprocess.run(argv, cwd=bench.source, check=True, env=env, capture_output=True)
    for name in MADE:
        path = bench.source / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def failed(bench: Workbench, status: int) -> str:
    outcome = build(bench)
    assert outcome.status == status, outcome.output
    return outcome.output


def launched(bench: Workbench, *argv: str) -> str:
    """What a command prints at launch: with Node.js of the image and what the layer of modules sets."""
    layer = bench.layers / "modules"
    path = f"{layer}/bin:{bench.app}/node_modules/.bin:{bench.layers}/node/bin:{os.environ['PATH']}"
    env = {"PATH": path}
    options = layer / "env.launch/NODE_OPTIONS.prepend"
    if options.is_file():
        env["NODE_OPTIONS"] = f"{options.read_text()} --no-warnings"
    ran = subprocess.run(argv, cwd=bench.app, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def at_home(bench: Workbench, **env: str) -> Workbench:
    """The same, with a home of its own where nothing was downloaded yet."""
    home = bench.scratch / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    return dataclasses.replace(bench, env={**env, "HOME": str(home)})


def names(*folders: Path) -> str:
    """All paths of the image, in one text to look for a package in."""
    return "\n".join(str(path) for folder in folders for path in folder.rglob("*"))


KINDS = {
    "classic": ("1", ""),
    "node-modules": ("4", "nodeLinker: node-modules\n"),
    "pnpm": ("4", "nodeLinker: pnpm\n"),
    "pnp": ("4", ""),
    "old": ("3", "nodeLinker: node-modules\n"),
    "oldest": ("2", ""),
}


@pytest.mark.parametrize("kind", first_in_test(KINDS, 2))
def test_modules_are_there_for_the_script_and_dev_ones_not_in_the_image(
    kind: str, bench: Workbench, yarns: Mapping[str, Path]
) -> None:
    version, settings = KINDS[kind]
    files = {**FILES, **({".yarnrc.yml": settings} if settings else {})}
    write(bench, {"name": "scripted", "scripts": SCRIPTS, **DEPENDENCIES}, yarns[version], **files)
    output = built(bench)
    assert "$ yarn run build" in output
    assert (bench.app / "dist/page").read_text() == "hello world"
    assert launched(bench, "node", "a.js") == "1000\n"
    image = names(bench.app, bench.layers / "modules")
    assert "mustache" not in image
    listed = {part["name"] for part in bench.sbom("launch")["components"]}
    assert "ms" in listed and "mustache" not in listed
    assert ".yarn-state" not in image and "integrity" not in image and "install-state" not in image
    assert not (bench.app / ".yarn").exists(), "the next build, which keeps its layers, has none"
    first = contents(bench.layers / "modules", bench.app)

    # The same from nothing, elsewhere.
    for path in [*bench.layers.glob("modules*"), *bench.layers.glob("yarn*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elsewhere = at_home(bench)
    umask = os.umask(0o077)
    try:
        built(elsewhere)
    finally:
        os.umask(umask)
    assert contents(bench.layers / "modules", bench.app) == first

    # Nothing changed but the source: no registry is asked; Yarn installs anew only inside the application.
    (bench.source / "page").write_text("goodbye {{name}}")
    output = built(dataclasses.replace(elsewhere, env={**elsewhere.env, **NOWHERE}))
    assert ("layer modules kept" in output) == ("$ yarn install" not in output) == (kind != "pnpm")
    assert (bench.app / "dist/page").read_text() == "goodbye world"
    assert launched(bench, "node", "a.js") == "1000\n"


@pytest.mark.parametrize("kind", first_in_test(["node-modules", "pnp"]))
def test_without_a_lock_scripts_run_and_the_source_stays_as_it_was(kind: str, bench: Workbench) -> None:
    manifest = {"name": "open", "packageManager": "yarn@4.18.1", "scripts": SCRIPTS, **DEPENDENCIES}
    lay(bench, {**FILES, ".yarnrc.yml": KINDS[kind][1], "package.json": json.dumps(manifest)})
    images = []
    for _ in range(2):
        output = built(bench)
        assert "$ yarn run build" in output
        assert (bench.app / "package.json").read_text() == json.dumps(manifest)
        assert not (bench.app / "yarn.lock").exists()
        images.append(contents(bench.app))
    assert "layer modules kept" in output and images[0] == images[1]
    assert "mustache" not in names(bench.app, bench.layers / "modules")


MEMBERS = {
    "p/a/package.json": json.dumps(
        {
            "name": "a",
            "version": "1.0.0",
            "dependencies": {"b": "1.0.0"},
            "devDependencies": {"mustache": "4.2.0"},
            "scripts": {"start": "node index.js"},
        }
    ),
    "p/a/index.js": "console.log(require('b'))",
    "p/b/package.json": '{"name": "b", "version": "1.0.0", "dependencies": {"ms": "2.1.3"}}',
    "p/b/index.js": "module.exports = require('ms')('2s')",
    "p/c/package.json": '{"name": "c", "version": "1.0.0", "dependencies": {"escape-html": "1.0.3"}}',
}
WORKSPACE = {"name": "spaces", "private": True, "workspaces": ["p/*"]}


@pytest.mark.parametrize("kind", first_in_test(["classic", "node-modules", "pnp"]))
def test_a_member_of_a_workspace_has_its_own_and_no_other_modules(
    kind: str, bench: Workbench, yarns: Mapping[str, Path]
) -> None:
    version, settings = KINDS[kind]
    files = {**MEMBERS, **({".yarnrc.yml": settings} if settings else {})}
    write(bench, {**WORKSPACE, "main": "p/a/index.js"}, yarns[version], **files)
    built(bench)
    assert launched(bench, "node", "p/a/index.js") == "2000\n"
    everything = names(bench.app, bench.layers / "modules")
    assert "escape-html" in everything and "mustache" not in everything
    built(dataclasses.replace(bench, env={"BP_NODE_PROJECT_PATH": "p/a"}))
    assert launched(bench, "node", "p/a/index.js") == "2000\n"
    needed = names(bench.app, bench.layers / "modules")
    assert "escape-html" not in needed and "mustache" not in needed


@pytest.fixture
def offline(bench: Workbench, yarns: Mapping[str, Path]) -> Workbench:
    """An application that brings its Yarn 4, and a build that reaches no registry."""
    release = bench.source / ".yarn/releases/yarn-4.18.1.cjs"
    release.parent.mkdir(parents=True)
    shutil.copy(yarns["4"], release)
    (bench.source / ".yarnrc.yml").write_text(
        "yarnPath: .yarn/releases/yarn-4.18.1.cjs\nenableGlobalCache: false\n"
    )
    return at_home(bench, **NOWHERE, YARN_HTTP_RETRY="0")


def test_a_zero_install_source_needs_no_registry(offline: Workbench, yarns: Mapping[str, Path]) -> None:
    manifest = {
        "name": "zero",
        "type": "module",
        "dependencies": {"mime": "4.0.4", "ms": "2.1.3"},
        "devDependencies": {"mustache": "4.2.0"},
    }
    source = "import ms from 'ms'; import mime from 'mime'; console.log(ms('1s'), mime.getType('a.txt'))"
    write(offline, manifest, yarns["4"], **{"index.js": source})
    assert any((offline.source / ".yarn/cache").glob("mustache-*.zip"))
    assert "Yarn 4.18.1 (yarnPath: .yarn/releases/yarn-4.18.1.cjs)" in built(offline)
    assert launched(offline, "node", "index.js") == "1000 text/plain\n"
    assert launched(offline, "mime", "a.json") == "application/json\n"
    assert "mustache" not in names(offline.app, offline.layers / "modules")
    assert "$ yarn" not in built(offline)
    assert launched(offline, "node", "index.js") == "1000 text/plain\n"


def test_what_build_scripts_write_into_unpacked_packages_is_in_the_image_of_that_build(
    offline: Workbench, yarns: Mapping[str, Path]
) -> None:
    made = "require('path').join(require('path').dirname(require.resolve('ms')), 'made.js')"
    script = f"require('fs').writeFileSync({made}, 'module.exports = 42')"
    manifest = {
        "name": "writing",
        "dependenciesMeta": {"ms": {"unplugged": True}},
        "scripts": {"build": "node build.js", "start": "node index.js"},
        **DEPENDENCIES,
    }
    source = {"index.js": "console.log(require('ms/made.js'))", "build.js": script}
    write(offline, manifest, yarns["4"], **source)
    output = built(offline)
    assert "the build scripts wrote into packages (ms-" in output
    assert launched(offline, "node", "index.js") == "42\n"
    first = contents(offline.layers / "modules", offline.app)
    assert "layer modules replaced: in the last build the scripts wrote into it" not in output
    assert "the build scripts wrote into packages" in built(offline)
    assert contents(offline.layers / "modules", offline.app) == first

    (offline.source / "build.js").write_text("console.log(require('ms')('1s'))")
    path = offline.source / "package.json"
    path.write_text(path.read_text().replace("node build.js", "node  build.js"))
    assert "the build scripts wrote" not in built(offline)
    assert "made.js" not in names(offline.layers / "modules")


def test_the_registry_that_is_set_for_npm_is_yarns_too(offline: Workbench, yarns: Mapping[str, Path]) -> None:
    write(offline, {"name": "x", **DEPENDENCIES}, yarns["4"], **{"index.js": ""})
    shutil.rmtree(offline.source / ".yarn/cache")
    output = failed(offline, 5)
    assert "error: Yarn cannot reach the package registry (ECONNREFUSED)\n" in output
    assert "the registry set in .yarnrc.yml" in output


def test_a_lock_of_yarn_1_that_names_the_public_registry_follows_the_one_that_is_set(
    bench: Workbench, yarns: Mapping[str, Path]
) -> None:
    release = bench.source / ".yarn/releases/yarn-1.22.22.cjs"
    release.parent.mkdir(parents=True)
    subprocess.run(["npm", "pack", "yarn@1.22.22", "--silent"], cwd=release.parent, check=True)
    write(bench, {"name": "x", **DEPENDENCIES}, yarns["1"], **{"index.js": ""})
    before = built(bench)
    assert "Yarn 1.22.22 (yarn.lock is of Yarn 1)" in before
    for path in bench.layers.glob("modules*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    output = failed(at_home(bench, **NOWHERE), 5)
    assert "error: Yarn cannot reach the package registry (ECONNREFUSED)\n" in output


def test_native_modules_and_patches_are_in_the_layer(bench: Workbench, yarns: Mapping[str, Path]) -> None:
    patch = (
        "diff --git a/index.js b/index.js\n--- a/index.js\n+++ b/index.js\n@@ -1,3 +1,4 @@\n"
        "+global.patched = 'patched'\n /**\n  * Helpers.\n  */\n"
    )
    manifest = {
        "name": "native",
        "dependencies": {"fs-ext": "2.1.1", "ms": "patch:ms@npm%3A2.1.3#~/.yarn/patches/ms.patch"},
        "dependenciesMeta": {"fs-ext": {"built": True}},
        "devDependencies": {"mustache": "4.2.0"},
    }
    files = {
        ".yarn/patches/ms.patch": patch,
        "index.js": "console.log(require('ms')('1s'), global.patched, typeof require('fs-ext').flock)",
    }
    write(bench, manifest, yarns["4"], **files)
    built(bench)
    assert launched(bench, "node", "index.js") == "1000 patched function\n"
    (compiled,) = bench.layers.glob("modules/unplugged/fs-ext-*/node_modules/fs-ext/build")
    assert [path.name for path in compiled.rglob("*") if path.is_file()] == ["fs_ext.node"]


def test_the_hash_of_package_manager_is_that_of_the_program(
    bench: Workbench, yarns: Mapping[str, Path]
) -> None:
    digest = hashlib.sha224(yarns["4"].read_bytes()).hexdigest()
    manifest = {"name": "x", "packageManager": f"yarn@4.18.1+sha224.{digest}"}
    write(bench, manifest, **{"index.js": ""})
    assert f"Yarn 4.18.1 (package.json packageManager: yarn@4.18.1+sha224.{digest})" in built(bench)

    for path in bench.layers.glob("yarn*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write(bench, {**manifest, "packageManager": f"yarn@4.18.1+sha224.{'0' * 56}"})
    output = failed(bench, 8)
    assert "error: @yarnpkg/cli-dist 4.18.1 is not the one that package.json packageManager names\n" in output
    assert f"its sha224 is {digest}, not 000" in output


@pytest.mark.parametrize("kind", first_in_test(["classic", "node-modules", "pnp"]))
def test_a_lock_out_of_sync_is_explained_with_the_command_that_mends_it(
    kind: str, bench: Workbench, yarns: Mapping[str, Path]
) -> None:
    version, settings = KINDS[kind]
    files = {"index.js": "", **({".yarnrc.yml": settings} if settings else {})}
    write(bench, {"name": "sync", **DEPENDENCIES}, yarns[version], **files)
    manifest = bench.source / "package.json"
    manifest.write_text(manifest.read_text().replace("2.1.3", "2.0.0"))
    spec = "ms@2.0.0" if kind == "classic" else "ms@npm:2.0.0"
    assert failed(bench, 3).endswith(
        "error: yarn.lock does not match package.json\n"
        f"  Missing: {spec}\n"
        "  run `yarn install` and commit yarn.lock\n"
    )


def test_an_altered_package_is_refused(bench: Workbench, yarns: Mapping[str, Path]) -> None:
    write(bench, {"name": "x", **DEPENDENCIES}, yarns["4"], **{"index.js": ""})
    path = bench.source / "yarn.lock"
    lines = path.read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.startswith("  checksum: 10c0/"))
    lines[place] = f"  checksum: 10c0/{'0' * 128}\n"
    path.write_text("".join(lines))
    output = failed(at_home(bench), 8)
    assert "error: a downloaded package is not the requested one (EINTEGRITY)\n" in output


@pytest.mark.parametrize(("manager", "lock_of"), [("yarn@4.18.1", "1"), ("yarn@1.22.22", "4")])
def test_a_lock_of_another_yarn_is_refused(
    manager: str, lock_of: str, bench: Workbench, yarns: Mapping[str, Path]
) -> None:
    write(bench, {"name": "x", **DEPENDENCIES}, yarns[lock_of], **{"index.js": ""})
    write(bench, {"name": "x", "packageManager": manager, **DEPENDENCIES})
    output = failed(bench, 3)
    assert f"but Yarn {manager.partition('@')[2]} is asked for\n" in output


def test_a_source_without_a_lock_is_installed_with_a_warning(bench: Workbench) -> None:
    for manager in ("yarn@4.18.1", "yarn@1.22.22"):
        write(bench, {"name": "x", "main": "a.js", "packageManager": manager, **DEPENDENCIES}, **FILES)
        output = built(bench)
        assert "warning: there is no yarn.lock" in output
        assert launched(bench, "node", "a.js") == "1000\n"
        assert not (bench.app / "yarn.lock").exists()
        assert "mustache" not in names(bench.app, bench.layers / "modules")


def test_a_settings_file_that_names_a_variable_without_a_value_is_explained(
    offline: Workbench, yarns: Mapping[str, Path]
) -> None:
    write(offline, {"name": "x", "main": "a.js", **DEPENDENCIES}, yarns["4"], **FILES)
    settings = offline.source / ".yarnrc.yml"
    settings.write_text(settings.read_text() + 'npmAuthToken: "${NPM_TOKEN}"\n')
    output = failed(offline, 3)
    assert "error: .yarnrc.yml names a variable that is not set: NPM_TOKEN\n" in output


@pytest.mark.parametrize("version", first_in_test(["4", "1"]))
def test_private_packages_are_for_who_has_the_token_which_is_nowhere(
    version: str, bench: Workbench, yarns: Mapping[str, Path], tmp_path: Path
) -> None:
    with npm_registry("SECRET-TOKEN") as registry:
        registry.publish("@acme/private", {"index.js": "module.exports = 'private'"})
        host = registry.url.removeprefix("http:")
        scope = f"    npmRegistryServer: {registry.url.rstrip('/')}\n    npmAuthToken: ${{NPM_TOKEN-}}\n"
        settings = {
            "1": (".npmrc", f"@acme:registry={registry.url}\n{host}:_authToken=${{NPM_TOKEN}}\n"),
            "4": (
                ".yarnrc.yml",
                f"unsafeHttpWhitelist: [127.0.0.1]\nnpmScopes:\n  acme:\n{scope}",
            ),
        }
        name, text = settings[version]
        manifest = {"name": "x", "dependencies": {"@acme/private": "1.0.0"}}
        files = {"index.js": "console.log(require('@acme/private'))", name: text}
        write(bench, manifest, yarns[version], token="SECRET-TOKEN", **files)
        assert "SECRET-TOKEN" not in built(at_home(bench, NPM_TOKEN="SECRET-TOKEN"))
        assert launched(bench, "node", "index.js") == "private\n"
        for path in [*bench.layers.rglob("*"), *bench.app.rglob("*")]:
            assert not path.is_file() or b"SECRET-TOKEN" not in path.read_bytes(), path

        if version == "4":
            # Yarn itself reads no .npmrc.
            for name, env in settings_of_npm(bench, settings["1"][1], tmp_path):
                shutil.rmtree(bench.layers / "modules")
                output = built(at_home(bench, **env))
                assert name in output and "SECRET-TOKEN" not in output
                assert launched(bench, "node", "index.js") == "private\n"
                assert not (bench.scratch / "home/.yarnrc.yml").exists()

        shutil.rmtree(bench.layers / "modules")
        refused = failed(at_home(bench, NPM_TOKEN="another"), 5)
        assert "error: the package registry refused access (E401)\n" in refused


def settings_of_npm(bench: Workbench, text: str, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The application without settings of Yarn's own, and `text` in its .npmrc and by a binding."""
    (bench.source / ".yarnrc.yml").unlink()
    binding = path / "bindings/acme"
    binding.mkdir(parents=True)
    (binding / "type").write_text("npmrc")
    (binding / ".npmrc").write_text(text.replace("${NPM_TOKEN}", "SECRET-TOKEN"))
    yield ".npmrc of the binding acme", {"SERVICE_BINDING_ROOT": str(path / "bindings")}
    (bench.source / ".npmrc").write_text(text)
    yield "$ yarn install", {"NPM_TOKEN": "SECRET-TOKEN"}
