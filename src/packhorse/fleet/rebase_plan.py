"""Plans a rebase: defines the request and the result, and decides if and how an image changes.

Writes nothing. `lifecycle.rebase` decides on which base an image may be put. Called by `rebase`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Self

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import InputError, UnknownRunImage, UsageError
from packhorse.fleet.run_images import RunImages
from packhorse.lifecycle import labels
from packhorse.lifecycle.labels import BaseLabel
from packhorse.lifecycle.rebase import (
    OF_THE_BASE,
    RunImage,
    count_labelled_base_layers,
    is_app,
    read_base_label,
)
from packhorse.lifecycle.rebase import rebase as rebased
from packhorse.oci.mutate import engine_view
from packhorse.oci.place import Image, Receipt
from packhorse.oci.reference import Location, LocationKind, Reference
from packhorse.oci.types import Config


class RebaseState(StrEnum):
    """The result of a rebase. BEHIND: with `dry_run`, the image would be rebased."""

    REBASED = "rebased"
    BEHIND = "behind"
    CURRENT = "current"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class WantedLabel:
    """A label that selects images, with one value; None stands for any value."""

    key: str
    value: str | None = None

    @classmethod
    def parse_all(cls, texts: Iterable[str]) -> tuple[Self, ...]:
        """Parses each `KEY` and `KEY=VALUE`; UsageError for labels that no image can have."""
        wanted: dict[str, Self] = {}
        for text in texts:
            key, given, value = text.partition("=")
            if not key.strip():
                raise UsageError(
                    f"--label {text!r} names no label", fix="write --label KEY, or --label KEY=VALUE"
                )
            new = cls(key, value if given else None)
            old = wanted.get(key, new)
            if None not in (old.value, new.value) and old != new:
                raise UsageError(
                    f"no image has {old} and {new} at once",
                    why="a label has one value, and an image must have every --label",
                    fix="use one command for each of the two",
                )
            wanted[key] = new if old.value is None else old
        return tuple(wanted.values())

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}={self.value}"

    def is_among(self, labels: Mapping[str, str]) -> bool:
        """Whether an image with these labels is selected."""
        return self.key in labels and self.value in (None, labels[self.key])


@dataclass(frozen=True, slots=True)
class RebaseRequest:
    """What the user asks for one image: rebase `source`, and write the result to `location`.

    Without `run_image`, packhorse uses the one that the image names. It skips images that are not on
    `old_run_image` (if given) or lack one of `labels`. `is_listed` says that the user did not name the image,
    but a registry listed it: then packhorse also skips images that buildpacks did not build. `dry_run` writes
    nothing.
    """

    location: Location
    source: Location
    run_image: str = ""
    old_run_image: str = ""
    force: bool = False
    dry_run: bool = False
    is_listed: bool = False
    labels: tuple[WantedLabel, ...] = ()

    @property
    def is_in_place(self) -> bool:
        """Whether the new image replaces the old one."""
        return self.source == self.location


@dataclass(frozen=True, slots=True)
class RebaseResult:
    """What happened to an image.

    `before` and `after` are the references of its run image, `layers` the numbers of base layers before and
    after, and `labels` the changed labels (name, before, after). `notes` says why the image was skipped, or
    what the user should know of the new base. `receipt` identifies what is in the place now.

    If a name stands for several images, `members` has the result of each, and the other fields are those of
    the first that changed.
    """

    state: RebaseState
    run_image: str = ""
    before: str = ""
    after: str = ""
    layers: tuple[int, int] = (0, 0)
    labels: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    image: Digest | None = None
    receipt: Receipt | None = None
    members: tuple[tuple[Target, RebaseResult], ...] = ()


_SAME = (labels.BASE_ID, labels.STACK_ID, labels.DISTRO_NAME, labels.DISTRO_VERSION)
_NUMBER = re.compile(r"([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class RebasePlan:
    """The result for the user, and the image to write; None if the image does not change."""

    result: RebaseResult
    image: Image | None = None


def plan_rebase(request: RebaseRequest, app: Image, run_images: RunImages) -> RebasePlan:
    """Plans one image; raises the errors of finding its run image and of `lifecycle.rebase`."""
    if request.is_listed and not is_app(app.config):
        return RebasePlan(RebaseResult(RebaseState.SKIPPED, notes=("it was not built by buildpacks",)))
    label = read_base_label(app.config)
    if request.old_run_image and not _is_on(label, request.old_run_image):
        on = ", ".join(label.sources[:1]) or "a run image without a name"
        return RebasePlan(RebaseResult(RebaseState.SKIPPED, notes=(f"it is on {on}",)))
    lacked = [str(label) for label in request.labels if not label.is_among(app.config.labels)]
    if lacked:
        return RebasePlan(
            RebaseResult(RebaseState.SKIPPED, notes=(f"it does not have the label {lacked[0]}",))
        )
    names = (request.run_image,) if request.run_image else label.sources
    if not names:
        raise InputError(
            "the image does not name its run image", why="no label names one", fix="add --run-image"
        )
    new = run_images.find(names, request.location, app.config.target)
    result = RebaseResult(RebaseState.CURRENT, new.name, label.run.reference, new.reference)
    if request.is_in_place and _is_current(app, label, new) and _has_blobs_of(new, app, request.location):
        return RebasePlan(replace(result, receipt=_current_receipt(app, request.location)))
    notes: list[str] = []
    image = _rebase_onto(
        new, _target_view(app, request.location), label, force=request.force, say=notes.append
    )
    result = replace(
        result,
        state=RebaseState.BEHIND if request.dry_run else RebaseState.REBASED,
        layers=(count_labelled_base_layers(app, label), len(new.image.layers)),
        labels=tuple(_differences(app.config, new.image.config)),
        notes=tuple(notes),
        image=image.id,
    )
    return RebasePlan(result, image)


def _current_receipt(image: Image, location: Location) -> Receipt:
    """Makes the receipt of an image that does not change."""
    if image.manifest is None or location.kind in (LocationKind.STORE, LocationKind.DAEMON):
        return Receipt(image.id)
    return Receipt(image.id, image.manifest.digest, len(image.manifest.raw))


def _rebase_onto(
    new: RunImage, app: Image, label: BaseLabel, *, force: bool, say: Callable[[str], None]
) -> Image:
    """Puts the image on its new base.

    A newer version of its own run image needs no --force: then only the name differs from what the
    specification demands.
    """
    try:
        return rebased(app, new, force=force, say=say)
    except UnknownRunImage:
        if not is_newer(new, app.config, label):
            raise
    say(f"{new.name} is a newer version of the image's own run image, {label.sources[0]}")
    return rebased(app, new, force=True, say=lambda _: None)


def _target_view(app: Image, location: Location) -> Image:
    """Returns the image as the reference sees it: outside a registry, with the config of an engine."""
    return app if location.kind is LocationKind.REGISTRY else replace(app, config=engine_view(app.config))


def _is_on(label: BaseLabel, name: str) -> bool:
    return label.knows(name) or label.run.reference == name


def _is_current(app: Image, label: BaseLabel, new: RunImage) -> bool:
    """Whether there is nothing to do: the same layers, the same target, and the same labels of the base.

    References are not compared, because the same run image has different ones in an engine and in a registry,
    and after a change of its config that no image takes over.
    """
    ours, base = app.config, new.image.config
    return (
        ours.diff_ids[: len(base.diff_ids)] == base.diff_ids
        and label.run.top_layer == str(base.diff_ids[-1] if base.diff_ids else "")
        and label.knows(new.name)
        and (ours.os, ours.architecture, ours.os_version) == (base.os, base.architecture, base.os_version)
        and not _differences(ours, base)
    )


def _has_blobs_of(new: RunImage, app: Image, location: Location) -> bool:
    """Whether the base of an image in a registry has the same blobs as the run image's layers.

    A registry does not check diff IDs, so equal diff IDs prove nothing. The image may be on a broken or
    forged run image that claimed the diff IDs of the good one.
    """
    if location.kind is not LocationKind.REGISTRY or app.manifest is None or new.image.manifest is None:
        return True
    base = [layer.digest for layer in new.image.manifest.layers]
    return [layer.digest for layer in app.manifest.layers[: len(base)]] == base


def _differences(app: Config, base: Config) -> list[tuple[str, str, str]]:
    """Lists the labels of the base that change: name, value before and value after; "" if there is none."""
    names = sorted(name for name in {*app.labels, *base.labels} if name.startswith(OF_THE_BASE))
    pairs = ((name, app.labels.get(name, ""), base.labels.get(name, "")) for name in names)
    return [(name, old, new) for name, old, new in pairs if old != new]


def is_newer(new: RunImage, app: Config, label: BaseLabel) -> bool:
    """Whether `new` has the repository, base id and distribution of the image's base, and a later tag.

    The specification identifies run images only by their names with tags, so every newer patch tag would need
    --force. Both images must have a label for their base id or stack.
    """
    base = new.image.config
    if any(app.labels.get(name, "") != base.labels.get(name, "") for name in _SAME):
        return False
    if not (app.labels.get(labels.BASE_ID) or app.labels.get(labels.STACK_ID)):
        return False
    return any(_is_later(new.name, name) for name in label.sources)


def _is_later(new: str, old: str) -> bool:
    try:
        ours, theirs = Reference.parse(old), Reference.parse(new)
    except InputError:
        return False
    if ours.name != theirs.name or not ours.tag or not theirs.tag:
        return False
    return is_later_tag(theirs.tag, ours.tag)


def is_later_tag(new: str, old: str) -> bool:
    """Whether two tags differ only in their numbers, and those of the new one are higher.

    If there are several numbers, the first, the major version, must be the same.
    """
    before, after = _NUMBER.split(old), _NUMBER.split(new)
    if before[::2] != after[::2]:
        return False
    numbers, later = [list(map(int, parts[1::2])) for parts in (before, after)]
    return later > numbers and (len(numbers) == 1 or numbers[0] == later[0])
