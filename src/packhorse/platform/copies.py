"""The use case behind `packhorse copy`: an image, or all images of a name; all tags are `tags`'s."""

from __future__ import annotations

from collections.abc import Callable

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import InputError, NotFoundError
from packhorse.image.copy import push_image
from packhorse.image.model import Index
from packhorse.image.reference import Location
from packhorse.image.view import Image
from packhorse.lifecycle.labels import LIFECYCLE, LayersMetadata
from packhorse.platform.owners import LayerPart, owned_layers
from packhorse.platform.wiring import Wiring


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What is copied of a name: the image for `target` (None for this machine's), or with `all_images` all
    that it stands for, as they are; with `referrers` also what is attached to that. If `sparse`, no layer of
    its run image.
    """

    target: Target | None = None
    all_images: bool = False
    compression: str = "gzip"
    referrers: bool = False
    sparse: bool = False


def copy(
    wiring: Wiring,
    source: Location,
    destination: Location,
    options: CopyOptions,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Digest:
    """Copies what is under a name; the answer is what the destination identifies it by.

    Raises NotFoundError for a target that the name has no image for, and what the two places raise.
    """
    if options.referrers:
        return _copy_with_referrers(wiring, source, destination, options, say)
    if options.all_images:
        from packhorse.image.several import copy_all

        start, end = wiring.index_place(source), wiring.index_place(destination, writes=True)
        return copy_all(start, end, meter=wiring.meter, name=f"copying {source}").digest
    image = _read(wiring, source, options.target)
    without = run_image_layers(image, source) if options.sparse else frozenset()
    place = wiring.place(destination, compression=options.compression, without=without, check=True)
    receipt = push_image(image, place, meter=wiring.meter, name=f"copying {source}")
    return receipt.manifest_digest or receipt.image_id


def run_image_layers(image: Image, location: Location) -> frozenset[Digest]:
    """The layers that an image has of its run image; InputError where nobody knows which these are."""
    metadata = LayersMetadata.parse(image.config.labels.get(LIFECYCLE, ""))
    found = {each.layer.diff_id for each in owned_layers(image, metadata) if each.part is LayerPart.BASE}
    base = frozenset(diff_id for diff_id in found if diff_id)
    if not base:
        raise InputError(
            f"{location} cannot be written without its run image",
            why="it does not say which of its layers that is: it was not built by buildpacks",
            fix="leave out --sparse",
        )
    return base


def _read(wiring: Wiring, source: Location, target: Target | None) -> Image:
    with wiring.meter.task(f"looking up {source}"):
        image = wiring.place(source, target=target).read()
    if target and (image.config.os, image.config.architecture) != (target.os, target.arch):
        raise NotFoundError(f"{source} is for {image.config.target}, not for {target}", fix="check --target")
    return image


def _copy_with_referrers(
    wiring: Wiring, source: Location, destination: Location, options: CopyOptions, say: Callable[[str], None]
) -> Digest:
    """Copies an image, or all of a name, byte for byte, then what is attached, and names it last."""
    from packhorse.image.attached import copy_attachments
    from packhorse.image.several import copy_documents, members

    start, end = wiring.index_place(source), wiring.index_place(destination, writes=True)
    root = start.root()
    if not options.all_images and (options.target or isinstance(root, Index)):
        manifest = _read(wiring, source, options.target).manifest
        assert manifest is not None  # places of several have manifests
        root = manifest
    documents = [*members(start, root), root]
    copy_documents(start, end, documents, meter=wiring.meter, name=f"copying {source}")
    count = copy_attachments(start, end, [document.digest for document in documents])
    end.set_name(root)
    say(f"{count or 'no'} referrer{'' if count == 1 else 's'} came along")
    return root.digest
