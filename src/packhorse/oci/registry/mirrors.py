"""Reads containers' registries.conf, version 2, and reads images from the mirrors that it names.

Everything is read from the first mirror that has it, then from the registry. Everything is written to the
registry only. Search lists and aliases for short names are ignored: a short name means docker's, so `debian`
is `docker.io/library/debian` on every machine. `host.registries` calls this, and `host.wiring` makes places
and names. It is one of the modules that read the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.files import is_file, read
from packhorse.errors import InputError, NetworkError, NotFoundError, RegistryError
from packhorse.oci.attached import Referrer
from packhorse.oci.place import Image, Layer, Place, Receipt
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.place import RegistryName
from packhorse.oci.types import Descriptor, Document

_LIMIT = 1 << 20
_RULE = re.compile(rb"""^[ \t]*(?:\[\[[ \t]*["']?registry|["']?registry["']?[ \t]*=)""", re.MULTILINE)
_SYSTEM = Path("/etc/containers/registries.conf")


@dataclass(frozen=True, slots=True)
class RegistrySource:
    """A registry, with part of a repository or none, that has images; `insecure` waives encryption.

    `pulls` says of a mirror which names it is asked for: `all`, `digest-only` or `tag-only`.
    """

    location: str
    insecure: bool = False
    pulls: str = "all"

    @property
    def host(self) -> str:
        """Its registry: HOST or HOST:PORT."""
        return self.location.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for all names below a prefix: a registry, part of a repository, or `*.DOMAIN`."""

    prefix: str
    source: RegistrySource
    mirrors: tuple[RegistrySource, ...] = ()
    blocked: bool = False
    where: str = ""

    def covers(self, reference: Reference) -> bool:
        """Whether a name is below the prefix."""
        if self.prefix.startswith("*."):
            host = reference.registry.partition(":")[0]
            return host.endswith(self.prefix[1:])
        return f"{reference.name}/".startswith(f"{self.prefix}/")

    def rewrite(self, source: RegistrySource, reference: Reference) -> Reference:
        """A name as a source has it; raises InputError where that is no name."""
        if not source.location:
            return reference
        prefix = reference.registry if self.prefix.startswith("*.") else self.prefix
        end = str(reference).removeprefix(reference.name)
        found = Reference.parse(f"{source.location}{reference.name[len(prefix) :]}{end}")
        return Reference(found.registry, found.repository, reference.tag, reference.digest)


@dataclass(frozen=True, slots=True)
class Registries:
    """The rules of all files; the first that covers a name holds, longer prefixes come first."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def read(cls, files: Sequence[Path]) -> Self:
        """Reads files that are there; of two rules for one prefix that of the later file holds.

        Raises InputError, with all that is wrong in a file.
        """
        rules: dict[str, Rule] = {}
        for path in files:
            for rule in _read_rules(read(path, limit=_LIMIT), str(path)):
                rules[rule.prefix] = rule
        ordered = sorted(rules.values(), key=lambda rule: (rule.prefix.startswith("*."), -len(rule.prefix)))
        return cls(tuple(ordered))

    def find(self, reference: Reference) -> Rule | None:
        """The rule for a name."""
        return next((rule for rule in self.rules if rule.covers(reference)), None)

    def is_insecure(self, host: str) -> bool:
        """Whether encryption is waived for a registry by any rule about it."""
        return any(
            source.insecure and source.host == host
            for rule in self.rules
            for source in (rule.source, *rule.mirrors)
        )


def user_registries() -> Registries:
    """What holds for who runs this process."""
    return Registries.read(config_files(os.environ))


def certificate_directories() -> tuple[Path, ...]:
    """The certs.d directories of who runs this process; none need be there."""
    environ = os.environ
    settings = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '')}/.config"
    names = (f"{settings}/containers", "/etc/containers", "/etc/docker")
    return tuple(Path(name) / "certs.d" for name in names)


def config_files(environ: Mapping[str, str]) -> list[Path]:
    """The files that are there, the one that matters most last, as containers' own programs find them."""
    home = environ.get("HOME", "")
    settings = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    own = Path(settings) / "containers/registries.conf" if settings else None
    named = environ.get("CONTAINERS_REGISTRIES_CONF", "")
    main = Path(named) if named else own if own and is_file(own) else _SYSTEM
    if named and not is_file(main):
        raise InputError(f"there is no {named}", why="CONTAINERS_REGISTRIES_CONF names it")
    found = [main] if is_file(main) else []
    for parent in (_SYSTEM, own):
        if parent is not None:
            with suppress(OSError):  # there is none, or none for this user
                found += sorted(
                    path for path in Path(f"{parent}.d").iterdir() if path.suffix == ".conf" and is_file(path)
                )
    return found


def _read_rules(raw: bytes, where: str) -> list[Rule]:
    if not _RULE.search(raw):
        return []  # what distributions bring has none, and need not be understood by every command
    import tomllib

    try:
        tables = tomllib.loads(raw.decode()).get("registry", [])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid TOML", why=str(error)) from error
    issues: list[str] = []
    rules = []
    if not isinstance(tables, list):
        tables = []  # the first version had a table of that name
    for number, table in enumerate(tables, 1):
        reader = _Reader(table if isinstance(table, dict) else {}, f"registry {number}", issues)
        location = reader.text("location")
        prefix = reader.text("prefix") or location
        if not prefix or (not location and not prefix.startswith("*.")):
            issues.append(f"registry {number}: it has no location")
            continue
        digests = "digest-only" if reader.flag("mirror-by-digest-only") else "all"
        mirrors = [
            RegistrySource(
                each.text("location"), each.flag("insecure"), each.choice("pull-from-mirror", digests)
            )
            for each in reader.tables("mirror")
        ]
        source = RegistrySource(location, reader.flag("insecure"))
        rules.append(Rule(prefix.rstrip("/"), source, tuple(mirrors), reader.flag("blocked"), where))
    if issues:
        raise InputError(f"{where} cannot be used", issues=issues)
    return rules


@dataclass(frozen=True, slots=True)
class _Reader:
    table: Mapping[str, Any]
    name: str
    issues: list[str]

    def text(self, key: str) -> str:
        value = self.table.get(key, "")
        if not isinstance(value, str) or "://" in value:
            self.issues.append(f"{self.name}: {key} is no HOST[:PORT][/PART]")
            return ""
        return value.rstrip("/")

    def flag(self, key: str) -> bool:
        value = self.table.get(key, False)
        if not isinstance(value, bool):
            self.issues.append(f"{self.name}: {key} is neither true nor false")
        return value is True

    def choice(self, key: str, otherwise: str) -> str:
        value = self.table.get(key) or otherwise
        if value not in ("all", "digest-only", "tag-only"):
            self.issues.append(f"{self.name}: {key} is neither all, digest-only nor tag-only")
            return otherwise
        return str(value)

    def tables(self, key: str) -> list[_Reader]:
        found = self.table.get(key, [])
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            self.issues.append(f"{self.name}: {key} is no list of tables")
            return []
        readers = [_Reader(each, f"{self.name}, {key} {n}", self.issues) for n, each in enumerate(found, 1)]
        self.issues.extend(
            f"{each.name}: it has no location" for each in readers if not each.text("location")
        )
        return readers


_Found = TypeVar("_Found")
_Mirror = TypeVar("_Mirror")

_NO_ANSWER = (NetworkError, NotFoundError)


def first_answer(mirrors: Sequence[_Mirror], ask: Callable[[_Mirror], _Found]) -> _Found | None:
    """The first answer that has something in it; mirrors that fail are passed over."""
    for mirror in mirrors:
        try:
            found = ask(mirror)
        except _NO_ANSWER:
            continue
        if found:
            return found
    return None


class MirroredPlace:
    """The image with one name; `mirrors` are asked for it in their order, then the registry is."""

    def __init__(self, place: Place, mirrors: Sequence[Place]) -> None:
        self._place = place
        self._mirrors = mirrors

    def read(self) -> Image:
        """The image under this name; raises what the registry itself raises if no mirror has it."""
        return first_answer(self._mirrors, lambda mirror: mirror.read()) or self._place.read()

    def write_layer(self, layer: Layer) -> Layer:
        """Brings one layer to the registry itself."""
        return self._place.write_layer(layer)

    def write_image(self, image: Image) -> Receipt:
        """Makes the image appear in the registry itself."""
        return self._place.write_image(image)


class MirroredName(RegistryName):
    """A name whose `mirrors` are asked in their order, then the registry; only that is written to."""

    def __init__(self, reference: Reference, registry: Registry, mirrors: Sequence[RegistryName]) -> None:
        super().__init__(reference, registry)
        self._mirrors = mirrors
        self._from_mirror = False

    def root(self) -> Document:
        """What the name stands for."""
        found: Document | None = first_answer(self._mirrors, lambda mirror: mirror.root())
        self._from_mirror = found is not None
        return found or super().root()

    def member(self, entry: Descriptor) -> Document:
        """What an entry of an index describes."""
        return first_answer(self._mirrors, lambda mirror: mirror.member(entry)) or super().member(entry)

    def image(self, entry: Descriptor) -> Image:
        """The image that an entry of an index describes."""
        return first_answer(self._mirrors, lambda mirror: mirror.image(entry)) or super().image(entry)

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob, all from the first mirror that has any of it."""
        for mirror in self._mirrors:
            chunks = mirror.blob(blob)
            try:
                first = next(chunks, b"")
            except _NO_ANSWER:
                continue
            yield first  # nothing, for a blob that has nothing in it
            yield from chunks
            return
        yield from super().blob(blob)

    def referrers(self, subject: Digest) -> Sequence[Referrer]:
        """What names a document as its subject; a mirror that knows of nothing may know nothing of such."""
        found = first_answer(self._mirrors, lambda mirror: mirror.referrers(subject))
        return found or self._ask_registry(lambda: super(MirroredName, self).referrers(subject)) or ()

    def read_tag(self, tag: str) -> Document | None:
        """What lies under a tag of the repository."""
        found: Document | None = first_answer(self._mirrors, lambda mirror: mirror.read_tag(tag))
        return found or self._ask_registry(lambda: super(MirroredName, self).read_tag(tag))

    def _ask_registry(self, ask: Callable[[], _Found]) -> _Found | None:
        """What the registry itself says of what is attached; None if only the mirror that has the image can
        be reached, and knows of nothing.
        """
        try:
            return ask()
        except RegistryError:
            raise
        except NetworkError:
            if self._from_mirror:
                return None
            raise
