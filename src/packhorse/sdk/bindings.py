"""Reads service bindings: secrets that a platform gives to a build, one directory each.

Knows the layout of servicebinding.io ("Workload Projection"), and the older one of the buildpacks
specification's bindings extension, with `metadata` and `secret`. The values hold paths and no secrets, so
they can be printed. Called by `sdk.context` and `sdk.download`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.errors import InputError

_ROOTS = ("SERVICE_BINDING_ROOT", "CNB_BINDINGS")


@dataclass(frozen=True, slots=True)
class Binding:
    """One binding: its type and provider, and the path of each of its entries by name."""

    name: str
    type: str
    provider: str
    entries: Mapping[str, Path]

    def file(self, *names: str) -> Path | None:
        """The path of the first of these entries that exists, else None."""
        return next((self.entries[name] for name in names if name in self.entries), None)

    def secret(self, name: str) -> str | None:
        """The content of an entry, stripped, or None. Raises InputError if it cannot be read."""
        path = self.entries.get(name)
        return _text(path) if path is not None else None


@dataclass(frozen=True, slots=True)
class Bindings:
    """All bindings below `directory`, by name."""

    directory: Path
    all: tuple[Binding, ...] = ()

    @classmethod
    def read(cls, directory: Path) -> Bindings:
        """Reads the directory, which may be missing. Raises InputError for a binding without a type."""
        try:
            folders = sorted(path for path in directory.iterdir() if path.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return cls(directory)
        except OSError as error:
            raise InputError(
                f"the bindings in {directory} cannot be read", why=error.strerror or ""
            ) from error
        # Kubernetes keeps its own files below names that begin with two dots.
        return cls(directory, tuple(_binding(path) for path in folders if not path.name.startswith("..")))

    @classmethod
    def find(cls, env: Mapping[str, str], platform: Path) -> Bindings:
        """Reads the directory in SERVICE_BINDING_ROOT, else the one of the platform directory."""
        named = next((env[name] for name in _ROOTS if env.get(name)), "")
        return cls.read(Path(named) if named else platform / "bindings")

    def of_type(self, type: str, *, provider: str = "") -> tuple[Binding, ...]:
        """Every binding of a type, and of a provider if one is given; case does not matter."""
        return tuple(
            binding
            for binding in self.all
            if binding.type.lower() == type.lower()
            and (not provider or binding.provider.lower() == provider.lower())
        )

    def one_of_type(self, type: str, *, provider: str = "") -> Binding | None:
        """The only binding of a type, or None. Raises InputError if there are several."""
        found = self.of_type(type, provider=provider)
        if len(found) > 1:
            raise InputError(
                f"there are {len(found)} bindings of type {type}",
                why=f"{self.directory} has {', '.join(binding.name for binding in found)}",
                fix="only one can be used: remove the others",
            )
        return found[0] if found else None


def _binding(directory: Path) -> Binding:
    if (directory / "metadata").is_dir():
        plain, secret = _entries(directory / "metadata"), _entries(directory / "secret")
        kind, provider = plain.pop("kind", None), plain.pop("provider", None)
        entries, wanted = plain | secret, "metadata/kind"
    else:
        entries = _entries(directory)
        kind, provider = entries.pop("type", None), entries.pop("provider", None)
        wanted = "type"
    if kind is None:
        raise InputError(
            f"the binding {directory.name} has no type",
            why=f"there is no file {wanted} in {directory}",
            fix="write the type into that file: npmrc, for instance",
        )
    return Binding(directory.name, _text(kind), _text(provider) if provider else "", entries)


def _entries(directory: Path) -> dict[str, Path]:
    if not directory.is_dir():
        return {}
    return {path.name: path for path in sorted(directory.iterdir()) if path.is_file()}


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or "" if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{path} cannot be read", why=why, fix="make it readable for the build") from error
