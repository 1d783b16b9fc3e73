"""One name of `packhorse rebase`: what is there, from where it is, onto its run image and back.

In a registry manifests and configs alone are read and written, and of the new base what the repository lacks.
What an image becomes is `plan`'s; many names at once are `many`'s. Called by cli.
"""

from __future__ import annotations

from collections.abc import Callable

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, InputError, NotFoundError, RebaseError
from packhorse.image.copy import JOBS, push_image
from packhorse.image.model import Index
from packhorse.image.place import Place, Receipt
from packhorse.image.reference import Location, LocationKind, Reference, is_image_id
from packhorse.image.view import Image, Layer
from packhorse.platform.rebase.outcome import RebaseRequest, RebaseResult, RebaseState
from packhorse.platform.rebase.plan import plan_rebase
from packhorse.platform.run_images import RunImages
from packhorse.platform.wiring import Wiring

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
        from packhorse.platform.rebase.index import rebase_index

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
