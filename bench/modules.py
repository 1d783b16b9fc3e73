"""An application image with modules as npm leaves them: 430 MB in 24,000 files. Called by the scenarios.

A process of its own makes it: what a program is said to have needed of memory is never less than what the one
had that started it.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.oci.archive import DockerArchive, TarWriter
from packhorse.oci.files import OpenFile
from packhorse.oci.mutate import add_layers, empty_config
from packhorse.oci.place import Image, Layer, push_image
from packhorse.oci.reference import Reference
from packhorse.oci.types import History

_FILES = 24_000
_SIZE = 18_000
_EPOCH = "1980-01-01T00:00:01Z"


def archives(folder: Path) -> tuple[Path, Path]:
    """Two docker archives: an image of three layers, and the same with another small one on top."""
    root = Path(__file__).parents[1]
    environ = {**os.environ, "PYTHONPATH": str(root / "tests")}
    subprocess.run([sys.executable, "-m", __name__, folder], cwd=root, env=environ, check=True)
    return folder / "first.tar", folder / "second.tar"


def tree(folder: Path, *, files: int = _FILES) -> Path:
    """The modules as a directory, and as `modules.tar` beside it."""
    root = Path(__file__).parents[1]
    environ = {**os.environ, "PYTHONPATH": str(root / "tests")}
    command = [sys.executable, "-m", __name__, folder, str(files)]
    subprocess.run(command, cwd=root, env=environ, check=True)
    subprocess.run(["tar", "--extract", "--file", folder / "modules.tar", "--directory", folder], check=True)
    return folder / "node_modules"


def _make(folder: Path) -> None:
    modules, base = folder / "modules.tar", folder / "base.tar"
    modules.write_bytes(_tar("node_modules", _FILES, seed=1))
    base.write_bytes(_tar("usr", 2_000, seed=2))
    first, second = (_tar("src", 20, seed=seed) for seed in (3, 4))
    for name, small in (("first", first), ("second", second)):
        top = folder / f"{name}-top.tar"
        top.write_bytes(small)
        archive = DockerArchive(folder / f"{name}.tar", Reference.parse(f"bench/{name}:1"))
        push_image(_image(base, modules, top), archive)


def _image(*tars: Path) -> Image:
    layers = []
    for path in tars:
        file = OpenFile.open(path)
        layers.append(Layer(file.chunks, Digest.of(path.read_bytes()), file.size))
    named = [(layer.diff_id, History(created_by=path.name)) for layer, path in zip(layers, tars, strict=True)]
    config = add_layers(
        empty_config(Target("linux", "amd64")),
        [(diff_id, entry) for diff_id, entry in named if diff_id],
        created=_EPOCH,
        keep_history=True,
    )
    return Image(config, tuple(layers))


def _tar(name: str, files: int, *, seed: int) -> bytes:
    """Files of words, which compress as sources do: to about a quarter."""
    chosen = random.Random(seed)
    words = [
        "".join(chosen.choices("abcdefghijklmnop_(){};=.", k=chosen.randint(2, 9))) for _ in range(4_000)
    ]
    text = " ".join(chosen.choices(words, k=3_000_000)).encode()
    out = io.BytesIO()
    tar = TarWriter(out)
    for number in range(files):
        start = chosen.randrange(len(text) - _SIZE)
        tar.add(f"{name}/package{number % 600}/file{number}.js", [text[start : start + _SIZE]], _SIZE)
    tar.close()
    return out.getvalue()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        (Path(sys.argv[1]) / "modules.tar").write_bytes(_tar("node_modules", int(sys.argv[2]), seed=1))
    else:
        _make(Path(sys.argv[1]))
