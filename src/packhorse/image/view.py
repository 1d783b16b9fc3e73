"""④ An image as an immutable view: a config, and layers whose bytes are read only when somebody asks.

Places make views and take them (`image.place`); `image.edit` makes a new config from an old one. Nothing here
does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError
from packhorse.image.model import MANIFESTS, OCI_LAYERS, Config, Descriptor, Manifest, MediaType

Chunks = Callable[[], Iterator[bytes]]
"""Starts a fresh pass over some bytes, in chunks of at most 1 MiB; may be called again."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: what is known of it, and how to get at its bytes.

    `tar` yields the uncompressed tar. `diff_id` is its digest and `size` its length in bytes, None while
    nobody knows. `blob` yields the stored form described by `descriptor` (usually gzip), where there is one.
    A layer of an image being read always has `diff_id`. `origin` names the image it is read from, for errors.

    Nothing here says that `blob` unpacks to `diff_id`: an image only claims that. `tar` checks it.
    """

    tar: Chunks
    diff_id: Digest | None = None
    size: int | None = None
    descriptor: Descriptor | None = None
    blob: Chunks | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """A single-target image. `manifest` is there when it was read from a place that has manifests.

    `id` is the digest of the config's raw bytes: what docker calls the image ID. `known_digests` are digests
    other than its manifest's by which it was read: of the indexes it was chosen from, or what an engine or a
    store has checked before. `all_targets` are the targets of
    all images that its name stands for where it was read, as far as an index says them; None where the name
    stands for this image alone.
    """

    config: Config
    layers: tuple[Layer, ...]
    manifest: Manifest | None = None
    annotations: tuple[tuple[str, str], ...] = field(default=())
    all_targets: tuple[Target, ...] | None = None
    known_digests: tuple[Digest, ...] = ()

    @property
    def id(self) -> Digest:
        """The image ID: the digest of the config as it is stored."""
        return Digest.of(self.config.raw)

    def has_digest(self, digest: Digest) -> bool:
        """Whether a digest stands for this image: its ID, its manifest's, or one that it is known by."""
        return digest in (self.id, self.manifest and self.manifest.digest, *self.known_digests)


def layer_ids(image: Image) -> tuple[Digest, ...]:
    """The diff IDs of an image's layers; raises FormatError when they are not the ones its config names."""
    if image.config.diff_ids != tuple(layer.diff_id for layer in image.layers):
        raise FormatError("an image contradicts itself", why="its config names other layers than it has")
    return image.config.diff_ids


def make_manifest(image: Image, *, accepts: Collection[str] = MANIFESTS) -> Manifest:
    """The image's own manifest, byte for byte, where it still says what the image is; else a new OCI one.

    `accepts` are the media types of manifests that the destination takes; a manifest of another is made
    anew as well, over the same config and blobs. All layers must have descriptors. Raises FormatError
    when one has not, or is no layer that an image can have, or when the config names other layers.
    """
    own, raw = image.manifest, image.config.raw
    stored = []
    for diff_id, layer in zip(layer_ids(image), image.layers, strict=True):
        if layer.descriptor is None or layer.descriptor.media_type not in OCI_LAYERS:
            why = (
                f"it is {layer.descriptor.media_type}"
                if layer.descriptor
                else "it was not brought: it is not stored as a blob"
            )
            raise FormatError(f"the layer {diff_id} cannot be in a manifest", why=why)
        stored.append(layer.descriptor)
    digests = [image.id, *(descriptor.digest for descriptor in stored)]
    if own and own.media_type in accepts and digests == own.blobs:
        return own
    config = Descriptor(MediaType.OCI_CONFIG, image.id, len(raw))
    layers = [replace(item, media_type=OCI_LAYERS[item.media_type]) for item in stored]
    return Manifest.of(config, layers, dict(image.annotations))
