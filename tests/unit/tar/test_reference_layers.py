"""Layers have the diff IDs that the Go lifecycle 0.21.0 gives them (figures: tests/golden/layers)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from fakes.plain_tree import PlainTree
from fakes.small_tree import make
from packhorse.tar.slices import divide
from packhorse.tar.writer import TarEntry, digest, directory_entries, selected_entries, stream

GOLDEN = Path(__file__).parents[2] / "golden" / "layers"
CASES = json.loads((GOLDEN / "trees.json").read_text("ascii"))
CNB = 1000


def _parents(path: str) -> list[TarEntry]:
    """The entries for directories whose modes are the builder's, whatever they are on this machine."""
    parts = path.split("/")[1:-1]
    above = ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]
    modes = {"/workspace": 0o777, "/srv": 0o711}
    if path == "/workspace":
        above.append(path)
    return [TarEntry.directory(name, mode=modes.get(name, 0o755), uid=CNB, gid=CNB) for name in above]


def _layers(case: dict[str, Any], root: Path) -> Iterator[Iterator[TarEntry]]:
    view = PlainTree(root)
    match case["what"]:
        case "directory":
            path = case["path"]
            yield directory_entries(view, path, uid=CNB, gid=CNB, parents=_parents(path))
        case "slices":
            path = case["path"]
            for part in divide(view, path, case["globs"]):
                yield selected_entries(view, path, part.entries, uid=CNB, gid=CNB, parents=_parents(path))
        case "types":
            yield iter(
                [
                    TarEntry.directory("/cnb"),
                    TarEntry.directory("/cnb/process"),
                    *(
                        TarEntry.symlink(f"/cnb/process/{name}", "/cnb/lifecycle/launcher")
                        for name in case["types"]
                    ),
                ]
            )
        case "launcher":
            content = case["content"].encode()
            yield iter(
                [
                    TarEntry.directory("/cnb"),
                    TarEntry.directory("/cnb/lifecycle"),
                    TarEntry.file("/cnb/lifecycle/launcher", len(content), lambda: BytesIO(content)),
                ]
            )


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_layer_has_the_reference_diff_id(case: dict[str, Any], tmp_path: Path) -> None:
    make(tmp_path, case.get("items", []))
    ours = [str(digest(stream(layer))[0]) for layer in _layers(case, tmp_path)]
    assert ours == case["digests"]
