"""A build that pack made, read from its folder: the builder it used, what it was asked for, what came out.

A case is a folder of tests/golden/pack/cases; tests/golden/pack/README.md says what is in one.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fakes.image_case import GID, UID, ImageCase
from fakes.small_image import Tape
from packhorse.base.digest import Digest
from packhorse.builder.image import tree_layer
from packhorse.fs.rooted import RootedTree
from packhorse.oci.mutate import edit_config
from packhorse.oci.place import Image, Layer
from packhorse.oci.types import Config

CASES = Path(__file__).parents[1] / "golden" / "pack" / "cases"
RUN_IMAGES = "packhorse.local/acme/run-"
LAUNCHER = b"""\
#!/bin/sh
echo a stand-in for a launcher that Go built with
# -X github.com/buildpacks/lifecycle/cmd.SCMRepository=github.com/buildpacks/lifecycle
# -X github.com/buildpacks/lifecycle/cmd.SCMCommit=abcdef1
"""
_PASSWD = f"root:x:0:0:root:/root:/bin/sh\ncnb:x:{UID}:{GID}::/home/cnb:/bin/sh\n"
_GROUP = f"root:x:0:\ncnb:x:{GID}:\n"


@dataclass(frozen=True, slots=True)
class PackCase(ImageCase):
    """One case: several builds of one application, each asked for by a table of `[[build]]`."""

    @classmethod
    def load(cls, name: str) -> PackCase:
        path = CASES / name
        return cls(name, path, tomllib.loads((path / "case.toml").read_text()))

    @property
    def engine(self) -> bool:
        return True

    @property
    def builds(self) -> int:
        return len(self.values.get("build", [{}]))

    @property
    def run_name(self) -> str:
        return RUN_IMAGES + self.text("run-image")

    def turn(self, number: int) -> Mapping[str, Any]:
        """What build `number` (from 1) is asked for."""
        asked: Mapping[str, Any] = self.values.get("build", [{}])[number - 1]
        return dict(self.values) | dict(asked)

    def on(self, run_image: str) -> PackCase:
        """The same case on another run image."""
        return replace(self, values=dict(self.values) | {"run-image": run_image})

    def place_turn(self, target: Path, number: int) -> None:
        """Copies the application, and does to it what the script of build `number` says."""
        self.place_app(target)
        _change(target, str(self.turn(number).get("app-script", "")))

    def place_extra(self, target: Path) -> None:
        """Copies the buildpacks that are no builder's."""
        if (self.path / "extra").exists():
            shutil.copytree(self.path / "extra", target, symlinks=True)
            _change(target, self.text("extra-script"))

    def place_lifecycle(self, target: Path) -> None:
        """Makes the directory of the launcher."""
        target.mkdir(parents=True)
        (target / "launcher").write_bytes(LAUNCHER)
        (target / "launcher").chmod(0o755)

    def builder(self, root: Path, scratch: Path) -> Image:
        """The builder that pack made: its config, and the same files, above those of `root`."""
        content = scratch / "cnb"
        content.mkdir()
        self.place_buildpacks(content / "buildpacks")
        self.place_build_config(content / "build-config")
        self.place_lifecycle(content / "lifecycle")
        if (self.path / "system.toml").exists():
            shutil.copy(self.path / "system.toml", content)
        config = Config.parse((self.path / "builder.json").read_bytes())
        with RootedTree.open_local(scratch) as view:
            tars = [root_layer(root), b"".join(tree_layer(view, "/cnb").tar())]
        layers = tuple(Layer(Tape(data), Digest.of(data), len(data)) for data in tars)
        return Image(edit_config(config, diff_ids=[Digest.of(data) for data in tars], history=()), layers)


def root_layer(root: Path) -> bytes:
    """A tree of fakes.tiny_root as the layer of a build image, with the account of the builder's user."""
    (root / "etc" / "passwd").write_text(_PASSWD)
    (root / "etc" / "group").write_text(_GROUP)
    out = io.BytesIO()

    def owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid, info.gid = (UID, GID) if info.name == "home/cnb" else (0, 0)
        info.uname = info.gname = ""
        return info

    with tarfile.open(fileobj=out, mode="w") as tar:
        for entry in sorted(root.iterdir()):
            tar.add(entry, entry.name, filter=owned)
    return out.getvalue()


def _change(directory: Path, script: str) -> None:
    if script:
        subprocess.run(["/bin/sh", "-euc", script], cwd=directory, check=True)
