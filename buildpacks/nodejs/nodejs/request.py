"""Which Node.js an application asks for: the ranges of all who say something, and who is followed.

On the arrow source → plan; pure. Called by `nodejs.buildpack`. Finding the version is `nodejs.runtime`'s.
BP_NODE_VERSION decides alone. Of the others the first decides, and each further one narrows the choice as
long as a version is left: `>=18` in engines.node and `22` in .nvmrc are both right with 22. One that leaves
none is not followed, which is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from packhorse.errors import InputError, PackhorseError
from packhorse.sdk.dataclass import dataclass

from . import ranges
from .releases import Releases, major
from .sources import SETTING, Said

_ANY = ("*", "node", "stable", "current", "latest", "")
_LTS = ("lts", "lts/*", "lts-*", "--lts")
_NAMED = re.compile(r"lts[/-](?P<name>[a-z]+|-\d{1,3})")


@dataclass(frozen=True, slots=True)
class Wish:
    """A range of versions as npm writes them, and who says it."""

    range: str
    said: Said

    def allows(self, version: str) -> bool:
        """Whether the range has `version`."""
        return ranges.allows(self.range, version, loose=True)


@dataclass(frozen=True, slots=True)
class Request:
    """All wishes, the one that decides first; `unread` has those that mean nothing, and why."""

    wishes: tuple[Wish, ...]
    unread: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: Sequence[Said], releases: Releases) -> Self:
        """Makes ranges of what is said; the active LTS line serves who says nothing.

        Raises InputError when the first means nothing.
        """
        if not said:
            active = releases.supported_long[-1]
            none = Said("package.json has no engines.node", "the active LTS")
            return cls((Wish(str(active.major), none),))
        first, *others = said
        wishes = [Wish(_range(first, releases), first)]
        unread = []
        for other in others:
            try:
                wishes.append(Wish(_range(other, releases), other))
            except PackhorseError as error:
                unread.append(error.what)
        return cls(tuple(wishes), tuple(unread))

    @property
    def text(self) -> str:
        """What is asked for: the same text asks for the same version."""
        return " & ".join(wish.range for wish in self._deciding)

    @property
    def first(self) -> Wish:
        """The wish that is followed in any case."""
        return self.wishes[0]

    @property
    def _deciding(self) -> tuple[Wish, ...]:
        return self.wishes[:1] if self.first.said.source == SETTING else self.wishes

    def choose(self, published: Iterable[str], releases: Releases) -> str | None:
        """The newest version that the wishes allow, of a line with long-term support if there is one."""
        import nodesemver

        left = list(published)
        for number, wish in enumerate(self._deciding):
            allowed = [version for version in left if wish.allows(version)]
            if allowed or not number:
                left = allowed
        lines = {line.major for line in releases.supported_long}
        stable = [version for version in left if major(version) in lines]
        found: str | None = nodesemver.max_satisfying(stable or left, "*", loose=True)
        if not found:
            found = nodesemver.max_satisfying(left, "*", loose=True, include_prerelease=True)
        return found

    def followed(self, version: str) -> list[str]:
        """Who gets what they say with `version`."""
        return [str(wish.said) for wish in self._deciding if wish.allows(version)]

    def passed_over(self, version: str) -> Iterator[str]:
        """A sentence for each who says something else than `version`, and for each who says nothing known."""
        for wish in self.wishes[1:]:
            if not wish.allows(version):
                yield f"{wish.said} is not followed: {self.first.said.source} comes first"
        yield from (f"{what}; it is not followed" for what in self.unread)


def lines_named(said: Iterable[Said]) -> frozenset[str]:
    """The names of LTS lines in what is said: `jod` of `lts/jod`."""
    matches = (_NAMED.fullmatch(one.text.lower()) for one in said)
    return frozenset(match["name"] for match in matches if match and match["name"].isalpha())


def _range(said: Said, releases: Releases) -> str:
    """What is said, as a range: names that nvm knows (`lts/*`, `lts/jod`, `lts/-1`, `node`) are looked up."""
    name = said.text.lower()
    if name in _ANY:
        return "*"
    if name in _LTS:
        return str(releases.supported_long[-1].major)
    match = _NAMED.fullmatch(name)
    if match:
        return str(_named_line(match["name"], said, releases))
    if not ranges.is_range(said.text):
        raise InputError(
            f"{said.source} is not a version of Node.js: {said.text}",
            fix='write a version or a range as npm knows it: "22", "^22.3", ">=20 <23"',
        )
    return said.text


def _named_line(name: str, said: Said, releases: Releases) -> int:
    lines = releases.supported_long
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
