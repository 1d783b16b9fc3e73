"""④ What is attached to an image: signatures, attestations, bills of materials, whatever else there may be.

Such a thing names a manifest as its subject (image-spec, "subject"; distribution-spec, "Listing Referrers"),
or lies under a tag that is made of the manifest's digest, as cosign has it. Called by platform; the places
are `oci.registry.place` and `oci.layout`.
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
"""What follows a digest in cosign's tags."""


@dataclass(frozen=True, slots=True)
class Referrer:
    """A document that names another as its subject; `kind` is its artifact type, "" where it has none."""

    descriptor: Descriptor
    kind: str = ""

    @classmethod
    def parse(cls, node: JsonNode) -> Referrer:
        """Reads an entry of a list of referrers; raises FormatError."""
        return cls(Descriptor.parse(node), node.text("artifactType"))

    @classmethod
    def of(cls, document: Document) -> Referrer:
        """What a list of referrers says of a document."""
        kind = JsonNode.parse(document.raw, "manifest").text("artifactType")
        if not kind and isinstance(document, Manifest):
            kind = document.config.media_type
        return cls(replace(document.descriptor, annotations=document.annotations), kind)

    def fields(self) -> dict[str, Any]:
        """The JSON object for a list."""
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
    """A place that can say what is attached to something in it."""

    def referrers(self, subject: Digest) -> Sequence[Referrer]:
        """What names a document as its subject."""
        ...

    def read_tag(self, tag: str) -> Document | None:
        """What lies under a tag beside the name, None where there is nothing."""
        ...


class ReferrerSink(DocumentSink, Protocol):
    """A place where things can be attached."""

    def write_referrer(self, document: Document, subject: Digest) -> None:
        """Keeps a document, all that it names being here, and sees that it is found by its subject."""
        ...

    def write_tag(self, tag: str, document: Document) -> None:
        """Keeps a document under a tag beside the name."""
        ...


def referrers_tag(subject: Digest) -> str:
    """The tag under which a list of referrers lies in places that keep none of their own."""
    return f"sha256-{subject.hex}"


def index_referrers(root: Document, subject: Digest) -> list[Referrer]:
    """What an index has about one of its manifests, as BuildKit puts it there."""
    entries = () if isinstance(root, Manifest) else root.manifests
    about = [each for each in entries if each.annotations.get(_ABOUT) == str(subject)]
    return [Referrer(each, each.annotations.get(_ABOUT_KIND, "")) for each in about]


def cosign_tags(subject: Digest) -> list[str]:
    """The tags under which cosign keeps what it attaches to a document."""
    return [f"{referrers_tag(subject)}.{ending}" for ending in _ENDINGS]


def subject_of(document: Document) -> Digest | None:
    """What a document refers to."""
    subject = JsonNode.parse(document.raw, "manifest").node("subject")
    return subject.digest("digest") if subject else None


@dataclass(frozen=True, slots=True)
class Attachment:
    """One thing that is attached, and to what; `document` and the `tag` that it lies under where nothing else
    tells what it belongs to.
    """

    referrer: Referrer
    subject: Digest
    document: Document | None = None
    tag: str = ""


def list_attachments(source: ReferrerSource, subjects: Iterable[Digest]) -> list[Attachment]:
    """All that is attached to documents, and to what is attached to these; of each no more than lists tell.

    Raises FormatError for more of it than anybody makes.
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
    """Copies all that is attached to documents; how many things that were."""
    found = list_attachments(source, subjects)
    for each in found:
        document = each.document or source.member(each.referrer.descriptor)
        copy_documents(source, sink, list(members(source, document)), document)
        if each.tag:
            sink.write_tag(each.tag, document)
        else:
            sink.write_referrer(document, each.subject)
    return len(found)
