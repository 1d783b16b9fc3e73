"""④ What a registry has, by its lists: repositories and tags, page by page (distribution-spec).

Called by `platform.selection`. Many registries have no list of repositories, or show it to nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urljoin

from packhorse.base.http.message import Request, Response, origin
from packhorse.errors import FormatError, NetworkError, NotFoundError, RegistryError
from packhorse.image.registry.client import Registry, pull
from packhorse.image.wire import MANIFEST_LIMIT, Node

_PAGE = 1000  # names asked for at a time; a registry may give fewer
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,<]*\brel="?next\b')
_EVERYTHING = "registry:catalog:*"
_ABSENT = frozenset({401, 403, 404, 405, 501})


def repositories(registry: Registry) -> Iterator[str]:
    """The names of all repositories that the registry shows us; raises NotFoundError where it has no list."""
    try:
        yield from _names(registry, registry.top(f"_catalog?n={_PAGE}"), "repositories", "", _EVERYTHING)
    except (NotFoundError, RegistryError) as error:
        if isinstance(error, RegistryError) and error.status not in _ABSENT:
            raise
        raise NotFoundError(
            f"{registry.host} does not list its repositories",
            why=error.why,
            fix="name one repository, whose tags it may list, or the images themselves",
        ) from error


def tags(registry: Registry, repository: str) -> Iterator[str]:
    """The tags of a repository; raises NotFoundError when there is no such repository."""
    url = registry.url(repository, f"tags/list?n={_PAGE}")
    return _names(registry, url, "tags", f"/{repository}", pull(repository))


def _names(registry: Registry, url: str, key: str, of: str, scope: str) -> Iterator[str]:
    """The names of a list, following the pages; one that leads in a circle is broken off."""
    asked = set()
    while url and url not in asked:
        asked.add(url)
        with registry.exchange(Request("GET", url), scope) as response:
            if response.status != 200:
                raise registry.refusal(response, f"list the {key} of {registry.host}{of}", scope)
            url, page = following(response, registry), response.read(MANIFEST_LIMIT)
        try:
            yield from Node.parse(page, "list").texts(key)
        except FormatError as error:
            raise FormatError(
                f"the list of {key} of {registry.host}{of} cannot be read", why=str(error)
            ) from error


def following(response: Response, registry: Registry) -> str:
    """The address of the next page of a list, "" after the last (RFC 8288)."""
    match = _NEXT.search(response.header("link"))
    if match is None:
        return ""
    try:
        url = urljoin(response.url, str(match[1]))
        if origin(url) == origin(response.url):
            return url
    except ValueError:
        pass
    raise NetworkError(
        f"a list of {registry.host} goes on elsewhere", why="its next page is on another server"
    )
