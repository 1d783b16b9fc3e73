"""The supported versions of the Buildpack API and the Platform API, and what each version changed.

Code asks `api.has(EXEC_ENV)` and never compares version numbers. The clauses of buildpack.md and platform.md
are in docs/reference/spec-matrix.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Self

from packhorse.base.dataclass import dataclass
from packhorse.errors import BuildpackApiError, PlatformApiError
from packhorse.version import __version__


@dataclass(frozen=True, slots=True)
class Feature:
    """A part of an API, and the version that added it."""

    name: str
    since: tuple[int, int]


@dataclass(frozen=True, slots=True, order=True)
class _ApiVersion:
    """The version of an API, `<major>.<minor>`."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    def has(self, feature: Feature) -> bool:
        """Whether this version has `feature`."""
        return (self.major, self.minor) >= feature.since


_BUILDPACK_FORM = re.compile(r"v?([0-9]{1,9})(?:\.([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True, order=True)
class BuildpackApi(_ApiVersion):
    """A Buildpack API version, `<major>.<minor>` (B-001, B-002)."""

    @classmethod
    def parse(cls, text: str, *, owner: str, where: str) -> Self:
        """Reads the version that a buildpack declares. `owner` is `<id>@<version>`, `where` file and line.

        Raises BuildpackApiError if the version is not supported (B-004).
        """
        match = _BUILDPACK_FORM.fullmatch(text)
        if match is None:
            raise BuildpackApiError(
                f"buildpack {owner} declares the Buildpack API {text!r}",
                why=f"{where}: that is not a version of the form <major>.<minor>",
            )
        api = cls(int(match[1]), int(match[2] or 0))
        if api not in BUILDPACK_APIS:
            is_newer = api > BUILDPACK_APIS[-1]
            which = "an older" if is_newer else "a newer"
            raise BuildpackApiError(
                f"buildpack {owner} needs Buildpack API {api}",
                why=f"{where}\npackhorse {__version__} supports {', '.join(map(str, BUILDPACK_APIS))}",
                fix=("use a newer packhorse, which supports this API, or " if is_newer else "use ")
                + f"{which} version of the buildpack, or a builder that has one",
            )
        return api


PATH_VARIABLES = Feature("CNB_* variables repeat the arguments of bin/detect and bin/build", (0, 8))
WORKING_DIR = Feature("a process has a working-dir", (0, 8))
COMMAND_LIST = Feature("a command is a list and every process direct; before, it is a text", (0, 9))
TARGETS = Feature("CNB_TARGET_* in the environment", (0, 10))
SEVERAL_STACKS = Feature("the stack bionic is a target beside others; before, only alone", (0, 10))
EXEC_ENV = Feature("CNB_EXEC_ENV, and exec-env of a buildpack", (0, 12))

BUILDPACK_APIS = tuple(BuildpackApi(0, minor) for minor in range(7, 13))


_PLATFORM_FORM = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")

_SAID = re.compile(r"v?([0-9]{1,9})\.?([0-9]{0,9})")


@dataclass(frozen=True, slots=True, order=True)
class PlatformApi(_ApiVersion):
    """A Platform API version, `<major>.<minor>` (P-001)."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a version; raises PlatformApiError if it is malformed or unsupported (P-003)."""
        match = _PLATFORM_FORM.fullmatch(text)
        api = cls(int(match[1]), int(match[2])) if match else None
        if api is None or api not in PLATFORM_APIS:
            raise PlatformApiError(
                f"Platform API {text!r} is not supported",
                why=f"supported are {', '.join(map(str, PLATFORM_APIS))}",
            )
        return api

    @classmethod
    def parse_any(cls, text: str) -> Self:
        """Reads a version that an image has, supported or not. Raises PlatformApiError for other text."""
        match = _SAID.fullmatch(text)
        if match is None:
            raise PlatformApiError(f"{text!r} is no Platform API", why="it is not <major>.<minor>")
        return cls(int(match[1]), int(match[2] or 0))

    @classmethod
    def highest(cls, known: Collection[str], *, owner: str) -> PlatformApi:
        """Returns the highest version that packhorse and a builder support. `owner` is the builder's name.

        Raises PlatformApiError if there is none.
        """
        common = [api for api in PLATFORM_APIS if str(api) in known]
        if not common:
            versions = [cls.parse_any(text) for text in known if _SAID.fullmatch(text)]
            is_newer = bool(versions) and min(versions) > PLATFORM_APIS[-1]
            raise PlatformApiError(
                f"{owner} and packhorse have no Platform API in common",
                why=f"it has {', '.join(sorted(known)) or 'none'}, "
                f"packhorse {__version__} supports {', '.join(map(str, PLATFORM_APIS))}",
                fix="use a newer packhorse" if is_newer else "use a newer version of the builder",
            )
        return max(common)


SBOM_LAYER = Feature("SBOM files are a layer of the image and come back from it", (0, 8))
LEGACY_BOM_FILE = Feature("[[bom]] is kept in a file; before, in metadata.toml and the label", (0, 9))
CREATED = Feature("SOURCE_DATE_EPOCH is the time of an image", (0, 9))
PLATFORM_COMMAND_LIST = Feature("metadata.toml and the label have a command as a list", (0, 10))
STORE_AFTER_CLEAR = Feature("store.toml comes back though no layer does", (0, 10))
LAUNCHER_SBOM = Feature("the image has the SBOM of its launcher", (0, 11))
HISTORY = Feature("an image says how its layers were made", (0, 12))
PLATFORM_TARGETS = Feature("run images are told apart by their targets, and no longer by stacks", (0, 12))
RUN_IMAGE_NAMES = Feature("the label has the names of the run image in runImage", (0, 12))
CACHED_METADATA = Feature("metadata of cached launch layers is restored though the image lacks them", (0, 14))
PLATFORM_EXEC_ENV = Feature("buildpacks and processes are chosen by execution environment", (0, 15))
SYSTEM = Feature("a builder's system.toml adds buildpacks to every group", (0, 15))

PLATFORM_APIS = tuple(PlatformApi(0, minor) for minor in range(7, 16))
