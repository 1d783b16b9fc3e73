"""Makes small builders with many buildpacks, which are shell scripts. Used by scenarios."""

from __future__ import annotations

import itertools
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.measure import Failed, packhorse
from bench.programs import ENGINE_API
from fakes import foreign_builder, tiny_root
from fakes.foreign_builder import Tar
from packhorse.oci.archive import DockerArchive
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference

_RUN = "packhorse.local/bench/run:1"
_NAME = "packhorse.local/bench/builder"
_API = "0.10"
_ENTRIES = 100  # of a layer, in which the lifecycle's programs are looked for
_METADATA = "io.buildpacks.builder.metadata"


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The Go lifecycle of a builder: the layer with its programs, and what the builder's label says of it."""

    layer: bytes
    label: object

    @classmethod
    def read(cls, archive: Path) -> Lifecycle:
        """Takes the lifecycle from a docker archive of a builder that `pack` has made."""
        image = DockerArchive(archive).read()
        label = json.loads(image.config.labels[_METADATA])["lifecycle"]
        for layer in reversed(image.layers):
            with tempfile.TemporaryFile() as file:
                file.writelines(layer.tar())
                file.seek(0)
                if _has_lifecycle(file):
                    file.seek(0)
                    return cls(file.read(), label)
        raise Failed(f"{archive} has no layer with /cnb/lifecycle/creator")


def _has_lifecycle(file: IO[bytes]) -> bool:
    # pack writes a small layer for it. Large layers are the base image, and take long to list.
    with tarfile.open(fileobj=file) as tar:
        first = itertools.islice(tar, _ENTRIES)
        return any(entry.name.lstrip("/") == "cnb/lifecycle/creator" for entry in first)


class Builders:
    """Builders in a store, on this machine's shell. With a `lifecycle`, pack can use them too."""

    def __init__(
        self, folder: Path, environ: Mapping[str, str], *, lifecycle: Lifecycle | None = None
    ) -> None:
        self._folder, self._environ, self._lifecycle = folder / "builders", environ, lifecycle
        self._folder.mkdir()
        self._layer = foreign_builder.base(tiny_root.make(self._folder / "root", programs=("seq",)))
        self._bring(foreign_builder.run_image(self._layer), _RUN)

    @property
    def archives(self) -> list[Path]:
        """Docker archives of the run image and of all builders made so far."""
        return sorted(self._folder.glob("*.tar"))

    def make(self, count: int, *, build: str = "", refuses: bool = False) -> str:
        """The name of a new one; its buildpacks are one group, whose last `refuses` every source."""
        names = [f"bench/p{number}" for number in range(count)]
        tar = Tar()
        for name in names:
            _add(tar, name, "exit 100" if refuses and name == names[-1] else "", build)
        group = [{"id": name, "version": "1.0.0"} for name in names]
        rows = (f'[[order.group]]\nid = "{name}"\nversion = "1.0.0"\n' for name in names)
        tar.file("cnb/order.toml", "[[order]]\n" + "".join(rows))
        labels = {
            "io.buildpacks.buildpack.layers": json.dumps({name: {"1.0.0": {"api": _API}} for name in names}),
            "io.buildpacks.buildpack.order": json.dumps([{"group": group}]),
        }
        above, env = [tar.close()], {}
        if self._lifecycle:
            labels[_METADATA] = json.dumps(
                {
                    "lifecycle": self._lifecycle.label,
                    "stack": {"runImage": {"image": _RUN}},
                    "images": [{"image": _RUN}],
                    "buildpacks": [{"id": name, "version": "1.0.0"} for name in names],
                }
            )
            above.append(self._lifecycle.layer)
            env = ENGINE_API
        image = foreign_builder.builder_image(
            self._layer, run=_RUN, launcher=b"#!/bin/sh\n", above=above, env=env, more=labels
        )
        name = f"{_NAME}:{count}{'-refuses' if refuses else ''}"
        self._bring(image, name)
        return name

    def _bring(self, image: Image, name: str) -> None:
        archive = self._folder / f"{name.rpartition('/')[2].replace(':', '-')}.tar"
        push_image(image, DockerArchive(archive, Reference.parse(name)))
        command = [*packhorse(), "copy", f"docker-archive:{archive}", name]
        subprocess.run(command, env=self._environ, check=True, capture_output=True)


def _add(tar: Tar, name: str, detect: str, build: str) -> None:
    top = f"cnb/buildpacks/{name.replace('/', '_')}"
    for directory in (top, f"{top}/1.0.0", f"{top}/1.0.0/bin"):
        tar.directory(directory)
    head = f'api = "{_API}"\n\n[buildpack]\nid = "{name}"\nversion = "1.0.0"\n'
    tar.file(f"{top}/1.0.0/buildpack.toml", f'{head}\n[[targets]]\nos = "linux"\n')
    tar.file(f"{top}/1.0.0/bin/detect", f"#!/bin/sh\n{detect}\n", mode=0o755)
    tar.file(f"{top}/1.0.0/bin/build", f"#!/bin/bash\nset -eu\n{build}\n", mode=0o755)
