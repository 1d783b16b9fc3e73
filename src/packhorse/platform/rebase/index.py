"""All the images that stand under one name, each onto the run image of its target, and their index anew.

Each becomes what it becomes alone. All are planned before anything is written, and the name changes last:
where one cannot be rebased, none is. What is no image, an attestation for instance, stays in the index as it
is. Called by `one`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from packhorse.base import gojson
from packhorse.base.dataclass import dataclass, replace
from packhorse.base.target import Target
from packhorse.errors import FormatError, PackhorseError, RebaseError
from packhorse.image.copy import write_layers
from packhorse.image.layout import OCI_ONLY
from packhorse.image.model import (
    CONFIGS,
    INDEXES,
    MANIFESTS,
    OCI_LAYERS,
    Config,
    Descriptor,
    Index,
    Manifest,
    MediaType,
)
from packhorse.image.place import Place, Receipt
from packhorse.image.rebase import BASE_ANNOTATIONS
from packhorse.image.reference import LocationKind
from packhorse.image.several import DOCUMENT_LIMIT, DocumentSink, copy_members
from packhorse.image.view import Image, make_manifest
from packhorse.platform.rebase.one import Moved
from packhorse.platform.rebase.outcome import RebaseRequest, RebaseResult, RebaseState
from packhorse.platform.rebase.plan import RebasePlan, plan_rebase
from packhorse.platform.run_images import RunImages
from packhorse.platform.wiring import Wiring

if TYPE_CHECKING:
    from packhorse.image.layout_several import LayoutName
    from packhorse.image.registry.several import RegistryName

_OF_BYTES = ("data", "urls")
"""What a descriptor may have that belongs to the very bytes which it described."""


@dataclass(frozen=True, slots=True)
class _Member:
    """An image of the index: where in it, what for, and what is to become of it."""

    position: int
    target: Target
    plan: RebasePlan


def rebase_index(
    request: RebaseRequest, index: Index, wiring: Wiring, run_images: RunImages, *, jobs: int
) -> RebaseResult:
    """Rebases what is under the name `request.source`, which stands for `index`.

    Raises RebaseError, or what kept its only image from being rebased, and NameMovedError where the name
    stands for something else by the time that all is there.
    """
    source = wiring.index_place(request.source, mirrors=not request.is_in_place)
    members = list(_members(request, index, source, run_images))
    told = _combine(members)
    if told.state is RebaseState.SKIPPED or request.dry_run:
        return told
    changed = {member.position: image for member in members if (image := member.plan.image)}
    if not changed:
        return replace(told, receipt=_index_receipt(index))
    place, sink = wiring.place(request.location), wiring.index_place(request.location, writes=True)
    if not request.is_in_place:
        copy_members(source, sink, [each for at, each in enumerate(index.manifests) if at not in changed])
    accepts = OCI_ONLY if request.location.kind is LocationKind.OCI else MANIFESTS
    new = {at: _write_image(image, place, sink, accepts, jobs) for at, image in changed.items()}
    whole = _renew_index(index, {at: (manifest, changed[at].config) for at, manifest in new.items()})
    if request.is_in_place and _has_moved(request, index, wiring):
        raise Moved
    sink.set_name(whole)
    return replace(told, receipt=_index_receipt(whole))


def _has_moved(request: RebaseRequest, index: Index, wiring: Wiring) -> bool:
    """Whether a registry's name stands for something else by now; somebody may still come, for a moment."""
    location = request.location
    return location.kind is LocationKind.REGISTRY and wiring.digest_of(location.reference) != index.digest


def _members(
    request: RebaseRequest, index: Index, source: RegistryName | LayoutName, run_images: RunImages
) -> Iterable[_Member]:
    """What is to become of each image; raises what keeps some from being rebased."""
    if len(index.manifests) > DOCUMENT_LIMIT:
        raise FormatError(
            "an index has too much in it", why=f"images of {DOCUMENT_LIMIT} are rebased at most"
        )
    failures: list[tuple[Target, PackhorseError]] = []
    for at, entry in enumerate(index.manifests):
        if entry.media_type in INDEXES:
            raise FormatError(f"{request.source} cannot be rebased", why="its index has another index in it")
        if not _is_image(entry, source):
            continue
        target = entry.target or Target.host()
        try:
            plan = plan_rebase(request, source.image(entry), run_images)
            yield _Member(at, target, plan)
        except PackhorseError as error:
            failures.append((target, error))
    if failures:
        raise _failure(request, failures)


def _is_image(entry: Descriptor, source: RegistryName | LayoutName) -> bool:
    """Whether an entry describes an image; what says no target is looked at: signatures have an image's
    config, and something else for layers.
    """
    if entry.media_type not in MANIFESTS:
        return False
    if entry.target is not None:
        return entry.target.os != "unknown"
    document = source.member(entry)
    return (
        isinstance(document, Manifest)
        and document.config.media_type in CONFIGS
        and all(layer.media_type in OCI_LAYERS for layer in document.layers)
    )


def _failure(request: RebaseRequest, failures: Sequence[tuple[Target, PackhorseError]]) -> PackhorseError:
    """One error for all the images that cannot be rebased, of their own kind if they have one."""
    lines = [f"{target}: {': '.join(filter(None, (each.what, each.why)))}" for target, each in failures]
    kinds = {type(each) for _, each in failures}
    fixes = dict.fromkeys(each.fix for _, each in failures if each.fix)
    kind = kinds.pop() if len(kinds) == 1 else RebaseError
    images = f"its image{'s' if len(failures) > 1 else ''} for {', '.join(str(each) for each, _ in failures)}"
    error = kind(
        f"{request.source} stays as it is: {images} cannot be rebased",
        why="\n".join(lines),
        fix="\n".join(fixes),
    )
    error.__cause__ = failures[0][1]
    return error


def _combine(members: Sequence[_Member]) -> RebaseResult:
    """What became of all of them, told as of the first that changed."""
    every = tuple((member.target, member.plan.result) for member in members)
    if not every:
        return RebaseResult(RebaseState.SKIPPED, notes=("there is no image in its index",))
    order = (RebaseState.REBASED, RebaseState.BEHIND, RebaseState.CURRENT, RebaseState.SKIPPED)
    _, first = min(every, key=lambda each: order.index(each[1].state))
    notes = tuple(f"{target}: {note}" for target, told in every for note in told.notes)
    return replace(first, notes=notes, image=None, receipt=None, members=every)


def _write_image(
    image: Image, place: Place, sink: DocumentSink, accepts: Iterable[str], jobs: int
) -> Manifest:
    """Brings an image to where its name is to be, under its digest alone."""
    image = write_layers(image, place, jobs=jobs)
    manifest = make_manifest(image, accepts=frozenset(accepts))
    sink.write_blob(manifest.config, lambda: iter([image.config.raw]))
    sink.write_document(manifest)
    return manifest


def _renew_index(index: Index, new: Mapping[int, tuple[Manifest, Config]]) -> Index:
    """The index with other images in some of its entries, and all else in it as it was.

    What it says of a base, which is another by now, goes, as it does from the images' own manifests.
    """
    fields: dict[str, Any] = gojson.loads(index.raw)
    entries = list(fields["manifests"])
    for at, (manifest, config) in new.items():
        entries[at] = _entry(entries[at], manifest, config)
    mixed = any(manifest.media_type == MediaType.OCI_MANIFEST for manifest, _ in new.values())
    media_type = MediaType.OCI_INDEX if mixed else index.media_type
    fields |= {"mediaType": str(media_type), "manifests": entries}
    try:
        return Index.parse(gojson.dumps(_without_base(fields)), media_type)
    except RecursionError as error:
        raise FormatError("the index cannot be written", why="it is nested too deep") from error


def _entry(old: Mapping[str, Any], manifest: Manifest, config: Config) -> dict[str, Any]:
    kept = {name: value for name, value in old.items() if name not in _OF_BYTES}
    new = {"mediaType": manifest.media_type, "digest": str(manifest.digest), "size": len(manifest.raw)}
    platform = old.get("platform")
    if platform:
        machine = {"architecture": config.architecture, "os": config.os}
        version = {"os.version": config.os_version} if config.os_version or "os.version" in platform else {}
        new["platform"] = {**platform, **machine, **version}
    return _without_base({**kept, **new})


def _without_base(fields: Mapping[str, Any]) -> dict[str, Any]:
    annotations = fields.get("annotations")
    if not annotations:
        return dict(fields)
    left = {name: value for name, value in annotations.items() if name not in BASE_ANNOTATIONS}
    return {**fields, "annotations": left}


def _index_receipt(index: Index) -> Receipt:
    """An index has no image ID: its digest stands for it."""
    return Receipt(index.digest, index.digest, len(index.raw))
