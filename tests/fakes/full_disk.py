"""Builds on a disk that is filled up before each: `python -m fakes.full_disk DISK WORK INODES...`.

Before each build so many inodes of the small file system at DISK are left. Prints one line of JSON a build:
the inodes, the exit code, and what was said. WORK is a directory elsewhere; with "copies" in its name builds
are ones on plain copies.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fakes.shell_buildpack import shell_buildpack
from fakes.tiny_builder import TinyBuilder, tiny_builder
from packhorse.errors import PackhorseError

# Keeps a layer for the next build, and changes it in each.
_KEEPS = """
mkdir -p "$CNB_LAYERS_DIR/kept/bin"
printf '[types]\\nlaunch = true\\nbuild = true\\ncache = true\\n' > "$CNB_LAYERS_DIR/kept.toml"
[ -e "$CNB_LAYERS_DIR/kept/bin/8" ] || touch "$CNB_LAYERS_DIR"/kept/bin/{1..8}
cat want > "$CNB_LAYERS_DIR/kept/bin/changes"
"""


def main(disk: Path, work: Path, numbers: list[int]) -> None:
    app = work / "app"
    app.mkdir()
    buildpacks = [shell_buildpack(work / f"{n}", f"test/{n}", build=_KEEPS) for n in (1, 2)]
    with tiny_builder(disk / "home") as builder:
        (app / "want").write_text("first")
        builder.build(app, *buildpacks)
        for number in numbers:
            (app / "want").write_text(f"{number}")
            with _filled(disk, number):
                print(json.dumps({"left": number, **_outcome(builder, app, buildpacks)}))


def _outcome(builder: TinyBuilder, app: Path, buildpacks: list[Path]) -> dict[str, Any]:
    copies = {"overlay": False} if "copies" in app.parent.name else {}
    try:
        builder.build(app, *buildpacks, **copies)
    except PackhorseError as error:
        return {"code": error.exit_code, "said": [*builder.lines, str(error)]}
    return {"code": 0, "said": []}


@contextmanager
def _filled(disk: Path, left: int) -> Iterator[None]:
    filling = disk / "filling"
    filling.mkdir()
    for number in range(os.statvfs(disk).f_favail - left):
        (filling / f"{number}").touch()
    try:
        yield
    finally:
        shutil.rmtree(filling)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(word) for word in sys.argv[3:]])
