"""Frees disk space: removes what no image, application or running command needs, and what is damaged.

Three things are needed: what the names in `images.json` lead to, what the records in `caches/` name, and what
the leases of running commands pin. Collection chooses what to remove while it holds the gate exclusively, so
no command can begin to use a chosen file. It only renames the files then. It removes them afterwards, while
other commands work; a process that outlives the command does so if the command need not wait (`trash`). If
that is interrupted, the next `sweep` or `gc` goes on.

The check reads the whole store and removes blobs and kept trees that a disk, a copy or a user has damaged.
The next command that brings such a blob stores it anew. The trees of `trees/` and `roots/` have no digest, so
the check does not read them.
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
    """What was removed: how many things of each kind, and the bytes of disk that this freed."""

    bytes: int = 0
    blobs: int = 0
    trees: int = 0
    kept: int = 0
    unfinished: int = 0


def needed_for(store: Path, image: ImageRecord) -> set[str]:
    """What an image needs, as paths inside the store; those of trees without their map or owner."""
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


def needed_for_next(fields: Mapping[str, Any] | None) -> set[str]:
    """What the record of an app's last build needs, named as `needed_for` does; nothing if it is damaged."""
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
        # Leases before names: what a command has made that ends in between has its name by then.
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
    """Whether there seems to be something for `sweep` to remove; raises StoreError."""
    with map_errors(own.store):
        return _seems_to_have_leftovers(own.store, own)


def sweep(own: Lease, *, remove: Callable[[Path, Lease], int] = remove) -> None:
    """Removes, by `remove`, what commands that are over have left unfinished or on purpose; StoreError."""
    store = own.store
    with map_errors(store), lock_file(gate_path(store)):
        leases, dead = read_leases(store)
        aside = _move_to_trash(_find_leftovers(store, leases), dead, own)
    _remove(aside, own, remove)


def _remove(paths: Iterable[Path], own: Lease, remove: Callable[[Path, Lease], int]) -> int:
    """Removes as many as can be, and answers the bytes that this freed; raises what the last one raised."""
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
    """What images and caches need."""
    found = set[str]()
    for image in Images(own).all():
        found |= needed_for(own.store, image)
    for path in (own.store / "caches").iterdir():
        found |= needed_for_next(read(path))
    return found


def _manifest_blobs(path: Path) -> set[str]:
    """The blobs that the manifest in a file names."""
    try:
        manifest = Manifest.parse(path.read_bytes())
    except (OSError, FormatError):
        return set()  # gone or damaged: reading the image will say so
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
    """Everything that is whole and can go one day."""
    for pattern in ("blobs/sha256/*", "layers/*", *(f"{kind}/*/*" for kind in TREES)):
        yield from (path for path in store.glob(pattern) if not path.name.startswith("."))


def _object_names(path: Path) -> set[str]:
    """The names under which a thing may be needed: its path, and that without the map or owner of a tree."""
    kind, *_, name = path.parts
    if kind not in TREES:
        return {str(path)}
    name = name.removesuffix(".json")
    return {str(path.with_name(name)), f"{kind}/{name}"}


def _seems_to_have_leftovers(store: Path, own: Lease) -> bool:
    """Whether there is something to sweep; looked at without the gate, so it may be wrong in rare cases."""
    leases = {path.name: path for path in (store / "leases").iterdir() if path.name != own.name}
    names = (path.name for path in (store / "scratch").iterdir())
    owners = {owner_of(name) if name.startswith(".") else name for name in names}
    return not owners <= {own.name, *leases} or not all(map(is_held, leases.values()))


def _find_leftovers(store: Path, leases: Mapping[str, object]) -> Iterator[Path]:
    """What is not finished, and does not belong to a lease that is held."""
    yield from (path for path, owner in find_unfinished(store) if owner not in leases)


def _move_to_trash(paths: Iterable[Path], dead: Iterable[Path], own: Lease) -> list[Path]:
    """Renames what is to be removed, so that nobody finds it, and so that the next sweep will if this one is
    killed; then takes away the leases that it belonged to.

    A directory stays where it is: its owner may be an id that cannot be given another "..".
    """
    aside = []
    for path in paths:
        directory = path.parent if path.is_dir() and not path.is_symlink() else None
        aside.append(path.rename(own.temporary(directory)))
    for path in dead:
        path.unlink(missing_ok=True)
    return aside


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
            if not path.name.startswith(".") and path.exists() and read(path) is None:
                path.unlink(missing_ok=True)
                yield path
    for path in sorted(store.glob("layers/*.pieces")):
        if not is_intact(path):
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
    for _, path in list_by_time(store / "caches"):
        fields = read(path) or {}
        layers = fields.get("layers")
        shas = map(str, layers.values()) if isinstance(layers, dict) else ()
        if trees & {sha.removeprefix("sha256:")[:NAME_LENGTH] for sha in shas}:
            yield str(fields.get("app", ""))
