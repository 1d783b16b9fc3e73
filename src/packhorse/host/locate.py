"""Finds images by name in the store, in a container engine and in registries, as the pull policy says.

`build.plan` and `run` fetch images into the store; commands that only look at an image call `read`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import PurePath

from packhorse.base.target import Target
from packhorse.errors import EngineError, FormatError, HostError, NetworkError, NotFoundError
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, Place, copy, push_image
from packhorse.oci.reference import Location, LocationKind, Reference, is_image_id
from packhorse.oci.types import runs_on


class PullPolicy(StrEnum):
    """The pull policies of pack."""

    ALWAYS = "always"
    IF_NOT_PRESENT = "if-not-present"
    NEVER = "never"


LOCAL_REGISTRY = "packhorse.local"
"""The registry part of names that exist in stores only, such as the default builder's."""


def fetch_first(
    wiring: Wiring,
    names: Sequence[str],
    *,
    registry: str,
    target: Target,
    say: Callable[[str], None],
    pull: PullPolicy = PullPolicy.ALWAYS,
    save: bool = True,
) -> Image:
    """Fetches an image by the first of its names that works; names in `registry` are tried first.

    `save` is as for `fetch_image`. If none works, raises the error of the first.
    """
    failures: list[NetworkError | NotFoundError | FormatError] = []
    for name in sorted(names, key=lambda name: Reference.parse(name).registry != registry):
        try:
            return fetch_image(wiring, name, target=target, say=say, pull=pull, save=save)
        except (NetworkError, NotFoundError) as error:
            failures.append(error)
        except FormatError as error:
            say(f"{error.what}: {error.why}")
            failures.append(error)
    raise failures[0]


def fetch_image(
    wiring: Wiring,
    name: str,
    *,
    target: Target,
    say: Callable[[str], None],
    pull: PullPolicy = PullPolicy.ALWAYS,
    save: bool = True,
) -> Image:
    """Fetches the image `name` into the store, or updates it there, and returns it.

    Without `save` the store does not change, and a missing image is read from its registry or an engine.

    With the policy ALWAYS the registry is asked. If it does not answer or does not have the image, the image
    in the store or an engine is used, and `say` reports it: it may have come from an archive. With another
    policy an image in the store or an engine is used as it is, and `name` may be an image ID. Raises
    NotFoundError, NetworkError, FormatError.
    """
    local = wiring.store.place(name, check=True)
    present: Image | None = None
    try:
        present = local.read()
    except NotFoundError:
        pass
    except FormatError as error:
        return _replace_damaged(wiring, name, local, error, target=target, say=say, pull=pull, save=save)
    if pull is not PullPolicy.ALWAYS:
        present = present or _fetch_from_engine(wiring, name, say, save=save)
        if present is not None:
            return present
    reference = Reference.parse(name)
    if reference.registry == LOCAL_REGISTRY:
        if present is None:
            raise NotFoundError(
                f"there is no image {name}", fix="packhorse builder default makes the default builder"
            )
        return present
    if pull is PullPolicy.NEVER:
        raise NotFoundError(
            f"{reference.familiar} is neither in the store nor in a container engine",
            why="its registry is not asked: the pull policy is never",
            fix="leave out --pull-policy, or fetch it: "
            f"packhorse copy docker://{reference.familiar} {reference.familiar}",
        )
    return _pull(wiring, reference, local, present, target=target, say=say, save=save)


def fetch_location(
    wiring: Wiring,
    location: Location,
    *,
    target: Target,
    say: Callable[[str], None],
    pull: PullPolicy = PullPolicy.ALWAYS,
    save: bool = True,
) -> Image:
    """Fetches the image at a location into the store, and returns it; a name is fetched by `fetch_image`.

    An image from another place (`oci:`, `docker-daemon:` …) is stored under a name with its ID, because the
    place may have another image next time. Raises as `fetch_image` does, EngineError, InputError.
    """
    if location.kind in (LocationKind.STORE, LocationKind.REGISTRY):
        return fetch_image(wiring, location.name, target=target, say=say, pull=pull, save=save)
    place = wiring.place(location, target=target)
    image = place.read()
    if not save:
        return image
    local = wiring.store.place(f"{LOCAL_REGISTRY}/image:{image.id.short}", check=True)
    try:
        return local.read()
    except (NotFoundError, FormatError):
        pass
    say(f"taking the image from {location}")
    push_image(image, local, meter=wiring.meter, name=f"taking the image from {location}")
    return local.read()


def _replace_damaged(
    wiring: Wiring,
    name: str,
    local: Place,
    damage: FormatError,
    *,
    target: Target,
    say: Callable[[str], None],
    pull: PullPolicy,
    save: bool,
) -> Image:
    """Replaces an image that is damaged in the store by that of an engine or its registry.

    Raises `damage`, or a FormatError with the registry's answer, if neither has it.
    """
    if pull is not PullPolicy.ALWAYS:
        found = _fetch_from_engine(wiring, name, say, save=save)
        if found is not None:
            say(f"{damage.what}: {damage.why}; it {'was' if save else 'has to be'} taken from the engine")
            return found
    if pull is PullPolicy.NEVER or is_image_id(name):
        raise damage
    reference = Reference.parse(name)
    if reference.registry == LOCAL_REGISTRY:
        raise damage
    try:
        found = _pull(wiring, reference, local, None, target=target, say=say, save=save)
    except (NetworkError, NotFoundError) as error:
        reason = (error.why or error.what).splitlines()[0]
        why = f"{damage.why}\nits registry does not give it: {reason}"
        raise FormatError(damage.what, why=why, fix=damage.fix) from error
    say(f"{damage.what}: {damage.why}; it {'was' if save else 'has to be'} fetched again")
    return found


def _pull(
    wiring: Wiring,
    reference: Reference,
    local: Place,
    present: Image | None,
    *,
    target: Target,
    say: Callable[[str], None],
    save: bool,
) -> Image:
    """Pulls the image; falls back to the `present` one, or the engine's, if the registry does not give it."""
    remote = wiring.registry(reference, target)
    try:
        image = remote.read()
        if present is not None and present.id == image.id:
            return present
        if not save:
            return image
        say(f"fetching {reference.familiar}")
        push_image(image, local, meter=wiring.meter, name=f"fetching {reference.familiar}")
    except (NetworkError, NotFoundError) as error:
        missing = isinstance(error, NotFoundError)
        if present is not None and not is_for(present, target):
            present = None
        how = "does not have it" if missing else f"did not answer: {error.what}"
        if present is not None:
            say(f"{reference.familiar}: using the copy in the store, as its registry {how}")
            return present
        found = _fetch_from_engine(wiring, str(reference), say, save=save)
        if found is not None:
            return found
        if missing:
            raise
        why = "\n".join(part for part in (error.what, error.why) if part)
        raise NetworkError(
            f"{reference.familiar} is not in the store and cannot be fetched", why=why, fix=error.fix
        ) from error
    return local.read()


def is_for(image: Image, target: Target) -> bool:
    """Whether an image is for a target. An image that states no target counts for any."""
    found = image.config.target
    stated = Target(found.os or target.os, found.arch or target.arch, found.variant or target.variant)
    return runs_on(stated, target)


def fetch_exact(
    wiring: Wiring,
    name: str,
    image_id: str,
    *,
    target: Target,
    say: Callable[[str], None],
    option: str,
    save: bool = True,
) -> Image:
    """Fetches the image with an ID: from the store, under any name, or from the registry of `name`.

    `save` is as for `fetch_image`. Raises NotFoundError if the registry has another image under that name
    now; the error says which `option` would use it. Also raises what `fetch_image` raises.
    """
    try:
        return wiring.store.place(image_id).read()
    except (NotFoundError, FormatError):
        pass
    location = Location.parse(name)
    if location.kind is not LocationKind.STORE:
        image = fetch_location(wiring, location, target=target, say=say, save=save)
        if str(image.id) == image_id:
            return image
        raise NotFoundError(
            f"the image {image_id} is not in the store",
            why=f"{name} has {image.id} by now",
            fix=f"bring it there, or take the one that is there now: {option} {name}",
        )
    reference = location.reference
    if reference.registry != LOCAL_REGISTRY:
        remote = wiring.registry(reference, target)
        image = remote.read()
        found = str(image.id)
        if found == image_id and not save:
            return image
        if found == image_id:
            say(f"fetching {reference.familiar}")
            there = wiring.store.place(name, check=True)
            push_image(image, there, meter=wiring.meter, name=f"fetching {reference.familiar}")
            return wiring.store.place(name).read()
        why = f"{reference.familiar} is {found} by now"
    else:
        why = f"each machine makes its own {name}, and this machine's is another image"
    raise NotFoundError(
        f"the image {image_id} is not in the store",
        why=why,
        fix=f"bring it there, or take the one that has the name now: {option} {reference.familiar}",
    )


def title(text: str) -> str:
    """A short title for the image at a location: its name without tag or digest, or the file's name."""
    location = Location.parse(text)
    if location.kind in (LocationKind.OCI, LocationKind.OCI_ARCHIVE) or not location.name:
        return PurePath(location.path).name or str(location.kind)
    return location.name if is_image_id(location.name) else location.reference.familiar_name


def _fetch_from_engine(wiring: Wiring, name: str, say: Callable[[str], None], *, save: bool) -> Image | None:
    """Copies the image from a container engine into the store; None if no engine has it."""
    if is_image_id(name):
        return None
    try:
        engine = wiring.engine()
        if engine is None or engine.image(name) is None:
            return None
    except EngineError as error:
        say(f"{error.what}: {error.why}")
        return None
    if not save:
        return wiring.daemon(name).read()
    say(f"taking {name} from {engine}")
    local = wiring.store.place(name, check=True)
    copy(wiring.daemon(name), local, meter=wiring.meter, name=f"taking {name} from {engine}")
    return local.read()


def _read_from_engine(wiring: Wiring, name: str) -> Image | None:
    """Reads the image from a container engine; None if no engine answers or has it."""
    try:
        return wiring.daemon(name).read()
    except (NotFoundError, HostError):
        return None


def read(
    wiring: Wiring, text: str, *, local: bool = False, remote: bool = False, target: Target | None = None
) -> tuple[Image, bool]:
    """Reads the image at a location without copying it, and returns whether it came from a registry.

    A bare name is looked up in the store, then in a container engine, then in its registry. `local` leaves
    out the registry, and `remote` leaves out the store and the engine. Raises NotFoundError, NetworkError,
    FormatError, InputError.
    """
    location = Location.parse(text)
    bare = location.kind is LocationKind.STORE and not text.startswith(f"{LocationKind.STORE}:")
    if not (bare and remote):
        try:
            return wiring.place(location, target=target).read(), location.kind is LocationKind.REGISTRY
        except NotFoundError:
            found = _read_from_engine(wiring, location.name) if bare else None
            if found is not None:
                return found, False
            if not bare or local or is_image_id(location.name):
                raise
    reference = location.reference
    if reference.registry == LOCAL_REGISTRY:
        raise NotFoundError(f"no image {text!r} in the store", fix="`packhorse images` lists what there is")
    try:
        return wiring.registry(reference, target or Target.host()).read(), True
    except (NetworkError, NotFoundError) as error:
        if remote:
            raise
        why = "\n".join(part for part in (error.what, error.why) if part)
        what = f"no image {text!r} in the store, and its registry does not have it either"
        if isinstance(error, NetworkError):
            what = f"no image {text!r} in the store, and its registry could not be asked"
            raise NetworkError(what, why=why, fix=error.fix) from error
        raise NotFoundError(what, why=why, fix=error.fix) from error
