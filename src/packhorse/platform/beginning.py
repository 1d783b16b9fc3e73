"""What a build begins with: the layers and the image of the one before. Called by `platform.build`.

Layers are kept by name. A tag under which nothing was built begins with what another one of the same
repository has kept, as after a change of branch: layers are known by their content, and buildpacks see from
their metadata what of it serves.
"""

from __future__ import annotations

from packhorse.base.dataclass import dataclass
from packhorse.errors import FormatError, InputError, NotFoundError
from packhorse.image.place import Place
from packhorse.image.reference import Kind
from packhorse.lifecycle.ports import Observer
from packhorse.platform.build_request import BuildRequest
from packhorse.platform.cache_image import CacheImage
from packhorse.platform.publish import check, location_of
from packhorse.platform.wiring import Wiring
from packhorse.store.store import Store


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a build begins with: where the image is of which it is the next, the name whose layers those are,
    and the cache image that goes before them.
    """

    previous: Place
    like: str
    elsewhere: CacheImage | None = None


def beginning(request: BuildRequest, wiring: Wiring, observer: Observer) -> Beginning:
    """Finds it; raises NetworkError where a cache image could not be written (P-028), InputError where none
    is to be.
    """
    elsewhere = _elsewhere(request, wiring, observer)
    like = _like(request, wiring.store, observer)
    return Beginning(_previous(request, wiring, like), like, elsewhere)


def _like(request: BuildRequest, store: Store, observer: Observer) -> str:
    """The name whose layers the build begins with: its own, or the last built tag of its repository."""
    own = str(request.name)
    if request.clear_cache:
        return own
    found = store.nearest(own, request.name.name)
    if found != own:
        observer.say(f"nothing is kept for {own}: beginning with what {found} has kept")
    return found


def _previous(request: BuildRequest, wiring: Wiring, like: str) -> Place:
    """Where the image is that the build begins with: in the store, or where that never had it, in the
    registry to publish to. What is kept in a registry goes with the image there.
    """
    if request.publish and request.cache_image:
        return wiring.place(location_of(request.name))
    place = wiring.store.place(like)
    if request.publish and like == str(request.name):
        try:
            place.read()
        except NotFoundError:
            return wiring.place(location_of(request.name))
        except FormatError:
            pass  # as if there were none, which `analyze` finds out
    return place


def _elsewhere(request: BuildRequest, wiring: Wiring, observer: Observer) -> CacheImage | None:
    """The cache image that the user names, to which he may write; NetworkError if not (P-028).

    Raises InputError for the name of an image that is none, whose place it would take.
    """
    name = request.cache_image
    if name is None:
        return None
    written = [location.reference for location in request.outputs if location.kind is Kind.REGISTRY]
    if request.publish:
        written += [request.name, *request.tags]
    if any((each.name, each.identifier) == (name.name, name.identifier) for each in written):
        raise InputError(
            f"{name.familiar} cannot be the image and its cache",
            why="one would take the other's place",
            fix=f"name another for --cache-image, for instance {name.name}-cache",
        )
    check(wiring, [name])
    place = wiring.place(location_of(name), mirrors=False)  # it is replaced there
    cache = CacheImage(place, name.familiar, observer.say)
    cache.require_own()
    return cache
