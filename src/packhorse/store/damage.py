"""Reads a whole store to find what is damaged: by a disk, by a copy of the store, or by hand.

What is damaged is removed, so that it is not taken for whole and whoever brings it again stores it. Called by
store. The trees of `trees/` and `roots/` have no digest and are not read: they are made of what is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.errors import FormatError
from packhorse.image.model import Descriptor, Manifest
from packhorse.image.reference import Reference
from packhorse.store import pieces, record
from packhorse.store.blobs import Blobs
from packhorse.store.fault import map_errors
from packhorse.store.images import ImageRecord, Images
from packhorse.store.kept import NAME_LENGTH, LayerSnapshots
from packhorse.store.shelf import LayerStore


@dataclass(frozen=True, slots=True)
class IncompleteImage:
    """An image, and the digests of what the store has no more of it: its config, manifest or layers."""

    name: Reference
    missing: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class DamageReport:
    """What was read, in bytes of blobs; the paths in the store of what was damaged; the images that lack
    something; the apps whose next build makes a kept layer again.
    """

    bytes: int
    damaged: tuple[str, ...]
    images: tuple[IncompleteImage, ...]
    apps: tuple[str, ...]


def find_damage(
    store: Path,
    images: Images,
    blobs: Blobs,
    snapshots: LayerSnapshots,
    layers: LayerStore,
    *,
    say: Callable[[str], None],
) -> DamageReport:
    """Reads blobs, records and kept trees, and removes the damaged; raises StoreError."""
    records = images.all()
    with map_errors(store):
        sizes = {digest: size for digest in _blobs(store) if (size := blobs.size(digest)) is not None}
        total = sum(sizes.values())
        trees = sorted(
            path for path in store.glob("kept/*/*") if path.is_dir() and not path.name.startswith(".")
        )
        say(f"reading {total / 1e6:,.0f} MB in {len(sizes)} files, and {len(trees)} kept layers")
        bad = [blobs.path(digest) for digest in sizes if not blobs.is_intact(digest)]
        bad += [tree for tree in trees if not snapshots.is_intact(tree)]
        bad += list(_remove_bad_records(store))
    found = [IncompleteImage(each.name, _find_missing(each, blobs, layers)) for each in records]
    return DamageReport(
        total,
        tuple(str(path.relative_to(store)) for path in bad),
        tuple(each for each in found if each.missing),
        tuple(
            _apps_with_snapshots(store, {path.name for path in bad if path.is_relative_to(store / "kept")})
        ),
    )


def _blobs(store: Path) -> Iterator[Digest]:
    for path in sorted((store / "blobs/sha256").iterdir()):
        with suppress(FormatError):  # what has no digest for a name is nothing of ours
            yield Digest.parse(f"sha256:{path.name}")


def _remove_bad_records(store: Path) -> Iterator[Path]:
    """Removes the records that cannot be read: what they say is learned or made again."""
    for pattern in ("layers/*.json", "caches/*.json", "kept/*/*.json", "trees/*/*.json", "roots/*/*.json"):
        for path in sorted(store.glob(pattern)):
            if not path.name.startswith(".") and path.exists() and record.read(path) is None:
                path.unlink(missing_ok=True)
                yield path
    for path in sorted(store.glob("layers/*.pieces")):
        if not pieces.is_intact(path):
            path.unlink(missing_ok=True)
            yield path


def _find_missing(image: ImageRecord, blobs: Blobs, layers: LayerStore) -> tuple[Digest, ...]:
    """What the store has no more of an image."""
    documents = [image.id, *(each.digest for each in (image.manifest, image.listed) if each)]
    missing = [digest for digest in dict.fromkeys(documents) if blobs.size(digest) is None]
    descriptors: tuple[Descriptor, ...] = ()
    if image.manifest is not None and image.manifest.digest not in missing:
        with suppress(FormatError):
            descriptors = Manifest.parse(blobs.read(image.manifest.digest), image.manifest.media_type).layers
    for at, diff_id in enumerate(image.layers):
        asked = descriptors[at] if len(descriptors) == len(image.layers) else None
        if layers.find(diff_id, asked) is None and layers.find(diff_id) is None:
            missing.append(diff_id)
    return tuple(dict.fromkeys(missing))


def _apps_with_snapshots(store: Path, trees: set[str]) -> Iterator[str]:
    """The apps whose records name one of these kept trees."""
    for _, path in record.list_by_time(store / "caches"):
        fields = record.read(path) or {}
        layers = fields.get("layers")
        shas = map(str, layers.values()) if isinstance(layers, dict) else ()
        if trees & {sha.removeprefix("sha256:")[:NAME_LENGTH] for sha in shas}:
            yield str(fields.get("app", ""))
