"""Selects the images for a command that takes many: from arguments, from lists, or from a registry.

Called by `cli.rebase`. It opens nothing except what a registry lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from packhorse.errors import InputError, NotFoundError
from packhorse.host.wiring import Wiring
from packhorse.oci.reference import Location, LocationKind, Reference, is_attachment_tag


def parse_list(lines: Iterable[str], *, where: str, publish: bool) -> list[Location]:
    """The images that a list names, one a line; empty lines and those that begin with `#` are passed over.

    Raises InputError with every line that names none.
    """
    locations, issues = [], []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            locations.append(parse_location(text, publish=publish))
        except InputError as error:
            issues.append(f"{where}:{number}: {error.what}")
    if issues:
        raise InputError(f"{where} is not a list of images", issues=issues, fix="write one image a line")
    return locations


def parse_location(text: str, *, publish: bool) -> Location:
    """Where an image is; a bare name is in the store, or with `publish` in its registry; InputError."""
    location = Location.parse(text)
    if not publish or location.kind is LocationKind.REGISTRY:
        return location
    if location.kind is not LocationKind.STORE or text.startswith(f"{LocationKind.STORE}:"):
        raise InputError(f"{text} is not in a registry", why="--publish is for images that are")
    return Location(LocationKind.REGISTRY, "", location.name)


def list_images(wiring: Wiring, scope: str) -> Iterator[Location]:
    """Every image of a repository, or of all whose names begin with `scope` if that ends in a slash.

    Raises InputError for what is neither, NotFoundError where a registry has no list, NetworkError.
    """
    from packhorse.oci.registry.listing import repositories, tags

    host, path = _parse_scope(scope)
    if path and not path.endswith("/"):
        there = wiring.push_reference(Reference.parse(f"{host}/{path}"))
        for tag in tags(wiring.host(there.registry), there.repository):
            name = f"{host}/{path}:{tag}"
            if not is_attachment_tag(tag) and _is_name(name):
                yield Location(LocationKind.REGISTRY, "", name)
        return
    there = wiring.push_reference(Reference.parse(f"{host}/{path}any"))
    below = there.repository.removesuffix("any")
    for repository in repositories(wiring.host(there.registry)):
        name = f"{host}/{path}{repository[len(below) :]}"
        if repository.startswith(below) and _is_name(name):
            with suppress(NotFoundError):  # a list may still have what was removed
                yield from list_images(wiring, name)


def _is_name(text: str) -> bool:
    """Whether an image can have a name that a registry lists."""
    try:
        Reference.parse(text)
    except InputError:
        return False
    return True


def _is_host(text: str) -> bool:
    """Whether a name without a slash looks as a registry's does."""
    name, _, port = text.partition(":")
    return (
        "/" not in text
        and "@" not in text
        and ("." in name or name == "localhost")
        and (not port or (port.isascii() and port.isdecimal()))
    )


def _parse_scope(text: str) -> tuple[str, str]:
    """The registry, and the beginning of its repositories' names."""
    bare = text.removeprefix(f"{LocationKind.REGISTRY}://")
    if _is_host(bare):
        raise InputError(
            f"{bare} is a registry, or an image of Docker Hub",
            why="without a slash it is read as an image's name, and hardly meant as one",
            fix=f"write {bare}/ for all that the registry lists, docker.io/library/{bare} for the image",
        )
    try:
        reference = Reference.parse(f"{bare.rstrip('/')}/any" if bare.endswith("/") else bare)
        if reference.tag or reference.digest:
            raise InputError(f"{text} is one image", why="it has a tag or a digest")
        path = reference.repository.removesuffix("any") if bare.endswith("/") else reference.repository
        return reference.registry, path
    except InputError as error:
        shown = text[max(text.rfind("@"), 0) :]  # before that may be a password
        raise InputError(
            f"not images of a registry: {shown[:300]!r}",
            why=error.why,
            fix="write REGISTRY/PREFIX/ for repositories, REGISTRY/NAME for one",
        ) from error
