"""What every Place promises (`oci.place`), run on every adapter.

To add one, put it into PLACES: a function from an empty directory, and a stack of what has to end, to a
function from a name to a Place. All names given to one of them are in the same storage.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.docker_registry import serve
from fakes.engine import emptied
from fakes.image_problems import problems_of_image
from fakes.shelf import Shelf
from fakes.small_image import Tape, fresh_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, NotFoundError
from packhorse.http.client import Client
from packhorse.http.transport import PooledTransport, Settings
from packhorse.oci.archive import DockerArchive, OciArchive
from packhorse.oci.engine import Daemon
from packhorse.oci.engine_client import Address, Engine
from packhorse.oci.layout import Layout
from packhorse.oci.place import Image, Place, copy, push_image
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.place import RegistryPlace
from packhorse.oci.types import MediaType
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry

Storage = Callable[[str], Place]


def _engine(kind: str, directory: Path) -> Storage:
    engine = Engine(Address(emptied(kind).address, "the test"))
    store = Store.open(directory / "store")
    return lambda name: Daemon(name, engine, spool=directory, known=store)


def registry_at(host: str) -> Storage:
    registry = Registry(host, Client(PooledTransport(Settings())))
    target = Target("linux", "amd64")
    return lambda name: RegistryPlace(Reference.parse(f"{host}/{name}"), registry, target=target)


PLACES: dict[str, Callable[[Path, ExitStack], Storage]] = {
    "oci": lambda directory, _: lambda name: Layout(directory / "layout", name),
    "oci-archive": lambda directory, _: lambda name: OciArchive(directory / "archive.tar", name),
    "docker-archive": lambda directory, _: (
        lambda name: DockerArchive(directory / "a.tar", Reference.parse(name))
    ),
    "docker": lambda directory, _: _engine("docker", directory),
    "podman": lambda directory, _: _engine("podman", directory),
    "store": lambda directory, _: Store.open(directory / "store").place,
    "fake": lambda directory, _: Shelf().place,
    "registry": lambda directory, stack: registry_at(stack.enter_context(serve(directory))),
    "fake-registry": lambda _, stack: registry_at(stack.enter_context(FakeRegistry()).host),
}
REGISTRIES = ["registry", "fake-registry"]
WITH_MANIFESTS = ["oci", "oci-archive", *REGISTRIES]
"""The places that keep manifests and compressed blobs."""
KEEPING_MANIFESTS = [*WITH_MANIFESTS, "store"]
"""The places that keep manifests and compressed blobs that were made elsewhere."""
KEEPING = ["oci", "docker", "store", "fake"]
"""The places where a layer of an earlier image need not be brought again."""
KEEPING_BLOBS = [*KEEPING, *REGISTRIES]
"""The places where a compressed layer of an earlier image need not be brought again."""

A, B, C = (tar_of({name: name.encode() * 2000}) for name in "abc")


@pytest.fixture
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    kind: str = getattr(request, "param", "")
    with ExitStack() as stack:
        yield PLACES[kind](tmp_path, stack)


every_place = pytest.mark.parametrize("storage", PLACES, indirect=True)
places_with_manifests = pytest.mark.parametrize("storage", WITH_MANIFESTS, indirect=True)
places_keeping_manifests = pytest.mark.parametrize("storage", KEEPING_MANIFESTS, indirect=True)
keeping_places = pytest.mark.parametrize("storage", KEEPING, indirect=True)
places_keeping_blobs = pytest.mark.parametrize("storage", KEEPING_BLOBS, indirect=True)


def tars(image: Image) -> list[bytes]:
    return [b"".join(layer.tar()) for layer in image.layers]


@every_place
def test_what_was_written_is_read_back(storage: Storage) -> None:
    image = fresh_image(A, B, env=("A=b",), labels={"x": "<&>"})
    receipt = push_image(image, storage("app:1"))
    found = storage("app:1").read()
    assert receipt.image_id == found.id == image.id
    assert found.config.raw == image.config.raw
    assert tars(found) == [A, B]
    assert [layer.diff_id for layer in found.layers] == [Digest.of(A), Digest.of(B)]
    assert problems_of_image(found) == []


@every_place
def test_a_name_that_was_never_written_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFoundError):
        storage("app:1").read()
    push_image(fresh_image(A), storage("app:1"))
    with pytest.raises(NotFoundError):
        storage("other:1").read()


@every_place
def test_nothing_is_visible_before_the_commit(storage: Storage) -> None:
    place, image = storage("app:1"), fresh_image(A)
    layer = place.write_layer(image.layers[0])
    assert layer.diff_id == Digest.of(A)
    assert layer.size == len(A)
    with pytest.raises(NotFoundError):
        storage("app:1").read()
    place.write_image(replace(image, layers=(layer,)))
    assert storage("app:1").read().id == image.id


@every_place
def test_a_layer_of_unknown_digest_is_read_once(storage: Storage) -> None:
    tape = Tape(A)
    image = fresh_image(A)
    push_image(replace(image, layers=(replace(image.layers[0], tar=tape),)), storage("app:1"))
    assert tape.passes == 1


@every_place
def test_an_image_may_have_one_layer_twice_or_none(storage: Storage) -> None:
    push_image(fresh_image(A, B, A), storage("app:1"))
    assert tars(storage("app:1").read()) == [A, B, A]
    push_image(fresh_image(), storage("app:1"))
    assert storage("app:1").read().layers == ()


@every_place
def test_many_layers_come_back_in_their_order(storage: Storage) -> None:
    many = [tar_of({f"{number}": bytes([number]) * 70_000}) for number in range(12)]
    push_image(fresh_image(*many), storage("app:1"))
    assert tars(storage("app:1").read()) == many


@every_place
def test_writing_a_name_again_replaces_what_it_named(storage: Storage) -> None:
    push_image(fresh_image(A), storage("app:1"))
    push_image(fresh_image(B), storage("app:1"))
    assert tars(storage("app:1").read()) == [B]


@every_place
def test_a_layer_that_is_not_what_it_was_said_to_be_changes_nothing(storage: Storage) -> None:
    push_image(fresh_image(A), storage("app:1"))
    image = fresh_image(B)
    lying = replace(image, layers=(replace(image.layers[0], tar=Tape(C), diff_id=Digest.of(B)),))
    with pytest.raises(FormatError):
        push_image(lying, storage("app:1"))
    assert tars(storage("app:1").read()) == [A]


@every_place
def test_a_config_that_names_other_layers_is_refused(storage: Storage) -> None:
    place, image = storage("app:1"), fresh_image(A)
    layers = tuple(map(place.write_layer, fresh_image(B).layers))
    with pytest.raises(FormatError):
        place.write_image(replace(image, layers=layers))
    with pytest.raises(NotFoundError):
        storage("app:1").read()


@every_place
def test_a_layer_that_breaks_off_while_it_is_read_changes_nothing(storage: Storage) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield A[:999]
        raise FormatError("the source broke off")

    push_image(fresh_image(A), storage("app:1"))
    for known in (None, Digest.of(A + B)):
        image = fresh_image(A + B)
        with pytest.raises(FormatError, match="broke off"):
            push_image(
                replace(image, layers=(replace(image.layers[0], tar=broken, diff_id=known),)),
                storage("app:1"),
            )
    assert tars(storage("app:1").read()) == [A]


@every_place
def test_an_image_can_be_copied_onto_itself(storage: Storage) -> None:
    image = fresh_image(A, B)
    push_image(image, storage("app:1"))
    assert copy(storage("app:1"), storage("app:1")).image_id == image.id
    assert tars(storage("app:1").read()) == [A, B]


@every_place
def test_an_image_in_stored_form_keeps_its_id_and_layers(storage: Storage) -> None:
    image = stored_image(A, B)
    push_image(image, storage("app:1"))
    found = storage("app:1").read()
    assert found.id == image.id
    assert tars(found) == [A, B]
    assert problems_of_image(found) == []


@places_keeping_manifests
def test_manifest_config_and_blobs_are_kept_byte_for_byte(storage: Storage) -> None:
    image = stored_image(A, B)
    receipt = push_image(image, storage("app:1"))
    found = storage("app:1").read()
    assert image.manifest is not None
    assert found.manifest is not None
    assert found.manifest.raw == image.manifest.raw
    assert receipt.manifest_digest == image.manifest.digest
    assert receipt.manifest_size == len(image.manifest.raw)
    for before, after in zip(image.layers, found.layers, strict=True):
        assert before.blob is not None
        assert after.blob is not None
        assert after.descriptor == before.descriptor
        assert b"".join(after.blob()) == b"".join(before.blob())


@places_keeping_manifests
def test_config_and_blobs_are_kept_even_if_the_manifest_has_to_change(storage: Storage) -> None:
    image = stored_image(A, media_type=MediaType.DOCKER_MANIFEST)
    push_image(image, storage("app:1"))
    found = storage("app:1").read()
    assert found.config.raw == image.config.raw
    assert [layer.descriptor.digest for layer in found.layers if layer.descriptor] == [
        layer.descriptor.digest for layer in image.layers if layer.descriptor
    ]
    assert problems_of_image(found) == []


@places_keeping_manifests
def test_a_manifest_that_no_longer_fits_is_made_anew(storage: Storage) -> None:
    image = stored_image(A, B)
    edited = replace(image, config=fresh_image(A, B, user="1000").config)
    receipt = push_image(edited, storage("app:1"))
    found = storage("app:1").read()
    assert found.config.user == "1000"
    assert found.manifest is not None
    assert receipt.manifest_digest == found.manifest.digest
    assert problems_of_image(found) == []


@places_with_manifests
def test_annotations_of_a_new_manifest_are_written(storage: Storage) -> None:
    push_image(replace(fresh_image(A), annotations=(("b", "2"), ("a", "1"))), storage("app:1"))
    found = storage("app:1").read()
    assert found.manifest is not None
    assert dict(found.manifest.annotations) == {"a": "1", "b": "2"}


@places_keeping_manifests
def test_annotations_reach_the_manifest_from_wherever_the_image_is(storage: Storage, tmp_path: Path) -> None:
    annotations = (("a", "1"), ("b", "2"))
    push_image(replace(fresh_image(A), annotations=annotations), storage("app:1"))
    assert storage("app:1").read().annotations == annotations
    layout = Layout(tmp_path / "another", "x")
    copy(storage("app:1"), layout)
    found = layout.read()
    assert found.manifest and dict(found.manifest.annotations) == dict(annotations)
    assert found.id == fresh_image(A).id


@places_keeping_blobs
def test_names_in_one_storage_do_not_disturb_each_other(storage: Storage) -> None:
    push_image(fresh_image(A), storage("app:1"))
    push_image(fresh_image(A, B), storage("app:2"))
    assert tars(storage("app:1").read()) == [A]
    assert tars(storage("app:2").read()) == [A, B]


@keeping_places
def test_a_layer_that_is_there_is_not_read_again(storage: Storage) -> None:
    push_image(fresh_image(A), storage("app:1"))
    tape = Tape(A)
    image = fresh_image(A, user="2")
    push_image(
        replace(image, layers=(replace(image.layers[0], tar=tape, diff_id=Digest.of(A)),)), storage("app:2")
    )
    assert tape.passes == 0
    assert tars(storage("app:2").read()) == [A]


@places_keeping_blobs
def test_a_blob_that_is_there_is_not_read_again(storage: Storage) -> None:
    push_image(stored_image(A), storage("app:1"))
    image = stored_image(A, user="2")
    tape = Tape(b"")
    push_image(replace(image, layers=(replace(image.layers[0], blob=tape),)), storage("app:2"))
    assert tape.passes == 0
    assert tars(storage("app:2").read()) == [A]
