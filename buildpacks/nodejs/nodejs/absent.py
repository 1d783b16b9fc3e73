"""The error for a package that the registry does not have, or not in that version: who asks for it.

Pure but for reading manifests. Called by `nodejs.registry`. Every package manager says it in its own words;
the package's name is looked for in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packhorse.errors import NotFoundError

from . import elsewhere

_QUOTED = re.compile(r"""requested resource '([^'\n]+)'|find package "([^"\n]+)\"""")
_ADDRESS = re.compile(r"GET (\S+) - 404")
_RANGES = (
    re.compile(r"No matching version found for (?P<name>@?[^@\s]+)@(?P<range>[^\s]+)"),
    re.compile(r'find any versions for "(?P<name>[^"\n]+)" that matches "(?P<range>[^"\n]+)"'),
    re.compile(r'No version matching "(?P<range>[^"\n]+)" found for specifier "(?P<name>[^"\n]+)"'),
)
# The word before these is the package.
_BEFORE = (" is not in the npm registry", ": No candidates found", ": Package not found")
_INSTALL = {"npm": "npm install", "Yarn": "yarn install", "pnpm": "pnpm install", "Bun": "bun install"}


def error(code: str, why: str, *, client: str, lock: str, settings: str, root: Path | None) -> NotFoundError:
    """`why` is what the client says; `root` is where the manifests and the lock are, if that is known."""
    name, range_ = _package(why)
    what = f"the package registry does not have {f'the package {name}' if name else 'a package'} ({code})"
    if name and code == "ETARGET":
        wanted = range_ or "what is asked for"
        what = f"the package registry has no version of {name} that matches {wanted} ({code})"
    if root is None:
        return NotFoundError(what, why=why, fix=f"check its name, its version and the registry in {settings}")
    anew = f"run `{_INSTALL[client]}` and commit {lock}"
    elsewhere = f"if another registry has it, name that one and its credentials in {settings}"
    if not name:
        return NotFoundError(
            what, why=why, fix=f"correct its name or version in package.json and {anew}; {elsewhere}"
        )
    asks = ", ".join(_places(root, name))
    if not asks:
        asks = f"{lock}, or a package in it" if (root / lock).is_file() else "a package that is needed"
    if code == "ETARGET":
        fix = f"ask for a version that there is (`npm view {name} versions` lists them), then {anew}"
    else:
        fix = f"correct the name, or remove it, and {anew}; {elsewhere}"
    return NotFoundError(what, why=f"asked for by: {asks}\n{why}", fix=fix)


def _package(why: str) -> tuple[str, str]:
    """The name and range of the package that is not there, as far as they are said."""
    for pattern in _RANGES:
        if found := pattern.search(why):
            return found["name"], found["range"].rstrip(".,")
    if found := _QUOTED.search(why):
        return _divided(found[1] or found[2])
    for words in _BEFORE:
        before, is_there, _ = why.partition(words)
        if is_there and before.split():
            return _divided(before.split()[-1].strip("'\""))
    found = _ADDRESS.search(why)
    return _divided(_of_address(found[1])) if found else ("", "")


def _of_address(address: str) -> str:
    """The package of an address such as `…/@a/b` or `…/ms/-/ms-2.1.3.tgz`."""
    *_, scope, name = ("", "", *address.partition("/-/")[0].split("/"))
    return f"{scope}/{name}" if scope.startswith("@") else name


def _divided(descriptor: str) -> tuple[str, str]:
    """Name and range of `ms`, `ms@^2`, `@a/b@npm:^2` or `%40a%2fb`."""
    plain = descriptor.replace("%2f", "/").replace("%2F", "/").replace("%40", "@")
    name, _, range_ = plain[1:].partition("@")
    return plain[:1] + name, range_.removeprefix("npm:")


def _places(root: Path, name: str) -> Iterator[str]:
    """The tables of manifests that have the package: `package.json dependencies (^99)`."""
    return (f"{place} ({range_})" for place, found, range_ in elsewhere.requirements(root) if found == name)
