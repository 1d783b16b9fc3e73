"""skopeo, umoci and docker read what packhorse writes, and the reverse, under one image ID."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fakes.engine import Engine
from fakes.image_problems import problems_of_image, problems_of_layout
from fakes.small_image import fresh_image, stored_image, tar_of
from packhorse.oci.archive import DockerArchive, OciArchive
from packhorse.oci.layout import Layout
from packhorse.oci.place import Image, copy, push_image
from packhorse.oci.reference import Reference
from packhorse.oci.types import MediaType

APP = Reference.parse("me/app:1")
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
int main(int count, char **words) {
    printf("hello %s %s\n", getenv("WHO"), words[1]);
    return count - 2;
}
"""


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def inspect(location: str) -> Any:
    return json.loads(run("skopeo", "inspect", location))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A static program for this machine."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "hello.c").write_text(PROGRAM)
    compiler = [shutil.which("cc") or ""]
    if not compiler[0]:
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "native-linux-musl"]
    run(*compiler, "-static", "-Os", "-o", folder / "hello", folder / "hello.c")
    return (folder / "hello").read_bytes()


@pytest.fixture(scope="module")
def image(program: bytes) -> Image:
    """An image that says hello, with one of its layers twice."""
    base, more = tar_of({"hello": program}), tar_of({"data": b"x" * 100_000})
    return fresh_image(
        base, more, base, entrypoint=["/hello"], cmd=["you"], env=["WHO=world"], labels={"a": "<b>"}
    )


def test_skopeo_reads_every_form_that_packhorse_writes(image: Image, tmp_path: Path) -> None:
    receipt = push_image(image, Layout(tmp_path / "layout", "v1"))
    push_image(image, OciArchive(tmp_path / "oci.tar", "v1"))
    push_image(image, DockerArchive(tmp_path / "docker.tar", APP))
    for location in (f"oci:{tmp_path}/layout:v1", f"oci-archive:{tmp_path}/oci.tar:v1"):
        assert inspect(location)["Digest"] == str(receipt.manifest_digest)
    found = inspect(f"docker-archive:{tmp_path}/docker.tar:me/app:1")
    assert found["Layers"] == [str(diff_id) for diff_id in image.config.diff_ids]
    for number, location in enumerate(
        (
            f"oci:{tmp_path}/layout:v1",
            f"oci-archive:{tmp_path}/oci.tar",
            f"docker-archive:{tmp_path}/docker.tar",
        )
    ):
        run("skopeo", "copy", "-q", location, f"dir:{tmp_path}/{number}")
        assert (tmp_path / str(number) / image.id.hex).read_bytes() == image.config.raw


def test_packhorse_reads_every_form_that_skopeo_writes(image: Image, tmp_path: Path) -> None:
    push_image(image, Layout(tmp_path / "ours", "v1"))
    source = f"oci:{tmp_path}/ours:v1"
    run("skopeo", "copy", "-q", source, f"oci:{tmp_path}/layout:v2")
    run("skopeo", "copy", "-q", source, f"oci-archive:{tmp_path}/oci.tar:v2")
    run("skopeo", "copy", "-q", source, f"docker-archive:{tmp_path}/docker.tar:me/app:1")
    for place in (
        Layout(tmp_path / "layout", "v2"),
        OciArchive(tmp_path / "oci.tar", "v2"),
        DockerArchive(tmp_path / "docker.tar", APP),
    ):
        found = place.read()
        assert found.id == image.id
        assert problems_of_image(found) == []


def test_a_copy_through_packhorse_keeps_the_manifest_that_skopeo_wrote(image: Image, tmp_path: Path) -> None:
    push_image(image, DockerArchive(tmp_path / "docker.tar", APP))
    run("skopeo", "copy", "-q", f"docker-archive:{tmp_path}/docker.tar", f"oci:{tmp_path}/theirs:v1")
    copy(Layout(tmp_path / "theirs", "v1"), OciArchive(tmp_path / "oci.tar", "v1"))
    digest = inspect(f"oci:{tmp_path}/theirs:v1")["Digest"]
    assert inspect(f"oci-archive:{tmp_path}/oci.tar:v1")["Digest"] == digest


def test_skopeo_and_umoci_find_an_image_that_came_with_dockers_media_types(tmp_path: Path) -> None:
    push_image(
        stored_image(tar_of({"a": b"a"}), media_type=MediaType.DOCKER_MANIFEST),
        Layout(tmp_path / "layout", "v1"),
    )
    assert inspect(f"oci:{tmp_path}/layout:v1")["Architecture"] == "amd64"
    assert "layer 0" in run("umoci", "stat", "--image", f"{tmp_path}/layout:v1")


def test_umoci_unpacks_and_edits_a_layout_that_packhorse_then_reads(image: Image, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    push_image(image, Layout(layout, "v1"))
    run("umoci", "unpack", "--rootless", "--image", f"{layout}:v1", tmp_path / "bundle")
    assert sorted(path.name for path in (tmp_path / "bundle/rootfs").iterdir()) == ["data", "hello"]
    run("umoci", "config", "--image", f"{layout}:v1", "--tag", "v2", "--config.label", "x=y")
    run("umoci", "new", "--image", f"{layout}:empty")
    run("umoci", "gc", "--layout", layout)
    assert run("umoci", "ls", "--layout", layout).split() == ["v1", "v2", "empty"]
    assert dict(Layout(layout, "v2").read().config.labels) == {"a": "<b>", "x": "y"}
    assert Layout(layout, "empty").read().layers == ()
    assert problems_of_layout(layout) == []


def test_docker_loads_and_runs_an_archive_under_the_same_image_id(
    image: Image, engine: Engine, tmp_path: Path
) -> None:
    push_image(image, DockerArchive(tmp_path / "docker.tar", APP))
    assert engine.docker("load", "--input", f"{tmp_path}/docker.tar") == "Loaded image: me/app:1"
    assert engine.docker("image", "inspect", "--format", "{{.Id}}", "me/app:1") == str(image.id)
    assert engine.docker("run", "--rm", "--network", "host", "me/app:1") == "hello world you"
    container = engine.docker("create", "--network", "none", "me/app:1", "me")
    assert engine.docker("inspect", "--format", "{{.Image}}", container) == str(image.id)
    engine.docker("rm", container)


def test_docker_loads_an_archive_without_a_name(image: Image, engine: Engine, tmp_path: Path) -> None:
    push_image(image, DockerArchive(tmp_path / "docker.tar"))
    assert engine.docker("load", "--input", f"{tmp_path}/docker.tar") == f"Loaded image ID: {image.id}"


def test_packhorse_reads_what_docker_saves(image: Image, engine: Engine, tmp_path: Path) -> None:
    push_image(image, DockerArchive(tmp_path / "docker.tar", Reference.parse("me/saved")))
    engine.docker("load", "--input", f"{tmp_path}/docker.tar")
    engine.docker("tag", "me/saved", "me/again:2")
    engine.docker("save", "--output", f"{tmp_path}/saved.tar", "me/saved", "me/again:2")
    for name in ("me/saved", "me/again:2"):
        found = DockerArchive(tmp_path / "saved.tar", Reference.parse(name)).read()
        assert found.id == image.id
        assert problems_of_image(found) == []
    copy(DockerArchive(tmp_path / "saved.tar"), Layout(tmp_path / "layout"))
    push_image(image, Layout(tmp_path / "direct"))
    assert Layout(tmp_path / "layout").read().manifest == Layout(tmp_path / "direct").read().manifest
