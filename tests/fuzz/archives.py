"""Fuzz targets of archives: layer tars, compressed streams, and the archives that images are stored in."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from fuzz.target import Target, directory, documents, joined, refusing
from packhorse.base.digest import Digest
from packhorse.base.target import Target as Machine
from packhorse.errors import FormatError, HostError, NotFoundError
from packhorse.fs.rooted import RootedTree
from packhorse.oci.archive import DockerArchive, TarIndex, TarWriter
from packhorse.oci.compress import decompress
from packhorse.oci.layout import read_image
from packhorse.oci.place import Image
from packhorse.tar.unpack import UnpackLimits, unpack
from packhorse.tar.writer import directory_entries, stream

LIMITS = UnpackLimits(entries=200, bytes=1 << 20, name=255, depth=20)
_BLOCK = 512


def _summed(data: bytes) -> bytes:
    """The archive with right checksums wherever a reader looks for a header, so that it gets past them."""
    out, at = bytearray(data), 0
    while at + _BLOCK <= len(out):
        block = out[at : at + _BLOCK]
        if block.strip(b"\0"):
            block[148:156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(block)
        digits = bytes(out[at + 124 : at + 136]).strip(b" \0")
        size = int(digits, 8) if digits.isdigit() and not set(digits) & {56, 57} else 0
        at += _BLOCK + (size + -size % _BLOCK if size < len(out) else 0)
    return bytes(out)


@contextmanager
def _guarded() -> Iterator[Path]:
    """A target whose surroundings must be the same afterwards."""
    with directory() as place:
        for name in ("target", "second", "outside"):
            (place / name).mkdir()
        (place / "outside" / "kept").write_text("kept")
        before = _state(place)
        yield place
        assert _state(place) == before, "something outside the target was touched"


def _state(place: Path) -> list[tuple[str, int, int, int]]:
    paths = [place / "outside", place / "outside" / "kept"]
    found = [
        (path.name, *(path.stat())[0:1], path.stat().st_nlink, path.stat().st_ctime_ns) for path in paths
    ]
    return [*found, *((name, 0, 0, 0) for name in sorted(os.listdir(place)))]


def _packed(root: Path) -> bytes:
    with RootedTree.open_local(root) as view:
        return b"".join(stream(directory_entries(view, "/", uid=0, gid=0)))


def _layer(data: bytes) -> None:
    body = _summed(data[1:]) if data[:1] > b"\x40" else data[1:]
    size = max(1, ord(data[:1] or b"\0") % 64 * 100)
    with _guarded() as place, refusing(FormatError, HostError):
        chunks = (body[at : at + size] for at in range(0, len(body), size))
        told = unpack(chunks, place / "target", owner=False, limits=LIMITS)
        for path in (*told.whiteouts, *told.opaque, *told.implied):
            assert not path.startswith("/") and ".." not in path.split("/"), path
        once = _packed(place / "target")
        unpack([once], place / "second", owner=False)
        assert _packed(place / "second") == once, "what was unpacked is packed otherwise"


def _stream(data: bytes) -> None:
    with refusing(FormatError):
        total = 0
        for chunk in decompress(data[at : at + 100] for at in range(0, len(data), 100)):
            assert 0 < len(chunk) <= 1 << 20
            total += len(chunk)
            if total > 8 << 20:
                break


def _index(data: bytes) -> None:
    with directory() as place, refusing(FormatError, NotFoundError):
        path = place / "archive.tar"
        path.write_bytes(_summed(data[1:]) if data[:1] > b"\x40" else data[1:])
        found = TarIndex.read(path)
        for name in ("manifest.json", "a", "d/f"):
            with refusing(FormatError, NotFoundError):
                found.content(name, limit=1 << 20)


def _docker(data: bytes) -> None:
    manifest, *rest = documents(data)
    with directory() as place, refusing(FormatError, NotFoundError):
        path = place / "archive.tar"
        with path.open("wb") as file:
            writer = TarWriter(file)
            for name, content in (("manifest.json", manifest), *((str(n), c) for n, c in enumerate(rest, 1))):
                writer.add(name, [content], len(content))
            writer.close()
        _drain(DockerArchive(path).read())


class _Files:
    """The files of a layout, by digest where they are blobs."""

    def __init__(self, version: bytes, index: bytes, blobs: list[bytes]) -> None:
        self._files = {f"blobs/sha256/{Digest.of(blob).hex}": blob for blob in blobs}
        self._files |= {"oci-layout": version, "index.json": index}

    def content(self, name: str, *, limit: int) -> bytes:
        content = self._get(name)
        if len(content) > limit:
            raise FormatError(f"{name} is too large")
        return content

    def chunks(self, name: str) -> Iterator[bytes]:
        yield self._get(name)

    def _get(self, name: str) -> bytes:
        if name not in self._files:
            raise NotFoundError(f"there is no {name}")
        return self._files[name]


def _layout(data: bytes) -> None:
    version, index, *blobs = [*documents(data), b""]
    with refusing(FormatError, NotFoundError):
        _drain(read_image(_Files(version, index, blobs), "", target=Machine(), where="the layout"))


def _drain(image: Image) -> None:
    for layer in image.layers[:4]:
        with refusing(FormatError, NotFoundError):
            for _ in layer.tar():
                pass


def tar_of(*entries: tuple[str, bytes, bytes | str], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name, type, content or link target), without padding behind its end."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            info.linkname = content if isinstance(content, str) else ""
            info.size = len(content) if isinstance(content, bytes) else 0
            archive.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
        end = archive.offset
    return out.getvalue()[:end] + bytes(2 * _BLOCK)


_FILES = (("d", tarfile.DIRTYPE, b""), ("d/f", tarfile.REGTYPE, b"text"))
_LINKS = (
    ("d/l", tarfile.SYMTYPE, "f"),
    ("l", tarfile.SYMTYPE, "../../outside"),
    ("l/kept", tarfile.REGTYPE, b"new"),
    ("h", tarfile.LNKTYPE, "d/f"),
    ("p", tarfile.FIFOTYPE, b""),
)
_MARKS = ((".wh.a", tarfile.REGTYPE, b""), ("d/.wh..wh..opq", tarfile.REGTYPE, b""))
_LONG = (
    ("n" * 120, tarfile.REGTYPE, b"x"),
    ("l", tarfile.SYMTYPE, "t" * 120),
    ("\udcff", tarfile.REGTYPE, b""),
)
_FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
_TARS = (
    tar_of(*_FILES, *_LINKS),
    tar_of(*_MARKS, *_FILES, *_MARKS),
    *(
        tar_of(*_FILES, *(_LONG if format != tarfile.USTAR_FORMAT else ()), format=format)
        for format in _FORMATS
    ),
)
_TEXT = b"text " * 40
_CONFIG = (
    b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["@%d@"]},'
    b'"config":{"Env":["A=b"]},"history":[{"created_by":"x"}]}'
)
_MANIFEST = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
    b'"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"@3@","size":#3#},'
    b'"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"@4@","size":#4#}]}'
)
_INDEX = (
    b'{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",'
    b'"digest":"@2@","size":#2#,"annotations":{"org.opencontainers.image.ref.name":"a"},'
    b'"platform":{"os":"linux","architecture":"amd64"}}]}'
)
_SMALL = tar_of(("a", tarfile.REGTYPE, b"a"))

TARGETS = (
    Target("layer", _layer, (*(b"\xff" + data for data in _TARS), *(b"\x05" + data for data in _TARS))),
    Target(
        "stream",
        _stream,
        (
            gzip.compress(_TEXT, mtime=0),
            gzip.compress(_TEXT, mtime=0) * 2,
            zstandard.compress(_TEXT),
            zstandard.compress(_TEXT) * 2,
            zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compress(_TEXT),
            _TEXT,
        ),
    ),
    Target("archive", _index, tuple(b"\xff" + data for data in _TARS)),
    Target(
        "docker-archive",
        _docker,
        (joined(b'[{"Config":"1","RepoTags":["a:b"],"Layers":["2"]}]', _CONFIG % 2, _SMALL),),
    ),
    Target(
        "layout",
        _layout,
        (joined(b'{"imageLayoutVersion":"1.0.0"}', _INDEX, _MANIFEST, _CONFIG % 4, _SMALL),),
    ),
)
