"""The digests of Node.js and npm that come with the buildpack, and what an archive is held against.

Called by `nodejs.registry`. npm checks each archive against what the same registry says of it; whoever
controls that registry, or a mirror of it, controls both. `digests.toml` has what was published, for the
versions that were when it was made (`make digests`).
"""

from __future__ import annotations

import base64
import hashlib
import tomllib
from pathlib import Path

from packhorse import sdk
from packhorse.errors import FormatError


def check(log: sdk.Log, spec: str, archive: Path) -> None:
    """Raises FormatError for an archive of `name@version` that is not the published one.

    Of a package that the table has, but not in this version, it says so; of all others nothing is known.
    """
    name, _, version = spec.rpartition("@")
    table: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("digests.toml").read_text())
    if name not in table:
        return
    expected = table[name].get(version)
    if expected is None:
        log.detail(
            f"{spec} is not among the digests that packhorse knows; it was checked against the registry's own"
        )
        return
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha512").digest()
    integrity = f"sha512-{base64.b64encode(found).decode()}"
    if integrity != expected:
        raise FormatError(
            f"{spec} is not the one that was published",
            why=f"its digest is {integrity}\npackhorse knows {expected}",
            fix="the package registry, a mirror or a proxy gives something else under this version: see "
            "which of them does, and use another",
        )
