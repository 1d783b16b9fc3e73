"""Parses image names by docker's grammar (`Reference`), and locations as skopeo spells them (`Location`).

The command line and the places call this. It opens nothing: only a place knows whether a name exists.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NoReturn, Self

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, InputError

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"

# The grammar of the distribution project ("reference.go"); every pattern is linear in the length of the name.
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
_REGISTRY = re.compile(rf"(?:{_HOST}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX = re.compile(r"[0-9a-f]{64}")
_NAME_LIMIT = 255
_ATTACHED = re.compile(r"sha256-[0-9a-f]{64}(?:\..*)?")
_OF_OTHERS = frozenset({"containers-storage", "docker-tarball", "ostree", "sif"})  # other programs' places
_PLACES = (
    "places are NAME and store:NAME (packhorse's own store), docker://NAME (a registry), docker-daemon:NAME\n"
    "(docker or podman), oci:DIR[:REF], oci-archive:FILE[:REF] and docker-archive:FILE[:NAME]"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """An image name: registry and repository in full, and the tag and digest if the user wrote them.

    `str()` is the full name and `familiar` the short one. Without tag and digest both end in `:latest`.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`; raises InputError, which names the wrong part."""
        rest, at, digest_text = text.partition("@")
        if "/" in digest_text:  # USER:PASSWORD@HOST/NAME, as in URLs: the message must not show the password
            _fail(f"…@{digest_text}", "an image name has no user; `packhorse login` stores credentials")
        digest = _parse_digest(text, digest_text) if at else None
        head, slash, last = rest.rpartition("/")
        last, colon, tag = last.partition(":")
        if colon and not _TAG.fullmatch(tag):
            _fail(text, f"the tag {tag!r} is not 1 to 128 letters, digits, '_', '.' or '-'")
        registry, repository = _split(head + slash + last)
        if not _REGISTRY.fullmatch(registry):
            _fail(text, f"{registry!r} is not a registry, which is HOST or HOST:PORT")
        if not repository:
            _fail(text, "the name is empty")
        if _HEX.fullmatch(rest.removeprefix("sha256:")):
            _fail(text, "64 hexadecimal digits are an image ID, not a name")
        for component in repository.split("/"):
            if not _COMPONENT.fullmatch(component):
                lower = " (upper case is not allowed)" if component != component.lower() else ""
                why = f"{component!r} is not lower-case letters and digits, joined by '.', '_', '__' or '-'"
                _fail(text, why + lower)
        if len(repository) > _NAME_LIMIT:
            _fail(text, f"the repository is longer than {_NAME_LIMIT} characters")
        return cls(registry, repository, tag if colon else None, digest)

    @classmethod
    def parse_new(cls, text: str) -> Self:
        """Parses the name for a new image; raises InputError, also for a name with a digest."""
        reference = cls.parse(text)
        if reference.digest is not None:
            raise InputError(
                f"{text} cannot be the name of a new image",
                why="a digest names one image only, and a new image has another digest",
                fix=f"leave the digest out: {reference.familiar_name}:{reference.tag or DEFAULT_TAG}",
            )
        return reference

    def __str__(self) -> str:
        return f"{self.name}{self._suffix}"

    @property
    def name(self) -> str:
        """Registry and repository, in full."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar_name(self) -> str:
        """Registry and repository as docker prints them: without `docker.io/` and `library/`."""
        if self.registry != DEFAULT_REGISTRY:
            return self.name
        official = self.repository.removeprefix("library/")
        return official if "/" not in official else self.repository

    @property
    def familiar(self) -> str:
        """The name as docker prints it: `myapp:latest`."""
        return f"{self.familiar_name}{self._suffix}"

    @property
    def identifier(self) -> str:
        """What packhorse asks a registry for: the digest if there is one, else the tag, else `latest`."""
        return str(self.digest) if self.digest else self.tag or DEFAULT_TAG

    def with_digest(self, digest: Digest) -> Reference:
        """Returns the name with the same repository and only a digest."""
        return Reference(self.registry, self.repository, None, digest)

    def pinned_name(self, digest: Digest) -> str:
        """The name by digest as the Go lifecycle writes it: `index.docker.io/library/run@sha256:…`."""
        registry = f"index.{DEFAULT_REGISTRY}" if self.registry == DEFAULT_REGISTRY else self.registry
        return f"{registry}/{self.repository}@{digest}"

    def with_tag(self, tag: str) -> Reference:
        """Returns the name with the same repository and only a tag; raises InputError if `tag` is none."""
        if not _TAG.fullmatch(tag):
            _fail(f"{self.familiar_name}:{tag}", f"{tag!r} is not a tag")
        return Reference(self.registry, self.repository, tag)

    @property
    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return tag + digest or f":{DEFAULT_TAG}"


class LocationKind(StrEnum):
    """The kinds of place, with the prefix of each."""

    STORE = "store"
    REGISTRY = "docker"
    DAEMON = "docker-daemon"
    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"


_PREFIXES = {str(kind) for kind in LocationKind}
_WITH_PATH = {LocationKind.OCI, LocationKind.OCI_ARCHIVE, LocationKind.DOCKER_ARCHIVE}


@dataclass(frozen=True, slots=True)
class Location:
    """Where an image lives: a kind of place, a path if it is on disk, and the name there, "" if not given.

    `name` is a reference in the store, a registry, an engine or a docker archive. The store and an engine
    also accept an image ID. In `oci:` and `oci-archive:` the name is free text.
    """

    kind: LocationKind
    path: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a location; raises InputError. `NAME` means `store:NAME`.

        The others are `docker://NAME`, `docker-daemon:NAME`, `oci:DIR[:REF]`, `oci-archive:FILE[:REF]` and
        `docker-archive:FILE[:NAME]`. The path ends at the first colon, as in skopeo.
        """
        prefix, colon, rest = text.partition(":")
        plain = (
            not colon
            or prefix not in _PREFIXES
            or (prefix == LocationKind.REGISTRY and not rest.startswith("//"))
        )
        if prefix in _OF_OTHERS or (plain and prefix and rest.startswith("/") and "@" not in rest):
            what = f"{prefix[:300]}: is not a place that packhorse knows"
            raise InputError(what, why=_PLACES, fix="write one of these")
        if plain:
            return cls(LocationKind.STORE, "", _check_name(text))
        kind = LocationKind(prefix)
        if kind not in _WITH_PATH:
            return cls(
                kind, "", _check_name(rest.removeprefix("//") if kind is LocationKind.REGISTRY else rest)
            )
        path, _, name = rest.partition(":")
        if not path or "\0" in path:
            raise InputError(f"not an image location: {text[:300]!r}", why=f"after {kind}: comes a path")
        return cls(kind, path, _check_name(name) if name and kind is LocationKind.DOCKER_ARCHIVE else name)

    def __str__(self) -> str:
        if self.kind is LocationKind.REGISTRY:
            return f"{self.kind}://{self.name}"
        return ":".join(part for part in (self.kind, self.path, self.name) if part)

    @property
    def reference(self) -> Reference:
        """`name` as a reference; raises InputError if it is not one, such as an image ID."""
        return Reference.parse(self.name)


def is_attachment_tag(tag: str) -> bool:
    """Whether a tag is for attachments (`oci.attached`): a list of referrers, or one of cosign's tags."""
    return _ATTACHED.fullmatch(tag) is not None


def is_image_id(text: str) -> bool:
    """Whether a name is a full image ID. Only the store and engines find images by it."""
    return _HEX.fullmatch(text.removeprefix("sha256:")) is not None


def _check_name(text: str) -> str:
    """Returns a name that is a reference or an image ID; raises InputError for another."""
    if not is_image_id(text):
        Reference.parse(text)
    return text


def _split(name: str) -> tuple[str, str]:
    """Splits a name into registry and repository by docker's rule.

    The first component is a registry if it has a dot, a colon or an upper-case letter, or is localhost.
    """
    first, slash, rest = name.partition("/")
    if not slash or not (set(first) & set(".:[") or first == "localhost" or first != first.lower()):
        first, rest = DEFAULT_REGISTRY, name
    if first == f"index.{DEFAULT_REGISTRY}":
        first = DEFAULT_REGISTRY
    if first == DEFAULT_REGISTRY and rest and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def _parse_digest(text: str, digest: str) -> Digest:
    try:
        return Digest.parse(digest)
    except FormatError as error:
        raise _reference_error(text, f"{error.what}; {error.why}") from error


def _fail(text: str, why: str) -> NoReturn:
    raise _reference_error(text, why)


def _reference_error(text: str, why: str) -> InputError:
    return InputError(
        f"not an image name: {text[:300]!r}", why=why, fix="write it as [REGISTRY/]NAME[:TAG][@DIGEST]"
    )
