"""Rebases what a name stands for: an image, or an index of images. Called by `cli.rebase` and `rebase_many`.

In a registry packhorse reads and writes only manifests, configs, and those layers of the new base that the
repository lacks. `rebase_plan` decides what an image becomes.

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
"""Places where a name can stand for an index."""


class NameMovedError(Exception):
    """The name stands for another image now. `rebase` catches it and begins again."""


class GuardedTarget:
    """A place that writes a name in a registry only if it still stands for the image that was read.

    `now` returns the digest that the name stands for, and `before` is the image that was read. Registries
    have no atomic request for this: another client may still write between the question and the answer.
    """

    def __init__(self, place: Place, before: Image, now: Callable[[], Digest | None]) -> None:
        self._place = place
        self._before = before
        self._now = now

    def read(self) -> Image:
        """Reads the image under this name."""
        return self._place.read()

    def write_layer(self, layer: Layer) -> Layer:
        """Writes one layer."""
        return self._place.write_layer(layer)

    def write_image(self, image: Image) -> Receipt:
        """Gives the image this name; NameMovedError if the name now stands for another image."""
        known = self._before.manifest.digest if self._before.manifest else None
        # The name may stand for an index with this one image, which has a digest of its own.
        if self._now() != known and self._place.read().id != self._before.id:
            raise NameMovedError
        return self._place.write_image(image)


def rebase(
    request: RebaseRequest, wiring: Wiring, run_images: RunImages, *, jobs: int = JOBS
) -> RebaseResult:
    """Puts an image, or each image of an index, on its run image; writes `jobs` layers at a time.

    Raises InputError for a name that cannot change, RebaseError, and the errors of reading and writing. The
    name stands for the old image until the new one is complete. If another client changes the name meanwhile,
    packhorse rebases that image instead.
    """
    _require_name(request)
    for _ in range(_ATTEMPTS):
        try:
            return _rebase(request, wiring, run_images, jobs)
        except NameMovedError:
            pass
    raise RebaseError(
        f"{request.location} was changed while packhorse rebased it",
        why=f"another client wrote it {_ATTEMPTS} times",
        fix="try again when the other client has finished",
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
        index = _find_index(request, wiring)  # it may only have images for other targets
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
    """Returns the index under the name if it has more than one entry; else None."""
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
    """Adds the name of the only image in a file to the request, so that the image keeps its name.

    Raises InputError if an archive has other names, because writing it would lose them.
    """
    location = request.location
    names = wiring.names(location)
    if len(names) > 1 and location.kind is not LocationKind.OCI and not request.dry_run:
        raise InputError(
            f"other names in the archive of {location} would be lost",
            why="packhorse writes a whole archive, and this one has "
            + ", ".join(name or "an image without a name" for name in names),
            fix="copy it to a registry or an OCI layout, and rebase it there",
        )
    if location.name or len(names) != 1:
        return request
    location = replace(location, name=names[0])
    return replace(request, location=location, source=location)


def _require_name(request: RebaseRequest) -> None:
    """Raises InputError for a digest or an image ID, because it always stands for the same image."""
    name = request.location.name
    if request.dry_run or not name or request.location.kind not in _NAMED:
        return
    if is_image_id(name) or Reference.parse(name).digest:
        raise InputError(
            f"{name} cannot become another image",
            why="it is a digest, and so always names the same image",
            fix="name a tag, and this image with --previous-image",
        )


def _require_single(app: Image, location: Location) -> None:
    """Raises InputError for an index that one of its images would replace."""
    if app.all_targets and len(app.all_targets) > 1:
        raise InputError(
            f"{location} stands for several images",
            why=f"they are for {', '.join(map(str, app.all_targets))}, and one image would replace them all",
            fix="copy it to a registry or an OCI layout with packhorse copy --all, and rebase it there",
        )


_OF_BYTES = ("data", "urls")
"""Fields of a descriptor that are only right for the bytes that it describes."""


@dataclass(frozen=True, slots=True)
class _Member:
    """An image of the index: its position in the index, its target, and its plan."""

    position: int
    target: Target
    plan: RebasePlan


def rebase_index(
    request: RebaseRequest, index: Index, wiring: Wiring, run_images: RunImages, *, jobs: int
) -> RebaseResult:
    """Rebases the images of `index`, for which the name `request.source` stands.

    Raises RebaseError or the error of an image that cannot be rebased, and NameMovedError if the name stands
    for something else before the new index is written.
    """
    source = wiring.index_place(request.source, mirrors=not request.is_in_place)
    members = list(_members(request, index, source, run_images))
    result = _combine(members)
    if result.state is RebaseState.SKIPPED or request.dry_run:
        return result
    changed = {member.position: image for member in members if (image := member.plan.image)}
    if not changed:
        return replace(result, receipt=_index_receipt(index))
    place, sink = wiring.place(request.location), wiring.index_place(request.location, writes=True)
    if not request.is_in_place:
        copy_members(source, sink, [each for at, each in enumerate(index.manifests) if at not in changed])
    accepts = OCI_ONLY if request.location.kind is LocationKind.OCI else MANIFESTS
    new = {at: _write_image(image, place, sink, accepts, jobs) for at, image in changed.items()}
    whole = _renew_index(index, {at: (manifest, changed[at].config) for at, manifest in new.items()})
    if request.is_in_place and _has_moved(request, index, wiring):
        raise NameMovedError
    sink.set_name(whole)
    return replace(result, receipt=_index_receipt(whole))


def _has_moved(request: RebaseRequest, index: Index, wiring: Wiring) -> bool:
    """Whether a registry's name stands for something else now. Another client may still write after this."""
    location = request.location
    return location.kind is LocationKind.REGISTRY and wiring.digest_of(location.reference) != index.digest


def _members(
    request: RebaseRequest, index: Index, source: RegistryName | LayoutName, run_images: RunImages
) -> Iterable[_Member]:
    """Plans each image; raises one error for all images that cannot be rebased."""
    if len(index.manifests) > DOCUMENT_LIMIT:
        raise FormatError(
            "the index has too many entries", why=f"packhorse rebases an index of at most {DOCUMENT_LIMIT}"
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
    """Whether an entry describes an image.

    If it has no target, packhorse reads the manifest: a signature has an image's config, but other layers.
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
    """Makes one error for all images that cannot be rebased, of the same class if they all have one."""
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
    """Makes one result of all: that of the first image that changed, with all as its members."""
    every = tuple((member.target, member.plan.result) for member in members)
    if not every:
        return RebaseResult(RebaseState.SKIPPED, notes=("there is no image in its index",))
    order = (RebaseState.REBASED, RebaseState.BEHIND, RebaseState.CURRENT, RebaseState.SKIPPED)
    _, first = min(every, key=lambda each: order.index(each[1].state))
    notes = tuple(f"{target}: {note}" for target, result in every for note in result.notes)
    return replace(first, notes=notes, image=None, receipt=None, members=every)


def _write_image(
    image: Image, place: Place, sink: DocumentSink, accepts: Iterable[str], jobs: int
) -> Manifest:
    """Writes an image to the place of the index, under its digest only."""
    image = write_layers(image, place, jobs=jobs)
    manifest = make_manifest(image, accepts=frozenset(accepts))
    sink.write_blob(manifest.config, lambda: iter([image.config.raw]))
    sink.write_document(manifest)
    return manifest


def _renew_index(index: Index, new: Mapping[int, tuple[Manifest, Config]]) -> Index:
    """Returns the index with new images in some of its entries; everything else stays.

    The annotations about the base are removed, as from the images' own manifests, because the base changed.
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
    """Makes the receipt of an index. An index has no image ID, so its digest stands for that too."""
    return Receipt(index.digest, index.digest, len(index.raw))
