"""④ What a registry has, by its lists: repositories and tags, page by page (distribution-spec).

Called by `platform.selection`. Many registries have no list of repositories, or show it to nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urljoin

from packhorse.base.http.message import Request, Response, origin
from packhorse.errors import FormatError, NetworkError, NotFoundError, RegistryError
from packhorse.image.registry.client import Registry, pull_scope
from packhorse.image.wire import MANIFEST_LIMIT, JsonNode

_PAGE = 1000  # names asked for at a time; a registry may give fewer
_PAGES, _ENTRIES = 10_000, 500_000  # more than any list is known to have
_IDLE = 10  # pages without anything new; some registries filter what a page has, and show an empty one
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,<]*\brel="?next\b')
_EVERYTHING = "registry:catalog:*"
_ABSENT = frozenset({401, 403, 404, 405, 501})


def repositories(registry: Registry) -> Iterator[str]:
    """The names of all repositories that the registry shows us; raises NotFoundError where it has no list."""
    try:
        yield from _names(
            registry, registry.registry_url(f"_catalog?n={_PAGE}"), "repositories", "", _EVERYTHING
        )
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
    return _names(registry, url, "tags", f"/{repository}", pull_scope(repository))


def _names(registry: Registry, url: str, key: str, of: str, scope: str) -> Iterator[str]:
    """The names of a list, each once, following the pages; RegistryError when they have no end."""
    pages, seen = Pages(registry, f"the list of {key} of {registry.host}{of}"), set[str]()
    while url:
        with registry.exchange(Request("GET", url), scope) as response:
            if response.status != 200:
                raise registry.refusal_error(response, f"list the {key} of {registry.host}{of}", scope)
            page = response.read(MANIFEST_LIMIT)
        try:
            names = dict.fromkeys(JsonNode.parse(page, "list").texts(key))
        except FormatError as error:
            raise FormatError(
                f"the list of {key} of {registry.host}{of} cannot be read", why=str(error)
            ) from error
        new = [name for name in names if name not in seen]
        seen.update(new)
        yield from new
        url = pages.next_url(response, new=len(new))


class Pages:
    """The pages of one list, which the registry may link to each other without an end.

    `name` is what errors call the list.
    """

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self._name = name
        self._asked = set[str]()
        self._entries = self._idle = 0

    def next_url(self, response: Response, *, new: int) -> str:
        """The address of the next page, "" after the last one; `new` entries of this one were not known.

        A link back to a page that was read ends the list: some registries link the last page to itself.
        Raises RegistryError for a list that goes on with nothing new, or is longer than any list.
        """
        self._asked.add(response.url)
        self._entries += new
        self._idle = 0 if new else self._idle + 1
        url = _next_link(response, self._registry)
        if url in self._asked:
            return ""
        why = ""
        if self._idle >= _IDLE:
            why = f"its last {_IDLE} pages have nothing new, and link to one more"
        elif url and (len(self._asked) >= _PAGES or self._entries >= _ENTRIES):
            why = f"after {len(self._asked)} pages with {self._entries} entries there is one more"
        if url and why:
            fix = "name what you mean, or tell whoever runs the registry"
            raise RegistryError(f"{self._name} has no end", why=why, fix=fix)
        return url


def _next_link(response: Response, registry: Registry) -> str:
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
