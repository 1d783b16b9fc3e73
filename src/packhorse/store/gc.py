"""Frees disk space: removes what no image, application or running command needs, and what is damaged.

Needed are the objects of the images in `images.json`, those in the records of `caches/`, and those that the
leases of running commands pin. `collect` chooses what to remove while it holds the gate exclusively, so no
command can begin to use a chosen file. Under the gate it only renames the files. It removes them afterwards,
while other commands work; if a command need not wait, a process that outlives it does that (`trash`). If the
removal is interrupted, the next `sweep` or `gc` continues it.

`find_damage` reads the whole store, and removes blobs and kept trees that a disk, a copy or a user has
damaged. The next command that brings such a blob stores it again. The trees in `trees/` and `roots/` have no
digest, so it does not read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, PackhorseError
from packhorse.oci.reference import Reference
from packhorse.oci.types import Descriptor, Manifest
from packhorse.store.blobs import Blobs
from packhorse.store.images import ImageRecord, Images
from packhorse.store.layers import LayerStore, file_name, is_intact, read_record
from packhorse.store.leases import (
    TREES,
    Lease,
    find_unfinished,
    gate_path,
    is_held,
    list_by_time,
    lock_file,
    map_errors,
    owner_of,
    read,
    read_leases,
)
from packhorse.store.roots import chain_ids
from packhorse.store.snapshots import NAME_LENGTH, LayerSnapshots
from packhorse.store.trash import remove


@dataclass(frozen=True, slots=True)
class FreedSpace:
    """The result of a collection: the number of objects removed, by kind, and the bytes of disk freed."""

    bytes: int = 0
    blobs: int = 0
    trees: int = 0
    kept: int = 0
    unfinished: int = 0


def paths_of_image(store: Path, image: ImageRecord) -> set[str]:
    """The paths inside the store that an image needs; those of trees without their map or owner."""
    found = {_blob_path(image.id)}
    for diff_id in image.layers:
        found |= {_blob_path(diff_id), *_snapshot_paths(diff_id), f"trees/{diff_id.hex}"}
        compressed = read_record(store, diff_id).blob
        if compressed:
            found.add(_blob_path(compressed.digest))
    found |= {f"roots/{chain_id.hex}" for chain_id in chain_ids(image.layers)}
    for descriptor in (image.manifest, image.listed):
        if descriptor:
            found |= {_blob_path(descriptor.digest), *_manifest_blobs(store / _blob_path(descriptor.digest))}
    return found


def paths_of_cache(fields: Mapping[str, Any] | None) -> set[str]:
    """The paths that the record of an app's last build needs, in the form of `paths_of_image`.

    An empty set for a damaged record.
    """
    layers = (fields or {}).get("layers")
    found = set[str]()
    for text in layers.values() if isinstance(layers, dict) else ():
        try:
            found |= _snapshot_paths(Digest.parse(str(text)))
        except FormatError:
            continue
    return found


def collect(
    own: Lease, *, only: set[str] | None = None, remove: Callable[[Path, Lease], int] = remove
) -> FreedSpace:
    """Removes what is not needed from the store of the lease `own`; with `only`, no more than what it names.

    It also removes what ended commands have left behind. `remove` is `store.trash.remove` or
    `store.trash.trash`. Raises StoreError.
    """
    store = own.store
    with lock_file(gate_path(store)), map_errors(store):
        # Read the leases before the names: a command that ends in between has named its image by then.
        leases, dead = read_leases(store)
        needed = _find_needed(own).union(*leases.values())
        unneeded = []
        for path in _list_objects(store):
            names = _object_names(path.relative_to(store))
            if not names & needed and (only is None or names & only):
                unneeded.append(path)
        left = list(_find_leftovers(store, leases))
        aside = _move_to_trash([*left, *unneeded], dead, own)
    Images(own).repair_index()
    counts = Counter(path.relative_to(store).parts[0] for path in unneeded if path.suffix != ".json")
    return FreedSpace(
        bytes=_remove(aside, own, remove),
        blobs=counts["blobs"],
        trees=counts["trees"] + counts["roots"],
        kept=counts["kept"],
        unfinished=len(left),
    )


def has_leftovers(own: Lease) -> bool:
    """Whether there seem to be files for `sweep` to remove. Raises StoreError."""
    with map_errors(own.store):
        return _seems_to_have_leftovers(own.store, own)


def sweep(own: Lease, *, remove: Callable[[Path, Lease], int] = remove) -> None:
    """Removes unfinished and kept scratch files of ended commands, by `remove`. Raises StoreError."""
    store = own.store
    with map_errors(store), lock_file(gate_path(store)):
        leases, dead = read_leases(store)
        aside = _move_to_trash(_find_leftovers(store, leases), dead, own)
    _remove(aside, own, remove)


def _remove(paths: Iterable[Path], own: Lease, remove: Callable[[Path, Lease], int]) -> int:
    """Removes all paths, even after an error; returns the bytes freed. Raises the last error."""
    freed, failure = 0, None
    for path in paths:
        try:
            freed += remove(path, own)
        except PackhorseError as error:
            failure = error
    if failure is not None:
        raise failure
    return freed


def _find_needed(own: Lease) -> set[str]:
    """The paths that images and caches need."""
    found = set[str]()
    for image in Images(own).all():
        found |= paths_of_image(own.store, image)
    for path in (own.store / "caches").iterdir():
        found |= paths_of_cache(read(path))
    return found


def _manifest_blobs(path: Path) -> set[str]:
    """The paths of the blobs in the manifest at `path`."""
    try:
        manifest = Manifest.parse(path.read_bytes())
    except (OSError, FormatError):
        return set()  # missing or damaged: a command that reads the image will report it
    return {_blob_path(item.digest) for item in (manifest.config, *manifest.layers)}


def _snapshot_paths(diff_id: Digest) -> set[str]:
    return {
        f"kept/{diff_id.hex[:NAME_LENGTH]}",
        f"layers/{diff_id.hex}.json",
        file_name(diff_id),
    }


def _blob_path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _list_objects(store: Path) -> Iterator[Path]:
    """All finished objects that collection may remove."""
    for pattern in ("blobs/sha256/*", "layers/*", *(f"{kind}/*/*" for kind in TREES)):
        yield from (path for path in store.glob(pattern) if not path.name.startswith("."))


def _object_names(path: Path) -> set[str]:
    """The names by which an object may be needed: its path, and a tree's also without its map or owner."""
    kind, *_, name = path.parts
    if kind not in TREES:
        return {str(path)}
    name = name.removesuffix(".json")
    return {str(path.with_name(name)), f"{kind}/{name}"}


def _seems_to_have_leftovers(store: Path, own: Lease) -> bool:
    """Whether there are files to sweep. It does not take the gate, so it may rarely be wrong."""
    leases = {path.name: path for path in (store / "leases").iterdir() if path.name != own.name}
    names = (path.name for path in (store / "scratch").iterdir())
    owners = {owner_of(name) if name.startswith(".") else name for name in names}
    return not owners <= {own.name, *leases} or not all(map(is_held, leases.values()))


def _find_leftovers(store: Path, leases: Mapping[str, object]) -> Iterator[Path]:
    """The unfinished files that belong to no held lease."""
    yield from (path for path, owner in find_unfinished(store) if owner not in leases)


def _move_to_trash(paths: Iterable[Path], dead: Iterable[Path], own: Lease) -> list[Path]:
    """Renames paths that will be removed, then removes the lease files `dead`; returns the new paths.

    No command finds the files any more, but if this one is killed, the next sweep does. A directory stays in
    its parent directory: only its owner could move it elsewhere, and that may be another id.
    """
    aside = []
    for path in paths:
        directory = path.parent if path.is_dir() and not path.is_symlink() else None
        aside.append(path.rename(own.temporary_path(directory)))
    for path in dead:
        path.unlink(missing_ok=True)
    return aside


@dataclass(frozen=True, slots=True)
class IncompleteImage:
    """An image, and the digests of its config, manifests and layers that the store lacks."""

    name: Reference
    missing: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class DamageReport:
    """The result of `find_damage`.

    `bytes` of blobs were read. `damaged` are paths inside the store, `images` those that are incomplete now,
    and `apps` those whose next build has to make a kept layer again.
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
    """Reads blobs, records and kept trees, and removes the damaged ones. Raises StoreError."""
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
        with suppress(FormatError):  # a file without a digest as its name is none of packhorse's
            yield Digest.parse(f"sha256:{path.name}")


def _remove_bad_records(store: Path) -> Iterator[Path]:
    """Removes damaged records; commands make their content again."""
    for pattern in ("layers/*.json", "caches/*.json", "kept/*/*.json", "trees/*/*.json", "roots/*/*.json"):
        for path in sorted(store.glob(pattern)):
            if not path.name.startswith(".") and path.exists() and read(path) is None:
                path.unlink(missing_ok=True)
                yield path
    for path in sorted(store.glob("layers/*.pieces")):
        if not is_intact(path):
            path.unlink(missing_ok=True)
            yield path


def _find_missing(image: ImageRecord, blobs: Blobs, layers: LayerStore) -> tuple[Digest, ...]:
    """The digests of an image that the store lacks."""
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
    for _, path in list_by_time(store / "caches"):
        fields = read(path) or {}
        layers = fields.get("layers")
        shas = map(str, layers.values()) if isinstance(layers, dict) else ()
        if trees & {sha.removeprefix("sha256:")[:NAME_LENGTH] for sha in shas}:
            yield str(fields.get("app", ""))
