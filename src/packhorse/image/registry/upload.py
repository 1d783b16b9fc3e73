"""④ Bringing blobs and manifests to a registry (distribution-spec, "Push").

Called by `image.registry.place`. Blobs go in one piece, POST and PUT: all registries take that, while uploads
in chunks are refused by some.
"""

from __future__ import annotations

from urllib.parse import urlencode, urljoin, urlsplit

from packhorse.base.digest import Digest
from packhorse.base.http.message import BrokenConnection, Request, Response, host_of, printable, split
from packhorse.errors import FormatError, RegistryError
from packhorse.image.model import Descriptor, Manifest
from packhorse.image.registry.client import Registry, pull, push
from packhorse.image.view import Chunks

ATTEMPTS = 3


def bring_blob(registry: Registry, repository: str, blob: Descriptor, content: Chunks) -> None:
    """Sees to it that a repository has a blob; raises NetworkError, and what `content` raises.

    `content` is read only if the registry does not have it there, or in another repository that is known.
    """
    if not registry.has_blob(repository, blob.digest, push(repository)):
        _upload(registry, repository, blob, content)
    registry.remember(repository, [blob.digest])


def put_manifest(registry: Registry, repository: str, identifier: str, manifest: Manifest) -> None:
    """Puts a manifest under a tag, or under its own digest; everything that it names must be there."""
    url = registry.url(repository, f"manifests/{identifier}")
    request = Request("PUT", url, {"content-type": manifest.media_type}, manifest.raw)
    with registry.exchange(request, push(repository)) as response:
        if response.status not in (200, 201, 202):
            doing = f"write {registry.name(repository, identifier)}"
            raise registry.refusal(response, doing, push(repository))
        _require_kept(response.header("docker-content-digest"), manifest.digest)


def _upload(registry: Registry, repository: str, blob: Descriptor, content: Chunks) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        # Each attempt is a new session: what a broken one has kept is the registry's to clean up.
        location = _start(registry, repository, blob.digest)
        if location is None:
            return
        try:
            _put(registry, repository, blob, content, location)
            return
        except (BrokenConnection, RegistryError) as error:
            passing = isinstance(error, BrokenConnection) or error.status in (429, *range(500, 600))
            if not passing or attempt == ATTEMPTS:
                raise
        registry.pause(attempt)


def _start(registry: Registry, repository: str, digest: Digest) -> str | None:
    """The address to upload to; None when the registry took the blob from another of its repositories."""
    url, scope = registry.url(repository, "blobs/uploads/"), push(repository)
    holder = registry.holder(digest)
    if holder and holder != repository:
        query = urlencode({"mount": str(digest), "from": holder})
        with registry.exchange(Request("POST", f"{url}?{query}"), f"{scope} {pull(holder)}") as response:
            if response.status == 201:
                return None
            if response.status == 202:  # the registry would not, and began an upload instead
                return _location(response)
    with registry.exchange(Request("POST", url), scope) as response:
        if response.status != 202:
            raise registry.refusal(response, f"write to {registry.host}/{repository}", scope)
        return _location(response)


def _location(response: Response) -> str:
    location = response.header("location")
    try:
        url = urljoin(response.url, location)
        split(url)
    except ValueError as error:
        raise RegistryError(
            f"{host_of(response.url)} names no address to upload to", why=printable(location)
        ) from error
    return url


def _put(registry: Registry, repository: str, blob: Descriptor, content: Chunks, location: str) -> None:
    url = f"{location}{'&' if urlsplit(location).query else '?'}{urlencode({'digest': str(blob.digest)})}"
    headers = {"content-type": "application/octet-stream"}
    request = Request("PUT", url, headers, content, length=blob.size)
    with registry.exchange(request, push(repository)) as response:
        if response.status != 201:
            doing = f"upload blob {blob.digest.short} to {registry.host}/{repository}"
            raise registry.refusal(response, doing, push(repository))
        _require_kept(response.header("docker-content-digest"), blob.digest)


def _require_kept(told: str, digest: Digest) -> None:
    """The registry's word on what it stored, where it gives one, must be what was sent."""
    if told and told != str(digest):
        raise FormatError("a registry stored something else than was sent", why=f"{told}, not {digest}")
