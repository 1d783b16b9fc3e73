"""The services of this machine that a build uses, as one record. Made once by cli."""

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
    """`store` holds content and snapshots, `images` finds images by location (store, registries, engine).

    `environ` is the user's environment, for proxies and certificates.
    """

    store: Store
    images: Wiring
    environ: Mapping[str, str] = MappingProxyType({})
