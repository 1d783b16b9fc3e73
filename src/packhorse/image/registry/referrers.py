"""④ What refers to an image in its registry: signatures, bills of materials, attestations (distribution-spec,
"Listing Referrers"), by the registry's own list or, where it has none, by the tag that stands in for it.

Called by `several`.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from packhorse.base.digest import Digest
from packhorse.base.http.message import Request
from packhorse.errors import FormatError, NotFoundError, RegistryError
from packhorse.image.attached import Referrer, index_of_referrers, parse_referrers, referrers_tag
from packhorse.image.model import Document, Index, MediaType
from packhorse.image.registry.client import Registry, pull_scope, push_scope
from packhorse.image.registry.listing import Pages
from packhorse.image.registry.upload import put_manifest
from packhorse.image.wire import MANIFEST_LIMIT

_TRIES = 3


def list_referrers(
    registry: Registry, repository: str, subject: Digest, *, kind: str = ""
) -> tuple[Referrer, ...]:
    """What refers to a manifest, or what of a kind does; none where nobody knows any.

    Raises RegistryError, NetworkError, FormatError.
    """
    found = _list_by_api(registry, repository, subject, kind)
    if found is None:
        found = _list_by_tag(registry, repository, subject)
    return tuple(each for each in found if kind in ("", each.kind))


def put_referrer(registry: Registry, repository: str, document: Document, *, subject: Digest) -> None:
    """Puts a document that names a subject, all of whose blobs are there, and sees that it is found by it.

    Where the registry keeps no list of referrers it is added to the tag that stands in for one.
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
    # Two that do this at once may each overwrite the other's entry: so it is looked at afterwards.
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


def drop_referrer(registry: Registry, repository: str, one: Digest, *, subject: Digest) -> None:
    """Takes what is gone out of the tag that stands for a list, where the registry keeps none."""
    if _list_by_api(registry, repository, subject, "") is not None:
        return
    there = _list_by_tag(registry, repository, subject)
    left = [each for each in there if each.descriptor.digest != one]
    if len(left) < len(there):
        _put_list(registry, repository, subject, left)


def _put_list(registry: Registry, repository: str, subject: Digest, entries: Sequence[Referrer]) -> None:
    put_manifest(registry, repository, referrers_tag(subject), index_of_referrers(entries))


def _list_by_api(
    registry: Registry, repository: str, subject: Digest, kind: str
) -> tuple[Referrer, ...] | None:
    """The registry's own list; None where it keeps none."""
    query = f"?{urlencode({'artifactType': kind})}" if kind else ""
    url, found = registry.url(repository, f"referrers/{subject}{query}"), dict[Digest, Referrer]()
    pages = Pages(registry, f"the list of what refers to {subject.short} in {registry.host}/{repository}")
    while url:
        with registry.exchange(
            Request("GET", url, {"accept": MediaType.OCI_INDEX}), pull_scope(repository)
        ) as page:
            if page.status in (400, 404, 405, 501) and not found:
                return None  # older registries have several ways not to know what was asked
            if page.status != 200:
                raise registry.refusal_error(
                    page, f"list what refers to {subject.short}", pull_scope(repository)
                )
            before = len(found)
            found |= {each.descriptor.digest: each for each in parse_referrers(page.read(MANIFEST_LIMIT))}
            url = pages.next_url(page, new=len(found) - before)
    return tuple(found.values())


def _list_by_tag(registry: Registry, repository: str, subject: Digest) -> tuple[Referrer, ...]:
    """The list that lies under a tag."""
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
