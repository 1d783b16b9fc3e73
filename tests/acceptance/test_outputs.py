"""What a build writes beside the store is read by other tools, and docker runs it under the same ID."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fakes.engine import Engine
from fakes.installation import Home
from fakes.web import answer, free_port

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")


def printed(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(home: Home, sample: Path, sample_id: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample in all forms."""
    folder = tmp_path_factory.mktemp("outputs")
    places = ("oci:plain", "oci:layout:v1", "oci-archive:oci.tar:v1", "docker-archive:docker.tar")
    outputs = [word for place in places for word in ("--output", place)]
    again = home.ok("build", "--quiet", "sample", "--path", sample, *outputs, cwd=folder)
    assert again == sample_id
    return folder


@pytest.mark.parametrize(
    "place",
    ["oci:plain", "oci:layout:v1", "oci-archive:oci.tar:v1", "docker-archive:docker.tar:sample:latest"],
)
def test_skopeo_finds_the_same_image_in_every_output(
    place: str, home: Home, folder: Path, sample_id: str
) -> None:
    kind, _, path = place.partition(":")
    manifest = json.loads(printed("skopeo", "inspect", "--raw", f"{kind}:{folder}/{path}"))
    assert manifest["config"]["digest"] == sample_id
    assert home.image_id(f"{kind}:{folder}/{path}") == sample_id


def test_a_sparse_layout_is_the_same_image_and_whole_with_its_run_image(
    home: Home, sample: Path, sample_id: str, folder: Path, tmp_path: Path
) -> None:
    home.ok(
        "build", "--quiet", "sample", "--path", sample, "--output", "oci:sparse", "--sparse", cwd=tmp_path
    )
    raw = printed("skopeo", "inspect", "--raw", f"oci:{tmp_path}/sparse")
    assert raw == printed("skopeo", "inspect", "--raw", f"oci:{folder}/plain")
    layers = [layer["digest"].removeprefix("sha256:") for layer in json.loads(raw)["layers"]]
    there = [(tmp_path / "sparse/blobs/sha256" / digest).exists() for digest in layers]
    assert there == [False, *([True] * (len(layers) - 1))]  # the default run image has one layer
    assert home.ok("copy", f"oci:{tmp_path}/sparse", "again") == home.ok(
        "copy", f"oci:{folder}/plain", "plain"
    )
    assert home.image_id("again") == sample_id


def test_umoci_unpacks_the_layout(folder: Path, tmp_path: Path) -> None:
    assert printed("umoci", "ls", "--layout", folder / "layout").split() == ["v1"]
    printed("umoci", "unpack", "--image", f"{folder}/layout:v1", tmp_path / "bundle")
    root = tmp_path / "bundle" / "rootfs"
    assert (root / "workspace" / "src" / "index.js").is_file()
    assert (root / "cnb" / "process" / "web").is_symlink()


def ended(engine: Engine, container: str) -> str:
    """What a container has said that does not run any more."""
    running = engine.docker("inspect", "--format", "{{.State.Running}}", container) == "true"
    return "" if running else f"it has ended: {engine.docker('logs', container)}"


def test_docker_loads_the_archive_and_runs_it(engine: Engine, folder: Path, sample_id: str) -> None:
    assert engine.docker("load", "--input", str(folder / "docker.tar")) == "Loaded image: sample:latest"
    assert engine.docker("image", "inspect", "--format", "{{.Id}}", "sample") == sample_id
    port = free_port()
    container = engine.docker("run", "--detach", "--network", "host", "--env", f"PORT={port}", "sample")
    answered = json.loads(answer(port, failed=lambda: ended(engine, container)))
    assert (answered["hello"], answered["env"]) == ("packhorse", "production")
    engine.docker("stop", container)
    assert engine.docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
    assert "SIGTERM: finishing open requests" in engine.docker("logs", container)
