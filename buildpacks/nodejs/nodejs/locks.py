"""What a lock knows of packages beyond their versions: the checksums of their archives.

On the arrow plan → layers; a reader without side effects. Called by `nodejs.bill`. The package managers check
locks; what cannot be read here is passed over. Addresses stay where they are: whose mirror a developer had is
nobody's business.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_LIMIT = 64 << 20
# `  '@babel/core@7.1.0(x@1)':` or `  /@babel/core@7.1.0:`, and the line below it.
_PNPM = re.compile(
    r"""^ {2}'?/?(@?[^@'\s]+)@([^:('\s]+)(?:[(' ][^\n:]*)?:\n {4}resolution: \{integrity: ([^,}\s]+)""",
    re.MULTILINE,
)
# `"@babel/core@^7.0.0", "@babel/core@^7.1.0":` and the lines below it.
_YARN = re.compile(
    r"""^"?(@?[^@"\s]+)@[^\n]*:\n {2}version "([^"\n]+)"\n"""
    r"""(?: {2}resolved [^\n]*\n)?(?: {2}integrity (\S+))?""",
    re.MULTILINE,
)

Hashes = Mapping[str, str]
"""An algorithm's name to hexadecimal digits."""


def hashes(root: Path, lock: str) -> dict[tuple[str, str], Hashes]:
    """The checksums of packages, by name and version, from `root`/`lock`; empty without one."""
    found: dict[tuple[str, str], Hashes] = {}
    for name, version, integrity in _entries(root / lock):
        digits = _digits(integrity)
        if digits:
            found.setdefault((name, version), digits)
    return found


def _entries(lock: Path) -> Iterator[tuple[str, str, str]]:
    if lock.suffix == ".json":
        yield from _of_npm(_text(lock))
    elif lock.name == "pnpm-lock.yaml":
        for found in _PNPM.finditer(_text(lock)):
            yield found[1], found[2], found[3]
    elif lock.name == "yarn.lock":
        for found in _YARN.finditer(_text(lock)):
            yield found[1], found[2], found[3] or ""


def _of_npm(text: str) -> Iterator[tuple[str, str, str]]:
    try:
        packages = json.loads(text).get("packages", {})
        entries = [(path, entry) for path, entry in packages.items() if isinstance(entry, dict)]
    except (ValueError, AttributeError, RecursionError):
        return
    for path, entry in entries:
        name = entry.get("name") or path.rpartition("node_modules/")[2]
        yield str(name), str(entry.get("version", "")), str(entry.get("integrity", ""))


def _digits(integrity: str) -> Hashes:
    """The hexadecimal digits of `sha512-<base64>`, of each algorithm when there are several."""
    found = {}
    for word in integrity.split():
        algorithm, _, value = word.partition("-")
        try:
            found[algorithm] = base64.b64decode(value.partition("?")[0], validate=True).hex()
        except (binascii.Error, ValueError):
            continue
    lengths = {"sha1": 40, "sha256": 64, "sha384": 96, "sha512": 128}
    return {name: digits for name, digits in found.items() if lengths.get(name) == len(digits)}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""
