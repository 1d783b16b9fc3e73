"""Small builders with many buildpacks that are shell scripts. Called by `detection` and `growth`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.measure import packhorse
from fakes import foreign_builder, tiny_root
from fakes.foreign_builder import Tar
from packhorse.oci.archive import DockerArchive
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference

_RUN = "packhorse.local/bench/run:1"
_NAME = "packhorse.local/bench/builder"
_API = "0.10"


class Builders:
    """Builders in a store; they stand on this machine's shell."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder, self._environ = folder / "builders", environ
        self._folder.mkdir()
        self._layer = foreign_builder.base(tiny_root.make(self._folder / "root", programs=("seq",)))
        self._bring(foreign_builder.run_image(self._layer), _RUN)

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
        image = foreign_builder.builder_image(
            self._layer, run=_RUN, launcher=b"#!/bin/sh\n", above=[tar.close()], more=labels
        )
        name = f"{_NAME}:{count}"
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
