"""④ Where images live. A `Place` is one name in one kind of storage; copying between any two is `copy`.

Adapters: `store` (ours), `image.layout` (`oci:`), `image.archive` (`oci-archive:`, `docker-archive:`),
`image.registry` (`docker://`), `image.daemon` (`docker-daemon:`). They are made in `platform.wiring`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from packhorse.base.digest import Digest
from packhorse.image.view import Image, Layer


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a place identifies a written image by: the image ID always, the manifest digest where it has manifests."""

    image_id: Digest
    manifest_digest: Digest | None = None
    manifest_size: int = 0


class Place(Protocol):
    """One name in one storage. Nothing is visible under the name before `commit` returns."""

    def read(self) -> Image:
        """The image under this name; raises NotFoundError when there is none, FormatError when it is broken."""
        ...

    def begin(self, layer: Layer) -> Layer:
        """Brings one layer's bytes here unless they are here already; may be called from several threads.

        A layer of unknown digest is read once. The answer has `diff_id`, `size` and, where this place stores blobs,
        the `descriptor` of the stored form. Raises StoreError, NetworkError or FormatError (bytes that do not match).
        """
        ...

    def commit(self, image: Image) -> Receipt:
        """Makes `image`, all of whose layers came back from `begin`, appear under this name, whole or not at all."""
        ...
