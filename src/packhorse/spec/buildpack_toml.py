"""② Reads buildpack.toml, order.toml and system.toml into values (buildpack.md "buildpack.toml").

`builder.image` reads a builder's files with it, `build.buildpacks` the user's, and `lifecycle.detect` asks
its values which buildpacks to run.
"""

from __future__ import annotations

import re
from typing import Self

from packhorse.base.dataclass import dataclass
from packhorse.base.target import Distro
from packhorse.base.toml import Table, Warn
from packhorse.spec.api import BUILDPACK_APIS, EXEC_ENV, SEVERAL_STACKS, BuildpackApi


@dataclass(frozen=True, slots=True)
class Ref:
    """Names a buildpack in an order or a group. If it is `optional`, the group also holds without it."""

    id: str
    version: str
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.id}@{self.version}"

    @property
    def directory_name(self) -> str:
        """The name of a directory for this id: `/` becomes `_` (P-158)."""
        return escape_id(self.id)


_ID = re.compile(r"[A-Za-z0-9._/-]+")  # the specification has no `_`, but buildpacks use it
_VERSION = re.compile(r"[^/\x00-\x1f\x7f]+")
_RESERVED = frozenset({"app", "config", "generated", "sbom", ".", ".."})

_EXTENSIONS = "order-extensions"

Group = tuple[Ref, ...]
Order = tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class BuildpackTarget:
    """A target on which a buildpack runs. An empty field matches everything (B-149, B-151)."""

    os: str = ""
    arch: str = ""
    variant: str = ""
    distros: tuple[Distro, ...] = ()


_BIONIC = "io.buildpacks.stacks.bionic"
_STACK_TARGETS = {
    _BIONIC: BuildpackTarget("linux", "amd64", distros=(Distro("ubuntu", "18.04"),)),
    "*": BuildpackTarget(),
}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The content of a buildpack.toml.

    A composite buildpack has an `order` and no executables. A component buildpack has executables and no
    order.
    """

    api: BuildpackApi
    id: str
    version: str
    name: str = ""
    homepage: str = ""
    clear_env: bool = False
    sbom_formats: tuple[str, ...] = ()
    exec_env: tuple[str, ...] = ()
    targets: tuple[BuildpackTarget, ...] = ()
    order: Order = ()

    @classmethod
    def parse(cls, data: bytes, source: str, *, warn: Warn | None = None) -> Self:
        """Reads a buildpack.toml; `source` names it in messages.

        Raises InputError with every issue in it, and BuildpackApiError for an API that is not supported.
        """
        top = Table.read(data, source, warn)
        top.allow_keys("metadata", "stacks")
        own = top.table("buildpack")
        own.allow_keys("description", "keywords", "licenses")
        # Comes first: another API may allow what is an issue in these.
        api = _read_api(top, own)
        value = cls(
            api=api,
            id=_read_id(own),
            version=_read_version(own),
            name=own.text("name"),
            homepage=own.text("homepage"),
            clear_env=own.flag("clear-env"),
            sbom_formats=own.texts("sbom-formats"),
            exec_env=_read_exec_env(own) if api.has(EXEC_ENV) else (),
            targets=tuple(map(_read_target, top.tables("targets"))) or _stack_targets(top, api),
            order=tuple(read_order(top)),
        )
        if value.order and (value.targets or top.has("stacks")):
            top.add_issue("a composite buildpack (with [[order]]) has neither [[targets]] nor [[stacks]]")
        top.finish()
        return value

    @property
    def ref(self) -> Ref:
        """The name of this buildpack in orders and groups."""
        return Ref(self.id, self.version)


def is_valid(ref: Ref) -> bool:
    """Whether a buildpack can have this id and version, after which its directories are named (B-143)."""
    is_id = _ID.fullmatch(ref.id) is not None and ref.id not in _RESERVED
    return is_id and _VERSION.fullmatch(ref.version) is not None and ref.version not in (".", "..")


def escape_id(identifier: str) -> str:
    """Returns the name of a buildpack's directories below `/layers` and `/cnb/buildpacks` (P-158)."""
    return identifier.replace("/", "_")


def read_order(top: Table, key: str = "order") -> list[Group]:
    """Reads the `[[order]]` tables of a buildpack.toml, an order.toml or a builder (B-152, P-184)."""
    order = []
    for group in top.tables(key):
        refs = tuple(
            Ref(entry.text("id", required=True), entry.text("version"), entry.flag("optional"))
            for entry in group.tables("group")
        )
        if not refs:
            group.add_issue("an order's group names no buildpack")
        order.append(refs)
    return order


def parse_extensions(data: bytes, source: str) -> Order:
    """Reads the image extensions of an order.toml; raises InputError with every issue in it."""
    if _EXTENSIONS.encode() not in data:
        return ()
    top = Table.read(data, source)
    order = tuple(read_order(top, _EXTENSIONS))
    top.finish()
    return order


@dataclass(frozen=True, slots=True)
class SystemBuildpacks:
    """The buildpacks that a builder adds before and after each group of an order (system.toml)."""

    pre: Group = ()
    post: Group = ()

    @classmethod
    def parse(cls, data: bytes, source: str, *, warn: Warn | None = None) -> Self:
        """Reads a system.toml; raises InputError with every issue in it."""
        top = Table.read(data, source, warn)
        system = top.table("system")
        value = cls(_system_group(system.table("pre")), _system_group(system.table("post")))
        top.finish()
        return value

    def add_to(self, order: Order) -> Order:
        """Returns the order with these buildpacks; a group gets none whose id it has (P-034 to P-036)."""
        return tuple(
            (*_missing_from(self.pre, group), *group, *_missing_from(self.post, group)) for group in order
        )


def _system_group(table: Table) -> Group:
    return tuple(
        Ref(entry.text("id", required=True), entry.text("version", required=True), entry.flag("optional"))
        for entry in table.tables("buildpacks")
    )


def _missing_from(refs: Group, group: Group) -> Group:
    there = {ref.id for ref in group}
    return tuple(ref for ref in refs if ref.id not in there)


def _read_api(top: Table, own: Table) -> BuildpackApi:
    declared = top.text("api", required=True)
    if not declared:
        return BUILDPACK_APIS[-1]
    ref = Ref(own.text("id") or "(without an id)", own.text("version"))
    return BuildpackApi.parse(declared, owner=str(ref), where=top.locate("api", "api"))


def _read_id(own: Table) -> str:
    """Reads the buildpack's id. It names directories, and some names have another use there (B-143)."""
    text = own.text("id", required=True)
    if text and not is_valid(Ref(text, "0")):
        own.add_issue(f"{text!r} cannot be the id of a buildpack", "id")
    return text


def _read_version(own: Table) -> str:
    """Reads the buildpack's version. B-144 wants X.Y.Z; any name of a directory is taken."""
    text = own.text("version", required=True)
    if text and not is_valid(Ref("x", text)):
        own.add_issue(f"{text!r} cannot be the version of a buildpack", "version")
    return text


def _read_target(table: Table) -> BuildpackTarget:
    distros = tuple(Distro(entry.text("name"), entry.text("version")) for entry in table.tables("distros"))
    # The specification says `variant`, and the reference reads `arch-variant`. Both are taken.
    variant = table.text("variant") or table.text("arch-variant")
    return BuildpackTarget(table.text("os"), table.text("arch"), variant, distros)


def _stack_targets(top: Table, api: BuildpackApi) -> tuple[BuildpackTarget, ...]:
    """Returns the targets of the deprecated `[[stacks]]` (B-155). Stacks that are not in the table have none.

    Mixins are not checked here: the platform checks them when it adds a buildpack to a builder (B-156).
    """
    stacks = top.tables("stacks")
    for stack in stacks:
        stack.texts("mixins")
    identifiers = [stack.text("id") for stack in stacks]
    if len(identifiers) > 1 and not api.has(SEVERAL_STACKS):
        identifiers = [identifier for identifier in identifiers if identifier != _BIONIC]
    return tuple(_STACK_TARGETS[identifier] for identifier in identifiers if identifier in _STACK_TARGETS)


def _read_exec_env(own: Table) -> tuple[str, ...]:
    # The specification has [[buildpack.exec-env]] tables with a name, and the reference has a plain list.
    # Both are taken (B-147).
    value = own.values.get("exec-env")
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return tuple(entry.text("name") for entry in own.tables("exec-env"))
    return own.texts("exec-env")
