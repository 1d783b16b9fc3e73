"""Things that are attached to an image, as signers and scanners make them: manifests without files."""

from __future__ import annotations

import json

from packhorse.base.digest import Digest
from packhorse.oci.attached import ReferrerSink
from packhorse.oci.types import Descriptor, Manifest, MediaType

SBOM, SIGNATURE = "application/spdx+json", "application/vnd.example.signature"
EMPTY = Descriptor("application/vnd.oci.empty.v1+json", Digest.of(b"{}"), 2)


def artifact(subject: Descriptor | None, kind: str, *, number: int = 0) -> Manifest:
    """A manifest of a kind that names a subject; what it holds is `EMPTY`."""
    document = {
        "schemaVersion": 2,
        "mediaType": str(MediaType.OCI_MANIFEST),
        "artifactType": kind,
        "config": EMPTY.fields(),
        "layers": [EMPTY.fields()],
        **({"subject": subject.fields()} if subject else {}),
        "annotations": {"number": str(number)},
    }
    return Manifest.parse(json.dumps(document).encode())


def attach(place: ReferrerSink, subject: Descriptor, kind: str, *, number: int = 0) -> Manifest:
    """Attaches one to what is in a place."""
    manifest = artifact(subject, kind, number=number)
    place.write_blob(EMPTY, lambda: iter([b"{}"]))
    place.write_referrer(manifest, subject.digest)
    return manifest


def attach_by_tag(place: ReferrerSink, subject: Descriptor, ending: str) -> Manifest:
    """Attaches one as cosign does, by a tag."""
    manifest = artifact(None, SIGNATURE)
    place.write_blob(EMPTY, lambda: iter([b"{}"]))
    place.write_tag(f"sha256-{subject.digest.hex}.{ending}", manifest)
    return manifest
