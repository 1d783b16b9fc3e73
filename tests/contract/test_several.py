"""What is promised of names that stand for several images (`oci.place`), on every place that has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.artifact import EMPTY, SBOM, SIGNATURE, artifact, attach, attach_by_tag
from fakes.docker_registry import serve
from fakes.small_image import stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, NotFoundError
from packhorse.http.client import Client
from packhorse.http.transport import PooledTransport, Settings
from packhorse.oci.attached import Referrer, ReferrerSource, copy_attachments, list_attachments
from packhorse.oci.layout import Directory, Layout, LayoutName, read_image
from packhorse.oci.place import Chunks, Image, copy_all
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.place import RegistryName, RegistryPlace
from packhorse.oci.types import Descriptor, Document, Index, Manifest, MediaType
from packhorse.testing import FakeRegistry

Storage = Callable[[str], RegistryName | LayoutName]
AMD, ARM = Target("linux", "amd64"), Target("linux", "arm64", "v8")
SHARED, ONE, OTHER = (tar_of({name: name.encode() * 999}) for name in ("shared", "one", "other"))
IMAGES = {AMD: stored_image(SHARED, ONE, target=AMD), ARM: stored_image(SHARED, OTHER, target=ARM)}
STATEMENT = b'{"_type": "a statement"}'


class Made:
    """Several images in memory, beside a document about one of them, and how often each blob was read."""

    def __init__(self) -> None:
        self.read: list[Digest] = []
        self._blobs: dict[Digest, bytes] = {}
        self._documents: dict[Digest, Document] = {}
        entries = [replace(self._image(image), target=target) for target, image in IMAGES.items()]
        self.index = Index.of([*entries, self._attestation(entries[0])], {"kept": "as it is"})

    def _image(self, image: Image) -> Descriptor:
        assert image.manifest
        self._documents[image.manifest.digest] = image.manifest
        self._blobs[image.id] = image.config.raw
        for layer in image.layers:
            assert layer.descriptor and layer.blob
            self._blobs[layer.descriptor.digest] = b"".join(layer.blob())
        return image.manifest.descriptor

    def _attestation(self, about: Descriptor) -> Descriptor:
        config = b'{"architecture":"unknown","os":"unknown"}'
        self._blobs |= {Digest.of(data): data for data in (config, STATEMENT)}
        manifest = Manifest.of(
            Descriptor(MediaType.OCI_CONFIG, Digest.of(config), len(config)),
            [Descriptor("application/vnd.in-toto+json", Digest.of(STATEMENT), len(STATEMENT))],
        )
        self._documents[manifest.digest] = manifest
        note = {"vnd.docker.reference.digest": str(about.digest)}
        return replace(manifest.descriptor, target=Target("unknown", "unknown"), annotations=note)

    def spoil(self, digest: Digest) -> None:
        self._blobs[digest] = self._blobs[digest][::-1]

    def root(self) -> Document:
        return self.index

    def member(self, entry: Descriptor) -> Document:
        return self._documents[entry.digest]

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        self.read.append(blob.digest)
        return iter([self._blobs[blob.digest]])


def _registry(host: str) -> Storage:
    registry = Registry(host, Client(PooledTransport(Settings())))
    return lambda name: RegistryName(Reference.parse(f"{host}/{name}"), registry)


def _layout(path: Path, name: str) -> LayoutName:
    return LayoutName(Directory(path), name, str(path), layout=Layout(path, name))


PLACES: dict[str, Callable[[Path, ExitStack], Storage]] = {
    "oci": lambda directory, _: lambda name: _layout(directory / "layout", name),
    "registry": lambda directory, stack: _registry(stack.enter_context(serve(directory))),
    "fake-registry": lambda _, stack: _registry(stack.enter_context(FakeRegistry()).host),
}


@pytest.fixture(params=PLACES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    with ExitStack() as stack:
        yield PLACES[request.param](tmp_path, stack)


def test_all_under_a_name_arrives_byte_for_byte(storage: Storage, tmp_path: Path) -> None:
    made = Made()
    assert copy_all(made, storage("app:1")) is made.index
    assert storage("app:1").root().raw == made.index.raw
    copied = copy_all(storage("app:1"), _layout(tmp_path / "another", "x"))
    assert copied.raw == made.index.raw
    for target, image in IMAGES.items():
        found = read_image(Directory(tmp_path / "another"), "x", target=target, where="there")
        assert found.manifest and image.manifest and found.manifest.raw == image.manifest.raw
        assert [b"".join(layer.tar()) for layer in found.layers] == [
            b"".join(layer.tar()) for layer in image.layers
        ]
    statement = Digest.of(STATEMENT)
    assert (tmp_path / "another" / "blobs" / "sha256" / statement.hex).read_bytes() == STATEMENT


def test_what_is_there_is_not_read_again(storage: Storage) -> None:
    made = Made()
    copy_all(made, storage("app:1"))
    assert len(made.read) == len(set(made.read)) == 2 + 3 + 2  # configs, layers, the attestation's two
    del made.read[:]
    copy_all(made, storage("app:2"))
    assert made.read == [] and storage("app:2").root().raw == made.index.raw


def test_a_blob_that_is_not_what_it_says_is_the_sources_fault_and_nothing_gets_the_name(
    storage: Storage,
) -> None:
    made = Made()
    made.spoil(Digest.of(STATEMENT))
    with pytest.raises(FormatError):
        copy_all(made, storage("app:1"))
    with pytest.raises(NotFoundError):
        storage("app:1").root()


def test_a_name_of_one_image_is_copied_as_well(storage: Storage, tmp_path: Path) -> None:
    copy_all(Made(), storage("app:1"))
    manifest = IMAGES[ARM].manifest
    assert manifest

    class One(Made):
        def root(self) -> Document:
            assert manifest
            return manifest

    copy_all(One(), storage("app:arm"))
    assert storage("app:arm").root().raw == manifest.raw
    assert isinstance(storage("app:1").root(), Index)


def test_the_name_comes_last(storage: Storage) -> None:
    class Broken(Made):
        def blob(self, blob: Descriptor) -> Iterator[bytes]:
            if blob.digest == IMAGES[ARM].id:
                raise FormatError("broken")
            return super().blob(blob)

    with pytest.raises(FormatError, match="broken"):
        copy_all(Broken(), storage("app:1"))
    with pytest.raises(NotFoundError):
        storage("app:1").root()


def test_what_is_attached_comes_along_and_is_found_there(storage: Storage, tmp_path: Path) -> None:
    made, first = Made(), storage("app:1")
    copy_all(made, first)
    one = made.index.manifests[1]
    whole = Descriptor(made.index.media_type, made.index.digest, len(made.index.raw))
    sbom, signature = attach(first, one, SBOM), attach(first, whole, SIGNATURE)
    again = attach(first, sbom.descriptor, SIGNATURE, number=1)
    tagged = attach_by_tag(first, one, "sig")
    subjects = [whole.digest, *(entry.digest for entry in made.index.manifests)]
    source: ReferrerSource = first
    for place in (_layout(tmp_path / "another", ""), storage("copy:1"), storage("copy:1")):
        copy_all(source, place)
        assert copy_attachments(source, place, subjects) == 4
        for subject, found in ((one, sbom), (whole, signature), (sbom.descriptor, again)):
            (listed,) = place.referrers(subject.digest)
            assert listed.descriptor.digest == found.digest
            assert listed.kind == (SBOM if found is sbom else SIGNATURE)
            assert place.member(listed.descriptor).raw == found.raw
            assert b"".join(place.blob(EMPTY)) == b"{}"
        lying = place.read_tag(f"sha256-{one.digest.hex}.sig")
        assert lying and lying.raw == tagged.raw
        source = place
    assert read_image(Directory(tmp_path / "another"), "", target=ARM, where="").id == IMAGES[ARM].id


def test_what_oras_leaves_in_the_index_of_a_layout_is_found(tmp_path: Path) -> None:
    layout = _layout(tmp_path / "layout", "app")
    copy_all(Made(), layout)
    subject = Made().index.manifests[0]
    sbom = artifact(subject, SBOM)
    layout.write_blob(EMPTY, lambda: iter([b"{}"]))
    layout.write_document(sbom)
    path = tmp_path / "layout" / "index.json"
    index = json.loads(path.read_text())
    index["manifests"].append(sbom.descriptor.fields())
    path.write_text(json.dumps(index))
    (found,) = _layout(tmp_path / "layout", "app").referrers(subject.digest)
    assert found.descriptor.digest == sbom.digest


def test_what_refers_to_itself_in_a_circle_has_an_end() -> None:
    class Circle(Made):
        def referrers(self, subject: Digest) -> list[Referrer]:
            return [Referrer(self.index.manifests[0]), Referrer(self.index.manifests[1])]

        def read_tag(self, tag: str) -> Document | None:
            return None

    found = list_attachments(Circle(), [Circle().index.digest])
    assert {each.referrer.descriptor.digest for each in found} == {
        entry.digest for entry in Circle().index.manifests[:2]
    }


def test_more_than_anybody_attaches_is_refused() -> None:
    class Endless(Made):
        def referrers(self, subject: Digest) -> list[Referrer]:
            return [Referrer(self.index.manifests[0])] * 1001

        def read_tag(self, tag: str) -> Document | None:
            return None

    with pytest.raises(FormatError, match="too much attached"):
        list_attachments(Endless(), [Endless().index.digest])


def test_the_image_for_a_target_is_read_from_a_registry() -> None:
    with FakeRegistry() as registry:
        copy_all(Made(), _registry(registry.host)("app:1"))
        reference = Reference.parse(f"{registry.host}/app:1")
        client = Registry(registry.host, Client(PooledTransport(Settings())))
        for target, image in IMAGES.items():
            assert RegistryPlace(reference, client, target=target).read().id == image.id


def test_indexes_that_nobody_makes_are_refused() -> None:
    class Deep(Made):
        def member(self, entry: Descriptor) -> Document:
            below = Digest.of(str(entry.digest).encode())
            return Index.of([Descriptor(MediaType.OCI_INDEX, below, 100)])

    class Nowhere:
        def bring(self, blob: Descriptor, chunks: Chunks) -> None:
            raise AssertionError

        put = name = None

    with pytest.raises(FormatError, match="nested more than 4 deep"):
        copy_all(Deep(), Nowhere())  # type: ignore[arg-type]


def test_entries_of_one_name_in_a_layout_become_an_index(tmp_path: Path) -> None:
    for target in (AMD, ARM):
        layout = _layout(tmp_path / "layout", str(target.arch))
        image = IMAGES[target]
        assert image.manifest
        made = Made()
        made.index = image.manifest  # type: ignore[assignment]
        copy_all(made, layout)
    path = tmp_path / "layout" / "index.json"
    index = json.loads(path.read_text())
    for entry, target in zip(index["manifests"], (AMD, ARM), strict=True):
        entry["annotations"]["org.opencontainers.image.ref.name"] = "both"
        entry["platform"] = {"os": target.os, "architecture": target.arch}
    path.write_text(json.dumps(index))
    root = _layout(tmp_path / "layout", "both").root()
    assert isinstance(root, Index) and [str(target) for target in root.targets] == [
        "linux/amd64",
        "linux/arm64",
    ]
