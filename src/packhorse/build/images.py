"""Says which images a build will fetch, before the first download.

A builder of others has gigabytes, and its run image is known only from its labels. Called by `build.plan`.
"""

from __future__ import annotations

from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.build.host import Host
from packhorse.build.request import BuildRequest
from packhorse.builder.image import Builder
from packhorse.errors import NotFoundError, PackhorseError
from packhorse.host.folders import format_bytes
from packhorse.host.locate import fetch_first, fetch_location
from packhorse.lifecycle.ports import Observer
from packhorse.oci.place import Image
from packhorse.oci.reference import Location, LocationKind


def announce_fetch(request: BuildRequest, host: Host, observer: Observer) -> None:
    """Says what a build with a builder that the store does not have will fetch; reads only manifests.

    What cannot be read is left out: the build itself reports it.
    """
    location = Location.parse(request.builder)
    if location.kind not in (LocationKind.STORE, LocationKind.REGISTRY) or _is_stored(location.name, host):
        return
    target, known = request.target or Target.host(), set[Digest]()
    try:
        image = fetch_location(
            host.images, location, target=target, say=_ignore, pull=request.pull, save=False
        )
        parts = [f"the builder {location.name} ({_describe_missing(image, host, known)})"]
        builder = Builder.read(request.builder, image)
        names = [request.run_image] if request.run_image else [each.image for each in builder.run_images[:1]]
        if names and not _is_stored(names[0], host):
            mirrors = () if request.run_image else builder.run_images[0].mirrors
            run_image = fetch_first(
                host.images,
                [*names, *mirrors],
                registry=location.reference.registry,
                target=builder.image.config.target,
                say=_ignore,
                pull=request.pull,
                save=False,
            )
            parts.append(f"the run image {names[0]} ({_describe_missing(run_image, host, known)})")
    except PackhorseError:
        return
    observer.say(f"this build fetches {' and '.join(parts)}")


def _is_stored(name: str, host: Host) -> bool:
    try:
        host.store.find(name)
    except NotFoundError:
        return False
    return True


def _describe_missing(image: Image, host: Host, known: set[Digest]) -> str:
    """How much of an image is to be fetched; its layers are added to those that are `known`."""
    missing = [
        layer
        for layer in image.layers
        if layer.diff_id is None or (layer.diff_id not in known and host.store.layer(layer.diff_id) is None)
    ]
    known.update(layer.diff_id for layer in missing if layer.diff_id)
    layers = f"{len(missing)} layer{'' if len(missing) == 1 else 's'}"
    sizes = [layer.descriptor.size if layer.descriptor else 0 for layer in missing]
    return f"{layers}, {format_bytes(sum(sizes))}" if all(sizes) and sizes else layers


def _ignore(text: str) -> None:
    """Takes a message that the build itself will say again."""
