"""When images come from their registries. Called by `host.locate`, and by cli, which spells it.

Images by name: from the store, brought up to date from where they come from. Called by build and run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import PurePath

from packhorse.base.target import Target
from packhorse.errors import EngineError, FormatError, HostError, NetworkError, NotFoundError
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, Place, copy
from packhorse.oci.reference import Location, LocationKind, Reference, is_image_id


class PullPolicy(StrEnum):
    """The pull policies, as pack has them."""

    ALWAYS = "always"
    IF_NOT_PRESENT = "if-not-present"
    NEVER = "never"


LOCAL_REGISTRY = "packhorse.local"
"""The registry part of names that only ever live in a store, as the default builder's do."""


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
    """An image that has several names, by the first that can be had; those in `registry` come first.

    `save` is as for `fetch_image`. Raises what `fetch_image` says of the first, if there is none.
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
    """The image `name` from the store, brought up to date from its registry, or fetched from there.

    Without `save` the store stays as it is: what it lacks is the image as its registry or an engine has it.

    Unless `pull` is ALWAYS, what the store has, or else a container engine, is good enough (and `name` may be
    an image ID). With ALWAYS, when the registry does not answer or does not have the image, the store's is
    used, or the engine's, and said: an image may have come from an archive. Raises NotFoundError,
    NetworkError, FormatError.
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
            fix="leave out --pull-policy, or bring it: "
            f"packhorse copy docker://{reference.familiar} {reference.familiar}",
        )
    return _pull(wiring, reference, local, present, target=target, say=say, save=save)


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
    """An image that is not whole in the store, as an engine or its registry has it; raises `damage` if none
    does.
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
    """The image as its registry has it; what is `present`, or in the engine, when that cannot be had."""
    remote = wiring.registry(reference, target)
    try:
        image = remote.read()
        if present is not None and present.id == image.id:
            return present
        if not save:
            return image
        say(f"fetching {reference.familiar}")
        copy(remote, local, meter=wiring.meter, name=f"fetching {reference.familiar}")
    except (NetworkError, NotFoundError) as error:
        missing = isinstance(error, NotFoundError)
        if present is not None and not _is_for(present, target):
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


def _is_for(image: Image, target: Target) -> bool:
    """Whether an image may be meant for a target: old ones do not say."""
    return image.config.os in ("", target.os) and image.config.architecture in ("", target.arch)


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
    """The image with an ID, from the store, whatever its name is there now, or from the registry of `name`.

    `save` is as for `fetch_image`. Raises NotFoundError where that has another image by now, which `option`
    would take, and what `fetch_image` raises.
    """
    try:
        return wiring.store.place(image_id).read()
    except (NotFoundError, FormatError):
        pass
    reference = Reference.parse(name)
    if reference.registry != LOCAL_REGISTRY:
        remote = wiring.registry(reference, target)
        image = remote.read()
        found = str(image.id)
        if found == image_id and not save:
            return image
        if found == image_id:
            say(f"fetching {reference.familiar}")
            there = wiring.store.place(name, check=True)
            copy(remote, there, meter=wiring.meter, name=f"fetching {reference.familiar}")
            return wiring.store.place(name).read()
        why = f"{reference.familiar} is {found} by now"
    else:
        why = f"{name} is made on each machine, and here it is another"
    raise NotFoundError(
        f"the image {image_id} is not in the store",
        why=why,
        fix=f"bring it there, or take the one that has the name now: {option} {reference.familiar}",
    )


def title(text: str) -> str:
    """What a person calls the image at a place: its name without tag or digest, or else its file's."""
    location = Location.parse(text)
    if location.kind in (LocationKind.OCI, LocationKind.OCI_ARCHIVE) or not location.name:
        return PurePath(location.path).name or str(location.kind)
    return location.name if is_image_id(location.name) else location.reference.familiar_name


def _fetch_from_engine(wiring: Wiring, name: str, say: Callable[[str], None], *, save: bool) -> Image | None:
    """The image as a container engine has it, brought into the store; None where there is none."""
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
    """The image as a container engine has it, if one answers and has it."""
    try:
        return wiring.daemon(name).read()
    except (NotFoundError, HostError):
        return None


def read(
    wiring: Wiring, text: str, *, local: bool = False, remote: bool = False, target: Target | None = None
) -> tuple[Image, bool]:
    """The image at a place, without bringing it here, and whether a registry had it.

    A bare name is looked for in the store, in a container engine, and in its registry when it is not there;
    `local` and `remote` leave out the last, or the others. Raises NotFoundError, NetworkError, FormatError,
    InputError.
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
