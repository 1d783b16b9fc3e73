"""Whatever an engine says of its images: an image, or an error with a reason, and never a defect of ours."""

from __future__ import annotations

import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from fakes.small_image import stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.errors import EngineError, FormatError, NotFoundError, PackhorseError
from packhorse.oci.archive import write_docker_archive
from packhorse.oci.engine import Daemon
from packhorse.oci.engine_client import Address, Engine
from packhorse.oci.place import Image, Layer, copy, push_image
from packhorse.oci.reference import Reference
from packhorse.oci.types import Config
from packhorse.store.store import Store

IMAGE = stored_image(tar_of({"a": b"a"}), tar_of({"b": b"b"}))
ODD: list[Any] = [
    *(None, True, 0, -1, 1e300, 10**40, "", "x", "\ud800", "\x1b[2J", "../../etc/passwd", [], {}),
    *([None], [1], [[]], [{}], ["x", "x"], [["a", "b", "c"]], {"": None}, {"Id": []}, {"Name": 7}),
]
DEEP = "[" * 5000 + "]" * 5000


def told_of(image: Image) -> dict[str, Any]:
    """What an engine tells of an image."""
    return {
        "Id": str(image.id),
        "Architecture": image.config.architecture,
        "Os": image.config.os,
        "Created": image.config.created,
        "Config": {"Env": ["A=1"], "Labels": {}},
        "RootFS": {"Type": "layers", "Layers": [str(each) for each in image.config.diff_ids]},
    }


def saved(image: Image) -> bytes:
    out = BytesIO()
    write_docker_archive(image, out, [Reference.parse("x")])
    return out.getvalue()


class Nothing:
    """Of whose images nothing is known here."""

    def config(self, digest: Digest) -> bytes | None:
        return None

    def layer(self, diff_id: Digest) -> Layer | None:
        return None


def archive(**members: bytes) -> bytes:
    """What an engine may save: any tar."""
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("_", "/"))
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return out.getvalue()


@contextmanager
def answering(**answers: Any) -> Iterator[Engine]:
    """An engine with these answers in place of its own, by the ends of their paths; bytes are as they are."""
    usual: dict[str, Any] = {
        "_ping": b"OK",
        "version": {"ApiVersion": "1.41", "Components": [{"Name": "Engine"}]},
        "info": {"DriverStatus": [["Backing Filesystem", "extfs"]]},
        "history": [{"Created": 1, "CreatedBy": "layer 0"}, {"Created": 1, "CreatedBy": "layer 1"}],
        "images": [{"Id": str(IMAGE.id), "Created": 1}],
        "inspect": told_of(IMAGE),
        "get": saved(IMAGE),
        "load": {"stream": "Loaded image: x:latest"},
    } | answers

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            end = self.path.partition("?")[0].rpartition("/")[2]
            answer = usual[
                "images"
                if end == "json" and "images/json" in self.path
                else {"json": "inspect"}.get(end, end)
            ]
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Api-Version", "1.41")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))  # an archive says how long it is
            self.answer()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Engine(Address(f"tcp://127.0.0.1:{server.server_address[1]}", "--docker-host"))
        server.shutdown()


def used(engine: Engine, spool: Path) -> list[PackhorseError]:
    """Reads an image from the engine with its layers, and puts one there; the errors that were explained."""
    errors = []
    for do in (
        lambda: [
            b"".join(layer.tar()) for layer in Daemon("x", engine, spool=spool, known=Nothing()).read().layers
        ],
        lambda: push_image(IMAGE, Daemon("x", engine, spool=spool, known=Nothing())),
    ):
        try:
            do()
        except PackhorseError as error:
            assert error.why or error.fix
            errors.append(error)
    return errors


def test_what_an_engine_usually_says_is_understood(tmp_path: Path) -> None:
    with answering() as engine:
        assert used(engine, tmp_path) == []


def test_a_layer_that_an_engine_hands_out_in_place_of_another_is_not_stored(tmp_path: Path) -> None:
    evil = tar_of({"b": b"B"})
    with tarfile.open(fileobj=BytesIO(saved(IMAGE))) as tar:
        members = {each.name: tar.extractfile(each) for each in tar.getmembers()}
        contents = {name: file.read() for name, file in members.items() if file is not None}
    contents[f"{IMAGE.config.diff_ids[1].hex}.tar"] = evil
    with (
        answering(get=archive(**contents)) as engine,
        Store.open(tmp_path / "store") as store,
        pytest.raises(FormatError) as caught,
    ):
        copy(Daemon("x", engine, spool=tmp_path, known=store), store.place("x"))
    assert str(IMAGE.config.diff_ids[1]) in str(caught.value) and str(Digest.of(evil)) in str(caught.value)
    assert not (tmp_path / "store/blobs/sha256" / Digest.of(evil).hex).exists()


def test_an_image_that_an_engine_has_by_a_digest_can_be_kept_under_it(tmp_path: Path) -> None:
    digest = Digest.of(b"its manifest, which no engine shows")
    names = [f"example.test/x@{digest}"]
    with Store.open(tmp_path / "store") as store:
        for told in ({**told_of(IMAGE), "RepoDigests": names}, {**told_of(IMAGE), "RepoDigests": 7}):
            with answering(inspect=told) as engine:
                image = Daemon("x", engine, spool=tmp_path, known=store).read()
            assert image.has_digest(digest) == (told["RepoDigests"] == names)
            if image.has_digest(digest):
                push_image(image, store.place(names[0]))
        assert store.place(names[0]).read().id == image.id


@pytest.mark.parametrize("question", ["version", "info", "history", "images", "inspect", "load"])
def test_an_answer_may_be_anything(question: str, tmp_path: Path) -> None:
    for odd in ODD:
        with answering(**{question: odd}) as engine:
            used(engine, tmp_path)
    for raw in (b"", b"{", b"\xff\xfe", DEEP.encode(), b'{"a":' + DEEP.encode() + b"}"):
        with answering(**{question: raw}) as engine:
            used(engine, tmp_path)


@pytest.mark.system
@pytest.mark.parametrize("field", [*told_of(IMAGE), "Variant", "Author"])
def test_what_is_told_of_an_image_may_be_anything(field: str, tmp_path: Path) -> None:
    for odd in ODD:
        with answering(inspect={**told_of(IMAGE), field: odd}, get=b"") as engine:
            used(engine, tmp_path)
    for odd in ODD:
        entry = {"Created": odd, "CreatedBy": odd, "Comment": odd, "Size": odd}
        with answering(history=[entry, entry], get=b"") as engine:
            used(engine, tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"x" * 512,
        archive(),
        archive(**{"manifest.json": b"[]"}),
        archive(**{"manifest.json": b'[{"Config": "../../../etc/passwd", "Layers": []}]'}),
        archive(**{"manifest.json": b'[{"Config": 7, "Layers": "x"}]'}),
        archive(**{"manifest.json": b'[{"Config": "c", "Layers": ["../l"]}]', "c": IMAGE.config.raw}),
        archive(**{"manifest.json": DEEP.encode()}),
    ],
)
def test_what_is_saved_may_be_anything(given: bytes, tmp_path: Path) -> None:
    with answering(history=[], get=given) as engine:
        (error,) = used(engine, tmp_path)
    assert isinstance(error, FormatError | NotFoundError)


def test_layers_whose_length_nobody_knows_are_read_side_by_side(tmp_path: Path) -> None:
    """Each waits until the other is read, too."""
    both = threading.Barrier(2, timeout=60)

    def waiting(layer: Layer) -> Layer:
        def tar() -> Iterator[bytes]:
            both.wait()
            yield from layer.tar()

        return Layer(tar, layer.diff_id)

    with answering() as engine:
        image = Image(IMAGE.config, tuple(map(waiting, IMAGE.layers)))
        push_image(image, Daemon("x", engine, spool=tmp_path, known=Nothing()))


def test_an_engine_whose_disk_is_full_is_told_with_what_helps(tmp_path: Path) -> None:
    said = {"error": "Error processing tar file(exit status 1): write /x.tar: no space left on device"}
    with (
        answering(load=said, images=[]) as engine,
        pytest.raises(EngineError, match="did not take") as raised,
    ):
        push_image(IMAGE, Daemon("x", engine, spool=tmp_path, known=Nothing()))
    assert "free some space where the engine keeps images" in raised.value.fix


def test_an_image_without_layers_is_told_where_an_engine_cannot_have_it(tmp_path: Path) -> None:
    none = Image(Config.parse(b'{"os": "linux", "architecture": "amd64"}'), ())
    with answering() as engine, pytest.raises(FormatError, match="cannot take x"):
        push_image(none, Daemon("x", engine, spool=tmp_path, known=Nothing()))
