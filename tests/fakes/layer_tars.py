"""Layer tars of a few entries, and what is in a directory, both in the terms of `layer_model`."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path

from fakes.layer_model import Entry

_TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "device": tarfile.CHRTYPE,
}


def tar(entries: Iterable[Entry], *, mode: int = 0o755) -> bytes:
    """The entries as a tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for kind, name, text in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = _TYPES[kind], mode, 1_000_000_000
            content = text.encode() if kind == "file" else b""
            info.linkname = text if kind in ("link", "hard") else ""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def listed(top: Path) -> dict[str, tuple[str, int, str]]:
    """Every path below `top`: its kind, mode (0 of a link), and content or target."""
    found: dict[str, tuple[str, int, str]] = {}
    for above, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(above, name)
            status = path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            if path.is_symlink():
                what = ("link", 0, os.readlink(path))
            elif stat.S_ISDIR(status.st_mode):
                what = ("dir", mode, "")
            elif stat.S_ISFIFO(status.st_mode):
                what = ("fifo", mode, "")
            else:
                what = ("file", mode, path.read_text())
            found[str(path.relative_to(top))] = what
    return found
