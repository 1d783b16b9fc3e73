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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from packhorse.platform.package import stage
from packhorse.sdk.testing import Outcome, Workbench

ROOT = Path(__file__).parents[2]
NOWHERE = {"npm_config_registry": "http://127.0.0.1:9/", "npm_config_fetch_retries": "0"}
PACKAGES = {"1": "yarn@1.22.22", "3": "@yarnpkg/cli-dist@3.8.7", "4": "@yarnpkg/cli-dist@4.18.1"}
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
    target = tmp_path_factory.mktemp("staged") / "nodejs"
    stage(ROOT / "buildpacks/nodejs", target)
    return target


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
    outcome = build(bench)
    assert outcome.status == 0, outcome.output
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


def laid_out(buildpack: Path, root: Path) -> Workbench:
    (root / "source").mkdir()
    (root / "scratch").mkdir()
    return Workbench(buildpack, root / "source", root / "scratch")


def write(bench: Workbench, manifest: dict[str, Any], yarn: Path | None = None, **files: str) -> None:
    """Writes an application, and its lock as a developer's `yarn` makes it."""
    files["package.json"] = json.dumps({"version": "1.0.0", "engines": {"node": "22"}, **manifest})
    for name, content in files.items():
        path = bench.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    if yarn:
        lock(bench, yarn)


def lock(bench: Workbench, yarn: Path) -> None:
    (bench.source / "yarn.lock").touch()
    env = {**os.environ, **QUIET}
    options = ["--ignore-engines"] if "cli-dist" not in (yarn.parents[1] / "package.json").read_text() else []
    argv = ["node", yarn, "install", *options]
    subprocess.run(argv, cwd=bench.source, check=True, env=env, capture_output=True)
    for name in ("node_modules", ".yarn/unplugged", ".yarn/install-state.gz", ".pnp.cjs", ".pnp.loader.mjs"):
        path = bench.source / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def build(bench: Workbench) -> Outcome:
    detected = bench.detect()
    assert detected.status == 0, detected.output
    return bench.build()


def built(bench: Workbench) -> str:
    outcome = build(bench)
    assert outcome.status == 0, outcome.output
    return outcome.output


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


def contents(*roots: Path) -> dict[str, tuple[object, ...]]:
    """Path, mode and content of everything below `roots`: what a layer's digest is made of."""
    found: dict[str, tuple[object, ...]] = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_symlink():
                found[str(path)] = (os.readlink(path),)
            else:
                digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
                found[str(path)] = (path.stat().st_mode, digest)
    return found


def names(*folders: Path) -> str:
    """All paths of the image, in one text to look for a package in."""
    return "\n".join(str(path) for folder in folders for path in folder.rglob("*"))


KINDS = {
    "classic": ("1", ""),
    "node-modules": ("4", "nodeLinker: node-modules\n"),
    "pnpm": ("4", "nodeLinker: pnpm\n"),
    "pnp": ("4", ""),
    "old": ("3", "nodeLinker: node-modules\n"),
}


@pytest.mark.parametrize("kind", KINDS)
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
    first = contents(bench.layers / "modules", bench.app)

    # The same from nothing, elsewhere.
    for path in [*bench.layers.glob("modules*"), *bench.layers.glob("yarn*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    home = bench.scratch / "home"
    home.mkdir()
    umask = os.umask(0o077)
    try:
        built(dataclasses.replace(bench, env={"HOME": str(home)}))
    finally:
        os.umask(umask)
    again = contents(bench.layers / "modules", bench.app)
    assert again == first

    # Nothing changed but the source: no registry is asked; Yarn installs anew only inside the application.
    (bench.source / "page").write_text("goodbye {{name}}")
    output = built(dataclasses.replace(bench, env={**NOWHERE, "HOME": str(home)}))
    assert ("layer modules kept" in output) == ("$ yarn install" not in output) == (kind != "pnpm")
    assert (bench.app / "dist/page").read_text() == "goodbye world"
    assert launched(bench, "node", "a.js") == "1000\n"
