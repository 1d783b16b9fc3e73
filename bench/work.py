"""Parts of packhorse as processes, to be measured like other programs. Called by `export` and `unpack`."""

from __future__ import annotations

import sys
from pathlib import Path

from packhorse.fs.rooted import RootedTree
from packhorse.oci.files import OpenFile
from packhorse.oci.layout import Layout
from packhorse.tar.unpack import unpack
from packhorse.tar.writer import digest, directory_entries, stream


def main(act: str, source: Path, target: str) -> None:
    """`export` packs a directory and hashes it; `unpack` is of a tar, `layout` of an image's layers."""
    if act == "layout":
        Path(target).mkdir()
        for number, layer in enumerate(Layout(source, "1").read().layers):
            place = Path(target) / str(number)
            place.mkdir()
            unpack(layer.tar(), place, owner=True)
    elif act == "export":
        with RootedTree.open_local(source.parent) as view:
            print(digest(stream(directory_entries(view, source.name, uid=0, gid=0)))[0])
    else:
        Path(target).mkdir()
        unpack(OpenFile.open(source).chunks(), Path(target), owner=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
