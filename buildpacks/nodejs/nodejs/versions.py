"""Decides which version of Node.js an application asks for.

Called by `buildpack`, `runtime` and the managers. Four parts: version ranges, the release lines of Node.js,
the places where an application names a version, and the `Request` made of them.

Ranges have npm's form. Most are plain (`22`, `^22.3.0`, `>=20 <23`, `18 || 20.x`) and are read here;
node-semver reads the others, because its import takes as long as the rest of an unchanged build.
`releases.toml` is a snapshot of the release lines. It does not list versions: the registry does.

BP_NODE_VERSION decides alone. Otherwise the first place decides, and each further one narrows the choice if a
version is left: `>=18` in engines.node and `22` in .nvmrc both allow 22. If none is left, the further one is
ignored with a warning.
"""

from __future__ import annotations

import codecs
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Self

from packhorse import sdk
from packhorse.errors import InputError, PackhorseError
from packhorse.sdk.dataclass import dataclass

from .project import Project

_Version = tuple[int, int, int]
_Bounds = tuple[_Version, _Version | None]
"""The first version in the range, and the first version above it."""

_NONE: _Version = (0, 0, 0)
_ANY = ("*", "x", "X")
_OPERATORS = (">=", "<=", ">", "<", "^", "~")
_MAX_DIGITS = 9
"""The most digits of a number that is read here."""


def allows(range_: str, version: str, *, loose: bool = False) -> bool:
    """Whether the range allows the version."""
    sets, read = _parse_range(range_), _numbers(version)
    if sets is None or read is None or len(read) != 3:
        import nodesemver

        return bool(nodesemver.satisfies(version, range_, loose=loose))
    number = (read[0], read[1], read[2])
    return any(all(low <= number and (end is None or number < end) for low, end in one) for one in sets)


def is_range(text: str) -> bool:
    """Whether `text` is a range for npm."""
    if _parse_range(text) is not None:
        return True
    import nodesemver

    return nodesemver.valid_range(text, loose=True) is not None


def is_version(text: str) -> bool:
    """Whether `text` is a version for npm."""
    read = _numbers(text)
    if read is not None and len(read) == 3:
        return True
    import nodesemver

    return bool(nodesemver.valid(text, loose=True))


def _parse_range(text: str) -> list[list[_Bounds]] | None:
    """Parses a range into alternatives, each a list of comparators; None if it is not plain."""
    sets = []
    for part in text.split("||"):
        bounds = [_parse_comparator(word) for word in part.split(" ") if word]
        plain = [one for one in bounds if one is not None]
        if len(plain) != len(bounds):
            return None
        sets.append(plain)
    return sets


def _parse_comparator(word: str) -> _Bounds | None:
    operator = next((one for one in _OPERATORS if word.startswith(one)), "")
    numbers = _numbers(word[len(operator) :])
    if numbers is None or (operator and not numbers) or (operator == "^" and numbers[0] == 0):
        return None
    if not numbers:
        return _NONE, None
    low = _pad(numbers)
    if operator == ">=":
        return low, None
    if operator == "<":
        return _NONE, low
    if operator == ">":
        return _next_version(numbers), None
    if operator == "<=":
        return _NONE, _next_version(numbers)
    if operator == "^":
        return low, _next_version(numbers[:1])
    return low, _next_version(numbers[:2] if operator == "~" else numbers)


def _numbers(text: str) -> Sequence[int] | None:
    """The numbers of `22`, `22.3`, `22.3.1` and `22.x`, no numbers for `*`; else None."""
    parts = text.split(".") if text else []
    if len(parts) > 3:
        return None
    while parts and parts[-1] in _ANY:
        del parts[-1]
    if not all(_is_number(part) for part in parts):
        return None
    return [int(part) for part in parts]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and (text == "0" or text[0] != "0")


def _pad(numbers: Sequence[int]) -> _Version:
    major, minor, patch = (*numbers, 0, 0)[:3]
    return major, minor, patch


def _next_version(numbers: Sequence[int]) -> _Version:
    """The first version above every version that begins with these numbers."""
    return _pad([*numbers[:-1], numbers[-1] + 1])


@dataclass(frozen=True, slots=True)
class ReleaseLine:
    """One major version. `codename` is empty without long-term support; `ends` is its last day with fixes."""

    major: int
    ends: date
    codename: str = ""


@dataclass(frozen=True, slots=True)
class Releases:
    """All lines, oldest first, and pairs of a range of Node.js versions and the npm for it."""

    lines: tuple[ReleaseLine, ...]
    npm: tuple[tuple[str, str], ...]

    @classmethod
    def load(cls) -> Self:
        """Reads the table that comes with the buildpack."""
        table = tomllib.loads(Path(__file__).with_name("releases.toml").read_text())
        return cls(
            lines=tuple(ReleaseLine(**line) for line in table["lines"]),
            npm=tuple((pair["node"], pair["version"]) for pair in table["npm"]),
        )

    @property
    def lts_lines(self) -> tuple[ReleaseLine, ...]:
        """The lines that are or were in long-term support, oldest first; the last is the active one."""
        return tuple(line for line in self.lines if line.codename)

    def line(self, version: str) -> ReleaseLine | None:
        """The line of a version; None if it is newer than this table."""
        return next((line for line in self.lines if line.major == major(version)), None)

    def npm_for(self, version: str) -> str | None:
        """The npm for a Node.js version; None if the version is too old."""
        return next((npm for range_, npm in self.npm if allows(range_, version)), None)


def major(version: str) -> int:
    """The major number of a full version."""
    return int(version.partition(".")[0])


VERSION_SETTING = "BP_NODE_VERSION"
_VERSION_FILES = (".nvmrc", ".node-version")
_TOOLS = ".tool-versions"
_BUN_FILE = ".bun-version"
# asdf does not take these from a release; the next version in the line is used instead.
_NO_RELEASE = ("system", "ref:", "path:")
_DEPTH = 10


@dataclass(frozen=True, slots=True)
class RequestedVersion:
    """A version as one source writes it: `text` in `source`, such as `22` in `.nvmrc`."""

    source: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


def read_requested_versions(
    project: Project, env: Mapping[str, str], above: Project | None = None
) -> tuple[RequestedVersion, ...]:
    """Reads all requested versions of Node.js, by priority: the project's before those of the one `above` it.

    Raises InputError for a volta.extends that names no manifest.
    """
    setting = env.get(VERSION_SETTING, "").strip()
    said = [RequestedVersion(VERSION_SETTING, setting)] if setting else []
    said += _versions_of(project)
    if above is not None and above.directory != project.directory:
        said += [RequestedVersion(f"the workspace's {one.source}", one.text) for one in _versions_of(above)]
    return tuple(said)


def read_bun_version(project: Project) -> RequestedVersion | None:
    """Reads Bun's version from the files beside package.json; None without one."""
    text = next(_read_lines(project.directory / _BUN_FILE), "")
    tool = "" if text else _read_tool_versions(project.directory / _TOOLS, ("bun",))
    if not text and not tool:
        return None
    return RequestedVersion(_BUN_FILE, text.removeprefix("bun-")) if text else RequestedVersion(_TOOLS, tool)


def _versions_of(project: Project) -> Iterator[RequestedVersion]:
    if project.node_range:
        yield RequestedVersion("package.json engines.node", project.node_range)
    for name in _VERSION_FILES:
        text = next(_read_lines(project.directory / name), "")
        if text:
            yield RequestedVersion(name, text)
    tool = _read_tool_versions(project.directory / _TOOLS, ("nodejs", "node"))
    if tool:
        yield RequestedVersion(_TOOLS, tool)
    volta = _read_volta(project)
    if volta:
        yield RequestedVersion("package.json volta.node", volta)
    runtime = project.runtimes.get("node")
    if runtime:
        yield RequestedVersion("package.json devEngines.runtime", runtime)


def _read_lines(path: Path) -> Iterator[str]:
    """The lines of `path` that are not empty, without comments; none without the file."""
    if not path.is_file():
        return
    data = path.read_bytes()
    # PowerShell's `>` writes UTF-16.
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")
    for line in text.splitlines():
        said = line.partition("#")[0].strip()
        if said:
            yield said


def _read_tool_versions(path: Path, names: tuple[str, ...]) -> str:
    """The first release in .tool-versions for a tool with one of these names."""
    for line in _read_lines(path):
        name, *versions = line.split()
        if name in names:
            releases = (version for version in versions if not version.startswith(_NO_RELEASE))
            return next(releases, "").removeprefix("latest:").removeprefix("prefix:")
    return ""


def _read_volta(project: Project) -> str:
    """`volta.node`, also from the manifest that `volta.extends` names."""
    manifest: object = project.manifest
    path = project.directory / "package.json"
    for _ in range(_DEPTH):
        volta = manifest.get("volta") if isinstance(manifest, Mapping) else None
        if not isinstance(volta, Mapping):
            return ""
        version, extends = volta.get("node"), volta.get("extends")
        if isinstance(version, str) and version.strip():
            return version.strip()
        if not isinstance(extends, str):
            return ""
        path = path.parent / extends
        try:
            manifest = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"package.json volta.extends names no manifest: {extends}",
                why=str(error),
                fix="name the package.json that has volta.node, or say the version in engines.node",
            ) from error
    raise InputError("package.json volta.extends goes round in a circle", fix="say volta.node in one of them")


_ANY_VERSION = ("*", "node", "stable", "current", "latest", "")
_LTS = ("lts", "lts/*", "lts-*", "--lts")
_NAMED = re.compile(r"lts[/-](?P<name>[a-z]+|-\d{1,3})")


@dataclass(frozen=True, slots=True)
class Constraint:
    """A range of versions in npm's form, and the request for it."""

    range: str
    requested: RequestedVersion

    def allows(self, version: str) -> bool:
        """Whether the range has `version`."""
        return allows(self.range, version, loose=True)


@dataclass(frozen=True, slots=True)
class Request:
    """All constraints, the deciding one first; `unreadable` has errors for the others."""

    constraints: tuple[Constraint, ...]
    unreadable: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: Sequence[RequestedVersion], releases: Releases) -> Self:
        """Makes ranges of the requested versions; the active LTS line without any.

        Raises InputError if the first cannot be read.
        """
        if not said:
            active = releases.lts_lines[-1]
            none = RequestedVersion("package.json has no engines.node", "the active LTS")
            return cls((Constraint(str(active.major), none),))
        first, *others = said
        wishes = [Constraint(_to_range(first, releases), first)]
        unread = []
        for other in others:
            try:
                wishes.append(Constraint(_to_range(other, releases), other))
            except PackhorseError as error:
                unread.append(error.what)
        return cls(tuple(wishes), tuple(unread))

    @property
    def text(self) -> str:
        """The request as text: the same text asks for the same version."""
        return " & ".join(wish.range for wish in self._decisive)

    @property
    def first(self) -> Constraint:
        """The constraint that is followed in any case."""
        return self.constraints[0]

    @property
    def _decisive(self) -> tuple[Constraint, ...]:
        return self.constraints[:1] if self.first.requested.source == VERSION_SETTING else self.constraints

    def choose(self, published: Iterable[str], releases: Releases) -> str | None:
        """Chooses the newest version that the constraints allow, of a line with long-term support if
        possible.
        """
        import nodesemver

        left = list(published)
        for number, wish in enumerate(self._decisive):
            allowed = [version for version in left if wish.allows(version)]
            if allowed or not number:
                left = allowed
        lines = {line.major for line in releases.lts_lines}
        stable = [version for version in left if major(version) in lines]
        found: str | None = nodesemver.max_satisfying(stable or left, "*", loose=True)
        if not found:
            found = nodesemver.max_satisfying(left, "*", loose=True, include_prerelease=True)
        return found

    def followed_sources(self, version: str) -> list[str]:
        """The sources whose request `version` satisfies."""
        return [str(wish.requested) for wish in self._decisive if wish.allows(version)]

    def ignored_sources(self, version: str) -> Iterator[str]:
        """A sentence for each source that asks for another version, and for each that cannot be read."""
        for wish in self.constraints[1:]:
            if not wish.allows(version):
                yield f"{wish.requested} is not followed: {self.first.requested.source} comes first"
        yield from (f"{what}; it is not followed" for what in self.unreadable)


def lts_names(said: Iterable[RequestedVersion]) -> frozenset[str]:
    """The names of LTS lines in requested versions: `jod` in `lts/jod`."""
    matches = (_NAMED.fullmatch(one.text.lower()) for one in said)
    return frozenset(match["name"] for match in matches if match and match["name"].isalpha())


def _to_range(said: RequestedVersion, releases: Releases) -> str:
    """The requested version as a range; looks up nvm's names (`lts/*`, `lts/jod`, `lts/-1`, `node`)."""
    name = said.text.lower()
    if name in _ANY_VERSION:
        return "*"
    if name in _LTS:
        return str(releases.lts_lines[-1].major)
    match = _NAMED.fullmatch(name)
    if match:
        return str(_lts_major(match["name"], said, releases))
    if not is_range(said.text):
        raise InputError(
            f"{said.source} is not a version of Node.js: {said.text}",
            fix='write a version or a range as npm knows it: "22", "^22.3", ">=20 <23"',
        )
    return said.text


def _lts_major(name: str, said: RequestedVersion, releases: Releases) -> int:
    lines = releases.lts_lines
    if name.startswith("-") and int(name[1:]) < len(lines):
        return lines[-1 - int(name[1:])].major
    for line in lines:
        if line.codename == name:
            return line.major
    raise InputError(
        f"{said.source} names an LTS line that this buildpack does not know: {said.text}",
        why=f"it knows {', '.join(line.codename for line in lines)}",
        fix="write the major version instead",
    )


UPDATE_SETTING = "BP_NODE_UPDATE"
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


def wants_update(env: Mapping[str, str]) -> bool:
    """Whether the user asks for newer versions; raises InputError for another value than yes or no."""
    return read_switch(env, UPDATE_SETTING) is True


def read_switch(env: Mapping[str, str], name: str) -> bool | None:
    """Reads a setting, None if it is not set; raises InputError for a value that is neither yes nor no."""
    value = env.get(name, "").strip().lower()
    if value not in ("", *_YES, *_NO):
        raise InputError(
            f"{name} is neither yes nor no: {env[name]}",
            fix=f"write {name}=1 (or true, yes), {name}=0 (or false, no), or leave it out",
        )
    return value in _YES if value else None


def last_version(context: sdk.BuildContext, layer: str, request: str) -> str:
    """The version that the last build found for the same request, unless the user asks for a newer one."""
    remembered = context.recall(layer)
    if wants_update(context.env) or remembered.get("request") != request:
        return ""
    return remembered.get("version", "")
