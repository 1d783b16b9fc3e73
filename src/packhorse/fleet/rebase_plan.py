"""Plans a rebase: what was asked, what the image becomes, and whether anything has to be done.

Nothing is written here. `lifecycle.rebase` decides which base an image may be put on. Called by the rest of
`fleet` and by cli.
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
    """What became of an image."""

    REBASED = "rebased"
    BEHIND = "behind"
    CURRENT = "current"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class WantedLabel:
    """A label that images have to have to be taken, with one value, or with any where that is None."""

    key: str
    value: str | None = None

    @classmethod
    def parse_all(cls, texts: Iterable[str]) -> tuple[Self, ...]:
        """What `KEY` and `KEY=VALUE` ask for; UsageError for what no image can have."""
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
                    why="a label has one value, and all that are asked for have to be there",
                    fix="ask for one of them, and for the other with another command",
                )
            wanted[key] = new if old.value is None else old
        return tuple(wanted.values())

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}={self.value}"

    def is_among(self, labels: Mapping[str, str]) -> bool:
        """Whether an image of these labels has it."""
        return self.key in labels and self.value in (None, labels[self.key])


@dataclass(frozen=True, slots=True)
class RebaseRequest:
    """What a user asked for of one image.

    `source` is rebased and written to `location`. Without `run_image` it is the one that the image names.
    Only images on `old_run_image` are taken, where that is given, and such as have all `labels`, and of those
    that are only listed (`is_listed`) by a registry such as buildpacks built. With `dry_run` nothing is
    written.
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
        """Whether the image is replaced by what it becomes."""
        return self.source == self.location


@dataclass(frozen=True, slots=True)
class RebaseResult:
    """What became of an image, and what changed: the two references of its base, `notes` about what was
    taken although something spoke against it, or why it was skipped. `receipt` says what is there now,
    `layers` how many layers were taken from below and put there.

    Of a name that stands for several images `members` has what became of each, and the rest is of the first
    that changed; the digest of its index stands for an image ID.
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
    """What is told of an image, and what is to be written for it: None where it is left as it is."""

    result: RebaseResult
    image: Image | None = None


def plan_rebase(request: RebaseRequest, app: Image, run_images: RunImages) -> RebasePlan:
    """What becomes of one image; raises what finding its run image, and putting it there, raise."""
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
            "the image does not say what its run image is", why="no label names one", fix="add --run-image"
        )
    new = run_images.find(names, request.location, app.config.target)
    told = RebaseResult(RebaseState.CURRENT, new.name, label.run.reference, new.reference)
    if request.is_in_place and _is_current(app, label, new) and _has_blobs_of(new, app, request.location):
        return RebasePlan(replace(told, receipt=_current_receipt(app, request.location)))
    notes: list[str] = []
    image = _rebase_onto(
        new, _target_view(app, request.location), label, force=request.force, say=notes.append
    )
    told = replace(
        told,
        state=RebaseState.BEHIND if request.dry_run else RebaseState.REBASED,
        layers=(count_labelled_base_layers(app, label), len(new.image.layers)),
        labels=tuple(_differences(app.config, new.image.config)),
        notes=tuple(notes),
        image=image.id,
    )
    return RebasePlan(told, image)


def _current_receipt(image: Image, location: Location) -> Receipt:
    """What an image that is left as it is is identified by where it is."""
    if image.manifest is None or location.kind in (LocationKind.STORE, LocationKind.DAEMON):
        return Receipt(image.id)
    return Receipt(image.id, image.manifest.digest, len(image.manifest.raw))


def _rebase_onto(
    new: RunImage, app: Image, label: BaseLabel, *, force: bool, say: Callable[[str], None]
) -> Image:
    """The image on its new base. A newer version of its own run image is put below it without being forced:
    all that the specification asks has been found right then, but for the name.
    """
    try:
        return rebased(app, new, force=force, say=say)
    except UnknownRunImage:
        if not is_newer(new, app.config, label):
            raise
    say(f"{new.name} is a newer version of the image's own run image, {label.sources[0]}")
    return rebased(app, new, force=True, say=lambda _: None)


def _target_view(app: Image, location: Location) -> Image:
    """The image as the reference takes it: one that goes to no registry is what an engine shows of it."""
    return app if location.kind is LocationKind.REGISTRY else replace(app, config=engine_view(app.config))


def _is_on(label: BaseLabel, name: str) -> bool:
    return label.knows(name) or label.run.reference == name


def _is_current(app: Image, label: BaseLabel, new: RunImage) -> bool:
    """Whether there is nothing to do: same layers, same machine, and labels that say the same.

    References are not compared. The same run image has another one in an engine, in a registry and after its
    config has changed in what no image takes over from its base.
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
    """Whether the base of an image in a registry is stored as the run image's layers are.

    Nobody unpacks an image in a registry, so equal diff IDs alone are a claim. The image may have been put on
    a broken or forged run image that claimed the layers of the good one.
    """
    if location.kind is not LocationKind.REGISTRY or app.manifest is None or new.image.manifest is None:
        return True
    base = [layer.digest for layer in new.image.manifest.layers]
    return [layer.digest for layer in app.manifest.layers[: len(base)]] == base


def _differences(app: Config, base: Config) -> list[tuple[str, str, str]]:
    """The labels of the base that change: name, value before and after, "" where there is none."""
    names = sorted(name for name in {*app.labels, *base.labels} if name.startswith(OF_THE_BASE))
    pairs = ((name, app.labels.get(name, ""), base.labels.get(name, "")) for name in names)
    return [(name, old, new) for name, old, new in pairs if old != new]


def is_newer(new: RunImage, app: Config, label: BaseLabel) -> bool:
    """Whether `new` is of the same repository, base id and distribution as the image's base, and newer.

    The specification knows run images by their names alone, tags among them, so each newer patch tag would
    have to be forced. Both must say what they are based on: a base id, or a stack, and where it is known the
    distribution.
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
    """Whether two tags differ in their numbers alone, and the new one's are higher.

    Of several numbers the first, which is the major version, must be the same.
    """
    before, after = _NUMBER.split(old), _NUMBER.split(new)
    if before[::2] != after[::2]:
        return False
    numbers, later = [list(map(int, parts[1::2])) for parts in (before, after)]
    return later > numbers and (len(numbers) == 1 or numbers[0] == later[0])
