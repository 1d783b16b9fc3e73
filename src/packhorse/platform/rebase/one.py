"""The use case behind `packhorse rebase`: one image, from where it is, onto its run image and back.

What may be put on what is `lifecycle.rebase`'s; many images at once are `platform.rebase.many`'s. In a
registry manifests and configs alone are read and written, and of the new base what the repository lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from packhorse.base.digest import Digest
from packhorse.errors import FormatError, InputError, RebaseError, UnknownRunImage
from packhorse.image.copy import JOBS, put
from packhorse.image.edit import engine_view
from packhorse.image.model import Config
from packhorse.image.place import Place, Receipt
from packhorse.image.reference import Kind, Location, Reference, is_id
from packhorse.image.view import Image
from packhorse.lifecycle.base_label import BaseLabel
from packhorse.lifecycle.rebase import OF_THE_BASE, RunImage, base_height, is_app, label_of
from packhorse.lifecycle.rebase import rebase as rebased
from packhorse.platform.rebase.guarded import Guarded, Moved
from packhorse.platform.rebase.newer_base import is_newer
from packhorse.platform.run_images import RunImages
from packhorse.platform.wiring import Wiring

_ATTEMPTS = 3
_NAMED = (Kind.REGISTRY, Kind.STORE, Kind.DAEMON)


class State(StrEnum):
    """What became of an image."""

    REBASED = "rebased"
    BEHIND = "behind"
    CURRENT = "current"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class RebaseRequest:
    """What a user asked for of one image.

    `source` is rebased and written to `location`. Without `run_image` it is the one that the image names.
    Only images on `old` are taken, where that is given, and of those that are only `listed` by a registry
    such as buildpacks built. With `dry_run` nothing is written.
    """

    location: Location
    source: Location
    run_image: str = ""
    old: str = ""
    force: bool = False
    dry_run: bool = False
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Rebased:
    """What became of an image, and what changed: the two references of its base, `notes` about what was
    taken although something spoke against it, or why it was skipped. `receipt` says what is there now,
    `layers` how many layers were taken from below and put there.
    """

    state: State
    run_image: str = ""
    before: str = ""
    after: str = ""
    layers: tuple[int, int] = (0, 0)
    labels: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    image: Digest | None = None
    receipt: Receipt | None = None


def rebase(request: RebaseRequest, wiring: Wiring, run_images: RunImages, *, jobs: int = JOBS) -> Rebased:
    """Puts an image on its run image, `jobs` layers at a time, unless it is there.

    Raises what its parts raise. The name stands for the old image until the new one is whole; if it stands
    for another by then, that one is rebased.
    """
    _require_name(request)
    for _ in range(_ATTEMPTS):
        try:
            return _rebase(request, wiring, run_images, jobs)
        except Moved:
            pass
    raise RebaseError(
        f"{request.location} is never the same for long enough",
        why=f"somebody else wrote it {_ATTEMPTS} times while it was rebased",
        fix="try again when whoever it is has finished",
    )


def _rebase(request: RebaseRequest, wiring: Wiring, run_images: RunImages, jobs: int) -> Rebased:
    try:
        app = wiring.place(request.source).read()
    except FormatError as error:
        if not request.listed:
            raise
        return Rebased(State.SKIPPED, notes=(f"{error.what}: {error.why}",))
    if request.listed and not is_app(app.config):
        return Rebased(State.SKIPPED, notes=("it was not built by buildpacks",))
    label = label_of(app.config)
    if request.old and not _is_on(label, request.old):
        on = ", ".join(label.sources[:1]) or "a run image without a name"
        return Rebased(State.SKIPPED, notes=(f"it is on {on}",))
    if request.source == request.location:
        _require_alone(app, request.location)
    names = (request.run_image,) if request.run_image else label.sources
    if not names:
        raise InputError(
            "the image does not say what its run image is", why="no label names one", fix="add --run-image"
        )
    new = run_images.find(names, request.location, app.config.target)
    told = Rebased(State.CURRENT, new.name, label.run.reference, new.reference)
    if request.source == request.location and _is_current(app, label, new):
        return replace(told, receipt=_identity(app, request.location))
    notes: list[str] = []
    image = _on(new, _shown(app, request.location), label, force=request.force, say=notes.append)
    told = replace(
        told,
        state=State.BEHIND if request.dry_run else State.REBASED,
        layers=(base_height(app, label), len(new.image.layers)),
        labels=tuple(_differences(app.config, new.image.config)),
        notes=tuple(notes),
        image=image.id,
    )
    if request.dry_run:
        return told
    return replace(told, receipt=put(image, _target(request, wiring, app), jobs=jobs))


def _target(request: RebaseRequest, wiring: Wiring, app: Image) -> Place:
    place = wiring.place(request.location)
    if request.location.kind is not Kind.REGISTRY or request.source != request.location:
        return place
    reference = request.location.reference
    return Guarded(place, app, lambda: wiring.digest_of(reference))


def _require_name(request: RebaseRequest) -> None:
    """A digest or an ID stands for one image for good."""
    name = request.location.name
    if request.dry_run or not name or request.location.kind not in _NAMED:
        return
    if is_id(name) or Reference.parse(name).digest:
        raise InputError(
            f"{name} cannot become another image",
            why="it names one by its digest",
            fix="name a tag, and this one with --previous-image",
        )


def _require_alone(app: Image, location: Location) -> None:
    """An index under the name would be replaced by one of its images."""
    if len(app.among) > 1:
        raise InputError(
            f"{location} stands for several images",
            why=f"they are for {', '.join(map(str, app.among))}, and one alone would take their place",
            fix="rebase each to a name of its own (--previous-image NAME@DIGEST), and make the index anew",
        )


def _identity(image: Image, location: Location) -> Receipt:
    """What an image that is left as it is is identified by where it is."""
    if image.manifest is None or location.kind in (Kind.STORE, Kind.DAEMON):
        return Receipt(image.id)
    return Receipt(image.id, image.manifest.digest, len(image.manifest.raw))


def _on(new: RunImage, app: Image, label: BaseLabel, *, force: bool, say: Callable[[str], None]) -> Image:
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


def _shown(app: Image, location: Location) -> Image:
    """The image as the reference takes it: one that goes to no registry is what an engine shows of it."""
    return app if location.kind is Kind.REGISTRY else replace(app, config=engine_view(app.config))


def _is_on(label: BaseLabel, name: str) -> bool:
    return label.knows(name) or label.run.reference == name


def _is_current(app: Image, label: BaseLabel, new: RunImage) -> bool:
    """Whether there is nothing to do: same layers, same reference, and labels that say the same."""
    ours, base = app.config, new.image.config
    return (
        ours.diff_ids[: len(base.diff_ids)] == base.diff_ids
        and label.run.top_layer == str(base.diff_ids[-1] if base.diff_ids else "")
        and label.run.reference == new.reference
        and label.knows(new.name)
        and (ours.os, ours.architecture, ours.os_version) == (base.os, base.architecture, base.os_version)
        and not _differences(ours, base)
    )


def _differences(app: Config, base: Config) -> list[tuple[str, str, str]]:
    """The labels of the base that change: name, value before and after, "" where there is none."""
    names = sorted(name for name in {*app.labels, *base.labels} if name.startswith(OF_THE_BASE))
    pairs = ((name, app.labels.get(name, ""), base.labels.get(name, "")) for name in names)
    return [(name, old, new) for name, old, new in pairs if old != new]
