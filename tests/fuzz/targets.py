"""Every fuzz target by its name, and the inputs that once led to a defect."""

from __future__ import annotations

from pathlib import Path

from fuzz import archives, documents, texts
from fuzz.target import Target, table

TARGETS: dict[str, Target] = table(archives.TARGETS, documents.TARGETS, texts.TARGETS)
CORPUS: dict[str, list[bytes]] = {
    place.name: [path.read_bytes() for path in sorted(place.iterdir())]
    for place in sorted((Path(__file__).parent / "corpus").glob("*/"))
}
