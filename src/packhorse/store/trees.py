"""④→ root: images as file trees, for sandboxes to run in.

A layer is unpacked once for each map of ids, `trees/<map>/<diff ID>`, and the layers of an image are merged
by hard links into one root, `roots/<map>/<chain ID>`: the options of one mount hold some 35 directories, a
builder has 150 layers. Trees are only ever lower directories, never written. Called by platform, through
`Store.root`. What happens inside the user namespace is `inside`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from packhorse.base.digest import Digest


def chain_ids(diff_ids: Sequence[Digest]) -> list[Digest]:
    """The chain IDs of an image's layers, lowest first (image-spec, config.md "Layer ChainID")."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain
