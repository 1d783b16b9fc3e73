"""Finds the previous build: its image, and the name whose kept layers a build begins with.

A build begins with the layers of the previous build under the same name. Without one, it begins with the
layers of another tag of the same repository, for instance after a change of branch. Buildpacks see from a
layer's metadata whether they can use it. Used by `build.plan`.
"""

from __future__ import annotations

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.build.deliver import location_of
from packhorse.build.host import Host
from packhorse.build.request import BuildRequest
from packhorse.errors import FormatError, InputError, NotFoundError
from packhorse.lifecycle.ports import Observer
from packhorse.oci.place import Image
from packhorse.oci.reference import Location, LocationKind, Reference, is_image_id


@dataclass(frozen=True, slots=True)
class PreviousBuild:
    """`image` is where the previous image is, and `image_id` its ID, None when there is none.

    `layers_name` is the name whose kept layers the build begins with. `target` is what the image is for.
    """

    image: Location
    image_id: Digest | None
    layers_name: str
    target: Target | None = None


def find_previous(request: BuildRequest, host: Host, observer: Observer) -> PreviousBuild:
    """Finds the previous build; raises NetworkError when its registry does not answer."""
    find = _find_named_previous if request.previous_image else _find_own_previous
    found = find(request, host, observer)
    return replace(found, layers_name=request.kept_as) if request.cache_name else found


def _find_own_previous(request: BuildRequest, host: Host, observer: Observer) -> PreviousBuild:
    layers_of = _find_layers_name(request, host, observer)
    stored, published = Location(LocationKind.STORE, "", layers_of), location_of(request.name)
    if request.publish and (request.cache_image or request.cache_directory):
        # Layers from another machine belong to the image in the registry.
        return _describe(published, _find_image(host, published), layers_of)
    try:
        image = host.store.place(layers_of).read()
    except FormatError:
        image = None
    except NotFoundError:
        image = None
        if request.publish and layers_of == str(request.name):
            return _describe(published, _find_image(host, published), layers_of)
    return _describe(stored, image, layers_of)


def for_target(previous: PreviousBuild, target: Target, own: str, observer: Observer) -> PreviousBuild:
    """Returns the previous build, or none, with a message, if it is for another machine than `target`.

    Buildpacks do not check the architecture of their layers. `own` is the name of the new build.
    """
    before = previous.target
    if before is None or (before.os, before.arch) == (target.os, target.arch):
        return previous
    observer.say(f"the previous image is for {before}, and this one for {target}: no layer of it is reused")
    return PreviousBuild(Location(LocationKind.STORE, "", own), None, own)


def _find_named_previous(request: BuildRequest, host: Host, observer: Observer) -> PreviousBuild:
    """Finds the image of `--previous-image`: in the store, or if the build publishes, in its registry.

    The build begins with the kept layers of its own name if there are any, else with those of that image.
    """
    named, own = request.previous_image, str(request.name)
    is_id = is_image_id(named)
    if request.publish and (is_id or Reference.parse(named).registry != request.name.registry):
        raise InputError(
            f"--previous-image {named} cannot be the previous image of {request.name.familiar}",
            why="an image that is published takes the layers of its previous image in its own registry",
            fix=f"name an image in {request.name.registry}, or leave out --publish",
        )
    found = Location(LocationKind.STORE, "", named)
    image = _find_image(host, found)
    if image is None and request.publish:
        found = location_of(Reference.parse(named))
        image = _find_image(host, found)
    if image is None:
        place = "the store and its registry have" if request.publish else "the store has"
        observer.say(f"{place} no previous image {named}: no layer of it is reused")
    has_own_layers = request.clear_cache or is_id or bool(host.store.last_build(own)[0])
    return _describe(found, image, own if has_own_layers else str(Reference.parse(named)))


def _find_layers_name(request: BuildRequest, host: Host, observer: Observer) -> str:
    """The name whose layers the build begins with: its own, or the last built tag of its repository."""
    own = str(request.name)
    if request.clear_cache or request.cache_name:
        return own
    found = host.store.nearest_app(own, request.name.name)
    if found != own:
        observer.say(f"nothing is kept for {own}: this build begins with the layers of {found}")
    return found


def _describe(location: Location, image: Image | None, layers_name: str) -> PreviousBuild:
    """The previous build with the image at a location; `image` is None if there is none."""
    if image is None:
        return PreviousBuild(location, None, layers_name)
    return PreviousBuild(location, image.id, layers_name, image.config.target)


def _find_image(host: Host, location: Location) -> Image | None:
    """The image at a location; None if there is none, or it cannot be read (P-027)."""
    try:
        return host.images.place(location).read()
    except (NotFoundError, FormatError):
        return None
