"""Says which packages and files the roots of the default builder have, and writes the tar of a root.

`distro.roots` gives the package lists to mmdebstrap, and pipes its tar through `write_root`. Shell hooks of
mmdebstrap could do the same, but would differ with its modes. A root has what its packages contain, and
nothing of the machine or the time of its making. `builder.default` compares the packages of two roots.
Nothing here runs a program or opens a file.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import IO, BinaryIO, Literal, cast

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.errors import FormatError

RootKind = Literal["build", "run"]

# What an application can rely on, besides the distribution's essential packages (libc, sh, bash, coreutils,
# grep, sed, tar, perl-base, …). Those are complete, because other packages rely on them (Debian policy 3.8).
# No apt: a rebase renews an application image, not an upgrade inside it. openssl and libssl come with
# ca-certificates.
_RUN = (
    "ca-certificates",
    "libatomic1",
    "libgcc-s1",
    "libstdc++6",
    "netbase",
    "tzdata",
    "usr-is-merged",
    "zlib1g",
)

# The build image has the headers of a library only if the run image has the library (platform.md, "Base
# Images": ABI).
_BUILD = (
    "apt",
    "build-essential",
    "curl",
    "file",
    "git",
    "libssl-dev",
    "openssh-client",
    "pkgconf",
    "python3",
    "python3-pip",
    "python3-venv",
    "unzip",
    "xz-utils",
    "zlib1g-dev",
)


def wanted_packages(kind: RootKind) -> tuple[str, ...]:
    """Returns the names of the packages to install, sorted. The build image has all of the run image."""
    return _RUN if kind == "run" else tuple(sorted(_RUN + _BUILD))


@dataclass(frozen=True, slots=True, order=True)
class PackageChange:
    """One package that differs between two roots; an empty version means that a root does not have it."""

    name: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.name} {self.old or '(new)'} → {self.new or '(gone)'}"


def changed_packages(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[PackageChange, ...]:
    """Compares two mappings of names to versions; returns the differences, sorted by name."""
    return tuple(
        PackageChange(name, old.get(name, ""), new.get(name, ""))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


# 1980-01-01T00:00:01Z, the date of everything in Cloud Native Buildpacks images.
MTIME = 315532801
CNB_ID = 1000
_CNB_HOME = "home/cnb"

# Directories that packages own stay, because maintainer scripts of packages installed later expect them.
_NO_FILES_BELOW = ("usr/share/info", "usr/share/man", "var/backups", "var/cache", "var/lib/apt", "var/log")
_NOTHING_BELOW = ("usr/share/locale", "dev", "proc", "run", "sys", "tmp")
# debconf's answers: without them a package installed later (by an image extension) would ask again.
_KEPT = re.compile(r"var/cache/debconf/(config|passwords|templates)\.dat")
_DROPPED = re.compile(
    r"dev"  # only some modes of mmdebstrap write it, so `write_root` adds it
    r"|etc/(hostname|resolv\.conf|fstab|machine-id|\.pwd\.lock|[^/]+-)"
    r"|etc/apt/(sources\.list(\.d/.+)?|apt\.conf|(apt\.conf|preferences)\.d/\d\d(mmdebstrap|packhorse))"
    r"|etc/dpkg/dpkg\.cfg\.d/99mmdebstrap"
    r"|var/lib/dbus/machine-id|var/lib/systemd/random-seed"
    r"|var/lib/dpkg/(.+-old|lock|lock-frontend|triggers/Lock)"
)
_COPYRIGHT = re.compile(r"usr/share/doc/[^/]+(/copyright)?")
_USER_LINES = {
    "etc/passwd": f"cnb:x:{CNB_ID}:{CNB_ID}::/{_CNB_HOME}:/bin/bash\n",
    "etc/group": f"cnb:x:{CNB_ID}:\n",
    "etc/shadow": "cnb:*::0:99999:7:::\n",
    "etc/gshadow": "cnb:!::\n",
}
_DPKG_STATUS = "var/lib/dpkg/status"
_OS_RELEASE = "usr/lib/os-release"


@dataclass(frozen=True, slots=True)
class RootEntry:
    """One directory (its name ends in `/`) or file of `size` bytes to add to a root; owned by root."""

    name: str
    size: int = 0
    open: Callable[[], IO[bytes]] = BytesIO
    executable: bool = False


@dataclass(frozen=True, slots=True)
class WrittenRoot:
    """What `write_root` wrote: the tar's digest and size, and the two files that describe its content."""

    digest: Digest
    size: int
    dpkg_status: str
    os_release: str


def is_kept(name: str, *, directory: bool) -> bool:
    """Whether the entry `name` of mmdebstrap's tar stays; `name` has no slash at either end."""
    if any(name.startswith(f"{top}/") for top in _NOTHING_BELOW):
        return False
    if name.startswith("usr/share/doc/"):
        return _COPYRIGHT.fullmatch(name) is not None
    if not directory and any(name.startswith(f"{top}/") for top in _NO_FILES_BELOW):
        return _KEPT.fullmatch(name) is not None
    return _DROPPED.fullmatch(name) is None


def write_root(source: BinaryIO, target: BinaryIO, extra: Iterable[RootEntry] = ()) -> WrittenRoot:
    """Writes the root in the tar stream `source`, then /dev, the CNB user's home and `extra`, to `target`.

    Keeps the order, owners, modes and contents of `source`; sets times to `MTIME`; drops owner names, device
    numbers and extended headers. Raises tarfile.TarError if `source` is not a whole tar, and FormatError if
    it is not a Debian root.
    """
    sink = _HashingWriter(target)
    read: dict[str, str] = {}
    with (
        tarfile.open(fileobj=source, mode="r|") as old,
        tarfile.open(fileobj=cast(BinaryIO, sink), mode="w|", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old:
            info = _normalise(member)
            if not info.name or not is_kept(info.name, directory=info.isdir()):
                continue
            content: IO[bytes] | None = old.extractfile(member) if member.isreg() else None
            if content is not None and info.name in (_DPKG_STATUS, _OS_RELEASE, *_USER_LINES):
                data = content.read() + _USER_LINES.get(info.name, "").encode()
                read[info.name] = data.decode(errors="replace")
                info.size = len(data)
                content = BytesIO(data)
            new.addfile(info, content)
        _add(new, RootEntry("dev/"))
        _add(new, RootEntry(f"{_CNB_HOME}/"), owner=CNB_ID)
        for entry in extra:
            _add(new, entry)
    if not {_DPKG_STATUS, _OS_RELEASE, "etc/passwd", "etc/group"} <= read.keys():
        raise FormatError(
            "the root file system that mmdebstrap made is not complete",
            why=f"it has {', '.join(sorted(read)) or 'none'} of the files that every Debian system has",
        )
    return WrittenRoot(
        Digest(sink.sha256.hexdigest()),
        sink.size,
        dpkg_status=read[_DPKG_STATUS],
        os_release=read[_OS_RELEASE],
    )


def _normalise(member: tarfile.TarInfo) -> tarfile.TarInfo:
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise FormatError(f"{member.name} cannot be in a root file system", why="it is a device or a pipe")
    info = tarfile.TarInfo("" if member.name == "." else member.name.removeprefix("./"))
    info.type = tarfile.REGTYPE if member.isreg() else member.type
    info.mode, info.uid, info.gid = member.mode, member.uid, member.gid
    info.linkname = member.linkname.removeprefix("./") if member.islnk() else member.linkname
    info.size = member.size if member.isreg() else 0
    info.mtime = MTIME
    return info


def _add(tar: tarfile.TarFile, entry: RootEntry, *, owner: int = 0) -> None:
    info = tarfile.TarInfo(entry.name.rstrip("/"))
    info.mtime, info.uid, info.gid = MTIME, owner, owner
    if entry.name.endswith("/"):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
        return
    info.size, info.mode = entry.size, 0o755 if entry.executable else 0o644
    with entry.open() as content:
        tar.addfile(info, content)


class _HashingWriter:
    """Counts and hashes the bytes that it passes on to a file."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._target.write(data)
