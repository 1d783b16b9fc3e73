"""A golden image case: what goes into a build, read from its folder, and what the reference made of it.

A case is a folder of tests/golden/images/cases with `case.toml`, `app/`, `buildpacks/` and `expected/`; what
the keys of `case.toml` mean is in tests/golden/images/README.md. A run image is a config in `run-images/`,
over layers that are made here.
"""

from __future__ import annotations

import io
import os
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from packhorse.base.digest import Digest
from packhorse.oci.place import Image, Layer
from packhorse.oci.types import Config
from packhorse.spec.buildpack_toml import Descriptor, Order, Ref
from packhorse.tar.writer import TarEntry, stream

GOLDEN = Path(__file__).parents[1] / "golden" / "images"
CASES = GOLDEN / "cases"
UID, GID = 1001, 1000
LAUNCHER = b"#!/bin/sh\necho a stand-in for the launcher\n"

_DETECT = "#!/bin/sh\nexit 0\n"


@dataclass(frozen=True, slots=True)
class ImageCase:
    """One case. `engine` says that the image goes to a docker engine, otherwise to a registry."""

    name: str
    path: Path
    values: Mapping[str, Any]

    @classmethod
    def load(cls, name: str) -> ImageCase:
        path = CASES / name
        return cls(name, path, tomllib.loads((path / "case.toml").read_text()))

    @property
    def engine(self) -> bool:
        return bool(self.values.get("kind") == "engine")

    @property
    def group(self) -> tuple[Ref, ...]:
        return tuple(Ref(*text.split("@")) for text in self.values["group"])

    @property
    def order(self) -> Order:
        return (self.group,)

    @property
    def builds(self) -> int:
        return int(self.values.get("builds", 1))

    @property
    def run_name(self) -> str:
        """What the run image is called where it is."""
        registry = "" if self.engine else "localhost:5999/"
        return f"{registry}acme/run-{self.values['run-image']}"

    @property
    def mirrors(self) -> tuple[str, ...]:
        return (f"{self.run_name}-mirror",) if self.values.get("mirrors", True) else ()

    @property
    def run_reference(self) -> str:
        """What the image's label says of the run image: the config's digest in hex, or a digest reference."""
        if self.engine:
            return self.run_image().id.hex
        digests = tomllib.loads((GOLDEN / "run-images" / "digests.toml").read_text())
        return f"{self.run_name}@{digests[self.values['run-image']]}"

    def text(self, key: str, default: str = "") -> str:
        """One of the texts in case.toml."""
        return str(self.values.get(key, default))

    def expected(self, number: int) -> tuple[bytes, str]:
        """The config that the reference made in build `number` (from 1), and what is in its layers."""
        stem = self.path / "expected" / str(number)
        return stem.with_suffix(".config.json").read_bytes(), stem.with_suffix(".layers.txt").read_text()

    def place_app(self, target: Path) -> None:
        """Copies the application: modes are 755 and 644 whatever the umask of the checkout was."""
        shutil.copytree(self.path / "app", target, symlinks=True)
        _plain_modes(target)

    def place_buildpacks(self, target: Path) -> None:
        """Copies the buildpacks to `<id>/<version>`; one without a bin/detect gets one that agrees."""
        for source in sorted((self.path / "buildpacks").iterdir()):
            file = source / "buildpack.toml"
            descriptor = Descriptor.parse(file.read_bytes(), str(file))
            here = target / descriptor.ref.directory_name / descriptor.version
            shutil.copytree(source, here)
            if not descriptor.order and not (here / "bin" / "detect").exists():
                (here / "bin" / "detect").write_text(_DETECT)
                (here / "bin" / "detect").chmod(0o755)
        _plain_modes(target)

    def place_lifecycle(self, target: Path) -> None:
        """Makes the directory of the launcher, with the SBOM files that the case has for it."""
        target.mkdir(parents=True)
        if (self.path / "lifecycle").exists():
            shutil.copytree(self.path / "lifecycle", target, dirs_exist_ok=True)
        (target / "launcher").write_bytes(LAUNCHER)
        (target / "launcher").chmod(0o755)
        _plain_modes(target)

    def place_build_config(self, target: Path) -> None:
        """Copies what the operator configured, or makes an empty directory."""
        source = self.path / "build-config"
        if source.exists():
            shutil.copytree(source, target)
        else:
            target.mkdir()
        _plain_modes(target)

    def place_user_variables(self, target: Path) -> None:
        """Makes a platform directory with the user's variables."""
        (target / "env").mkdir(parents=True)
        for name, value in self.values.get("env", {}).items():
            (target / "env" / name).write_text(value)
        _plain_modes(target)

    def run_image(self) -> Image:
        """The run image; its layers hold one file each."""
        config = Config.parse((GOLDEN / "run-images" / f"{self.values['run-image']}.json").read_bytes())
        return Image(config, tuple(run_layer(number) for number in range(len(config.diff_ids))))


def run_layer(number: int) -> Layer:
    """Layer `number` of every run image."""
    content = f"layer {number}\n".encode()
    entry = TarEntry.file(f"/run-layer-{number}", len(content), partial(io.BytesIO, content), mode=0o644)
    data = b"".join(stream([entry]))
    return Layer(lambda: iter([data]), Digest.of(data), len(data))


def _plain_modes(top: Path) -> None:
    top.chmod(0o755)
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            path = Path(directory, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
