"""Equal inputs give the image that the Go lifecycle 0.21.0 makes: layers, config, image ID.

The figures are in tests/golden/images. The buildpacks run in the real sandbox, over a root file system made
of this machine's shell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fakes import tiny_root
from fakes.image_case import CASES, GID, UID, ImageCase
from fakes.image_listing import listing, readable, same
from fakes.observer import Quiet
from packhorse.base.sandbox import Bind, Network
from packhorse.build.mounts import open_source
from packhorse.build.runner import BuildMounts, BuildRunner
from packhorse.host import wiring
from packhorse.lifecycle.create import create
from packhorse.lifecycle.inputs import EPOCH, Inputs, LauncherInfo, RunImageName
from packhorse.linux import userns
from packhorse.linux.userns import Namespace
from packhorse.oci.mutate import engine_view
from packhorse.oci.place import Image
from packhorse.spec.api import PlatformApi
from packhorse.store.store import Store

pytestmark = pytest.mark.system

NAMES = sorted(path.name for path in CASES.iterdir())
LAUNCHER = LauncherInfo("0.21.0", "github.com/buildpacks/lifecycle", "abcdef1")


@dataclass(frozen=True, slots=True)
class Machine:
    """What all cases have in common: the ids, the root file system and the user that builds."""

    namespace: Namespace
    root: Path

    @property
    def owner(self) -> tuple[int, int]:
        return self.namespace.idmap.to_outside(UID, GID)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with userns.make_namespace(userns.choose_map(UID, GID)) as namespace:
        root = tiny_root.make(tmp_path_factory.mktemp("machine") / "root", programs=["mkfifo"])
        try:
            yield Machine(namespace, tiny_root.own(root, namespace))
        finally:
            tiny_root.remove(root, namespace)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_the_one_that_the_reference_makes(name: str, machine: Machine, tmp_path: Path) -> None:
    case = ImageCase.load(name)
    skip = len(case.run_image().layers)
    with Store.open(tmp_path / "store") as store:
        for number in range(1, case.builds + 1):
            with store.scratch() as scratch:
                image = _build(case, machine, store, scratch)
                config, layers = case.expected(number)
                tars = [b"".join(layer.tar()) for layer in image.layers]
            ours = listing(json.loads(image.config.raw), tars, skip=skip)
            same(f"{name}, build {number}: layers", layers.splitlines(), ours.splitlines())
            same(f"{name}, build {number}: config", readable(config), readable(image.config.raw))
            assert image.config.raw == config


def _build(case: ImageCase, machine: Machine, store: Store, scratch: Path) -> Image:
    case.place_app(scratch / "app")
    for directory, names, files in os.walk(scratch / "app"):
        for name in (".", *names, *files):
            os.chown(Path(directory, name), *machine.owner, follow_symlinks=False)
    case.place_buildpacks(scratch / "buildpacks")
    case.place_lifecycle(scratch / "lifecycle")
    case.place_build_config(scratch / "build-config")
    case.place_user_variables(scratch / "platform")
    layers = store.open_layers(
        "app", machine.namespace.idmap, uid=UID, gid=GID, scratch=_directory(scratch / "layers")
    )
    sandbox = wiring.make_runner(machine.namespace, _directory(scratch / "sandbox"))
    target = store.place("app")
    with open_source(scratch / "app", machine.owner, (), scratch, machine.namespace, scan=False) as source:
        mounts = BuildMounts(
            root=machine.root,
            home="/home/cnb",
            uid=UID,
            gid=GID,
            path=scratch / "app",
            source=source,
            layers=layers,
            mounts=(
                Bind(scratch / "buildpacks", "/cnb/buildpacks"),
                Bind(scratch / "lifecycle", "/cnb/lifecycle"),
                Bind(scratch / "build-config", "/cnb/build-config"),
                Bind(scratch / "platform", "/platform"),
            ),
            network=Network.NONE,
        )
        exported = create(
            _inputs(case),
            run_image=_shown(case.run_image()) if case.engine else case.run_image(),
            run_reference=case.run_reference,
            previous=target,
            target=target,
            runner=BuildRunner(sandbox.open, mounts, machine.namespace.idmap, _directory(scratch / "steps")),
            cache=layers,
            observer=Quiet(),
        )
        return exported.image


def _shown(image: Image) -> Image:
    """A run image as a build for an engine takes it."""
    return replace(image, config=engine_view(image.config))


def _inputs(case: ImageCase) -> Inputs:
    return Inputs(
        platform_api=PlatformApi.parse(case.text("platform-api", "0.15")),
        order=(case.group,),
        launcher=LAUNCHER,
        env={"PATH": "/bin", "HOME": "/home/cnb"},
        run_image=RunImageName(case.run_name, case.mirrors),
        uid=UID,
        gid=GID,
        exec_env=case.text("exec-env", "production"),
        default_process=case.text("default-process"),
        project=case.values.get("project", {}),
        created=case.values.get("created", EPOCH),
    )


def _directory(path: Path) -> Path:
    path.mkdir(parents=True)
    path.chmod(0o755)
    return path
