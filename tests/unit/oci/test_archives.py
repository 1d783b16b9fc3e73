"""Archives are written whole, with the same bytes for the same image, and read as docker saves them."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.image_problems import problems_of_image
from fakes.small_image import fresh_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, InputError, NotFoundError, StoreError
from packhorse.oci.archive import DockerArchive, OciArchive
from packhorse.oci.layout import Layout
from packhorse.oci.place import Place, copy, push_image
from packhorse.oci.reference import Reference

A, B = tar_of({"a": b"a" * 3000}), tar_of({"b": b"b" * 3000})
APP = Reference.parse("me/app:1")
ARCHIVES: dict[str, Callable[[Path], Place]] = {
    "oci-archive": lambda path: OciArchive(path, "v1"),
    "docker-archive": lambda path: DockerArchive(path, APP),
}
every_archive = pytest.mark.parametrize("archive", ARCHIVES.values(), ids=ARCHIVES)


def names(path: Path) -> list[str]:
    with tarfile.open(path, "r:") as tar:
        return tar.getnames()


def saved(path: Path, entries: list[dict[str, Any]], files: dict[str, bytes | str]) -> Path:
    """An archive as some `docker save` writes it; a file that is a string is a symbolic link."""
    with tarfile.open(path, "w") as tar:
        for name, data in {**files, "manifest.json": json.dumps(entries).encode()}.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname, data = tarfile.SYMTYPE, data, b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@every_archive
def test_the_same_image_gives_the_same_bytes(archive: Callable[[Path], Place], tmp_path: Path) -> None:
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    push_image(fresh_image(A, B), archive(one))
    push_image(fresh_image(A, B), Layout(tmp_path / "layout", "v1"))
    copy(Layout(tmp_path / "layout", "v1"), archive(two))
    assert one.read_bytes() == two.read_bytes()


@every_archive
def test_nothing_is_left_of_a_write_that_failed(archive: Callable[[Path], Place], tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield A[:9]
        raise FormatError("the source broke off")

    path = tmp_path / "a.tar"
    push_image(fresh_image(A), archive(path))
    before = path.read_bytes()
    image = stored_image(A)
    layers = (replace(image.layers[0], tar=broken, blob=broken),)
    with pytest.raises(FormatError, match="broke off"):
        push_image(replace(image, layers=layers), archive(path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@every_archive
def test_an_archive_where_no_directory_is_cannot_be_written(
    archive: Callable[[Path], Place], tmp_path: Path
) -> None:
    with pytest.raises(StoreError):
        push_image(fresh_image(A), archive(tmp_path / "nowhere" / "a.tar"))


@every_archive
def test_no_archive_takes_the_place_of_what_is_no_file(
    archive: Callable[[Path], Place], tmp_path: Path
) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("directory", "pipe", "link"):
        with pytest.raises(StoreError, match="cannot be replaced by an archive"):
            push_image(fresh_image(A), archive(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "link", "pipe"]
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()


@every_archive
def test_an_archive_goes_behind_a_link(archive: Callable[[Path], Place], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("other/a.tar")
    for _ in range(2):
        push_image(fresh_image(A), archive(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert archive(tmp_path / "other/a.tar").read().id == fresh_image(A).id


def test_a_compressed_docker_archive_is_refused_with_a_hint(tmp_path: Path) -> None:
    archive = DockerArchive(tmp_path / "a.tar.gz", APP)
    push_image(fresh_image(A), archive)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar.gz").read_bytes()))
    with pytest.raises(FormatError, match="cannot be read as a tar") as caught:
        archive.read()
    assert "decompress it first" in caught.value.why


def test_a_compressed_oci_archive_is_read(tmp_path: Path) -> None:
    archive = OciArchive(tmp_path / "a.tar.gz", "v1")
    push_image(fresh_image(A), archive)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar.gz").read_bytes()))
    assert archive.read().id == fresh_image(A).id


@every_archive
def test_an_archive_holds_a_layer_once(archive: Callable[[Path], Place], tmp_path: Path) -> None:
    push_image(fresh_image(A, B, A), archive(tmp_path / "a.tar"))
    files = [name for name in names(tmp_path / "a.tar") if name not in ("blobs", "blobs/sha256")]
    assert len(files) == len(set(files)) == (6 if "oci-layout" in files else 4)


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from fakes.small_image import fresh_image
from packhorse.base.digest import Digest
from packhorse.oci.place import push_image
from packhorse.oci.archive import DockerArchive
from packhorse.oci.layout import Layout
from packhorse.oci.archive import OciArchive
from packhorse.oci.place import Layer

def tar():
    yield bytes(1 << 20)
    os.kill(os.getpid(), signal.SIGKILL)

kind, path, known = sys.argv[1:]
place = {"oci": Layout, "oci-archive": OciArchive, "docker-archive": DockerArchive}[kind](Path(path))
whole = bytes(2 << 20)
layer = Layer(tar, Digest.of(whole) if known == "known" else None)
push_image(replace(fresh_image(whole), layers=(layer,)), place)
"""


@pytest.mark.system
@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive"])
@pytest.mark.parametrize("known", ["known", "unknown"])
def test_a_killed_writer_leaves_nothing_under_the_name(kind: str, known: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run([sys.executable, "-c", KILLED, kind, str(path), known], env=environment)
    assert ended.returncode == -9
    if kind == "oci":
        assert json.loads((path / "index.json").read_bytes())["manifests"] == []
    else:
        assert not path.exists()


def test_an_oci_archive_is_a_layout_with_the_index_first(tmp_path: Path) -> None:
    push_image(fresh_image(A), OciArchive(tmp_path / "a.tar", "v1"))
    assert names(tmp_path / "a.tar")[:4] == ["oci-layout", "index.json", "blobs", "blobs/sha256"]


def test_a_docker_archive_has_plain_layers_and_dockers_short_name(tmp_path: Path) -> None:
    image = fresh_image(A, B)
    push_image(image, DockerArchive(tmp_path / "a.tar", Reference.parse("docker.io/library/app")))
    with tarfile.open(tmp_path / "a.tar", "r:") as tar:
        manifest = tar.extractfile("manifest.json")
        layer = tar.extractfile(f"{Digest.of(A).hex}.tar")
        assert manifest
        assert layer
        assert json.load(manifest) == [
            {
                "Config": f"{image.id.hex}.json",
                "RepoTags": ["app:latest"],
                "Layers": [f"{Digest.of(A).hex}.tar", f"{Digest.of(B).hex}.tar"],
            }
        ]
        assert layer.read() == A


def test_a_docker_archive_takes_no_digest_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"(?s)cannot be called.*give it a tag: {APP.familiar_name}"):
        push_image(fresh_image(A), DockerArchive(tmp_path / "a.tar", APP.with_digest(Digest.of(b""))))
    assert not (tmp_path / "a.tar").exists()


def test_several_images_of_docker_save_are_told_apart_by_name(tmp_path: Path) -> None:
    one, two = fresh_image(A).config.raw, fresh_image(B, A).config.raw
    files: dict[str, bytes | str] = {"1.json": one, "2.json": two, "x/layer.tar": A, "y/layer.tar": B}
    files["z/layer.tar"] = "../x/layer.tar"
    entries: list[dict[str, Any]] = [
        {"Config": "1.json", "RepoTags": ["one:latest", "me/app:1"], "Layers": ["x/layer.tar"]},
        {"Config": "2.json", "RepoTags": ["NOT A NAME", "two:1"], "Layers": ["y/layer.tar", "z/layer.tar"]},
        {"Config": "1.json", "RepoTags": None, "Layers": ["x/layer.tar"]},
    ]
    path = saved(tmp_path / "a.tar", entries, files)
    assert DockerArchive(path, Reference.parse("docker.io/library/one")).read().config.raw == one
    assert DockerArchive(path, APP).read().config.raw == one
    image = DockerArchive(path, Reference.parse("two:1")).read()
    assert [b"".join(layer.tar()) for layer in image.layers] == [B, A]
    assert problems_of_image(image) == []
    with pytest.raises(NotFoundError) as caught:
        DockerArchive(path).read()
    assert "one:latest" in caught.value.why


def test_compressed_layers_in_a_docker_archive_are_read_as_well(tmp_path: Path) -> None:
    image = fresh_image(A)
    entry = {"Config": "c", "Layers": ["blobs/sha256/x"]}
    path = saved(tmp_path / "a.tar", [entry], {"c": image.config.raw, "blobs/sha256/x": gzip.compress(A)})
    (layer,) = DockerArchive(path).read().layers
    assert layer.size is None
    assert b"".join(layer.tar()) == A
    copy(DockerArchive(path), DockerArchive(tmp_path / "b.tar", APP))
    assert DockerArchive(tmp_path / "b.tar").read().layers[0].size == len(A)


CONFIG = fresh_image(A).config.raw


@pytest.mark.parametrize(
    "entry",
    [
        {"Config": "c", "Layers": []},
        {"Config": "c", "Layers": ["a", "a"]},
        {"Config": "c", "Layers": ["nothing"]},
        {"Config": "c", "Layers": "a"},
        {"Config": "c", "Layers": ["../../../../etc/hostname"]},
        {"Config": "a", "Layers": ["a"]},
        {"Config": 3, "Layers": ["a"]},
        {"Layers": ["a"]},
    ],
)
def test_a_docker_archive_that_contradicts_itself_is_refused(entry: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tar", [entry], {"c": CONFIG, "a": A})
    with pytest.raises(FormatError):
        DockerArchive(path).read()


def test_a_docker_archive_with_other_bytes_in_a_layer_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tar", [{"Config": "c", "Layers": ["a"]}], {"c": CONFIG, "a": B})
    image = DockerArchive(path).read()
    with pytest.raises(FormatError, match="not what they should be"):
        list(image.layers[0].tar())
    assert problems_of_image(image)


@every_archive
def test_an_archive_of_the_other_kind_is_not_found(archive: Callable[[Path], Place], tmp_path: Path) -> None:
    other = saved(tmp_path / "a.tar", [], {})
    with pytest.raises(NotFoundError):
        archive(other).read()
