"""What a credential looks like in the settings of package managers, and those settings without it.

On the arrow source → plan; pure. Called by `nodejs.credentials`, which keeps it out of the image, and by
`nodejs.project` and `managers.yarnrc`, whose keys of layers are without it. No setting counts as harmless
unless its value is nothing but a variable's name: a default (`${NPM_TOKEN:-abc}`) is a credential.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_KEYS = frozenset(("_auth", "_authtoken", "_password", "password", "token", "key"))
"""What gives access, in lower case, behind the registry of a key such as `//npm.example/:_authToken`."""
_URL = re.compile(r"://([^/\s:@\"']*)(?::([^/\s@]*))?@")
_WEB = re.compile(r"https?$", re.IGNORECASE)
_WEB_LENGTH = len("https")
_HIDDEN = "***"
_BRACED = re.compile(r"\$\{\w+(?:\?|:?-)?\}")
_VARIABLE = re.compile(r"\$\w+|\$\{\w+\}")
_BERRY_KEY = re.compile(r"npmAuth(?:Token|Ident)", re.IGNORECASE)
_BERRY_HARMLESS = re.compile(
    r"""["']?\s*:\s*(?:(["']?)\$\{\w+(?::?-)?\}\1|""|''|null|~)[ \t]*(?:[,}\r\n#]|$)"""
)
_BERRY_SAID = re.compile(r"""npmAuth(?:Token|Ident)["']?\s*:\s*[^\n]*""", re.IGNORECASE)
_QUOTES = "\"'"


def is_in(name: str, text: str) -> bool:
    """Whether `text`, of a settings file called `name`, has a credential and not just a variable's name."""
    return _has_url(text) or _FILES[name](text)


def digest(path: Path) -> str:
    """The SHA-256 of a settings file without its credentials, as `sha256:<hex>`; empty without a file."""
    if not path.is_file():
        return ""
    text = _URL.sub("://", path.read_text(encoding="utf-8-sig", errors="replace"))
    if path.name == ".yarnrc.yml":
        kept = _BERRY_SAID.sub("", text)
    else:
        split = _spaced if path.name == ".yarnrc" else _assigned
        kept = "\n".join(line.strip() for line in _lines(text) if not _is_access(split(line)[0]))
    return f"sha256:{hashlib.sha256(kept.encode()).hexdigest()}"


def words(text: str) -> tuple[str, ...]:
    """The passwords in URLs, and the users without one: these are tokens."""
    return tuple(dict.fromkeys(word for found in _URL.finditer(text) if (word := _word(found))))


def without(text: str) -> str:
    """A text with URLs that give no access."""
    return _URL.sub(lambda found: "://" if _word(found) else found[0], text)


def hidden(text: str) -> str:
    """A text for people: where a URL gives access, there are asterisks instead."""
    if "://" not in text:
        return text
    return _URL.sub(lambda found: f"://{_HIDDEN}@" if _word(found) else found[0], text)


def _has_url(text: str) -> bool:
    return any(_word(found) for found in _URL.finditer(text))


def _word(found: re.Match[str]) -> str:
    """What gives access in the part of a URL before its host; empty where that is a name or a variable.

    A name alone is one for `ssh:`, and `git` is one everywhere.
    """
    user, password = found[1], found[2]
    scheme = found.string[max(0, found.start() - _WEB_LENGTH) : found.start()]
    if password is None and (user == "git" or not _WEB.search(scheme)):
        return ""
    word = password or user
    return "" if _BRACED.fullmatch(word) else word


def npm_settings(text: str) -> Iterator[tuple[str, str]]:
    """The keys and values of a .npmrc; both are empty for a line that says nothing."""
    return map(_assigned, _lines(text))


def _npmrc(text: str) -> bool:
    return _any_said(npm_settings(text))


def _classic(text: str) -> bool:
    return _any_said(map(_spaced, _lines(text)))


def _any_said(pairs: Iterator[tuple[str, str]]) -> bool:
    return any(bool(value) and _is_access(key) and not _BRACED.fullmatch(value) for key, value in pairs)


def _berry(text: str) -> bool:
    """YAML allows this in many forms; what is not surely harmless is taken for a credential."""
    said = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return any(not _BERRY_HARMLESS.match(said, found.end()) for found in _BERRY_KEY.finditer(said))


def _bun(text: str) -> bool:
    try:
        said = list(_leaves("", tomllib.loads(text)))
    except (ValueError, RecursionError):
        return any(word in text.lower() for word in _KEYS)
    return any(
        _has_url(value) or bool(value and _is_access(key) and not _VARIABLE.fullmatch(value))
        for key, value in said
    )


def _leaves(key: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(name, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(key, inner)
    else:
        yield key, str(value)


_FILES: Mapping[str, Callable[[str], bool]] = {
    ".npmrc": _npmrc,
    ".yarnrc": _classic,
    ".yarnrc.yml": _berry,
    "bunfig.toml": _bun,
}
NAMES = tuple(_FILES)


def _is_access(key: str) -> bool:
    return key.rpartition(":")[2].removesuffix("[]").lower() in _KEYS


def _lines(text: str) -> list[str]:
    return re.split(r"[\r\n]+", text)


def _assigned(line: str) -> tuple[str, str]:
    """The key and value of a line of an ini file, where `;` and `#` begin comments outside of quotes."""
    said = line.strip()
    if said.startswith((";", "#")):
        return "", ""
    key, _, value = said.partition("=")
    value = value.strip()
    if not (len(value) > 1 and value[0] in _QUOTES and value[-1] == value[0]):
        value = re.split(r"(?<!\\)[;#]", value, maxsplit=1)[0].strip()
    return key.strip().strip(_QUOTES), value.strip(_QUOTES).strip()


def _spaced(line: str) -> tuple[str, str]:
    """The key and value of a line of Yarn 1's settings, with white space between them."""
    said = line.strip()
    if said.startswith("#"):
        return "", ""
    if said.startswith('"'):
        key, _, value = said[1:].partition('"')
    else:
        key, value = (*said.split(maxsplit=1), "", "")[:2]
    return key.rstrip(":"), value.lstrip(":").strip().strip(_QUOTES)
