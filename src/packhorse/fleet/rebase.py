"""Rebases what one name of `packhorse rebase` stands for: an image, or an index of images.

In a registry packhorse reads and writes manifests and configs only, and those layers of the new base that the
repository lacks. `rebase_plan` decides what an image becomes; `rebase_many` handles many names. Called by
cli.

Every image of an index is rebased onto the run image of its own target. All are planned before anything is
written, and the name changes last: if one cannot be rebased, none is. An entry that is not an image, such as
an attestation, stays in the index unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.base.go_json import json_bytes, loads
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NotFoundError, PackhorseError, RebaseError
from packhorse.fleet.rebase_plan import RebasePlan, RebaseRequest, RebaseResult, RebaseState, plan_rebase
from packhorse.fleet.run_images import RunImages
from packhorse.host.wiring import Wiring
from packhorse.oci.layout import OCI_ONLY
from packhorse.oci.mutate import BASE_ANNOTATIONS
from packhorse.oci.place import (
    DOCUMENT_LIMIT,
    JOBS,
    DocumentSink,
    Image,
    Layer,
    Place,
    Receipt,
    copy_members,
    make_manifest,
    push_image,
    write_layers,
)
from packhorse.oci.reference import Location, LocationKind, Reference, is_image_id
from packhorse.oci.types import (
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

if TYPE_CHECKING:
    from packhorse.oci.layout import LayoutName
    from packhorse.oci.registry.place import RegistryName

_ATTEMPTS = 3
_NAMED = (LocationKind.REGISTRY, LocationKind.STORE, LocationKind.DAEMON)
_FILES = (LocationKind.OCI, LocationKind.OCI_ARCHIVE, LocationKind.DOCKER_ARCHIVE)
_SEVERAL = (LocationKind.REGISTRY, LocationKind.OCI)
"""Places where a name may be given several images."""


class Moved(Exception):
    """The name stands for another image by now. `rebase` begins again."""


class GuardedTarget:
    """A place that writes a name in a registry only while it stands for the image that was read.

    `now` returns the digest that the name stands for, `before` is the image that was read. A registry has no
    such request: for a moment after the question another client may still write.
    """

    def __init__(self, place: Place, before: Image, now: Callable[[], Digest | None]) -> None:
        self._place = place
        self._before = before
        self._now = now

    def read(self) -> Image:
        """The image under this name."""
        return self._place.read()

    def write_layer(self, layer: Layer) -> Layer:
        """Brings one layer."""
        return self._place.write_layer(layer)

    def write_image(self, image: Image) -> Receipt:
        """Gives the image this name; raises NameMovedError if that has another image than before."""
        known = self._before.manifest.digest if self._before.manifest else None
        # An index with one image in it has another digest than that.
        if self._now() != known and self._place.read().id != self._before.id:
            raise Moved
        return self._place.write_image(image)


def rebase(
    request: RebaseRequest, wiring: Wiring, run_images: RunImages, *, jobs: int = JOBS
) -> RebaseResult:
    """Puts an image on its run image, `jobs` layers at a time, unless it is there; all images of an index.

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


def _rebase(request: RebaseRequest, wiring: Wiring, run_images: RunImages, jobs: int) -> RebaseResult:
    if request.is_in_place and request.location.kind in _FILES:
        request = _with_name_in_file(request, wiring)
    try:
        app = wiring.place(request.source, mirrors=not request.is_in_place).read()
    except FormatError as error:
        if not request.is_listed:
            raise
        return RebaseResult(RebaseState.SKIPPED, notes=(f"{error.what}: {error.why}",))
    except NotFoundError as error:
        index = _find_index(request, wiring)  # it may have images for other machines alone
        if index is None and request.source.kind is LocationKind.STORE:
            fix = "`packhorse images` lists what there is; --publish is for images in their registries"
            raise NotFoundError(error.what, why=error.why, fix=fix) from error
        if index is None:
            raise
    else:
        index = None if app.all_targets is None else _find_index(request, wiring)
    if index is not None:
        return rebase_index(request, index, wiring, run_images, jobs=jobs)
    if request.is_in_place:
        _require_single(app, request.location)
    plan = plan_rebase(request, app, run_images)
    if plan.image is None or request.dry_run:
        return plan.result
    target, name = _open_target(request, wiring, app), f"writing {request.location}"
    return replace(
        plan.result, receipt=push_image(plan.image, target, jobs=jobs, meter=wiring.meter, name=name)
    )


def _find_index(request: RebaseRequest, wiring: Wiring) -> Index | None:
    """The index under the name, where there is one that has more in it than an image to take its place."""
    if request.location.kind not in _SEVERAL or request.source.kind not in (
        *_SEVERAL,
        LocationKind.OCI_ARCHIVE,
    ):
        return None
    root = wiring.index_place(request.source, mirrors=not request.is_in_place).root()
    return root if isinstance(root, Index) and len(root.manifests) > 1 else None


def _open_target(request: RebaseRequest, wiring: Wiring, app: Image) -> Place:
    place = wiring.place(request.location, mirrors=False)
    if request.location.kind is not LocationKind.REGISTRY or not request.is_in_place:
        return place
    reference = request.location.reference
    return GuardedTarget(place, app, lambda: wiring.digest_of(reference))


def _with_name_in_file(request: RebaseRequest, wiring: Wiring) -> RebaseRequest:
    """The request by the name that the only image in a file has, which it is to keep.

    Raises InputError where an archive has others, or it has other names there, which would be lost.
    """
    location = request.location
    names = wiring.names(location)
    if len(names) > 1 and location.kind is not LocationKind.OCI and not request.dry_run:
        raise InputError(
            f"other names in the archive of {location} would be lost",
            why=f"it is written whole, and has {', '.join(name or 'one without a name' for name in names)}",
            fix="copy it to a registry or an OCI layout, and rebase it there",
        )
    if location.name or len(names) != 1:
        return request
    location = replace(location, name=names[0])
    return replace(request, location=location, source=location)


def _require_name(request: RebaseRequest) -> None:
    """A digest or an ID stands for one image for good."""
    name = request.location.name
    if request.dry_run or not name or request.location.kind not in _NAMED:
        return
    if is_image_id(name) or Reference.parse(name).digest:
        raise InputError(
            f"{name} cannot become another image",
            why="it names one by its digest",
            fix="name a tag, and this one with --previous-image",
        )


def _require_single(app: Image, location: Location) -> None:
    """An index under the name would be replaced by one of its images."""
    if app.all_targets and len(app.all_targets) > 1:
        raise InputError(
            f"{location} stands for several images",
            why=f"they are for {', '.join(map(str, app.all_targets))}, and one alone would take their place",
            fix="copy it to a registry or an OCI layout with packhorse copy --all, and rebase it there",
        )


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
    fields: dict[str, Any] = loads(index.raw)
    entries = list(fields["manifests"])
    for at, (manifest, config) in new.items():
        entries[at] = _entry(entries[at], manifest, config)
    mixed = any(manifest.media_type == MediaType.OCI_MANIFEST for manifest, _ in new.values())
    media_type = MediaType.OCI_INDEX if mixed else index.media_type
    fields |= {"mediaType": str(media_type), "manifests": entries}
    try:
        return Index.parse(json_bytes(_without_base(fields)), media_type)
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
