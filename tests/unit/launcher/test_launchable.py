"""The layers that export refuses are those with which the launcher starts nothing, and no others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from packhorse.errors import InputError
from packhorse.fs.rooted import RootedTree
from packhorse.lifecycle.export import check_layer
from packhorse.lifecycle.inputs import Inputs, LauncherInfo, RunImageName
from packhorse.spec.api import PlatformApi
from unit.launcher.appimage import AppImage

pytestmark = pytest.mark.system

INPUTS = Inputs(
    platform_api=PlatformApi(0, 15),
    order=(),
    launcher=LauncherInfo("1"),
    env={},
    run_image=RunImageName("run"),
)
Make = Callable[[Path], object]


def put(name: str, content: bytes = b"x", *, mode: int = 0o644) -> Make:
    def make(layer: Path) -> None:
        path = layer / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)

    return make


def link(name: str, target: str) -> Make:
    def make(layer: Path) -> None:
        (layer / name).parent.mkdir(parents=True, exist_ok=True)
        (layer / name).symlink_to(target)

    return make


def special(name: str, kind: int) -> Make:
    def make(layer: Path) -> None:
        (layer / name).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(layer / name, kind | 0o644, os.makedev(1, 255))  # a device that no driver has

    return make


def both(*makes: Make) -> Make:
    return lambda layer: [make(layer) for make in makes]


PROGRAM = b"#!/bin/sh\n"
REFUSED: dict[str, tuple[Make, str]] = {
    "a dangling link in env": (link("env/X", "nowhere"), "env/X is a link that leads nowhere"),
    "a dangling link in env.launch": (link("env.launch/X", "../gone/x"), "env.launch/X is a link that"),
    "a dangling link of a process": (link("env.launch/web/X", "no"), "env.launch/web/X is a link that"),
    "links in a circle": (both(link("env/X", "Y"), link("env/Y", "X")), "env/X is a link that leads nowhere"),
    "a NUL byte": (put("env/X", b"a\0b"), "env/X has a NUL byte"),
    "a NUL byte in front": (put("env.launch/PATH.prepend", b"a\0b"), "PATH.prepend has a NUL byte"),
    "a file for a process": (put("env.launch/web"), "env.launch/web is not a directory"),
    "a device": (special("env/X", 0o020000), "env/X is not a file"),
    "a large variable": (put("env/X", b"x" * ((16 << 20) + 1)), "env/X is larger than"),
    "a program that is none": (put("exec.d/x", PROGRAM), "exec.d/x is not an executable file"),
    "a program of a process": (put("exec.d/web/x", PROGRAM), "exec.d/web/x is not an executable file"),
    "a link to no program": (link("exec.d/x", "none"), "exec.d/x is a link that leads nowhere"),
    "a link to a directory": (link("exec.d/x", "../bin"), "exec.d/x is not an executable file"),
}
TAKEN: dict[str, Make] = {
    "nothing": lambda layer: layer.mkdir(parents=True, exist_ok=True),
    "variables and links to them": both(put("env/X"), link("env/Y", "X"), link("env/Z", "/etc/hostname")),
    "a link to a directory": both(put("env/d/X"), link("env/Y", "d")),
    "a suffix that means nothing": put("env/X.other", b"\0"),
    "a dangling env": link("env", "nowhere"),
    "what another process has": both(link("env.launch/worker/X", "no"), put("exec.d/worker/x")),
    "programs": both(put("exec.d/x", PROGRAM, mode=0o755), link("exec.d/y", "x"), put("exec.d/d/x")),
    "a link to a program of the run image": link("exec.d/x", "/bin/true"),
}


@pytest.fixture
def layer(image: AppImage) -> Path:
    (image.layers / "a/one/bin").mkdir(parents=True)
    command = ["/bin/true"]
    image.describe({"type": "web", "command": command, "direct": True, "buildpack-id": "a"})
    return image.layers / "a/one"


def check(image: AppImage) -> Sequence[str]:
    with RootedTree.open_local(image.root) as tree:
        return check_layer(INPUTS, tree, "/layers/a/one", ["web"])


@pytest.mark.parametrize("name", ["env", "env.launch", "exec.d"])
def test_a_file_in_the_place_of_a_directory_is_warned_of(image: AppImage, layer: Path, name: str) -> None:
    put(name, PROGRAM, mode=0o755)(layer)
    assert image.start().returncode != 0
    assert check(image) == [
        f"/layers/a/one/{name} is not a directory, so the launcher cannot start the image"
    ]


@pytest.mark.parametrize(("make", "issue"), REFUSED.values(), ids=REFUSED)
def test_a_layer_is_refused_with_which_the_launcher_starts_nothing(
    image: AppImage, layer: Path, make: Make, issue: str
) -> None:
    make(layer)
    assert image.start().returncode != 0
    with pytest.raises(InputError, match="could not start") as raised:
        check(image)
    assert any(issue in found for found in raised.value.issues)


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN)
def test_any_other_layer_is_taken(image: AppImage, layer: Path, make: Make) -> None:
    make(layer)
    assert image.output() == ""
    assert check(image) == []
