"""The services of this machine that a build uses, in one record. cli makes it once for each command."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from packhorse.base.dataclass import dataclass

if TYPE_CHECKING:
    from packhorse.host.wiring import Wiring
    from packhorse.store.store import Store


@dataclass(frozen=True, slots=True)
class Host:
    """`store` has content and snapshots. `images` finds images by location: store, registries, engine.

    `environ` is the user's environment; it names proxies and certificates.
    """

    store: Store
    images: Wiring
    environ: Mapping[str, str] = MappingProxyType({})
