"""Finds the previous build: its image and the name whose layers are kept. Called by `plan`.

Layers are kept by name. A tag under which nothing was built begins with the layers of another tag of the same
repository, as after a change of branch: layers are known by their content, and buildpacks see from their
metadata which of them are useful.
"""

from __future__ import annotations

from collections.abc import Callable

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.build.host import Host
from packhorse.build.publish import check, location_of
from packhorse.build.request import BuildRequest
from packhorse.errors import FormatError, InputError, NotFoundError
from packhorse.image.reference import Location, LocationKind, Reference
from packhorse.lifecycle.ports import Observer
from packhorse.platform.cache_image import CacheImage


@dataclass(frozen=True, slots=True)
class PreviousBuild:
    """`image` is where the previous image is, and `image_id` its ID, None when there is none.

    `layers_name` is the name whose kept layers the build begins with.
    """

    image: Location
    image_id: Digest | None
    layers_name: str


def find_previous(request: BuildRequest, host: Host, observer: Observer) -> PreviousBuild:
    """Finds the previous build; raises NetworkError when its registry does not answer."""
    layers_of = _find_layers_name(request, host, observer)
    stored, published = Location(LocationKind.STORE, "", layers_of), location_of(request.name)
    if request.publish and request.cache_image:  # the layers in a registry belong to the image there
        return PreviousBuild(published, _find_image_id(host, published), layers_of)
    try:
        image_id = host.store.place(layers_of).read().id
    except FormatError:
        image_id = None
    except NotFoundError:
        image_id = None
        if request.publish and layers_of == str(request.name):
            return PreviousBuild(published, _find_image_id(host, published), layers_of)
    return PreviousBuild(stored, image_id, layers_of)


def _find_layers_name(request: BuildRequest, host: Host, observer: Observer) -> str:
    """The name whose layers the build begins with: its own, or the last built tag of its repository."""
    own = str(request.name)
    if request.clear_cache:
        return own
    found = host.store.nearest_app(own, request.name.name)
    if found != own:
        observer.say(f"nothing is kept for {own}: beginning with what {found} has kept")
    return found


def _find_image_id(host: Host, location: Location) -> Digest | None:
    """The ID of the image at a location; None when there is none, or none that can be read (P-027)."""
    try:
        return host.images.place(location).read().id
    except (NotFoundError, FormatError):
        return None


def check_cache_image(request: BuildRequest, host: Host) -> None:
    """Checks that the cache image can be written and is a cache.

    Raises NetworkError when the user may not write it (P-028), InputError for the name of an image that it
    would replace.
    """
    name = request.cache_image
    if name is None:
        return
    written = [location.reference for location in request.outputs if location.kind is LocationKind.REGISTRY]
    if request.publish:
        written += request.names
    if any((each.name, each.identifier) == (name.name, name.identifier) for each in written):
        raise InputError(
            f"{name.familiar} cannot be the image and its cache",
            why="one would take the other's place",
            fix=f"name another for --cache-image, for instance {name.name}-cache",
        )
    check(host.images, [name])
    open_cache_image(name, host, lambda text: None).require_cache()


def open_cache_image(name: Reference, host: Host, say: Callable[[str], None]) -> CacheImage:
    """The cache image, read when it is needed and written to its own registry, not to a mirror."""
    return CacheImage(host.images.place(location_of(name), mirrors=False), name.familiar, say)
