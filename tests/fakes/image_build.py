"""Builds a golden case with our phases, in the real sandbox over a root made of this machine's shell."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fakes import tiny_root
from fakes.image_case import GID, UID, ImageCase
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

LAUNCHER = LauncherInfo("0.21.0", "github.com/buildpacks/lifecycle", "abcdef1")


@dataclass(frozen=True, slots=True)
class Machine:
    """What all cases have in common: the ids, the root file system and the user that builds."""

    namespace: Namespace
    root: Path

    @property
    def owner(self) -> tuple[int, int]:
        return self.namespace.idmap.to_outside(UID, GID)


@contextmanager
def open_machine(directory: Path, programs: Sequence[str]) -> Iterator[Machine]:
    """A machine whose root, in the new `directory`, has `programs` besides those of every tiny root."""
    with userns.make_namespace(userns.choose_map(UID, GID)) as namespace:
        root = tiny_root.make(directory, programs=programs)
        try:
            yield Machine(namespace, tiny_root.own(root, namespace))
        finally:
            tiny_root.remove(root, namespace)


def build_case(case: ImageCase, machine: Machine, store: Store, scratch: Path) -> Image:
    """Builds the case once; what it kept for the next build is in `store`."""
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
        order=case.order,
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
