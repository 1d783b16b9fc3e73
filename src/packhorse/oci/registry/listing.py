"""Lists what a registry has: repositories, tags, and the referrers of an image. Also removes images.

`fleet.selection` lists repositories and tags, page by page. Many registries have no list of repositories, or
show it to nobody. `registry.place` lists referrers: signatures, SBOMs and attestations (distribution-spec,
"Listing Referrers"). A registry without such a list keeps it under a tag. `host.wiring` calls `remove`
(distribution-spec, "Content Management"). The registry's own garbage collection removes blobs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from urllib.parse import urljoin

from packhorse.base.digest import Digest
from packhorse.errors import FormatError, NetworkError, NotFoundError, RegistryError
from packhorse.http.client import Request, Response, origin
from packhorse.oci.attached import Referrer, index_of_referrers, parse_referrers, referrers_tag, subject_of
from packhorse.oci.registry.client import Registry, pull_scope, push_scope
from packhorse.oci.registry.push import put_manifest
from packhorse.oci.types import MANIFEST_LIMIT, Document, Index, JsonNode, MediaType

_PAGE = 1000  # names that packhorse asks for at a time; a registry may return fewer
_PAGES, _ENTRIES = 10_000, 500_000  # more than any known list has
_IDLE = (
    10  # the most pages in a row without a new entry: a registry may filter a page's entries, even to none
)
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,<]*\brel="?next\b')
_EVERYTHING = "registry:catalog:*"
_ABSENT = frozenset({401, 403, 404, 405, 501})


def repositories(registry: Registry) -> Iterator[str]:
    """Yields the repositories that the registry shows to this user; NotFoundError if it has no list."""
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
            fix="name one repository, because the registry may list its tags, or name the images",
        ) from error


def tags(registry: Registry, repository: str) -> Iterator[str]:
    """Yields the tags of a repository; raises NotFoundError if the repository does not exist."""
    url = registry.url(repository, f"tags/list?n={_PAGE}")
    return _names(registry, url, "tags", f"/{repository}", pull_scope(repository))


def _names(registry: Registry, url: str, key: str, of: str, scope: str) -> Iterator[str]:
    """Yields the names of a list, each once, page by page; raises RegistryError if the pages have no end."""
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
    """Follows the pages of one list, and detects a list without an end. Errors call the list `name`."""

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self._name = name
        self._asked = set[str]()
        self._entries = self._idle = 0

    def next_url(self, response: Response, *, new: int) -> str:
        """Returns the URL of the next page, "" after the last one. `new` counts this page's new entries.

        A link to a page that was read before ends the list: some registries link the last page to itself.
        Raises RegistryError for too many pages or entries, or too many pages in a row without a new entry.
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
            fix = "name the images, or tell the operator of the registry"
            raise RegistryError(f"{self._name} has no end", why=why, fix=fix)
        return url


def _next_link(response: Response, registry: Registry) -> str:
    """Returns the URL of the next page of a list, "" after the last (RFC 8288)."""
    match = _NEXT.search(response.header("link"))
    if match is None:
        return ""
    try:
        url = urljoin(response.url, str(match[1]))
        if origin(url) == origin(response.url):
            return url
    except ValueError:
        pass
    raise NetworkError(f"a list of {registry.host} cannot be read", why="its next page is on another server")


_TRIES = 3  # how often an entry is added to a list that others write at the same time


def list_referrers(registry: Registry, repository: str, subject: Digest) -> tuple[Referrer, ...]:
    """Lists the referrers of a manifest. Raises RegistryError, NetworkError, FormatError."""
    found = _list_by_api(registry, repository, subject)
    return _list_by_tag(registry, repository, subject) if found is None else found


def put_referrer(registry: Registry, repository: str, document: Document, *, subject: Digest) -> None:
    """Uploads a document that names a subject, and makes sure that it is listed. Its blobs are already there.

    If the registry has no list of referrers, it adds the document to the list under the subject's tag.
    """
    url = registry.url(repository, f"manifests/{document.digest}")
    request = Request("PUT", url, {"content-type": document.media_type}, document.raw)
    with registry.exchange(request, push_scope(repository)) as response:
        if response.status not in (200, 201, 202):
            doing = f"write {registry.name(repository, str(document.digest))}"
            raise registry.refusal_error(response, doing, push_scope(repository))
        if response.header("oci-subject") == str(subject):
            return
    own = Referrer.of(document)
    # Two writers at the same time can overwrite each other's entry, so read the list again afterwards.
    for _ in range(_TRIES):
        there = _list_by_tag(registry, repository, subject)
        if _has(there, own):
            return
        _put_list(registry, repository, subject, (*there, own))
    if _has(_list_by_tag(registry, repository, subject), own):
        return
    raise RegistryError(
        f"{registry.name(repository, str(document.digest))} is not found by its subject",
        why="others write the same list at the same time",
        fix="try again",
    )


def _drop_referrer(registry: Registry, repository: str, one: Digest, *, subject: Digest) -> None:
    """Removes an entry from the list under the subject's tag, if the registry has no list of referrers."""
    if _list_by_api(registry, repository, subject) is not None:
        return
    there = _list_by_tag(registry, repository, subject)
    left = [each for each in there if each.descriptor.digest != one]
    if len(left) < len(there):
        _put_list(registry, repository, subject, left)


def _put_list(registry: Registry, repository: str, subject: Digest, entries: Sequence[Referrer]) -> None:
    put_manifest(registry, repository, referrers_tag(subject), index_of_referrers(entries))


def _list_by_api(registry: Registry, repository: str, subject: Digest) -> tuple[Referrer, ...] | None:
    """Reads the registry's own list of referrers; None if it has none."""
    url, found = registry.url(repository, f"referrers/{subject}"), dict[Digest, Referrer]()
    pages = Pages(registry, f"the list of what refers to {subject.short} in {registry.host}/{repository}")
    while url:
        with registry.exchange(
            Request("GET", url, {"accept": MediaType.OCI_INDEX}), pull_scope(repository)
        ) as page:
            if page.status in (400, 404, 405, 501) and not found:
                return None  # registries without such lists answer with one of these
            if page.status != 200:
                raise registry.refusal_error(
                    page, f"list what refers to {subject.short}", pull_scope(repository)
                )
            before = len(found)
            found |= {each.descriptor.digest: each for each in parse_referrers(page.read(MANIFEST_LIMIT))}
            url = pages.next_url(page, new=len(found) - before)
    return tuple(found.values())


def _list_by_tag(registry: Registry, repository: str, subject: Digest) -> tuple[Referrer, ...]:
    """Reads the list of referrers under the subject's tag, empty if there is none."""
    try:
        found = registry.manifest(repository, referrers_tag(subject))
    except NotFoundError:
        return ()
    if not isinstance(found, Index):
        what = f"{registry.name(repository, referrers_tag(subject))} is no list of referrers"
        raise FormatError(what, why="an image's manifest is under the tag that is for the list")
    return tuple(parse_referrers(found.raw))


def _has(found: Sequence[Referrer], one: Referrer) -> bool:
    return any(each.descriptor.digest == one.descriptor.digest for each in found)


_UNSUPPORTED = frozenset({400, 405, 501})


def remove(registry: Registry, repository: str, identifier: str) -> None:
    """Removes a single tag, or by its digest a manifest with all its tags.

    Raises NotFoundError, and RegistryError if the registry does not remove images, or no single tags.
    """
    name = registry.name(repository, identifier)
    scope = f"{push_scope(repository)},delete"
    url = registry.url(repository, f"manifests/{identifier}")
    subject = _read_subject(registry, repository, identifier) if ":" in identifier else None
    with registry.exchange(Request("DELETE", url), scope) as response:
        done = response.status in (200, 202, 204)
        refused = None if done else registry.refusal_error(response, f"remove {name}", scope)
    if refused is None:
        if subject is not None:
            _drop_referrer(registry, repository, Digest.parse(identifier), subject=subject)
        return
    if response.status not in _UNSUPPORTED:
        raise refused
    if ":" in identifier:
        raise RegistryError(
            f"{registry.host} does not allow removal",
            why=refused.why,
            fix="enable it there (docker-registry: storage.delete.enabled), or use the registry's own tools",
            status=response.status,
        )
    there = registry.resolve(repository, identifier)
    if there is None:
        raise NotFoundError(f"could not remove {name}", why=f"{registry.host} does not have it")
    raise RegistryError(
        f"{registry.host} cannot remove a single tag",
        why=refused.why,
        fix="remove the image with all its tags: "
        f"packhorse rmi docker://{registry.name(repository, str(there.digest))}",
        status=response.status,
    )


def _read_subject(registry: Registry, repository: str, identifier: str) -> Digest | None:
    """Returns the subject of a manifest; None if it has none or cannot be read."""
    with suppress(NotFoundError, NetworkError, FormatError):
        return subject_of(registry.manifest(repository, identifier))
    return None
