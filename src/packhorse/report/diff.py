"""Compares two images, first by the owners of their layers and then by file: behind `packhorse diff`.

It compares a layer with the other image's layer of the same owner: the base, the application, or one layer of
a buildpack. If both images have a layer at the same place, it is usually not read. It compares configs value
by value: each value has a path, also inside labels that are JSON. It compares packages by dpkg's records and
the buildpacks' SBOM files. cli prints the result; `build.verify` calls this too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.digest import Digest
from packhorse.base.go_json import loads
from packhorse.lifecycle import labels
from packhorse.oci.place import Image, Layer
from packhorse.report.owners import LayerPart, OwnedLayer, owned_layers
from packhorse.report.sbom import debian_versions, is_sbom, is_status, versions
from packhorse.tar.listing import EntryKind, ListedEntry, list_entries, merge_layers

_NAMES = ("key", "id", "type", "name")
"""The fields that identify an entry of a list, so that its position does not matter."""

_DEPTH = 50
"""The most levels of a label that is compared value by value."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_LIFECYCLE = f"labels[{labels.LIFECYCLE}]"
_RESTATED = re.compile(
    rf"{re.escape(_LIFECYCLE)}\.(?:.*\.)?(?:sha|topLayer|reference)|history(?:\..*|\[.*)?|created"
)
_OF_BASE = re.compile(
    rf"{re.escape(_LIFECYCLE)}\.(?:runImage|stack)\b.*|labels\[io\.buildpacks\.(?:base|stack)\..*|created"
    r"|history\b.*"
)

_NAMED = 4
"""The most parts that the headline names."""

_CALLED = {
    LayerPart.BASE: "the base",
    LayerPart.APP: "the application",
    LayerPart.SBOM: "the bills of materials",
    LayerPart.LAUNCHER: "the launcher",
    LayerPart.CONFIG: "the launcher's config",
    LayerPart.PROCESSES: "the process types",
    LayerPart.OTHER: "the layers",
}


@dataclass(frozen=True, slots=True)
class ValueChange:
    """One value that differs; None means that the value is absent."""

    path: str
    before: object
    after: object

    @property
    def is_derived(self) -> bool:
        """Whether it only follows from a changed layer: a digest, a history entry or a time."""
        return _RESTATED.fullmatch(self.path) is not None

    @property
    def is_bookkeeping(self) -> bool:
        """Whether it is derived, or the lifecycle's record of the layers for the next build."""
        return self.is_derived or self.path.startswith(f"{_LIFECYCLE}.")

    @property
    def title(self) -> str:
        """The path, without the label that contains all bookkeeping."""
        return self.path.removeprefix(f"{_LIFECYCLE}.")

    @property
    def is_of_base(self) -> bool:
        """Whether it describes only the base image, so that a rebase changes it."""
        return _OF_BASE.fullmatch(self.path) is not None


def values(before: Image, after: Image) -> tuple[ValueChange, ...]:
    """Returns the values of the configs that differ, sorted by path."""
    one, other = (dict(_flatten(_document(image), "")) for image in (before, after))
    return tuple(
        ValueChange(path, one.get(path), other.get(path))
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    )


def _document(image: Image) -> dict[str, Any]:
    """Returns the config as JSON, without diff IDs, and with the fields of `config` and labels at the top."""
    document = dict(loads(image.config.raw))
    rootfs = document.pop("rootfs", None)
    if isinstance(rootfs, dict):
        document["rootfs"] = {key: value for key, value in rootfs.items() if key != "diff_ids"}
    inner = document.pop("config", None)
    inner = dict(inner) if isinstance(inner, dict) else {}
    inner.pop("Labels", None)
    if image.config.labels:
        document["labels"] = {name: _parse_label(text) for name, text in image.config.labels.items()}
    env = inner.pop("Env", None)
    if isinstance(env, list) and env:
        document["env"] = dict(str(entry).partition("=")[::2] for entry in env)
    return {**inner, **document}


def _parse_label(text: str) -> object:
    """Returns a label as a JSON object or list if it is one, else its text."""
    if text[:1] in ("{", "["):
        try:
            value = loads(text)
            return value if _is_shallow(value, _DEPTH) else text
        except (ValueError, RecursionError):
            pass
    return text


def _is_shallow(value: object, left: int) -> bool:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return left > 0 and all(_is_shallow(item, left - 1) for item in items)


def _flatten(value: object, path: str, left: int = 2 * _DEPTH) -> Iterator[tuple[str, object]]:
    """Yields the values within a value, with their paths. Anything nested too deep is one value."""
    if not left:
        yield path, "nested too deep"
    elif isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(item, _join_path(path, key), left - 1)
    elif isinstance(value, list) and value:
        for key, item in _entries(value):
            yield from _flatten(item, f"{path}[{key}]", left - 1)
    elif value is not None:
        yield path, value


def _join_path(path: str, key: str) -> str:
    if not path:
        return key
    return f"{path}.{key}" if _PLAIN.fullmatch(key) else f"{path}[{key}]"


def _entries(items: list[Any]) -> Iterator[tuple[str, Any]]:
    """Returns the entries of a list with their names, or if they have no unique names, their positions."""
    for name in _NAMES:
        keys = [item.get(name) if isinstance(item, dict) else None for item in items]
        if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
            return zip(map(str, keys), items, strict=True)
    return ((str(number), item) for number, item in enumerate(items))


def format_value(value: object) -> str:
    """Formats a value for people: text unchanged, anything else as JSON, None as `(none)`."""
    if value is None:
        return "(none)"
    return value if isinstance(value, str) else json.dumps(value)


def partition(
    values: Iterable[ValueChange],
) -> tuple[list[ValueChange], list[ValueChange], list[ValueChange]]:
    """Splits values into settings, the lifecycle's record for the next build, and derived values."""
    found: tuple[list[ValueChange], list[ValueChange], list[ValueChange]] = ([], [], [])
    for value in values:
        found[2 if value.is_derived else 1 if value.is_bookkeeping else 0].append(value)
    return found


@dataclass(frozen=True, slots=True)
class Package:
    """A package that differs, with its versions in both images; None if an image lacks it."""

    name: str
    before: str | None
    after: str | None


def _has_package_versions(path: str) -> bool:
    """Whether the file at a path, relative to the root, lists packages."""
    return is_status(path) or is_sbom(path)


def _differing_packages(
    one: Mapping[str, ListedEntry], other: Mapping[str, ListedEntry]
) -> tuple[Package, ...]:
    """Returns the packages that differ, by name. The listings must have the bytes of package lists."""
    before, after = _versions(one), _versions(other)
    return tuple(
        Package(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def _versions(tree: Mapping[str, ListedEntry]) -> dict[str, str]:
    kept = {path: data for path in sorted(tree) if (data := tree[path].data) is not None}
    sboms = {path: data for path, data in kept.items() if is_sbom(path)}
    records = [data.decode("utf-8", "replace") for path, data in kept.items() if path not in sboms]
    return debian_versions(records) | versions(sboms)


class Change(StrEnum):
    """How a layer or a file differs between the two images."""

    SAME = "same"
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class FileChange:
    """An entry of a layer that differs. `before` or `after` is None if only the other image has it."""

    path: str
    before: ListedEntry | None
    after: ListedEntry | None

    @property
    def change(self) -> Change:
        """How it differs."""
        if self.before is None:
            return Change.ADDED
        return Change.CHANGED if self.after else Change.REMOVED

    @property
    def differences(self) -> tuple[str, ...]:
        """The attributes in which a changed entry differs."""
        one, other = self.before, self.after
        if one is None or other is None:
            return ()
        found = (
            ("kind", one.kind != other.kind),
            ("content", one.kind is other.kind is EntryKind.FILE and one.content != other.content),
            ("size", one.kind is other.kind is EntryKind.FILE and one.size != other.size),
            ("link", one.kind == other.kind and one.link != other.link),
            ("mode", one.mode != other.mode),
            ("owner", (one.uid, one.gid) != (other.uid, other.gid)),
            ("time", one.mtime != other.mtime),
            ("attributes", one.attributes != other.attributes),
        )
        return tuple(name for name, differs in found if differs)


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """The layers of one owner in both images, lowest first, and the files and packages that differ.

    `files` is None if no layer was read, because none differs or the caller did not ask for files. `below`
    counts the lowest layers that are the same in both images. `packages` come from dpkg's records and the
    buildpacks' SBOM files.
    """

    part: LayerPart
    title: str
    before: tuple[OwnedLayer, ...]
    after: tuple[OwnedLayer, ...]
    files: tuple[FileChange, ...] | None = None
    below: int = 0
    packages: tuple[Package, ...] = ()

    @property
    def owner(self) -> str:
        """The buildpack's id, or ""."""
        return next((owned.owner for owned in (*self.after, *self.before)), "")

    @property
    def change(self) -> Change:
        """How it differs."""
        if not self.before:
            return Change.ADDED
        if not self.after:
            return Change.REMOVED
        same = [owned.layer.diff_id for owned in self.before] == [owned.layer.diff_id for owned in self.after]
        return Change.SAME if same else Change.CHANGED


@dataclass(frozen=True, slots=True)
class ComparedImage:
    """One of the two images, the name that the user gave, and its layers with their owners, lowest first."""

    name: str
    image: Image
    layers: tuple[OwnedLayer, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """All differences. `groups` has all groups of layers, lowest first, also those without a difference.

    `lengths` has the sizes in bytes of the layers that were read.
    """

    before: ComparedImage
    after: ComparedImage
    groups: tuple[LayerGroup, ...] = ()
    values: tuple[ValueChange, ...] = ()
    lengths: Mapping[Digest | None, int] = field(default_factory=dict)

    @property
    def is_same(self) -> bool:
        """Whether both have the same image ID; then nothing else was compared."""
        return self.before.image.id == self.after.image.id

    @property
    def changed_groups(self) -> tuple[LayerGroup, ...]:
        """The groups that differ."""
        return tuple(group for group in self.groups if group.change is not Change.SAME)

    @property
    def shared_layers(self) -> Counter[Digest | None]:
        """The layers that both images have, by diff ID."""
        return _shared_layers(self.before.layers, self.after.layers)

    @property
    def headline(self) -> str:
        """A summary in one line."""
        if self.is_same:
            return f"the same image: {self.after.image.id}"
        settings = [value for value in self.values if not value.is_bookkeeping]
        parts = list(dict.fromkeys(_group_name(group) for group in self.changed_groups))
        if parts == [_CALLED[LayerPart.BASE]] and all(value.is_of_base for value in self.values):
            return f"only the base changed: {self._count()}"
        if len(parts) > 1 and _CALLED[LayerPart.SBOM] in parts:
            parts.remove(_CALLED[LayerPart.SBOM])  # they change with the other layers
        if settings or not parts:
            parts.append("the config")
        only = "only " if len(parts) == 1 else ""
        return f"{only}{_join(parts)} changed: {self._count()}"

    def _count(self) -> str:
        total = max(len(self.before.layers), len(self.after.layers))
        same = self.shared_layers.total()
        return f"{same} of {total} layers are the same" if total else "there are no layers"


def diff(before: ComparedImage, after: ComparedImage, *, files: bool = True) -> Difference:
    """Compares two images. It reads no layers if they have the same ID, or if `files` is false.

    Raises FormatError for a layer that is no tar, and what reading a layer raises.
    """
    found = Difference(_adopt_owners(before, after), _adopt_owners(after, before))
    if found.is_same:
        return found
    before, after = found.before, found.after
    groups, lengths = _groups(before.layers, after.layers), _Lengths()
    if files:
        groups = tuple(
            _compare_files(group, lengths, lowest=_is_lowest(group, before, after)) for group in groups
        )
    return replace(found, groups=groups, values=values(before.image, after.image), lengths=lengths.known)


def compared_image(name: str, image: Image) -> ComparedImage:
    """Makes one side of a comparison. `name` is the name that the user gave."""
    metadata = labels.LayersMetadata.parse(image.config.labels.get(labels.LIFECYCLE, ""))
    return ComparedImage(name, image, owned_layers(image, metadata))


def _adopt_owners(one: ComparedImage, other: ComparedImage) -> ComparedImage:
    """Returns `one`, in which layers without an owner get their owner in `other`.

    So if one image is the run image of the other, its layers are compared with the base, although the labels
    of a run image name no owners.
    """
    known = {owned.layer.diff_id: owned for owned in other.layers if owned.part is not LayerPart.OTHER}
    layers = tuple(
        replace(known[owned.layer.diff_id], layer=owned.layer)
        if owned.part is LayerPart.OTHER and owned.layer.diff_id in known
        else owned
        for owned in one.layers
    )
    return replace(one, layers=layers)


def _groups(before: Sequence[OwnedLayer], after: Sequence[OwnedLayer]) -> tuple[LayerGroup, ...]:
    """Groups layers by owner, in the order of `after`. Groups of `before` alone keep their place in it."""
    found: dict[tuple[str, str, str], tuple[list[OwnedLayer], list[OwnedLayer]]] = {}
    order: list[tuple[str, str, str]] = []
    for owned in after:
        key = _key(owned)
        if key not in found:
            order.append(key)
        found.setdefault(key, ([], []))[1].append(owned)
    last = -1
    for owned in before:
        key = _key(owned)
        if key not in found:
            order.insert(last + 1, key)
        found.setdefault(key, ([], []))[0].append(owned)
        last = order.index(key)
    return tuple(
        LayerGroup(LayerPart(key[0]), _title(key), tuple(found[key][0]), tuple(found[key][1]))
        for key in order
    )


def _key(owned: OwnedLayer) -> tuple[str, str, str]:
    """Identifies a layer's group: one for each layer of a buildpack, and one for each other part."""
    return owned.key if owned.part is LayerPart.BUILDPACK else (owned.part, "", "")


def _title(key: tuple[str, str, str]) -> str:
    part, owner, name = key
    if part == LayerPart.BUILDPACK:
        return f"{owner}:{name}"
    return "layers" if part == LayerPart.OTHER else part


def _group_name(group: LayerGroup) -> str:
    return _CALLED.get(group.part) or group.owner


def _join(parts: Sequence[str]) -> str:
    """Joins parts to a phrase. Of more than `_NAMED` parts it names the first ones and counts the others."""
    if len(parts) > _NAMED:
        parts = [*parts[: _NAMED - 1], f"{len(parts) - _NAMED + 1} more"]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _shared_layers(before: Iterable[OwnedLayer], after: Iterable[OwnedLayer]) -> Counter[Digest | None]:
    one, other = (Counter(owned.layer.diff_id for owned in owned_layers) for owned_layers in (before, after))
    return one & other


class _Lengths:
    """Measures layers while they are read."""

    def __init__(self) -> None:
        self.known: dict[Digest | None, int] = {}

    def count(self, layer: Layer) -> Iterator[bytes]:
        """Yields the tar of a layer, and records its length at the end."""
        length = 0
        for chunk in layer.tar():
            length += len(chunk)
            yield chunk
        self.known[layer.diff_id] = length


def _is_lowest(group: LayerGroup, before: ComparedImage, after: ComparedImage) -> bool:
    """Whether a group's layers are the lowest ones in both images, so that they cannot hide other layers."""
    sides = ((group.before, before.layers), (group.after, after.layers))
    return all(owned == layers[: len(owned)] for owned, layers in sides)


def _compare_files(group: LayerGroup, lengths: _Lengths, *, lowest: bool) -> LayerGroup:
    """Returns the group with the files and packages that differ.

    The top layers that both images have are not read. The same layer between different ones is read, because
    its place decides what it hides. The lowest layers that both have are read only if the layers above them
    have different paths in the two images: such a path may exist in the lower layers, or hide something
    there.
    """
    if group.change is Change.SAME:
        return group
    before, after = ([owned.layer for owned in layers] for layers in (group.before, group.after))
    shared: list[Layer] = []
    while before and after and before[0].diff_id == after[0].diff_id:
        shared.append(before.pop(0))
        del after[0]
    while before and after and before[-1].diff_id == after[-1].diff_id:
        del before[-1], after[-1]
    one, other = _listing(before, lengths), _listing(after, lengths)
    if shared and _kinds(one) != _kinds(other):
        under = _listing(shared, lengths)
        one, other = merge_layers(under, one), merge_layers(under, other)
    files = tuple(_differing_entries(one, other, hides=not lowest))
    return replace(group, files=files, below=len(shared), packages=_differing_packages(one, other))


def _kinds(listing: Mapping[str, ListedEntry]) -> dict[str, EntryKind]:
    return {path: entry.kind for path, entry in listing.items()}


def _differing_entries(
    one: Mapping[str, ListedEntry], other: Mapping[str, ListedEntry], *, hides: bool
) -> Iterator[FileChange]:
    """Yields the entries that differ.

    A whiteout counts as an absent entry. If the other side has no entry either, and the layers may hide those
    below (`hides`), the whiteout itself is the difference.
    """
    for path in sorted(one.keys() | other.keys()):
        before, after = one.get(path), other.get(path)
        if before == after:
            continue
        if _is_whiteout(before) and (after or not hides):
            before = None
        if _is_whiteout(after) and (before or not hides):
            after = None
        if before or after:
            yield FileChange(path, before, after)


def _is_whiteout(entry: ListedEntry | None) -> bool:
    return entry is not None and entry.kind in (EntryKind.REMOVED, EntryKind.EMPTIED)


def _listing(layers: Iterable[Layer], lengths: _Lengths) -> dict[str, ListedEntry]:
    found: dict[str, ListedEntry] = {}
    for layer in layers:
        entries = list_entries(lengths.count(layer), keep=_has_package_versions)
        found = merge_layers(found, entries) if found else entries
    return found


def counts(files: Iterable[FileChange]) -> Counter[Change]:
    """Counts the entries by kind of change."""
    return Counter(file.change for file in files)
