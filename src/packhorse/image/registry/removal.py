"""④ Taking a tag or a manifest out of a registry (distribution-spec, "Content Management").

Called by platform. Blobs are left to the registry's own collection of garbage.
"""

from __future__ import annotations

from contextlib import suppress

from packhorse.base.digest import Digest
from packhorse.base.http.message import Request
from packhorse.errors import FormatError, NetworkError, NotFoundError, RegistryError
from packhorse.image.attached import subject_of
from packhorse.image.registry.client import Registry, push_scope
from packhorse.image.registry.referrers import drop_referrer

_UNSUPPORTED = frozenset({400, 405, 501})


def remove(registry: Registry, repository: str, identifier: str) -> None:
    """Removes a tag alone, or by its digest a manifest with all its tags.

    Raises NotFoundError, and RegistryError where the registry removes nothing, or no tag alone.
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
            drop_referrer(registry, repository, Digest.parse(identifier), subject=subject)
        return
    if response.status not in _UNSUPPORTED:
        raise refused
    if ":" in identifier:
        raise RegistryError(
            f"{registry.host} does not allow removal",
            why=refused.why,
            fix="allow it there (docker-registry: storage.delete.enabled), or use its own programs",
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
    """What a manifest is attached to, None for nothing, or where it cannot be read."""
    with suppress(NotFoundError, NetworkError, FormatError):
        return subject_of(registry.manifest(repository, identifier))
    return None
