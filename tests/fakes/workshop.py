"""A builder, an app and a previous build in a directory, to run phases on with buildpacks of functions.

A `Workshop` lasts for several builds of one app; each has a fresh tree in which only the cache's layers and
the image of the build before come back.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fakes.cache import FakeCache
from fakes.runner import Call, FakeRunner, Program
from fakes.shelf import Shelf
from fakes.small_image import fresh_image, tar_of
from packhorse.base.target import Distro, Target
from packhorse.fs.rooted import RootedTree
from packhorse.lifecycle.analyze import analyze
from packhorse.lifecycle.build import build
from packhorse.lifecycle.create import create
from packhorse.lifecycle.detect import detect
from packhorse.lifecycle.export import export
from packhorse.lifecycle.inputs import Inputs, LauncherInfo, RunImageName
from packhorse.lifecycle.labels import LIFECYCLE
from packhorse.lifecycle.ports import SandboxPurpose
from packhorse.lifecycle.restore import choose_layers, restore
from packhorse.lifecycle.stages import Analyzed, Built, Detected, Exported, Restored
from packhorse.oci.place import Image, push_image
from packhorse.spec.api import PlatformApi
from packhorse.spec.buildpack_toml import Order, Ref

APP = "registry.test/app"
"""The name of the app's image on the shelf."""

UBUNTU = {"io.buildpacks.base.distro.name": "ubuntu", "io.buildpacks.base.distro.version": "24.04"}

RUN_IMAGE = fresh_image(
    tar_of({"etc/os-release": b"ID=ubuntu"}),
    target=Target("linux", "amd64"),
    env=("PATH=/usr/bin:/bin", "LANG=C.UTF-8"),
    labels=UBUNTU,
    user="1000:1000",
    cmd=("sh",),
)

TARGET = Target("linux", "amd64", distro=Distro("ubuntu", "24.04"))


def passes(call: Call) -> None:
    """A bin/detect or bin/build that does nothing."""


@dataclass
class Notes:
    """An Observer that writes down what it is told."""

    phases: list[str] = field(default_factory=list)
    activities: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    outputs: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.phases.append(name)
        yield

    @contextmanager
    def activity(self, name: str) -> Iterator[None]:
        self.activities.append(name)
        yield

    def say(self, text: str) -> None:
        self.said.append(text)

    def detail(self, text: str) -> None:
        self.details.append(text)

    def output(self, source: str, data: bytes) -> None:
        self.outputs.append((source, data.decode()))


class Workshop:
    """Everything the phases need. `tree` shows the builder as buildpacks find it."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._root = base / "root"
        self.shelf = Shelf()
        self.notes = Notes()
        self.run_image: Image = _stored(self.shelf)
        self.runner = FakeRunner(self._root, _made(base / "scratch"))
        self.cache = FakeCache(self._root, _made(base / "kept"))
        self.tree = RootedTree.open_local(_made(self._root))
        self.inputs = Inputs(
            platform_api=PlatformApi(0, 15),
            order=(),
            launcher=LauncherInfo("0.1.0", "https://example.test/launcher", "abc"),
            env={"PATH": "/usr/bin:/bin", "HOME": "/home/cnb"},
            run_image=RunImageName("registry.test/run", ("mirror.test/run",)),
        )
        for name in ("tmp", "layers", "platform", "home/cnb"):
            self.tree.mkdir(f"/{name}")
        self.tree.write("/workspace/main.py", b"print('hello')\n")
        self.tree.write("/cnb/lifecycle/launcher", b"launcher", mode=0o755)

    def buildpack(
        self,
        identifier: str,
        version: str = "1",
        *,
        detect: Program = passes,
        build: Program = passes,
        api: str = "0.12",
        own: str = "",
        rest: str = "",
    ) -> Ref:
        """Adds a buildpack; `own` are more lines of its [buildpack] table, `rest` what follows that."""
        directory = f"/cnb/buildpacks/{identifier.replace('/', '_')}/{version}"
        head = f'api = "{api}"\n[buildpack]\nid = "{identifier}"\nversion = "{version}"\n'
        self.tree.write(f"{directory}/buildpack.toml", f"{head}{own}\n{rest}\n".encode())
        self.runner.programs[f"{directory}/bin/detect"] = detect
        self.runner.programs[f"{directory}/bin/build"] = build
        return Ref(identifier, version)

    def order(self, *groups: tuple[Ref, ...]) -> Order:
        """Makes these groups the order."""
        self.set(order=groups)
        return groups

    def set(self, **changes: Any) -> None:
        """Changes some of the inputs."""
        self.inputs = replace(self.inputs, **changes)

    def again(self) -> None:
        """Begins the next build: a fresh tree, to which only the cache brings layers."""
        for name in ("layers", "tmp", "home/cnb"):
            shutil.rmtree(self._root / name)
            self.tree.mkdir(f"/{name}")
        self.cache.restored.clear()
        self.runner.commands.clear()
        self.notes = Notes()

    # the phases

    def analyze(self) -> Analyzed:
        return analyze(self.run_image, self.run_image.id.hex, self.shelf.place(APP))

    def detect(self) -> Detected:
        return detect(self.inputs, self.analyze().target, runner=self.runner, observer=self.notes)

    def restore(self) -> Restored:
        analyzed, detected = self.analyze(), self.detect()
        chosen = choose_layers(self.inputs, analyzed, detected, cache=self.cache, observer=self.notes)
        with self.runner.open(SandboxPurpose.BUILD) as sandbox:
            return restore(self.inputs, analyzed, chosen, tree=sandbox.tree, observer=self.notes)

    def build(self) -> Built:
        detected = self.detect()
        with self.runner.open(SandboxPurpose.BUILD) as sandbox:
            return build(
                self.inputs,
                self.analyze().target,
                detected,
                Restored({}),
                runner=self.runner,
                sandbox=sandbox,
                observer=self.notes,
            )

    def export(self, built: Built) -> Exported:
        return export(
            self.inputs,
            self.analyze(),
            built,
            tree=self.tree,
            cache=self.cache,
            target=self.shelf.place(APP),
            observer=self.notes,
        )

    def create(self) -> Exported:
        place = self.shelf.place(APP)
        return create(
            self.inputs,
            run_image=self.run_image,
            run_reference=self.run_image.id.hex,
            previous=place,
            target=place,
            runner=self.runner,
            cache=self.cache,
            observer=self.notes,
        )

    # what came out

    def text(self, path: str) -> str | None:
        """The text of a file in the tree, None when there is none."""
        return None if self.tree.stat(path) is None else self.tree.open(path).read().decode()

    def names(self, path: str) -> list[str]:
        """What is in a directory of the tree."""
        return [node.name for node in self.tree.list(path)]

    def steps(self, program: str) -> list[str]:
        """The ids of buildpacks whose bin/`program` ran, in order."""
        argvs = [step.argv[0].split("/") for step in self.runner.commands]
        return [parts[3] for parts in argvs if parts[-1] == program]


def grouped(*refs: Ref) -> tuple[tuple[Ref, ...], ...]:
    """An order of one group."""
    return (refs,)


def optional(ref: Ref) -> Ref:
    """The entry of a group that the group can do without."""
    return replace(ref, optional=True)


def metadata(image: Image) -> Any:
    """The label io.buildpacks.lifecycle.metadata."""
    return json.loads(image.config.labels[LIFECYCLE])


def files(image: Image, index: int) -> dict[str, str]:
    """The regular files and links of one layer: path to text or target."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(image.layers[index].tar()))) as archive:
        found: dict[str, str] = {}
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                found[member.name] = file.read().decode()
            elif member.issym():
                found[member.name] = f"-> {member.linkname}"
        return found


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def _stored(shelf: Shelf) -> Image:
    push_image(RUN_IMAGE, shelf.place("run"))
    return shelf.place("run").read()
