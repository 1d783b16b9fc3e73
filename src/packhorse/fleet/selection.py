"""Selects the images for a command that takes many: from arguments, from lists, or from a registry.

Called by `cli.rebase` and `copy`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from packhorse.errors import InputError, NotFoundError
from packhorse.host.wiring import Wiring
from packhorse.oci.reference import Location, LocationKind, Reference, is_attachment_tag


def parse_list(lines: Iterable[str], *, where: str, publish: bool) -> list[Location]:
    """Reads a list with one image per line; ignores empty lines and those that begin with `#`.

    Raises one InputError with all wrong lines.
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
    """Parses a location. A name without a scheme is in the store, or with `publish` in its registry.

    Raises InputError.
    """
    location = Location.parse(text)
    if not publish or location.kind is LocationKind.REGISTRY:
        return location
    if location.kind is not LocationKind.STORE or text.startswith(f"{LocationKind.STORE}:"):
        raise InputError(f"{text} is not in a registry", why="--publish is for images that are")
    return Location(LocationKind.REGISTRY, "", location.name)


def list_images(wiring: Wiring, scope: str) -> Iterator[Location]:
    """Yields every image of a repository; if `scope` ends in a slash, of all repositories that begin with it.

    Raises InputError for a wrong scope, NotFoundError if the registry has no list, and NetworkError.
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
            with suppress(NotFoundError):  # the list may still name a removed repository
                yield from list_images(wiring, name)


def _is_name(text: str) -> bool:
    """Whether a name that a registry lists is valid for an image."""
    try:
        Reference.parse(text)
    except InputError:
        return False
    return True


def _is_host(text: str) -> bool:
    """Whether a name without a slash looks like that of a registry."""
    name, _, port = text.partition(":")
    return (
        "/" not in text
        and "@" not in text
        and ("." in name or name == "localhost")
        and (not port or (port.isascii() and port.isdecimal()))
    )


def _parse_scope(text: str) -> tuple[str, str]:
    """Returns the registry, and the beginning of the names of its repositories."""
    bare = text.removeprefix(f"{LocationKind.REGISTRY}://")
    if _is_host(bare):
        raise InputError(
            f"{bare} is a registry, or an image of Docker Hub",
            why="without a slash it would be the name of an image, which is probably not what you mean",
            fix=f"write {bare}/ for all that the registry lists, docker.io/library/{bare} for the image",
        )
    try:
        reference = Reference.parse(f"{bare.rstrip('/')}/any" if bare.endswith("/") else bare)
        if reference.tag or reference.digest:
            raise InputError(f"{text} is one image", why="it has a tag or a digest")
        path = reference.repository.removesuffix("any") if bare.endswith("/") else reference.repository
        return reference.registry, path
    except InputError as error:
        shown = text[max(text.rfind("@"), 0) :]  # a password may stand before the @
        raise InputError(
            f"not images of a registry: {shown[:300]!r}",
            why=error.why,
            fix="write REGISTRY/PREFIX/ for repositories, REGISTRY/NAME for one",
        ) from error
