"""② Changes the environment of buildpacks as layers and users ask for it (buildpack.md "Environment").

Each function takes an environment and returns a new one. `lifecycle.buildpacks` reads the files and calls
them. At launch, the launcher does the same in C.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping

from packhorse.base.dataclass import dataclass

PATH_LISTS = frozenset({"PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "PKG_CONFIG_PATH"})
"""Variables that are lists of directories. A user's value goes in front of the list (B-113)."""

BUILD_ROOTS = (
    ("bin", "PATH"),
    ("lib", "LD_LIBRARY_PATH"),
    ("lib", "LIBRARY_PATH"),
    ("include", "CPATH"),
    ("pkgconfig", "PKG_CONFIG_PATH"),
)
"""Directories of a build layer, and the variables in front of which they go (B-104)."""

BUILD_INHERITED = (
    "CNB_STACK_ID",
    "HOSTNAME",
    "PATH",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "CPATH",
    "PKG_CONFIG_PATH",
    *("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"),
)
"""The variables of the build image that buildpacks get, as under the reference. HOME is set apart."""

Env = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EnvFile:
    """A file of an env directory. `content` has its bytes as text, with surrogateescape (B-119)."""

    name: str
    content: str


def with_roots(env: Env, layer: str, present: Collection[str]) -> dict[str, str]:
    """Puts directories of a layer in front of their variables (B-104, B-106).

    `layer` is its path, `present` the names of the directories that it has.
    """
    result = dict(env)
    for directory, variable in BUILD_ROOTS:
        if directory in present:
            result[variable] = _join(f"{layer}/{directory}", result.get(variable, ""), ":")
    return result


def with_files(env: Env, files: Collection[EnvFile], *, default_action: str = "override") -> dict[str, str]:
    """Applies one env directory (B-118 to B-126).

    `default_action` is the action of a file without a suffix: `override` in layers, `default` in a platform's
    `<build-config>/env` (P-166).
    """
    # B-123 means the whole layer. The reference looks only in the same directory, and so does this.
    delims = {
        name: file.content for file in files for name, action in [_split(file.name)] if action == "delim"
    }
    result = dict(env)
    for file in sorted(files, key=lambda file: os.fsencode(file.name)):
        name, action = _split(file.name)
        apply = _ACTIONS.get(action or default_action)
        if apply is not None and name:
            result[name] = apply(result.get(name, ""), file.content, delims.get(name, ""))
    return result


def with_user(env: Env, user: Env) -> dict[str, str]:
    """Applies the user's variables: lists of directories go in front (B-113), others replace (B-114)."""
    result = dict(env)
    for name, value in user.items():
        result[name] = _join(value, result.get(name, ""), ":") if name in PATH_LISTS else value
    return result


def _split(file_name: str) -> tuple[str, str]:
    name, _, action = file_name.partition(".")
    return name, action


def _join(front: str, back: str, delim: str) -> str:
    return f"{front}{delim}{back}" if back else front


_ACTIONS: Mapping[str, Callable[[str, str, str], str]] = {
    "override": lambda old, new, delim: new,
    "default": lambda old, new, delim: old or new,
    "prepend": lambda old, new, delim: _join(new, old, delim),
    "append": lambda old, new, delim: f"{old}{delim}{new}" if old else new,
}
