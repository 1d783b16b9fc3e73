"""What is in an image, as text to read and to compare: its config, and of its layers one line an entry."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "link",
    tarfile.FIFOTYPE: "fifo",
    tarfile.LNKTYPE: "hardlink",
}


def listing(config: Mapping[str, Any], tars: Sequence[bytes], *, skip: int) -> str:
    """The layers above the first `skip`: what made them, their diff IDs, their entries."""
    lines = []
    for number, data in list(enumerate(tars))[skip:]:
        lines.append(f"{config['history'][number].get('created_by', '')}")
        lines.append(f"  sha256:{hashlib.sha256(data).hexdigest()} {len(data)}")
        lines += (f"  {line}" for line in _entries(data))
    text = "\n".join(lines) + "\n"
    # A name that is not UTF-8 is shown by its bytes.
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def readable(config: bytes) -> list[str]:
    """A config as lines, with the JSON in its labels spread out as well."""
    value: dict[str, Any] = json.loads(config)
    labels = (value.get("config") or {}).get("Labels") or {}
    for key, text in labels.items():
        if text.startswith("{"):
            labels[key] = json.loads(text)
    return json.dumps(value, indent=1).splitlines()


def same(what: str, expected: Sequence[str], ours: Sequence[str]) -> None:
    """Fails with the lines that differ, if there are any."""
    difference = difflib.unified_diff(expected, ours, "reference", "packhorse", lineterm="", n=2)
    if text := "\n".join(difference):
        pytest.fail(f"{what} differ\n{text}", pytrace=False)


def _entries(data: bytes) -> list[str]:
    lines = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for entry in archive:
            words = [
                _KINDS.get(entry.type, repr(entry.type)),
                f"{entry.mode:04o}",
                f"{entry.uid}:{entry.gid}",
                entry.name,
            ]
            if entry.linkname:
                words += ["->", entry.linkname]
            file = archive.extractfile(entry) if entry.isreg() else None
            if file is not None:
                words += [str(entry.size), hashlib.sha256(file.read()).hexdigest()[:12]]
            if entry.mtime != 315532801:
                words.append(f"mtime {entry.mtime}")
            lines.append(" ".join(words))
    return lines
