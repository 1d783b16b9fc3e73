"""Draws the page of `packhorse diff --html`: two images as two stacks of layers.

A layer that both images have spans both stacks; a layer that differs stands on its own side. The page has no
script and loads nothing, and its content security policy forbids both. Names of files and values of labels
may be hostile, so all text that is not `Markup` is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import cached_property
from html import escape
from pathlib import Path

from packhorse.cli.diff import MARKS, measure, package_mark, package_versions, path_text
from packhorse.cli.output import format_size, sanitize_line
from packhorse.report.diff import (
    Change,
    ComparedImage,
    Difference,
    FileChange,
    LayerGroup,
    Package,
    ValueChange,
    counts,
    format_value,
    partition,
)
from packhorse.report.diff_document import Sizes, details
from packhorse.report.owners import LayerPart, OwnedLayer

_VOID = frozenset({"meta", "link", "br"})


class Markup(str):
    """HTML that is not escaped again. Only this module makes it: of escaped text, or of our own files."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | bool) -> Markup:
    """Makes an element. Write attributes as `class_` or `http_equiv`; False leaves one out."""
    pairs = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{pairs}>")
    inner = "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    return Markup(f"<{name}{pairs}>{inner}</{name}>")


_FILES = 1000
"""The most entries of one layer that are listed, so that a browser can draw the page."""

_OPEN = 12
"""The most entries of a list that is open at first."""

_VALUE, _TITLE = 4000, 90  # the most characters of a value, and of a layer's history
_LOWEST, _RANGE = 2.3, 8.7  # rem: the height of the smallest layer, and how much taller the largest is
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_HUES = (150, 300, 205, 95, 350, 265, 120, 325)
"""The hues of buildpacks, in their order: far from each other, and from the base's and the application's."""

_COLOURS = {LayerPart.BASE: (255, 0.055), LayerPart.APP: (52, 0.13), LayerPart.OTHER: (0, 0.05)}
_PLAIN = (80, 0.018)  # what the lifecycle adds
_CLASSES = {Change.ADDED: "add", Change.REMOVED: "drop", Change.CHANGED: "turn"}
_NAMES = {
    LayerPart.BASE: "base image",
    LayerPart.APP: "application",
    LayerPart.OTHER: "layers of unknown origin",
}
_REST = "launcher and SBOMs"


def page(difference: Difference) -> str:
    """Draws the whole document."""
    drawing = _Page(difference)
    title = f"{difference.before.name} and {difference.after.name}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{sanitize_line(title)}: packhorse diff"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(Path(__file__).with_name("diff.css").read_text("utf-8"))),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *drawing.body()), lang='en')}\n"


class _Page:
    """Draws one comparison as elements."""

    def __init__(self, difference: Difference) -> None:
        self._difference = difference
        self._sizes = Sizes.of(difference)

    def body(self) -> Iterator[Markup]:
        headline, _, count = self._difference.headline.partition(": ")
        yield tag(
            "header",
            tag("h1", sanitize_line(_sentence(headline))),
            tag("p", sanitize_line(self._lead(count)), class_="lead"),
        )
        yield tag("main", *self._main())
        yield tag("footer", "Made by packhorse diff.")

    def _lead(self, count: str) -> str:
        if self._difference.is_same:
            return f"Both names mean one image. {count}"
        shared = self._difference.shared_layers
        layers = self._difference.after.layers
        same = self._sizes.total(owned for owned in layers if shared[owned.layer.diff_id])
        total = self._sizes.total(layers)
        sizes = (
            ""
            if same is None or total is None
            else f": {format_size(same)} of {format_size(total)}{self._kind}"
        )
        return f"{count[:1].upper()}{count[1:]}{sizes}."

    @property
    def _kind(self) -> str:
        return " compressed" if self._sizes.compressed else ""

    def _main(self) -> Iterator[Markup]:
        stacks = tag(
            "section",
            self._head(self._difference.before, "a"),
            self._head(self._difference.after, "b"),
            *self._rows(),
            class_="stacks",
            aria_label="The layers of both images, the top one first",
        )
        yield tag("div", stacks, class_="frame")
        yield self._legend()
        yield tag(
            "p",
            "A block across both columns is the same layer, to the byte. The height of a block grows with "
            "the square root of the layer’s size, the line at its foot with the size itself.",
            class_="note",
        )
        changed = self._difference.changed_groups
        if any(group.files is not None for group in changed):
            yield tag("h2", "What changed in the layers")
            yield from (self._files(group) for group in reversed(changed) if group.files is not None)
        yield from self._values()

    def _head(self, side: ComparedImage, place: str) -> Markup:
        total = f"{measure(self._sizes.total(side.layers))}{self._kind}, {_plural(len(side.layers), 'layer')}"
        above, slash, name = sanitize_line(side.name).rpartition("/")
        return tag(
            "div",
            *([tag("span", f"{above}{slash}")] if above else []),
            tag("b", name),
            tag("span", tag("code", side.image.id.short)),
            tag("span", total),
            class_=f"head {place}",
        )

    def _rows(self) -> Iterator[Markup]:
        groups = self._difference.groups
        if self._difference.is_same:
            sides = self._difference.before.layers
            yield from (self._block(owned, "same") for owned in reversed(sides))
            return
        for group in reversed(groups):
            counted = False
            for one, other in reversed(list(_align_layers(group.before, group.after))):
                if one and other and one.layer.diff_id == other.layer.diff_id:
                    yield self._block(other, "same")
                else:
                    yield self._block(one, "set a") if one else _absent("a")
                    yield self._between(None if counted else group, one, other)
                    yield self._block(other, "set b") if other else _absent("b")
                    counted = True

    def _block(self, owned: OwnedLayer, place: str) -> Markup:
        bytes_ = self._sizes.of_layer(owned.layer)
        share = (bytes_ or 0) / self._largest
        height = _LOWEST + _RANGE * math.sqrt(share)
        style = f"--height:{height:.2f}rem;--share:{share:.4f};{self._colour(owned)}"
        title, owner = self._title(owned)
        return tag(
            "div",
            tag("b", sanitize_line(title)),
            tag(
                "span",
                sanitize_line(
                    " · ".join(
                        part for part in (owner, "" if bytes_ is None else format_size(bytes_)) if part
                    )
                ),
            ),
            class_=f"block {place}",
            style=style,
            title=str(owned.layer.diff_id),
        )

    def _title(self, owned: OwnedLayer) -> tuple[str, str]:
        """Returns a block's title, and who made the layer."""
        version = f"@{owned.version}" if owned.version else ""
        if owned.part is LayerPart.BUILDPACK:
            return owned.name, f"{owned.owner}{version}"
        if owned.part is LayerPart.BASE:
            return "base", f"layer {owned.name}" if self._has_tall_base else ""
        if owned.part is LayerPart.OTHER:
            return owned.name[:_TITLE] or "layer", ""
        return owned.title, ""

    @cached_property
    def _has_tall_base(self) -> bool:
        """Whether one of the bases has more than one layer."""
        sides = (self._difference.before, self._difference.after)
        return any(sum(owned.part is LayerPart.BASE for owned in side.layers) > 1 for side in sides)

    @cached_property
    def _largest(self) -> int:
        sides = (*self._difference.before.layers, *self._difference.after.layers)
        return max([self._sizes.of_layer(owned.layer) or 0 for owned in sides] + [1])

    @cached_property
    def _buildpacks(self) -> list[str]:
        sides = (*self._difference.before.layers, *self._difference.after.layers)
        return list(dict.fromkeys(owned.owner for owned in sides if owned.owner))

    def _colour(self, owned: OwnedLayer) -> str:
        hue, chroma = _COLOURS.get(owned.part, _PLAIN)
        if owned.owner:
            hue, chroma = _HUES[self._buildpacks.index(owned.owner) % len(_HUES)], 0.11
        return f"--hue:{hue};--chroma:{chroma}"

    def _between(self, group: LayerGroup | None, one: OwnedLayer | None, other: OwnedLayer | None) -> Markup:
        arrow = "→" if one and other else "+" if other else "−"
        found = counts(group.files or ()) if group else {}
        return tag("div", tag("i", arrow), *_tally(found), class_="between")

    def _legend(self) -> Markup:
        found: dict[str, list[OwnedLayer]] = {}
        for owned in self._difference.after.layers or self._difference.before.layers:
            found.setdefault(owned.owner or _NAMES.get(owned.part, _REST), []).append(owned)
        entries = [
            tag(
                "li",
                tag("span", class_="chip", style=self._colour(owned[0])),
                tag("span", sanitize_line(name)),
                tag("small", measure(self._sizes.total(owned))),
            )
            for name, owned in found.items()
        ]
        return tag("ul", *entries, class_="legend", aria_label="Who made the layers")

    def _files(self, group: LayerGroup) -> Markup:
        files = group.files or ()
        owned = (*group.after, *group.before)[0]
        before, after = (measure(self._sizes.total(layers)) for layers in (group.before, group.after))
        sizes = (
            f"{before} → {after}" if group.before and group.after else f"{group.change}, {before or after}"
        )
        if group.change is Change.ADDED:
            sizes = f"added, {after}"
        summary = tag(
            "summary",
            tag("span", class_="chip", style=self._colour(owned)),
            tag("b", sanitize_line(group.title)),
            tag("span", *_tally(counts(files)), class_="counts"),
            tag("small", sizes),
        )
        is_open = 0 < len(files) + len(group.packages) <= _OPEN
        return tag("details", summary, *_packages(group.packages), _list(files), open=is_open)

    def _values(self) -> Iterator[Markup]:
        told, noted, restated = partition(self._difference.values)
        if not self._difference.values:
            return
        yield tag("h2", "What changed in the config")
        for values, title in (
            (told, "settings and labels"),
            (noted, "recorded by the build, for the next build"),
            (restated, "what follows from the layers"),
        ):
            if values:
                summary = tag("summary", tag("b", title), tag("small", _plural(len(values), "value")))
                items = [_value(value) for value in values[:_FILES]]
                is_open = values is told and len(values) <= _OPEN
                yield tag("details", summary, tag("ul", *items, class_="values"), open=is_open)


def _align_layers(
    before: Sequence[OwnedLayer], after: Sequence[OwnedLayer]
) -> Iterator[tuple[OwnedLayer | None, OwnedLayer | None]]:
    """Yields the layers of a group in pairs, equal ones together, the lowest first."""
    one_ids, other_ids = ([str(owned.layer.diff_id) for owned in layers] for layers in (before, after))
    matcher = SequenceMatcher(None, one_ids, other_ids, autojunk=False)
    for _, start, end, other_start, other_end in matcher.get_opcodes():
        for number in range(max(end - start, other_end - other_start)):
            one, other = start + number, other_start + number
            yield before[one] if one < end else None, after[other] if other < other_end else None


def _plural(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _sentence(text: str) -> str:
    """Begins a text with a capital, unless it begins with an image's name."""
    return text[:1].upper() + text[1:] if text.startswith(("the ", "only the ")) else text


def _absent(place: str) -> Markup:
    return tag("div", tag("span", "not there"), class_=f"block none {place}", style=f"--height:{_LOWEST}rem")


def _tally(found: dict[Change, int]) -> list[Markup]:
    order = (Change.ADDED, Change.CHANGED, Change.REMOVED)
    return [
        tag("span", f"{MARKS[change]}{found[change]:,}", class_=_CLASSES[change], title=str(change))
        for change in order
        if found.get(change)
    ]


def _packages(packages: Sequence[Package]) -> Iterator[Markup]:
    if not packages:
        return
    items = []
    for package in packages[:_FILES]:
        mark = package_mark(package)
        classes = {MARKS[change]: name for change, name in _CLASSES.items()}
        items.append(
            tag(
                "li",
                tag("span", mark, class_=f"mark {classes[mark]}"),
                tag("span", f"package {sanitize_line(package.name)}", class_="path"),
                tag("span", sanitize_line(package_versions(package)), class_="what"),
            )
        )
    yield tag("ul", *items, class_="files")


def _list(files: Sequence[FileChange]) -> Markup:
    if not files:
        return tag(
            "p", "Every file is the same; the tars differ in order, or in fields that are not compared."
        )
    items = [
        tag(
            "li",
            tag("span", MARKS[file.change], class_=f"mark {_CLASSES[file.change]}", title=str(file.change)),
            tag("span", path_text(file.path), class_="path"),
            tag("span", sanitize_line(", ".join(details(file))), class_="what"),
        )
        for file in files[:_FILES]
    ]
    left = len(files) - len(items)
    if left:
        items.append(
            tag("li", tag("span"), tag("span", f"… and {left:,} more: packhorse diff --all has them"))
        )
    return tag("ul", *items, class_="files")


def _value(value: ValueChange) -> Markup:
    change = (
        Change.ADDED if value.before is None else Change.REMOVED if value.after is None else Change.CHANGED
    )
    texts = [
        tag(name, sanitize_line(format_value(one))[:_VALUE])
        for name, one in (("del", value.before), ("ins", value.after))
        if one is not None
    ]
    mark = tag("span", MARKS[change], class_=f"mark {_CLASSES[change]}")
    return tag("li", mark, tag("span", sanitize_line(value.title), class_="path"), *texts)
