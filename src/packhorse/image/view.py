"""④ An image as an immutable view: a config, and layers whose bytes are read only when somebody asks.

Places make views and take them (`image.place`); `image.edit` makes a new config from an old one. Nothing here
does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from packhorse.base.digest import Digest
from packhorse.image.model import Config, Descriptor, Manifest

Chunks = Callable[[], Iterator[bytes]]
"""Starts a fresh pass over some bytes, in chunks of at most 1 MiB; may be called again."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: what is known of it, and how to get at its bytes.

    `tar` yields the uncompressed tar. `diff_id` is its digest and `size` its length in bytes, None while
    nobody knows. `blob` yields the stored form described by `descriptor` (usually gzip), where there is one.
    A layer of an image being read always has `diff_id`.
    """

    tar: Chunks
    diff_id: Digest | None = None
    size: int | None = None
    descriptor: Descriptor | None = None
    blob: Chunks | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A single-target image. `manifest` is there when it was read from a place that has manifests.

    `id` is the digest of the config's raw bytes: what docker calls the image ID.
    """

    config: Config
    layers: tuple[Layer, ...]
    manifest: Manifest | None = None
    annotations: tuple[tuple[str, str], ...] = field(default=())

    @property
    def id(self) -> Digest:
        """The image ID: the digest of the config as it is stored."""
        return Digest.of(self.config.raw)
