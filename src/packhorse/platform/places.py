"""From how a user spells a place to the place itself. The only code that makes adapters of
`image.place.Place`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from packhorse.base.target import Target
from packhorse.errors import InputError, NetworkError, NotFoundError
from packhorse.image.copy import copy
from packhorse.image.place import Place
from packhorse.image.reference import Kind, Location, Reference
from packhorse.image.view import Image
from packhorse.store.store import Store

LOCAL_REGISTRY = "packhorse.local"
"""The registry part of names that only ever live in a store, as the default builder's do."""


def place(store: Store, location: Location, *, target: Target | None = None) -> Place:
    """The place a location names; raises InputError for one that is not there yet to be used."""
    if location.kind is Kind.STORE:
        return store.place(location.name)
    if location.kind is Kind.REGISTRY:
        return registry(location.reference, target or Target.host())
    if location.kind is Kind.DAEMON:
        raise InputError(
            "docker engines are not a place yet",
            why="images go to one through a file",
            fix="use docker-archive:FILE, then docker load --input FILE",
        )
    from packhorse.image.docker_archive import DockerArchive
    from packhorse.image.layout import Layout
    from packhorse.image.oci_archive import OciArchive

    path = Path(location.path)
    if location.kind is Kind.OCI:
        return Layout(path, location.name)
    if location.kind is Kind.OCI_ARCHIVE:
        return OciArchive(path, location.name)
    return DockerArchive(path, location.reference if location.name else None)


def registry(reference: Reference, target: Target) -> Place:
    """A name in a registry; the HTTP client is only loaded here."""
    from packhorse.base.http.pool import connect
    from packhorse.image.registry.client import Registry
    from packhorse.image.registry.place import RegistryPlace

    return RegistryPlace(reference, Registry(reference.registry, connect()), target=target)


def fetched(
    store: Store, name: str, *, target: Target, say: Callable[[str], None], refresh: bool = True
) -> Image:
    """The image `name` from the store, brought up to date from its registry, or fetched from there.

    Without `refresh`, what the store has is good enough (and `name` may be an image ID), as for `docker run`.
    When the registry does not answer and the store has the image, that is used, and said. Raises
    NotFoundError, NetworkError, FormatError.
    """
    local = store.place(name)
    try:
        present: Image | None = local.read()
    except NotFoundError:
        present = None
    if present is not None and not refresh:
        return present
    reference = Reference.parse(name)
    if reference.registry == LOCAL_REGISTRY:
        if present is None:
            raise NotFoundError(
                f"there is no image {name}", fix="packhorse builder default makes the default builder"
            )
        return present
    remote = registry(reference, target)
    try:
        image = remote.read()
        if present is not None and present.id == image.id:
            return present
        say(f"fetching {reference.familiar}")
        copy(remote, local)
    except NetworkError as error:
        if present is None:
            why = "\n".join(part for part in (error.what, error.why) if part)
            raise NetworkError(
                f"{reference.familiar} is not in the store and cannot be fetched", why=why, fix=error.fix
            ) from error
        say(
            f"{reference.familiar}: using the copy in the store, as its registry did not answer: {error.what}"
        )
        return present
    return local.read()
