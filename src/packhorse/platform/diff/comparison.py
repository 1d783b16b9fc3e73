"""The use case behind `packhorse diff`: what differs between two images, by whose layer it is, then by file.

Layers that both have are not read. Those of one owner are compared with the other image's of that owner: of
the base, of the application, of one layer of a buildpack. How it is printed is cli's. Called by `verify` too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.digest import Digest
from packhorse.image.view import Image, Layer
from packhorse.layers.listing import Entry, Kind, entries, merged
from packhorse.lifecycle import labels
from packhorse.platform.diff.packages import Package, differing_packages, tells_versions
from packhorse.platform.diff.values import Value, values
from packhorse.platform.owners import Owned, Part, owners


class Change(StrEnum):
    """What became of a layer or a file."""

    SAME = "same"
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class File:
    """An entry of a layer that differs; one of the two is None where it is only in the other."""

    path: str
    before: Entry | None
    after: Entry | None

    @property
    def change(self) -> Change:
        """What became of it."""
        if self.before is None:
            return Change.ADDED
        return Change.CHANGED if self.after else Change.REMOVED

    @property
    def what(self) -> tuple[str, ...]:
        """In what a changed one differs."""
        one, other = self.before, self.after
        if one is None or other is None:
            return ()
        found = (
            ("kind", one.kind != other.kind),
            ("content", one.kind is other.kind is Kind.FILE and one.content != other.content),
            ("size", one.kind is other.kind is Kind.FILE and one.size != other.size),
            ("link", one.kind == other.kind and one.link != other.link),
            ("mode", one.mode != other.mode),
            ("owner", (one.uid, one.gid) != (other.uid, other.gid)),
            ("time", one.mtime != other.mtime),
            ("attributes", one.attributes != other.attributes),
        )
        return tuple(name for name, differs in found if differs)


@dataclass(frozen=True, slots=True)
class Group:
    """The layers of one owner in both images, each list lowest first; `files` are those that differ.

    `files` is None where no layer was read, as none differs or none was to be read. `below` is how many
    layers that both have are under those that differ. `packages` are those that differ,
    of the distribution or of buildpacks' bills.
    """

    part: Part
    title: str
    before: tuple[Owned, ...]
    after: tuple[Owned, ...]
    files: tuple[File, ...] | None = None
    below: int = 0
    packages: tuple[Package, ...] = ()

    @property
    def owner(self) -> str:
        """The buildpack's id, or ""."""
        return next((owned.owner for owned in (*self.after, *self.before)), "")

    @property
    def change(self) -> Change:
        """What became of it."""
        if not self.before:
            return Change.ADDED
        if not self.after:
            return Change.REMOVED
        same = [owned.layer.diff_id for owned in self.before] == [owned.layer.diff_id for owned in self.after]
        return Change.SAME if same else Change.CHANGED


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two images: by what it was asked for, and its layers with their owners, lowest first."""

    name: str
    image: Image
    layers: tuple[Owned, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """All that differs; `groups` are in the order of the layers, lowest first, those without a difference
    among them. `lengths` has the bytes of those layers that were read.
    """

    before: Side
    after: Side
    groups: tuple[Group, ...] = ()
    values: tuple[Value, ...] = ()
    lengths: Mapping[Digest | None, int] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether they are one image: then nothing was compared."""
        return self.before.image.id == self.after.image.id

    @property
    def changed(self) -> tuple[Group, ...]:
        """The groups that differ."""
        return tuple(group for group in self.groups if group.change is not Change.SAME)

    @property
    def shared(self) -> Counter[Digest | None]:
        """The layers that both have, by diff ID."""
        return _shared(self.before.layers, self.after.layers)

    @property
    def headline(self) -> str:
        """What differs, in one line."""
        if self.same:
            return f"the same image: {self.after.image.id}"
        told = [value for value in self.values if not value.bookkeeping]
        parts = list(dict.fromkeys(_called(group) for group in self.changed))
        if parts == [_CALLED[Part.BASE]] and all(value.of_base for value in self.values):
            return f"only the base changed: {self._count()}"
        if len(parts) > 1 and _CALLED[Part.SBOM] in parts:
            parts.remove(_CALLED[Part.SBOM])  # they tell what the others are
        if told or not parts:
            parts.append("the config")
        only = "only " if len(parts) == 1 else ""
        return f"{only}{_joined(parts)} changed: {self._count()}"

    def _count(self) -> str:
        total = max(len(self.before.layers), len(self.after.layers))
        same = self.shared.total()
        return f"{same} of {total} layers are the same" if total else "there are no layers"


_NAMED = 4
"""Parts that the headline names."""

_CALLED = {
    Part.BASE: "the base",
    Part.APP: "the application",
    Part.SBOM: "the bills of materials",
    Part.LAUNCHER: "the launcher",
    Part.CONFIG: "the launcher's config",
    Part.PROCESSES: "the process types",
    Part.OTHER: "the layers",
}


def diff(before: Side, after: Side, *, files: bool = True) -> Difference:
    """Compares two images; of equal ones no layer is read, and without `files` of none.

    Raises FormatError for layers that are no tar, and what reading a layer raises.
    """
    found = Difference(_adopting(before, after), _adopting(after, before))
    if found.same:
        return found
    before, after = found.before, found.after
    groups, lengths = _groups(before.layers, after.layers), _Lengths()
    if files:
        groups = tuple(_compared(group, lengths, lowest=_is_lowest(group, before, after)) for group in groups)
    return replace(found, groups=groups, values=values(before.image, after.image), lengths=lengths.known)


def side(name: str, image: Image) -> Side:
    """An image to be compared, by the name that a person called it."""
    metadata = labels.LayersMetadata.parse(image.config.labels.get(labels.LIFECYCLE, ""))
    return Side(name, image, owners(image, metadata))


def _adopting(one: Side, other: Side) -> Side:
    """The side with owners for layers that nobody of its own claims and the other image has as well.

    So the run image of an app is that app's base, though it says nothing of itself.
    """
    known = {owned.layer.diff_id: owned for owned in other.layers if owned.part is not Part.OTHER}
    layers = tuple(
        replace(known[owned.layer.diff_id], layer=owned.layer)
        if owned.part is Part.OTHER and owned.layer.diff_id in known
        else owned
        for owned in one.layers
    )
    return replace(one, layers=layers)


def _groups(before: Sequence[Owned], after: Sequence[Owned]) -> tuple[Group, ...]:
    """By owner, in the order of `after`; what only `before` has comes behind what was below it there."""
    found: dict[tuple[str, str, str], tuple[list[Owned], list[Owned]]] = {}
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
        Group(Part(key[0]), _title(key), tuple(found[key][0]), tuple(found[key][1])) for key in order
    )


def _key(owned: Owned) -> tuple[str, str, str]:
    """What a layer is compared with: a buildpack's layers one by one, all others of a part together."""
    return owned.key if owned.part is Part.BUILDPACK else (owned.part, "", "")


def _title(key: tuple[str, str, str]) -> str:
    part, owner, name = key
    if part == Part.BUILDPACK:
        return f"{owner}:{name}"
    return "layers" if part == Part.OTHER else part


def _called(group: Group) -> str:
    return _CALLED.get(group.part) or group.owner


def _joined(parts: Sequence[str]) -> str:
    """As words; of many the first three."""
    if len(parts) > _NAMED:
        parts = [*parts[: _NAMED - 1], f"{len(parts) - _NAMED + 1} more"]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _shared(before: Iterable[Owned], after: Iterable[Owned]) -> Counter[Digest | None]:
    one, other = (Counter(owned.layer.diff_id for owned in owned_layers) for owned_layers in (before, after))
    return one & other


class _Lengths:
    """Counts the bytes of layers as they are read."""

    def __init__(self) -> None:
        self.known: dict[Digest | None, int] = {}

    def counted(self, layer: Layer) -> Iterator[bytes]:
        """The tar of a layer."""
        length = 0
        for chunk in layer.tar():
            length += len(chunk)
            yield chunk
        self.known[layer.diff_id] = length


def _is_lowest(group: Group, before: Side, after: Side) -> bool:
    """Whether nothing is below the layers of a group: then they hide nothing but what is in them."""
    sides = ((group.before, before.layers), (group.after, after.layers))
    return all(owned == layers[: len(owned)] for owned, layers in sides)


def _compared(group: Group, lengths: _Lengths, *, lowest: bool) -> Group:
    """The group with the files that differ.

    The layers that both end with are not read; one that has moved between others is, since what it hides
    depends on where it is. Those that both begin with are read where what is above them has a path on one
    side alone: it may be theirs already, or hide something of theirs.
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
        one, other = merged(under, one), merged(under, other)
    files = tuple(_differing(one, other, hides=not lowest))
    return replace(group, files=files, below=len(shared), packages=differing_packages(one, other))


def _kinds(listing: Mapping[str, Entry]) -> dict[str, Kind]:
    return {path: entry.kind for path, entry in listing.items()}


def _differing(one: Mapping[str, Entry], other: Mapping[str, Entry], *, hides: bool) -> Iterator[File]:
    """The entries that differ.

    A whiteout says that there is no such entry. It is an entry itself where the other side has none, and the
    layers may hide something of those below (`hides`).
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
            yield File(path, before, after)


def _is_whiteout(entry: Entry | None) -> bool:
    return entry is not None and entry.kind in (Kind.REMOVED, Kind.EMPTIED)


def _listing(layers: Iterable[Layer], lengths: _Lengths) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for layer in layers:
        told = entries(lengths.counted(layer), keep=tells_versions)
        found = merged(found, told) if found else told
    return found


def counts(files: Iterable[File]) -> Counter[Change]:
    """How many entries there are of each change."""
    return Counter(file.change for file in files)
