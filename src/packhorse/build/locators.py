"""Finds the buildpacks that a user or project.toml names, wherever they are.

A locator says where a buildpack is. One without a scheme is tried in the reference's order: as a path, an id
of the builder, a name in the buildpack registry, an image. If no place has it, the error lists the answer of
each. `build.plan` calls `Locators`; builds without named buildpacks do not import it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.files import is_file, read, resolve
from packhorse.base.toml import Table
from packhorse.build.buildpacks import NamedBuildpack, read_descriptor, script_descriptor
from packhorse.build.host import Host
from packhorse.builder.buildpackage import Buildpackage, is_layout_archive, unpack_directory
from packhorse.builder.image import Builder
from packhorse.errors import EngineError, FormatError, InputError, NetworkError, NotFoundError, PackhorseError
from packhorse.host.buildpack_index import SETTING, BuildpackIndex
from packhorse.host.downloads import Downloads
from packhorse.host.folders import Folders
from packhorse.host.locate import PullPolicy, fetch_location
from packhorse.http.client import redact
from packhorse.lifecycle.ports import Observer
from packhorse.oci.archive import read_archive
from packhorse.oci.reference import Location, LocationKind, Reference
from packhorse.source.project_toml import BuildpackEntry
from packhorse.spec.api import BuildpackApi
from packhorse.spec.buildpack_toml import Descriptor, Ref, is_valid

BUILDER_ORDER = frozenset({"urn:cnb:builder", "from=builder"})
"""The locators that stand for the builder's own order among other buildpacks."""

_OF_BUILDER = ("urn:cnb:builder:", "from=builder:")
_OF_REGISTRY = "urn:cnb:registry:"
_SCHEME = re.compile(r"(file(?=:)|[A-Za-z][A-Za-z0-9+.-]*(?=:/))", re.IGNORECASE)
_SEMVER = r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?"
_REGISTRY_NAME = re.compile(rf"(?!\.\.?/)[a-z0-9.-]+/[a-z0-9.-]+(?:@{_SEMVER})?")
_PLACES = frozenset(LocationKind) - {LocationKind.STORE, LocationKind.REGISTRY}
_ERRORS = (NotFoundError, NetworkError, FormatError, InputError, EngineError)
"""What a place answers that has no buildpack."""

_DEPTH = 8
"""How many package.toml may name each other in a row."""


@dataclass(frozen=True, slots=True)
class _Locator:
    """A locator, where it was written, and the directory where its relative paths start.

    With `is_id` it is neither a path nor an image. `depth` counts the package.toml that led here.
    """

    text: str
    where: str
    base: Path = Path()
    depth: int = 0
    is_id: bool = False

    @property
    def title(self) -> str:
        """The locator for messages, without the secrets of a URL."""
        return redact(self.text) if self.text.lower().startswith(("http:", "https:")) else self.text[:300]


class Locators:
    """Finds buildpacks for a build with `builder`. Without `save` the store does not change."""

    def __init__(
        self, builder: Builder, host: Host, observer: Observer, *, pull: PullPolicy, save: bool = True
    ) -> None:
        self._builder = builder
        self._host = host
        self._observer = observer
        self._pull = pull
        self._save = save

    def find_group(self, names: Sequence[str], where: str) -> tuple[NamedBuildpack | None, ...]:
        """Finds the buildpack of each locator in `names`; None for the builder's order.

        `where` is the option with the locators, for errors. Raises InputError for text that is no locator,
        NotFoundError if no place has the buildpack, NetworkError if its place did not answer, FormatError,
        BuildpackApiError.
        """
        if sum(name in BUILDER_ORDER for name in names) > 1:
            raise InputError(
                f"{where} names the builder's order twice",
                why="each of the builder's groups has one place among the other buildpacks",
                fix="name it once",
            )
        return tuple(None if name in BUILDER_ORDER else self._find(_Locator(name, where)) for name in names)

    def find_around(self, names: Sequence[str], where: str) -> tuple[NamedBuildpack, ...]:
        """As `find_group`, for buildpacks that go before or after the builder's order."""
        return _require_buildpacks(self.find_group(names, where), where)

    def find_entries(
        self, entries: Sequence[BuildpackEntry], source: Path
    ) -> tuple[NamedBuildpack | None, ...]:
        """As `find_group`, for a group of project.toml; errors have file, line and key.

        The `source` itself is refused as a buildpack.
        """
        orders = [entry for entry in entries if entry.uri in BUILDER_ORDER]
        if len(orders) > 1:
            raise InputError(
                f"{orders[1].where}: the builder's order is named twice",
                why=f"{orders[0].where} names it",
                fix="leave one out",
            )
        if orders and orders[0].id:
            raise InputError(
                f"{orders[0].where}: the builder's order has no id", fix="leave out the id, or the uri"
            )
        return tuple(
            None if entry.uri in BUILDER_ORDER else self._find_entry(entry, source) for entry in entries
        )

    def find_entries_around(
        self, entries: Sequence[BuildpackEntry], source: Path
    ) -> tuple[NamedBuildpack, ...]:
        """As `find_entries`, for buildpacks that go before or after the builder's order."""
        where = next((entry.where for entry in entries if entry.uri in BUILDER_ORDER), "")
        return _require_buildpacks(self.find_entries(entries, source), where)

    def _find_entry(self, entry: BuildpackEntry, source: Path) -> NamedBuildpack:
        if entry.script is not None:
            BuildpackApi.parse(entry.script.api, owner=entry.name, where=entry.script.where)
            if not is_valid(Ref(entry.id, entry.version)):
                raise InputError(
                    f"{entry.where}: {entry.name!r} cannot be the id and version of a buildpack",
                    why="its directories have these names",
                    fix="use letters, digits, '.', '_' and '-', in the id '/' too, and none of app, config, "
                    "generated and sbom",
                )
            descriptor = Descriptor.parse(
                script_descriptor(entry.id, entry.version, entry.script), entry.where
            )
            return NamedBuildpack(descriptor.ref, script=entry.script, is_of_project=True)
        if not entry.uri:
            return replace(self._guess(_Locator(entry.name, entry.where, is_id=True)), is_of_project=True)
        base = entry.descriptor.parent
        path = resolve(base / entry.uri)
        if path is not None and path in (source, resolve(entry.descriptor)):
            raise _own_source_error(entry)
        found = self._find(_Locator(entry.uri, entry.where, base))
        if found.directory == source:
            raise _own_source_error(entry)
        if entry.id and entry.id != found.ref.id:
            raise InputError(
                f"{entry.where}: the buildpack at {entry.uri} is {found.ref.id}, not {entry.id}",
                fix="correct the id, or leave it out",
            )
        return replace(found, is_of_project=True)

    def _find(self, locator: _Locator) -> NamedBuildpack:
        """Finds the buildpack at a locator. Adds to errors where the locator was written, if they lack it."""
        try:
            return self._find_by_scheme(locator)
        except _ERRORS as error:
            has_files = isinstance(error, InputError) and error.issues  # each names a file and a line
            if has_files or locator.where in f"{error.what} {error.fix}":
                raise
            kind = next(kind for kind in _ERRORS if isinstance(error, kind))
            raise kind(f"{locator.where}: {error.what}", why=error.why, fix=error.fix) from error

    def _find_by_scheme(self, locator: _Locator) -> NamedBuildpack:
        """Finds the buildpack at a locator by its scheme, or by `_guess`."""
        text = locator.text
        if not text:
            raise InputError(
                f"{locator.where}: a locator is empty", fix="leave it out, and the comma beside it"
            )
        identifier = next((text.removeprefix(each) for each in _OF_BUILDER if text.startswith(each)), "")
        if identifier:
            ref = self._find_in_builder(identifier)
            if ref is None:
                raise self._missing_error(locator, [f"the builder: {self._builder_answer()}"])
            return NamedBuildpack(ref)
        if text.startswith(_OF_REGISTRY):
            return self._find_in_registry(locator, text.removeprefix(_OF_REGISTRY))
        scheme = _SCHEME.match(text)
        match scheme and scheme[1].lower():
            case "docker":
                name = re.sub("^docker://?", "", text, flags=re.IGNORECASE)
                return self._find_image(locator, Location.parse(f"docker://{name}"))
            case "file":
                return self._find_path(locator, locator.base / _file_path(locator))
            case "http" | "https":
                return self._download(locator)
        if text.partition(":")[0] in _PLACES:
            return self._find_image(locator, Location.parse(text))
        if scheme is not None:
            raise InputError(
                f"{locator.where}: {locator.title} is no place for buildpacks",
                why="buildpacks come from paths, file:, https:, docker: and other places for images, "
                "urn:cnb:builder: and urn:cnb:registry:",
                fix="write one of these",
            )
        return self._guess(locator)

    def _guess(self, locator: _Locator) -> NamedBuildpack:
        """Finds a locator without a scheme in the first place that has it, in the reference's order."""
        text = locator.text
        tried = []
        if text and not locator.is_id:
            path = locator.base / text
            if resolve(path) is not None:
                return self._find_path(locator, path)
            tried.append(f"a path: there is no {path.absolute()}")
        ref = self._find_in_builder(text)
        if ref is not None:
            return NamedBuildpack(ref)
        tried.append(f"the builder: {self._builder_answer()}")
        if _REGISTRY_NAME.fullmatch(text):  # so an image that happens to have this name is not taken for it
            try:
                return self._find_in_registry(locator, text)
            except (NotFoundError, NetworkError) as error:
                tried += [
                    f"the registry of buildpacks: {_answer(error)}",
                    "an image is written docker://NAME",
                ]
                raise self._missing_error(locator, tried, error) from error
        if locator.is_id:
            raise self._missing_error(locator, tried)
        if text.startswith("urn:"):
            tried.append(f"a URN: it begins with neither {_OF_BUILDER[0]} nor {_OF_REGISTRY}")
            raise self._missing_error(locator, tried)
        try:
            Reference.parse(text)
        except InputError as error:
            raise self._missing_error(locator, [*tried, f"an image: {error.what}; {error.why}"]) from error
        try:
            return self._find_image(locator, Location.parse(text))
        except (NotFoundError, NetworkError) as error:
            raise self._missing_error(locator, [*tried, f"an image: {_answer(error)}"], error) from error

    def _missing_error(
        self, locator: _Locator, tried: Sequence[str], error: PackhorseError | None = None
    ) -> PackhorseError:
        kind = NetworkError if isinstance(error, NetworkError) else NotFoundError
        what = f"there is no buildpack {locator.title!r}"
        if kind is NetworkError:
            what = f"the buildpack {locator.title!r} was not found"
        return kind(what, why="\n".join(tried), fix=f"check {locator.where}")

    def _builder_answer(self) -> str:
        listed = [f"{each} {', '.join(known)}" for each, known in sorted(self._builder.buildpacks.items())]
        return f"{self._builder.name} has {'; '.join(listed) or 'no buildpacks'}"

    def _find_in_builder(self, name: str) -> Ref | None:
        identifier, _, version = name.partition("@")
        versions = self._builder.buildpacks.get(identifier, ())
        return Ref(identifier, version) if version in versions or (versions and not version) else None

    def _find_in_registry(self, locator: _Locator, name: str) -> NamedBuildpack:
        setting = self._host.environ.get(SETTING, "")
        if not setting:
            raise NotFoundError(
                f"there is no registry to find {name} in",
                why=f"{SETTING} is not set",
                fix="set it to the index of a registry: a directory or a git repository",
            )
        identifier, _, version = name.partition("@")
        offline = self._pull is PullPolicy.NEVER
        entry = self._index(setting).find(identifier, version, offline=offline, say=self._observer.say)
        found = self._find_image(locator, Location.parse(f"docker://{entry.image}"))
        if found.ref.id != identifier or found.ref.version != entry.version:
            raise FormatError(
                f"the registry's {identifier}@{entry.version} is another buildpack",
                why=f"{entry.image} is the package of {found.ref}",
            )
        return found

    def _index(self, setting: str) -> BuildpackIndex:
        return BuildpackIndex(setting, self._cache / "registries", self._host.environ)

    @cached_property
    def _cache(self) -> Path:
        return Folders.find(self._host.environ).cache

    def _find_image(self, locator: _Locator, location: Location) -> NamedBuildpack:
        """The buildpack package at the location of an image."""
        named = location.kind in (LocationKind.STORE, LocationKind.REGISTRY)
        # A digest always names the same image, so the registry is not asked again.
        is_exact = named and location.reference.digest is not None and self._pull is PullPolicy.ALWAYS
        image = fetch_location(
            self._host.images,
            location,
            target=self._builder.image.config.target,
            say=self._observer.say,
            pull=PullPolicy.IF_NOT_PRESENT if is_exact else self._pull,
            save=self._save,
        )
        package = Buildpackage.read(locator.title, image)
        origin = ""
        if named and image.manifest is not None:
            reference = location.reference
            origin = f"docker://{reference.with_digest(reference.digest or image.manifest.digest)}"
        others = tuple(
            NamedBuildpack(each, package=image, origin=origin)
            for each in package.modules
            if each != package.ref
        )
        return NamedBuildpack(package.ref, package=image, origin=origin, dependencies=others)

    def _find_path(self, locator: _Locator, path: Path) -> NamedBuildpack:
        resolved = resolve(path)
        if resolved is None:
            raise self._missing_error(locator, [f"a path: there is no {path.absolute()}"])
        if is_file(str(resolved)):
            return self._find_archive(locator, resolved)
        descriptor = read_descriptor(resolved, str(path), locator.where)
        dependencies = tuple(self._find_dependencies(locator, resolved))
        return NamedBuildpack(descriptor.ref, resolved, dependencies=dependencies)

    def _find_archive(self, locator: _Locator, path: Path) -> NamedBuildpack:
        """The buildpack in a `.cnb` file or in the archive of a directory, whatever its name ends in."""
        try:
            tar = read_archive(path)
            is_package = is_layout_archive(tar)
            directory = path if is_package else unpack_directory(tar, self._cache / "buildpacks")
        except FormatError as error:
            raise FormatError(f"{locator.title} cannot be read: {error.what}", why=error.why) from error
        if is_package:
            return self._find_image(locator, Location(LocationKind.OCI_ARCHIVE, str(path), ""))
        return NamedBuildpack(read_descriptor(directory, locator.title, locator.where).ref, directory)

    def _download(self, locator: _Locator) -> NamedBuildpack:
        meter = self._host.images.meter
        downloads = Downloads(self._host.images.http, self._cache / "downloads", meter=meter)
        kept = downloads.fetch(locator.text, pull=self._pull, say=self._observer.say)
        return self._find_archive(locator, kept.path)

    def _find_dependencies(self, locator: _Locator, directory: Path) -> Iterator[NamedBuildpack]:
        """Finds the dependencies in the package.toml beside a buildpack.toml, for the order there."""
        file = directory / "package.toml"
        if resolve(file) is None:
            return
        if locator.depth == _DEPTH:
            raise InputError(
                f"{file} cannot be used", why=f"{_DEPTH} package.toml name each other in a row before it"
            )
        top = Table.read(read(file), str(file), self._observer.say)
        top.allow_keys("buildpack", "extension", "platform", "targets")
        found = []
        for entry in top.tables("dependencies"):
            uri, image = entry.text("uri"), entry.text("image")
            if bool(uri) == bool(image):
                entry.add_issue("a dependency has a uri or an image")
            where = (
                entry.locate("dependencies.uri", "uri")
                if uri
                else entry.locate("dependencies.image", "image")
            )
            text = uri or f"docker://{image}"
            found.append(_Locator(text, where, directory, locator.depth + 1))
        top.finish()
        for each in found:
            yield self._find(each)


def _require_buildpacks(found: Sequence[NamedBuildpack | None], where: str) -> tuple[NamedBuildpack, ...]:
    """Returns the buildpacks; raises InputError if the builder's order is among them."""
    if None in found:
        raise InputError(
            f"{where} names the builder's order",
            why="these buildpacks go around each of the builder's groups",
            fix="leave it out",
        )
    return tuple(each for each in found if each)


def _own_source_error(entry: BuildpackEntry) -> InputError:
    return InputError(
        f"{entry.where}: {entry.uri} is the source itself",
        why="a source cannot be one of the buildpacks that build it",
        fix="name another directory, or write an inline script",
    )


def _file_path(locator: _Locator) -> Path:
    """The path in a file: URL; raises InputError if it names another machine."""
    parts = urlsplit(locator.text)
    if parts.netloc not in ("", "localhost"):
        raise InputError(
            f"{locator.where}: {locator.title} is a file of the machine {parts.netloc!r}",
            why="only files of this machine are read",
            fix="write file:///PATH, with three slashes",
        )
    return Path(unquote(parts.path))


def _answer(error: PackhorseError) -> str:
    """What a place answered, in one line."""
    return "; ".join(part.replace("\n", "; ") for part in (error.what, error.why) if part)
