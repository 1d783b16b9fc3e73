"""④ Where images live. A `Place` is one name in one kind of storage; copying between any two is `copy`.

Adapters: `store` (ours), `image.layout` (`oci:`), `image.oci_archive`, `image.docker_archive`,
`image.registry` (`docker://`), `image.daemon` (`docker-daemon:`). They are made in `platform.wiring`.
"""

from __future__ import annotations

from typing import Protocol

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.image.view import Image, Layer


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a place identifies a written image by: the image ID, and where it has manifests their digest."""

    image_id: Digest
    manifest_digest: Digest | None = None
    manifest_size: int = 0


class Place(Protocol):
    """One name in one storage. Nothing is visible under the name before `write_image` returns."""

    def read(self) -> Image:
        """The image under this name; raises NotFoundError if there is none, FormatError if it is broken."""
        ...

    def write_layer(self, layer: Layer) -> Layer:
        """Brings one layer's bytes here unless they are here already; may be called from several threads.

        A layer of unknown digest is read once. The answer has `diff_id` and, where this place stores blobs,
        the `descriptor` of the stored form; `size` too unless the blob was copied as it is.
        Raises StoreError, NetworkError or FormatError (bytes that do not match).
        """
        ...

    def write_image(self, image: Image) -> Receipt:
        """Makes `image`, whose layers all came back from `write_layer`, appear under this name, or
        fails wholly.
        """
        ...
