"""Frees what nothing needs any more. Called by platform, through `Store.gc`.

What is needed: what the names in `images.json` lead to, what the records in `caches/` name, and what the
leases of running commands pin. Choosing happens under the gate, so that nobody can begin to use what was
chosen; there things are only renamed. They are removed afterwards, while others work; should that be
interrupted, the next `gc` goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.errors import FormatError
from packhorse.image.model import Manifest
from packhorse.store import facts, record, removal
from packhorse.store.fault import faults
from packhorse.store.images import Images
from packhorse.store.kept import NAME_LENGTH
from packhorse.store.lease import Lease, gate, held, owner_of
from packhorse.store.trees import chain_ids

_STALE = 24 * 3600.0  # seconds after which a small file about to replace another is nobody's


@dataclass(frozen=True, slots=True)
class Freed:
    """What was removed: how many things of each kind, and the bytes of disk that this freed."""

    bytes: int = 0
    blobs: int = 0
    trees: int = 0
    kept: int = 0
    unfinished: int = 0


class _Needed:
    """What images and caches need, as paths inside the store; that of a tree without its map or owner."""

    def __init__(self, store: Path) -> None:
        self.paths: set[str] = set()
        self._store = store
        for image in Images(store).all():
            self._blob(image.id)
            for diff_id in image.layers:
                self._layer(diff_id)
            for chain_id in chain_ids(image.layers):
                self.paths.add(f"roots/{chain_id.hex}")
            for manifest in (image.manifest, image.listed):
                if manifest:
                    self._manifest(manifest.digest)
        for path in (store / "caches").glob("*.json"):
            layers = (record.read(path) or {}).get("layers")
            for text in layers.values() if isinstance(layers, dict) else ():
                self._kept(Digest.parse(str(text)))

    def _layer(self, diff_id: Digest) -> None:
        self._blob(diff_id)
        self._kept(diff_id)
        self.paths.add(f"layers/{diff_id.hex}.json")
        self.paths.add(f"trees/{diff_id.hex}")
        compressed = facts.known(self._store, diff_id).blob
        if compressed:
            self._blob(compressed.digest)

    def _manifest(self, digest: Digest) -> None:
        self._blob(digest)
        try:
            manifest = Manifest.parse((self._store / "blobs/sha256" / digest.hex).read_bytes())
        except (OSError, FormatError):
            return  # gone or damaged: reading the image will say so
        for item in (manifest.config, *manifest.layers):
            self._blob(item.digest)

    def _kept(self, diff_id: Digest) -> None:
        self.paths.add(f"kept/{diff_id.hex[:NAME_LENGTH]}")
        self.paths.add(f"layers/{diff_id.hex}.json")

    def _blob(self, digest: Digest) -> None:
        self.paths.add(f"blobs/sha256/{digest.hex}")


def collect(lease: Lease) -> Freed:
    """Removes everything that is not needed from the store of `lease`; raises StoreError."""
    store = lease.store
    aside: list[Path] = []
    counts: Counter[str] = Counter()
    with record.locked(gate(store)), faults(store):
        leases = held(store)
        needed = _Needed(store).paths
        pinned = set[str]().union(*leases.values())
        for path in _things(store):
            kind = path.relative_to(store).parts[0]
            if _is_unfinished(path, kind):
                if _is_abandoned(path, kind, set(leases)):
                    counts["unfinished"] += 1
                    aside.append(_put_aside(path, lease))
            elif not _names(path.relative_to(store)) & (needed | pinned):
                counts[kind] += path.suffix != ".json"
                aside.append(_put_aside(path, lease))
    return Freed(
        bytes=sum(removal.remove(path) for path in aside),
        blobs=counts["blobs"],
        trees=counts["trees"] + counts["roots"],
        kept=counts["kept"],
        unfinished=counts["unfinished"],
    )


def sweep(lease: Lease) -> None:
    """Removes the scratch directories that no running command has; raises StoreError."""
    store = lease.store
    with record.locked(gate(store)), faults(store):
        leases = set(held(store))
        scratch = store.glob("scratch/*")
        aside = [_put_aside(path, lease) for path in scratch if _is_abandoned(path, "scratch", leases)]
    for path in aside:
        removal.remove(path)


def _things(store: Path) -> Iterator[Path]:
    """Everything that can go one day."""
    for pattern in (
        "blobs/sha256/*",
        "layers/*",
        "kept/*/*",
        "trees/*/*",
        "roots/*/*",
        "scratch/*",
        "caches/.*",
        ".*~",
    ):
        yield from store.glob(pattern)


def _names(path: Path) -> set[str]:
    """The names under which a thing may be needed: its path, and that without the map or owner of a tree."""
    kind, *_, name = path.parts
    if kind not in ("kept", "trees", "roots"):
        return {str(path)}
    name = name.removesuffix(".json")
    return {str(path.with_name(name)), f"{kind}/{name}"}


def _is_unfinished(path: Path, kind: str) -> bool:
    return kind == "scratch" or path.name.startswith(".")


def _is_abandoned(path: Path, kind: str, leases: set[str]) -> bool:
    if path.name.endswith(record.UNFINISHED):
        return path.lstat().st_mtime < time.time() - _STALE
    if kind == "scratch" and not path.name.startswith("."):
        return path.name not in leases
    return owner_of(path.name) not in leases


def _put_aside(path: Path, lease: Lease) -> Path:
    """Renames what is to be removed, so that nobody finds it, and so that another `gc` will if this one is
    killed.

    A directory stays where it is: its owner may be an id that cannot be given another "..".
    """
    aside = lease.temporary(path.parent if path.is_dir() and not path.is_symlink() else None)
    return path.rename(aside)
