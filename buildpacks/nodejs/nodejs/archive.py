"""Unpacks an npm package archive into a layer: only regular files, with the same modes on every machine.

Called by `runtime` and `managers.tool`. npm has verified the archive before. Its content may still be hostile
to paths, or larger than any disk.
"""

from __future__ import annotations

import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from packhorse.errors import FormatError

Choose = Callable[[PurePosixPath], Path | None]

_GZIP = 16 + zlib.MAX_WBITS
_CHUNK = 1 << 18
# The largest packages that are unpacked here have some 150 MB and some 5,000 files.
_MAX_SIZE = 2 << 30
_MAX_ENTRIES = 1_000_000
_TOO_LARGE = "no package of Node.js or of a package manager is so large: the registry sent something else"


class _Decompressor:
    """Reads a gzip file, and raises FormatError if its content is larger than allowed."""

    def __init__(self, file: BinaryIO, name: str, largest: int) -> None:
        self._file, self._name = file, name
        self._left = self._largest = largest
        self._member = zlib.decompressobj(_GZIP)

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end. Raises EOFError for a file that was cut, and zlib.error."""
        while True:
            if self._member.eof:
                rest = self._member.unused_data or self._file.read(_CHUNK)
                if not rest.strip(b"\0"):
                    return b""
                self._member = zlib.decompressobj(_GZIP)
            else:
                rest = self._member.unconsumed_tail or self._file.read(_CHUNK)
                if not rest:
                    raise EOFError("it ends too early")
            data = self._member.decompress(rest, size)
            self._left -= len(data)
            if self._left < 0:
                raise FormatError(f"{self._name} holds more than {self._largest >> 20} MiB", why=_TOO_LARGE)
            if data:
                return data


def unpack(archive: Path, choose: Choose, *, largest: int = _MAX_SIZE, most: int = _MAX_ENTRIES) -> None:
    """Writes each file of `archive` to the path that `choose` returns; skips it for None.

    `choose` gets the path below the archive's top folder. Files get mode 0755 if their owner may execute
    them, else 0644. Like npm, it skips links and special files. Raises FormatError for a path outside the
    folder, an archive that cannot be read, and one with more than `largest` bytes or `most` entries.
    """
    try:
        with (
            archive.open("rb") as packed,
            tarfile.open(
                fileobj=cast(BinaryIO, _Decompressor(packed, archive.name, largest)),
                mode="r|",
                bufsize=_CHUNK,
            ) as tar,
        ):
            for number, member in enumerate(tar, 1):
                if number > most:
                    raise FormatError(f"{archive.name} has more than {most} entries", why=_TOO_LARGE)
                if not member.isfile():
                    continue
                inner = _strip_top_folder(member.name, archive)
                target = choose(inner)
                content = tar.extractfile(member)
                if target is None or content is None:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                target.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise FormatError(f"cannot unpack {archive.name}", why=str(error)) from error


def _strip_top_folder(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise FormatError(f"{archive.name} has a file outside its folder: {name}")
    return path.relative_to(path.parts[0])
