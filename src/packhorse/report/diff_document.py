"""Turns a comparison of two images into JSON fields and phrases, with the sizes of layers. cli calls it.

Sizes are those of uncompressed tars. If these are not known for every layer, sizes are those of compressed
blobs, provided that every layer has one.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from packhorse.base.dataclass import dataclass
from packhorse.oci.place import Layer
from packhorse.report.diff import ComparedImage, Difference, FileChange, LayerGroup, Package
from packhorse.report.owners import OwnedLayer
from packhorse.tar.listing import EntryKind, ListedEntry

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LazyList:
    """The JSON objects of file changes, made one by one whenever they are iterated: there may be many."""

    things: Sequence[FileChange]
    fields: Callable[[FileChange], Fields]

    def __iter__(self) -> Iterator[Fields]:
        return map(self.fields, self.things)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The size of each layer in bytes, by diff ID: of all tars, or of all blobs (`compressed`)."""

    known: dict[str, int]
    compressed: bool

    @classmethod
    def of(cls, difference: Difference) -> Sizes:
        """Collects the sizes of both images' layers."""
        layers = [owned.layer for owned in (*difference.before.layers, *difference.after.layers)]
        tars = {str(diff_id): length for diff_id, length in difference.lengths.items()}
        tars |= {str(layer.diff_id): layer.size for layer in layers if layer.size is not None}
        blobs = {str(layer.diff_id): layer.descriptor.size for layer in layers if layer.descriptor}
        every = {str(layer.diff_id) for layer in layers}
        if tars.keys() == every:
            return cls(tars, False)
        return cls(blobs, True) if blobs.keys() == every else cls(tars, False)

    def total(self, owned: Iterable[OwnedLayer]) -> int | None:
        """Returns the bytes of some layers together, None if one is unknown."""
        found = [self.of_layer(one.layer) for one in owned]
        return None if None in found else sum(size for size in found if size is not None)

    def of_layer(self, layer: Layer) -> int | None:
        """Returns the bytes of one layer, None if unknown."""
        return self.known.get(str(layer.diff_id))


def fields(difference: Difference) -> Fields:
    """Returns the JSON object of a comparison. Paths are absolute, and modes are octal as for chmod(1)."""
    sizes = Sizes.of(difference)
    return {
        "same": difference.is_same,
        "summary": difference.headline,
        "a": _side(difference.before, sizes),
        "b": _side(difference.after, sizes),
        "sizes": "compressed" if sizes.compressed else "uncompressed",
        "layers": [_group(group, sizes) for group in difference.groups],
        "config": [
            {
                "path": value.path,
                "before": value.before,
                "after": value.after,
                "follows_from_layers": value.is_derived,
            }
            for value in difference.values
        ],
    }


def details(file: FileChange) -> list[str]:
    """Returns a phrase for each difference of a file: `mode 0644 → 0755`."""
    one, other = file.before, file.after
    if one is None or other is None:
        entry = one or other
        assert entry is not None  # a change has one of the two
        return [_describe_entry(entry)]
    phrases = {
        "kind": f"{one.kind} → {other.kind}",
        "content": "content",
        "size": f"size {one.size} → {other.size}",
        "link": f"link {one.link} → {other.link}",
        "mode": f"mode {one.mode:04o} → {other.mode:04o}",
        "owner": f"owner {one.uid}:{one.gid} → {other.uid}:{other.gid}",
        "time": f"time {format_time(one.mtime)} → {format_time(other.mtime)}",
        "attributes": ", ".join(_describe_attributes(one, other)),
    }
    # A file of another size always has another content.
    names = [name for name in file.differences if name != "content" or "size" not in file.differences]
    return [phrases[name] for name in names]


def _describe_attributes(one: ListedEntry, other: ListedEntry) -> Iterator[str]:
    """Yields a phrase for each extended attribute that differs, without its value, which may be binary."""
    before, after = dict(one.attributes), dict(other.attributes)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            verb = "added" if name not in before else "changed" if name in after else "removed"
            yield f"attribute {name} {verb}"


def _format_mode(entry: ListedEntry) -> str:
    """Formats a mode as ls(1) does: `-rwxr-xr-x`."""
    kinds = {EntryKind.DIRECTORY: stat.S_IFDIR, EntryKind.LINK: stat.S_IFLNK, EntryKind.FIFO: stat.S_IFIFO}
    return stat.filemode(kinds.get(entry.kind, stat.S_IFREG) | entry.mode)


def format_time(nanoseconds: int) -> str:
    """Formats a time as RFC 3339, with a fraction if it is not zero."""
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s"
    return f"{text}{f'.{rest:09d}' if rest else ''}Z"


def _describe_entry(entry: ListedEntry) -> str:
    """Describes an entry that only one image has."""
    if entry.kind is EntryKind.REMOVED:
        return "hides what layers below have"
    if entry.kind is EntryKind.EMPTIED:
        return "hides all that layers below have in it"
    if entry.kind is EntryKind.FILE:
        return f"{entry.size} byte{'' if entry.size == 1 else 's'}, {_format_mode(entry)}"
    return f"{entry.kind} to {entry.link}" if entry.link else str(entry.kind)


def _side(side: ComparedImage, sizes: Sizes) -> Fields:
    image = side.image
    return {
        "name": side.name,
        "id": str(image.id),
        "digest": str(image.manifest.digest) if image.manifest else None,
        "created": image.config.created,
        "size": sizes.total(side.layers),
    }


def _group(group: LayerGroup, sizes: Sizes) -> Fields:
    return {
        "part": str(group.part),
        "title": group.title,
        "owner": group.owner,
        "change": str(group.change),
        "before": [_layer(owned, sizes) for owned in group.before],
        "after": [_layer(owned, sizes) for owned in group.after],
        "shared_below": group.below,
        "files": None if group.files is None else LazyList(group.files, _file),
        "packages": None if group.files is None else [_package(package) for package in group.packages],
    }


def _package(package: Package) -> Fields:
    return {"name": package.name, "before": package.before, "after": package.after}


def _file(file: FileChange) -> Fields:
    return {
        "path": f"/{file.path}",
        "change": str(file.change),
        "what": list(file.differences),
        "before": _entry(file.before),
        "after": _entry(file.after),
    }


def _layer(owned: OwnedLayer, sizes: Sizes) -> Fields:
    return {
        "diff_id": str(owned.layer.diff_id),
        "name": owned.name,
        "version": owned.version,
        "size": sizes.of_layer(owned.layer),
    }


def _entry(entry: ListedEntry | None) -> Fields | None:
    if entry is None:
        return None
    return {
        "kind": str(entry.kind),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": format_time(entry.mtime),
        "link": entry.link,
        "sha256": entry.content.hex(),
        "attributes": dict(entry.attributes),
    }
