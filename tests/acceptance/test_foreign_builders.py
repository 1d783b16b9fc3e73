"""Builders that others made, from a real registry: used as they are, or refused by name."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes import foreign_builder, tiny_root
from fakes.docker_registry import serve
from fakes.foreign_builder import LAUNCHER_VERSION, UID
from fakes.installation import Home
from packhorse.base import installation
from packhorse.oci.layout import Layout
from packhorse.oci.place import Image, push_image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")


@dataclass(frozen=True)
class Registry:
    """A running registry, which skopeo fills."""

    host: str
    folder: Path

    def push(self, image: Image, name: str) -> str:
        """Pushes as docker does; returns the full name."""
        layout = self.folder / "layout"
        push_image(image, Layout(layout, "pushed"))
        target = f"{self.host}/{name}"
        words = ["skopeo", "copy", "--format", "v2s2", "--dest-tls-verify=false"]
        words += [f"oci:{layout}:pushed", f"docker://{target}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(layout)
        return target


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    with serve(folder) as host:
        yield Registry(host.replace("127.0.0.1", "localhost"), folder)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return foreign_builder.base(tiny_root.make(tmp_path_factory.mktemp("tiny") / "root"))


@pytest.fixture(scope="module")
def launcher() -> bytes:
    return installation.launcher("amd64" if os.uname().machine == "x86_64" else "arm64")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app"
    path.mkdir()
    (path / "README").write_text("hello\n")
    return path


def test_a_foreign_builder_is_fetched_and_built_with(
    home: Home, registry: Registry, layer: bytes, launcher: bytes, app: Path
) -> None:
    run = registry.push(foreign_builder.run_image(layer), "foreign/run:1")
    image = foreign_builder.builder_image(layer, run=run, launcher=launcher)
    builder = registry.push(image, "foreign/builder:1")
    done = home.run("build", "foreign", "--path", app, "--builder", builder)
    assert done.returncode == 0, done.stderr
    assert f"fetching {builder}" in done.stderr and f"fetching {run}" in done.stderr
    assert f"[shell] {UID}\n" in done.stderr and "[shell] home /home/builder\n" in done.stderr
    assert home.ok("run", "foreign") == "hello from /layers/foreign_shell/tools/bin/say"
    fields = home.ok("inspect", "--output", "json", "foreign")
    assert LAUNCHER_VERSION in fields and run in fields
    assert '"CNB_PLATFORM_API=0.14"' in fields
    again = home.run("build", "foreign", "--path", app, "--builder", builder)
    assert again.returncode == 0 and "fetching" not in again.stderr


OLD_SERVER = """
test -z "${CNB_LAYERS_DIR:-}${CNB_PLATFORM_DIR:-}${CNB_BP_PLAN_PATH:-}"
mkdir -p "$1/words/profile.d/talk"
printf 'export WORD="profile.d and"\\n' > "$1/words/profile.d/talk/word.sh"
printf '[types]\\nlaunch = true\\n' > "$1/words.toml"
cat > "$1/launch.toml" <<'END'
[[processes]]
type = "talk"
command = "echo hello from $WORD $MORE && echo in $PWD"
default = true
working-dir = "/ignored"
END
"""
"""The bin/build of a buildpack of API 0.7."""


def test_a_builder_of_old_apis_is_built_with_and_bash_runs_its_process(
    home: Home, registry: Registry, layer: bytes, launcher: bytes, app: Path
) -> None:
    run = registry.push(foreign_builder.run_image(layer), "foreign/run:old")
    image = foreign_builder.builder_image(
        layer, run=run, launcher=launcher, api="0.7", platforms=["0.6", "0.7", "0.8"], build=OLD_SERVER
    )
    builder = registry.push(image, "foreign/builder:old")
    (app / ".profile").write_text('export MORE="the profile"\n')
    done = home.run("build", "old", "--path", app, "--builder", builder)
    assert done.returncode == 0, done.stderr
    assert "working-dir of process 'talk' is ignored" in done.stderr
    assert home.ok("run", "old") == "hello from profile.d and the profile\nin /workspace"
    assert '"CNB_PLATFORM_API=0.8"' in home.ok("inspect", "--output", "json", "old")


def test_a_builder_with_a_buildpack_of_an_old_api_is_refused_by_name(
    home: Home, registry: Registry, layer: bytes, launcher: bytes, app: Path
) -> None:
    run = registry.push(foreign_builder.run_image(layer), "foreign/run:2")
    image = foreign_builder.builder_image(layer, run=run, launcher=launcher, api="0.6")
    builder = registry.push(image, "foreign/builder:older")
    done = home.run("build", "older", "--path", app, "--builder", builder)
    assert done.returncode == 12, done.stderr
    assert "buildpack foreign/shell@2.1.0 needs Buildpack API 0.6" in done.stderr


def test_the_copy_in_the_store_serves_while_the_registry_is_away(
    home: Home, layer: bytes, launcher: bytes, app: Path, tmp_path: Path
) -> None:
    with serve(tmp_path) as host:
        registry = Registry(host.replace("127.0.0.1", "localhost"), tmp_path)
        run = registry.push(foreign_builder.run_image(layer), "away/run")
        image = foreign_builder.builder_image(layer, run=run, launcher=launcher)
        builder = registry.push(image, "away/builder")
        first = home.ok("build", "--quiet", "away", "--path", app, "--builder", builder)
    done = home.run("build", "away", "--path", app, "--builder", builder)
    assert done.returncode == 0, done.stderr
    assert "using the copy in the store" in done.stderr
    assert home.image_id("away") == first
    missing = home.run("build", "away", "--path", app, "--builder", builder.replace("builder", "nosuch"))
    assert missing.returncode == 5
    assert "is not in the store and cannot be fetched" in missing.stderr
