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
from typing import TYPE_CHECKING, Self, TypeVar

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

if TYPE_CHECKING:
    from packhorse.base.toml import Table

_LIMIT = 1 << 20
_RULE = re.compile(rb"""^[ \t]*(?:\[\[[ \t]*["']?registry|["']?registry["']?[ \t]*=)""", re.MULTILINE)
_SYSTEM = Path("/etc/containers/registries.conf")


@dataclass(frozen=True, slots=True)
class RegistrySource:
    """A registry, or a part of its repositories. `insecure` allows connections without encryption.

    `pulls` tells which names a mirror is asked for: `all`, `digest-only` or `tag-only`.
    """

    location: str
    insecure: bool = False
    pulls: str = "all"

    @property
    def host(self) -> str:
        """The registry: HOST or HOST:PORT."""
        return self.location.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Rule:
    """The settings for all names below a prefix: a registry, a part of its repositories, or `*.DOMAIN`.

    `where` is the file that it comes from.
    """

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
        """Returns the name of an image at `source`; raises InputError if that is not a valid name."""
        if not source.location:
            return reference
        prefix = reference.registry if self.prefix.startswith("*.") else self.prefix
        end = str(reference).removeprefix(reference.name)
        found = Reference.parse(f"{source.location}{reference.name[len(prefix) :]}{end}")
        return Reference(found.registry, found.repository, reference.tag, reference.digest)


@dataclass(frozen=True, slots=True)
class Registries:
    """The rules of all files, longer prefixes first. The first one that covers a name applies to it."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def read(cls, files: Sequence[Path]) -> Self:
        """Reads files, which must exist. A rule replaces those of earlier files with the same prefix.

        Raises InputError, which lists all issues of a file.
        """
        rules: dict[str, Rule] = {}
        for path in files:
            for rule in _read_rules(read(path, limit=_LIMIT), str(path)):
                rules[rule.prefix] = rule
        ordered = sorted(rules.values(), key=lambda rule: (rule.prefix.startswith("*."), -len(rule.prefix)))
        return cls(tuple(ordered))

    def find(self, reference: Reference) -> Rule | None:
        """Returns the rule for a name, None if there is none."""
        return next((rule for rule in self.rules if rule.covers(reference)), None)

    def is_insecure(self, host: str) -> bool:
        """Whether any rule allows connections to a registry without encryption."""
        return any(
            source.insecure and source.host == host
            for rule in self.rules
            for source in (rule.source, *rule.mirrors)
        )


def user_registries() -> Registries:
    """Reads the rules for this process's user; raises InputError."""
    return Registries.read(config_files(os.environ))


def certificate_directories() -> tuple[Path, ...]:
    """Returns the certs.d directories for this process's user; any of them may be missing."""
    environ = os.environ
    settings = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '')}/.config"
    names = (f"{settings}/containers", "/etc/containers", "/etc/docker")
    return tuple(Path(name) / "certs.d" for name in names)


def config_files(environ: Mapping[str, str]) -> list[Path]:
    """Finds the existing files in the places where podman and skopeo look, the one with precedence last.

    Raises InputError if CONTAINERS_REGISTRIES_CONF names a missing file.
    """
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
            with suppress(OSError):  # missing, or not readable for this user
                found += sorted(
                    path for path in Path(f"{parent}.d").iterdir() if path.suffix == ".conf" and is_file(path)
                )
    return found


def _read_rules(raw: bytes, where: str) -> list[Rule]:
    if not _RULE.search(raw):
        return []  # the distributions' files have no rules: save every command the time to parse them
    from packhorse.base.toml import Table

    top = Table.read(raw, where)
    # In version 1, `registries` is a table of lists, and `registry` is not a key.
    is_list = isinstance(top.values.get("registry"), list)
    rules = [_read_rule(table) for table in top.tables("registry")] if is_list else []
    top.finish()
    return rules


def _read_rule(table: Table) -> Rule:
    prefix = _read_location(table, "prefix")
    location = _read_location(table, "location", required=not prefix.startswith("*."))
    pulls = "digest-only" if table.flag("mirror-by-digest-only") else "all"
    mirrors = tuple(_read_mirror(each, pulls) for each in table.tables("mirror"))
    source = RegistrySource(location, table.flag("insecure"))
    return Rule(prefix or location, source, mirrors, table.flag("blocked"), table.source)


def _read_mirror(table: Table, otherwise: str) -> RegistrySource:
    pulls = table.text("pull-from-mirror") or otherwise
    if pulls not in ("all", "digest-only", "tag-only"):
        table.add_issue(
            f"{table.full_key('pull-from-mirror')} must be all, digest-only or tag-only", "pull-from-mirror"
        )
    return RegistrySource(_read_location(table, "location", required=True), table.flag("insecure"), pulls)


def _read_location(table: Table, key: str, *, required: bool = False) -> str:
    location = table.text(key, required=required)
    if "://" in location:
        table.add_issue(f"{table.full_key(key)} must be HOST[:PORT][/PART], without a scheme", key)
    return location.rstrip("/")


_Found = TypeVar("_Found")
_Mirror = TypeVar("_Mirror")

_NO_ANSWER = (NetworkError, NotFoundError)


def first_answer(mirrors: Sequence[_Mirror], ask: Callable[[_Mirror], _Found]) -> _Found | None:
    """Asks mirrors in order, and returns the first non-empty answer, or None. It skips mirrors that fail."""
    for mirror in mirrors:
        try:
            found = ask(mirror)
        except _NO_ANSWER:
            continue
        if found:
            return found
    return None


class MirroredPlace:
    """An image that is read from the first mirror that has it, else from its registry, and written there."""

    def __init__(self, place: Place, mirrors: Sequence[Place]) -> None:
        self._place = place
        self._mirrors = mirrors

    def read(self) -> Image:
        """Reads the image; raises what the registry raises if no mirror has it."""
        return first_answer(self._mirrors, lambda mirror: mirror.read()) or self._place.read()

    def write_layer(self, layer: Layer) -> Layer:
        """Writes one layer to the registry."""
        return self._place.write_layer(layer)

    def write_image(self, image: Image) -> Receipt:
        """Writes the image to the registry."""
        return self._place.write_image(image)


class MirroredName(RegistryName):
    """A name that is read from the first mirror that has it, else from its registry, and written there."""

    def __init__(self, reference: Reference, registry: Registry, mirrors: Sequence[RegistryName]) -> None:
        super().__init__(reference, registry)
        self._mirrors = mirrors
        self._from_mirror = False

    def root(self) -> Document:
        """Reads the manifest or index under the name."""
        found: Document | None = first_answer(self._mirrors, lambda mirror: mirror.root())
        self._from_mirror = found is not None
        return found or super().root()

    def member(self, entry: Descriptor) -> Document:
        """Reads the manifest or index of an index entry."""
        return first_answer(self._mirrors, lambda mirror: mirror.member(entry)) or super().member(entry)

    def image(self, entry: Descriptor) -> Image:
        """Reads the image of an index entry."""
        return first_answer(self._mirrors, lambda mirror: mirror.image(entry)) or super().image(entry)

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """Yields the bytes of a blob, all of them from the first mirror that has the first ones."""
        for mirror in self._mirrors:
            chunks = mirror.blob(blob)
            try:
                first = next(chunks, b"")
            except _NO_ANSWER:
                continue
            yield first  # b"" if the blob is empty
            yield from chunks
            return
        yield from super().blob(blob)

    def referrers(self, subject: Digest) -> Sequence[Referrer]:
        """Lists what names `subject` as its subject. A mirror without any may just not support referrers."""
        found = first_answer(self._mirrors, lambda mirror: mirror.referrers(subject))
        return found or self._ask_registry(lambda: super(MirroredName, self).referrers(subject)) or ()

    def read_tag(self, tag: str) -> Document | None:
        """Reads the manifest or index under a tag of the repository; None if there is none."""
        found: Document | None = first_answer(self._mirrors, lambda mirror: mirror.read_tag(tag))
        return found or self._ask_registry(lambda: super(MirroredName, self).read_tag(tag))

    def _ask_registry(self, ask: Callable[[], _Found]) -> _Found | None:
        """Asks the registry for attachments; None if it is unreachable and the name came from a mirror."""
        try:
            return ask()
        except RegistryError:
            raise
        except NetworkError:
            if self._from_mirror:
                return None
            raise
