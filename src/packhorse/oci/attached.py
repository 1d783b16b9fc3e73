"""Finds and copies what is attached to an image: signatures, attestations, SBOMs and other documents.

An attachment names a manifest as its subject (image-spec, "subject"; distribution-spec, "Listing Referrers"),
or has a tag made of the manifest's digest, as cosign does. The places are `oci.registry.place` and
`oci.layout`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.base.go_json import json_bytes
from packhorse.errors import FormatError
from packhorse.oci.place import DOCUMENT_LIMIT, DocumentSink, DocumentSource, copy_documents, members
from packhorse.oci.types import DEPTH, Descriptor, Document, Index, JsonNode, Manifest, MediaType

_ABOUT, _ABOUT_KIND = "vnd.docker.reference.digest", "vnd.docker.reference.type"
_ENDINGS = ("sig", "att", "sbom")
"""The endings of cosign's tags, after the digest."""


@dataclass(frozen=True, slots=True)
class Referrer:
    """A document that names another as its subject. `kind` is its artifact type, "" if it has none."""

    descriptor: Descriptor
    kind: str = ""

    @classmethod
    def parse(cls, node: JsonNode) -> Referrer:
        """Reads an entry of a list of referrers; raises FormatError."""
        return cls(Descriptor.parse(node), node.text("artifactType"))

    @classmethod
    def of(cls, document: Document) -> Referrer:
        """Makes the entry of a list of referrers for a document."""
        kind = JsonNode.parse(document.raw, "manifest").text("artifactType")
        if not kind and isinstance(document, Manifest):
            kind = document.config.media_type
        return cls(replace(document.descriptor, annotations=document.annotations), kind)

    def fields(self) -> dict[str, Any]:
        """Returns the JSON object for a list of referrers."""
        kind = {"artifactType": self.kind} if self.kind else {}
        return {**self.descriptor.fields(), **kind}


def parse_referrers(raw: bytes) -> Iterator[Referrer]:
    """Reads an index that lists referrers; raises FormatError."""
    return map(Referrer.parse, JsonNode.parse(raw, "list of referrers").nodes("manifests"))


def index_of_referrers(referrers: Iterable[Referrer]) -> Index:
    """Makes an index that lists referrers."""
    entries = [each.fields() for each in referrers]
    fields = {"schemaVersion": 2, "mediaType": str(MediaType.OCI_INDEX), "manifests": entries}
    return Index.parse(json_bytes(fields), MediaType.OCI_INDEX)


class ReferrerSource(DocumentSource, Protocol):
    """A place that can list attachments."""

    def referrers(self, subject: Digest) -> Sequence[Referrer]:
        """Lists the documents that name `subject` as their subject."""
        ...

    def read_tag(self, tag: str) -> Document | None:
        """Reads the document under another tag of the same repository or layout; None if there is none."""
        ...


class ReferrerSink(DocumentSink, Protocol):
    """A place that can store attachments."""

    def write_referrer(self, document: Document, subject: Digest) -> None:
        """Writes a document, whose members are already here, and lists it as a referrer of its subject."""
        ...

    def write_tag(self, tag: str, document: Document) -> None:
        """Writes a document under another tag of the same repository or layout."""
        ...


def referrers_tag(subject: Digest) -> str:
    """Returns the tag of the list of referrers in places that have no list of their own."""
    return f"sha256-{subject.hex}"


def index_referrers(root: Document, subject: Digest) -> list[Referrer]:
    """Lists the entries of an index that are about one of its manifests, in BuildKit's form."""
    entries = () if isinstance(root, Manifest) else root.manifests
    about = [each for each in entries if each.annotations.get(_ABOUT) == str(subject)]
    return [Referrer(each, each.annotations.get(_ABOUT_KIND, "")) for each in about]


def cosign_tags(subject: Digest) -> list[str]:
    """Returns the tags that cosign uses for attachments to a document."""
    return [f"{referrers_tag(subject)}.{ending}" for ending in _ENDINGS]


def subject_of(document: Document) -> Digest | None:
    """Returns the subject of a document, or None."""
    subject = JsonNode.parse(document.raw, "manifest").node("subject")
    return subject.digest("digest") if subject else None


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attachment and its subject. `document` and `tag` are set if only the tag names the subject."""

    referrer: Referrer
    subject: Digest
    document: Document | None = None
    tag: str = ""


def list_attachments(source: ReferrerSource, subjects: Iterable[Digest]) -> list[Attachment]:
    """Lists the attachments of documents, and of these attachments, without reading them.

    Raises FormatError for more than `DOCUMENT_LIMIT` attachments or `DEPTH` levels.
    """
    found: list[Attachment] = []
    waiting = deque((subject, DEPTH) for subject in subjects)
    tagged = [(tag, subject) for subject, _ in waiting for tag in cosign_tags(subject)]
    seen = {subject for subject, _ in waiting}
    while waiting:
        subject, depth = waiting.popleft()
        for each in source.referrers(subject):
            found.append(Attachment(each, subject))
            if len(found) > DOCUMENT_LIMIT or not depth:
                raise FormatError(
                    "an image has too much attached to it", why=f"at most {DOCUMENT_LIMIT} are looked at"
                )
            if each.descriptor.digest not in seen:
                seen.add(each.descriptor.digest)
                waiting.append((each.descriptor.digest, depth - 1))
    for tag, subject in tagged:
        document = source.read_tag(tag)
        if document is not None:
            found.append(Attachment(Referrer.of(document), subject, document, tag))
    return found


def copy_attachments(source: ReferrerSource, sink: ReferrerSink, subjects: Iterable[Digest]) -> int:
    """Copies all attachments of documents, and returns their number."""
    found = list_attachments(source, subjects)
    for each in found:
        document = each.document or source.member(each.referrer.descriptor)
        copy_documents(source, sink, list(members(source, document)), document)
        if each.tag:
            sink.write_tag(each.tag, document)
        else:
            sink.write_referrer(document, each.subject)
    return len(found)
