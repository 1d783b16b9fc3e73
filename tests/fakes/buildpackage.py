"""Packaged buildpacks as pack makes them: images with pack's labels, and `.cnb` files.

Written from pack's label contract, with nothing of packhorse's own code for packages.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fakes.small_image import stored_image
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.oci.layout import Layout
from packhorse.oci.place import Image, push_image

MTIME = 315532801


def directory_tar(*directories: Path) -> bytes:
    """A layer with buildpacks, each at its place below /cnb/buildpacks, as pack writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for directory in directories:
            own = tomllib.loads((directory / "buildpack.toml").read_text())["buildpack"]
            top = f"/cnb/buildpacks/{own['id'].replace('/', '_')}/{own['version']}"
            for path in (directory, *sorted(directory.rglob("*"))):
                below = path.relative_to(directory)
                info = tar.gettarinfo(path, f"{top}/{below}" if path != directory else top)
                info.name = f"{top}/{below}" if path != directory else top  # tarfile takes the slash off
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                info.mtime = MTIME
                info.mode = 0o755 if path.is_dir() or path.stat().st_mode & 0o111 else 0o644
                with path.open("rb") if path.is_file() else io.BytesIO() as data:
                    tar.addfile(info, data)
    return out.getvalue()


def package(main: Path, *others: Path, flattened: bool = False, **labels: str) -> Image:
    """The image of a buildpack and those that it is composed of.

    `labels` replace its own, by their names without `io.buildpacks.`.
    """
    directories = (main, *others)
    groups: Sequence[Sequence[Path]] = [directories] if flattened else [[each] for each in directories]
    tars = [directory_tar(*group) for group in groups]
    layers: dict[str, Any] = {}
    for tar, group in zip(tars, groups, strict=True):
        for directory in group:
            descriptor = tomllib.loads((directory / "buildpack.toml").read_text())
            own = descriptor["buildpack"]
            details = {"api": descriptor["api"], "layerDiffID": str(Digest.of(tar))}
            layers.setdefault(own["id"], {})[own["version"]] = details
    own = tomllib.loads((main / "buildpack.toml").read_text())["buildpack"]
    metadata = {"id": own["id"], "version": own["version"], "stacks": [{"id": "*"}]}
    known = {"buildpackage.metadata": json.dumps(metadata), "buildpack.layers": json.dumps(layers)} | labels
    return stored_image(
        *tars, target=Target(), labels={f"io.buildpacks.{key}": value for key, value in known.items()}
    )


def cnb_file(image: Image, path: Path, *, compressed: bool = False) -> Path:
    """The image as a `.cnb` file: a tar of an OCI layout whose names begin with a slash."""
    layout = path.with_name(f"{path.name}.layout")
    push_image(image, Layout(layout, ""))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(each for each in layout.rglob("*") if each.is_file()):
            info = tarfile.TarInfo(f"/{file.relative_to(layout)}")
            info.size, info.mode = file.stat().st_size, 0o755
            tar.addfile(info, io.BytesIO(file.read_bytes()))
    path.write_bytes(gzip.compress(out.getvalue()) if compressed else out.getvalue())
    return path


def tgz(directory: Path, path: Path, *, prefix: str = ".") -> Path:
    """The content of a buildpack's directory as an archive."""
    with tarfile.open(path, "w:gz") as tar:
        tar.add(directory, prefix)
    return path


def composite(directory: Path, identifier: str, *members: tuple[str, str], version: str = "1.0.0") -> Path:
    """Writes a composite buildpack with one group."""
    directory.mkdir(parents=True)
    groups = "".join(f'[[order.group]]\nid = "{name}"\nversion = "{number}"\n' for name, number in members)
    (directory / "buildpack.toml").write_text(
        f'api = "0.11"\n[buildpack]\nid = "{identifier}"\nversion = "{version}"\n[[order]]\n{groups}'
    )
    return directory
