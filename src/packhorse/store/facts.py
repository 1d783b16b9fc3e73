"""④ What the store knows of a layer by its diff ID: the length of its tar, its compressed form, who has that.

A fact is true wherever the bytes are: a descriptor says what the layer is compressed to, not that this blob
is here. Each is computed from the bytes. What an image says of its own layers is no fact: one that claims the
diff ID of another image's layer would have its blob taken for that layer. Called by place, store and gc.
"""

from __future__ import annotations

from pathlib import Path

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.errors import FormatError
from packhorse.image.model import Descriptor
from packhorse.image.wire import JsonNode
from packhorse.store import record
from packhorse.store.lease import Lease

_REPOSITORIES = 8
_COMPUTED = 8


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """The length of a layer's tar in bytes, the descriptor of its compressed form; None if unknown.

    `computed` are the digests of blobs that were unpacked here to this layer, or compressed here from it.
    A blob that is not among them is only what some image claimed: earlier versions recorded that.
    `repositories` are those, registry and all, to which the blob was pushed last.
    """

    size: int | None = None
    blob: Descriptor | None = None
    repositories: tuple[str, ...] = ()
    computed: tuple[Digest, ...] = ()

    @property
    def proven_blob(self) -> Descriptor | None:
        """The blob, if it is known to be this layer."""
        return self.blob if self.blob and self.blob.digest in self.computed else None


class LayerIndex:
    """The facts of a store, one file a layer: `layers/<hex of the diff ID>.json`."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def get(self, diff_id: Digest) -> LayerRecord:
        """What is known of a layer; an empty Fact when nothing is."""
        self._lease.pin(_object_path(diff_id))
        return read_record(self._lease.store, diff_id)

    def update(
        self,
        diff_id: Digest,
        *,
        size: int | None = None,
        blob: Descriptor | None = None,
        repository: str = "",
    ) -> None:
        """Adds to what is known of a layer; what is known stays where nothing new is given.

        The caller has unpacked `blob`, or compressed it from the layer. What is known of repositories is
        about the blob that is known.
        """
        old = self.get(diff_id)
        # A descriptor's annotations belong to the manifest it stands in, not to the bytes.
        plain = None if blob is None else Descriptor(blob.media_type, blob.digest, blob.size)
        new = replace(old, size=old.size if size is None else size, blob=plain or old.blob)
        others = old.repositories if new.blob == old.blob else ()
        if repository and repository not in others[:1]:
            others = (repository, *(other for other in others if other != repository))
        new = replace(new, repositories=others[:_REPOSITORIES])
        if plain and plain.digest not in old.computed:
            new = replace(new, computed=(plain.digest, *old.computed)[:_COMPUTED])
        if new != old:
            self._write(diff_id, new)

    def forget(self, diff_id: Digest, blob: Digest) -> None:
        """Forgets a blob that turned out to be another layer; raises StoreError."""
        old = self.get(diff_id)
        if old.blob is not None and old.blob.digest == blob:
            self._write(diff_id, replace(old, blob=None, repositories=()))

    def _write(self, diff_id: Digest, new: LayerRecord) -> None:
        fields: dict[str, object] = {}
        if new.size is not None:
            fields["size"] = new.size
        if new.blob is not None:
            fields["blob"] = new.blob.fields()
        if new.repositories:
            fields["repositories"] = list(new.repositories)
        if new.computed:
            fields["computed"] = [str(digest) for digest in new.computed]
        record.write(self._lease, self._path(diff_id), fields)

    def _path(self, diff_id: Digest) -> Path:
        return self._lease.store / _object_path(diff_id)


def read_record(store: Path, diff_id: Digest) -> LayerRecord:
    """What the store at `store` knows of a layer, without keeping it from `gc`."""
    fields = record.read(store / _object_path(diff_id))
    if fields is None:
        return LayerRecord()
    node = JsonNode(fields, f"layer {diff_id}")
    try:
        blob = node.node("blob")
        size = node.size("size") if "size" in fields else None
        descriptor = None if blob is None else Descriptor.parse(blob)
        return LayerRecord(size, descriptor, node.texts("repositories"), node.digests("computed"))
    except FormatError:
        return LayerRecord()  # damage: what it said is learned again


def _object_path(diff_id: Digest) -> str:
    return f"layers/{diff_id.hex}.json"
