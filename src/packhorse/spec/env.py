"""② How layers and users change the environment of buildpacks (buildpack.md "Environment").

Pure: an environment in, an environment out. Reading the files is `lifecycle.buildpacks`'s; at launch the
launcher does the same in C.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping

from packhorse.base.dataclass import dataclass

PATH_LISTS = frozenset({"PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "PKG_CONFIG_PATH"})
"""Variables that are lists of directories: a user's value is put in front of them (B-113)."""

BUILD_ROOTS = (
    ("bin", "PATH"),
    ("lib", "LD_LIBRARY_PATH"),
    ("lib", "LIBRARY_PATH"),
    ("include", "CPATH"),
    ("pkgconfig", "PKG_CONFIG_PATH"),
)
"""Which directory of a build layer is put in front of which variable (B-104)."""

Env = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EnvFile:
    """One file of an env directory; `content` is what it holds, byte for byte (surrogateescape, B-119)."""

    name: str
    content: str


def with_roots(env: Env, layer: str, present: Collection[str]) -> dict[str, str]:
    """Puts the directories `present` in `layer` (a path) in front of the variables they belong to (B-104,
    B-106).
    """
    result = dict(env)
    for directory, variable in BUILD_ROOTS:
        if directory in present:
            result[variable] = _join(f"{layer}/{directory}", result.get(variable, ""), ":")
    return result


def with_files(env: Env, files: Collection[EnvFile], *, default_action: str = "override") -> dict[str, str]:
    """Applies one env directory (B-118 to B-126).

    `default_action` is what a file without suffix means: `override` in layers, `default` in a platform's
    `<build-config>/env` (P-166).
    """
    # B-123 speaks of the whole layer; the reference, and so this, looks in the same directory only.
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
    """Applies what a user set: path lists are put in front (B-113), anything else is replaced (B-114)."""
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
