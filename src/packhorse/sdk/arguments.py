"""Checks the values that a buildpack passes to the SDK, so that an error names a wrong value at once.

Called by the rest of `sdk`. A type checker finds most of these errors earlier, but not everybody uses one.
Without these checks some would show only in the image, because a str is a sequence of letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from packhorse.errors import BuildError

_CONTROL = re.compile(r"[\x00-\x1f\x7f/]")
_TYPE = re.compile(r"[A-Za-z0-9._-]+")
_MAX_LENGTH = 200


def check_text(what: str, value: object, *, empty: bool = True) -> None:
    """Raises BuildError for a value that is no str, or empty unless `empty`. `what` begins a sentence."""
    if not isinstance(value, str):
        raise BuildError(f"{what} is {describe(value)}, not a str", fix=_text_fix(value))
    if not value and not empty:
        raise BuildError(f"{what} is empty", fix="give it a value")


def check_texts(what: str, value: object, *, at_least: int = 0) -> None:
    """Raises BuildError for a value that is no tuple of str, such as a str, a sequence of letters."""
    example: tuple[str, ...] = ("a", "b")
    if isinstance(value, str):
        example = tuple(_split_words(value)) or example
        raise BuildError(
            f"{what} is the str {describe(value)}, not a tuple",
            why="a str is a sequence of letters, each of which would count as one entry",
            fix=f"write {example!r}",
        )
    if isinstance(value, bytes) or not isinstance(value, Sequence):
        raise BuildError(
            f"{what} is {describe(value)}, not a tuple", fix=f"write a tuple of str: {example!r}"
        )
    for entry in value:
        check_text(f"an entry of {what}", entry)
    if len(value) < at_least:
        raise BuildError(f"{what} is empty", fix=f"write a tuple of str: {example!r}")


def check_table(what: str, value: object, *, at_least: int = 0) -> None:
    """Raises BuildError for a value that is no mapping of str to str."""
    if not isinstance(value, Mapping):
        raise BuildError(f"{what} is {describe(value)}, not a mapping", fix='write {"name": "value"}')
    for name, entry in value.items():
        check_text(f"a name in {what}", name)
        check_text(f"{name!r} in {what}", entry)
    if len(value) < at_least:
        raise BuildError(
            f"{what} is empty",
            why="what a layer is made from decides whether it is kept",
            fix='name at least one input: {"version": "1.2.3"}',
        )


def check_toml(what: str, value: object) -> None:
    """Raises BuildError for a value that TOML cannot express. A mapping leaves out a key with None."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            check_text(f"a name in {what}", name)
            if entry is not None:
                check_toml(f"{name!r} in {what}", entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            check_toml(f"an entry of {what}", entry)
    elif not isinstance(value, str | bool | int | float) and not _is_time(value):
        raise BuildError(
            f"{what} is {describe(value)}, which cannot be written as TOML",
            fix="write str(…) around it" if value is not None else "leave it out",
        )


def _is_time(value: object) -> bool:
    from datetime import date, time  # detection does not need it

    return isinstance(value, date | time)


def check_bool(what: str, value: object) -> None:
    """Raises BuildError for a value that is neither True nor False."""
    if not isinstance(value, bool):
        raise BuildError(f"{what} is {describe(value)}, not True or False", fix="write True or False")


def check_all(what: str, value: object, kind: type) -> None:
    """Raises BuildError for a value that is no tuple of `kind`, such as a single one."""
    name = kind.__name__
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise BuildError(
            f"{what} is {describe(value)}, not a tuple",
            fix=f"write a tuple of {name}, with its comma: (one,)",
        )
    for entry in value:
        check_type(f"an entry of {what}", entry, kind)


def check_type(what: str, value: object, *kinds: type) -> None:
    """Raises BuildError for a value of another type."""
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        around = kinds == (Path,) and isinstance(value, str)
        fix = f"write Path({value!r})" if around else f"give it as {names}"
        raise BuildError(f"{what} is {describe(value)}, not {names}", fix=fix)


def check_choice(what: str, value: object, allowed: Iterable[str]) -> None:
    """Raises BuildError for a value that is not among `allowed`."""
    words = tuple(allowed)
    if value not in words:
        raise BuildError(f"{what} cannot be {describe(value)}", fix=f"it is one of {', '.join(words)}")


def check_variable(what: str, value: object) -> None:
    """Raises BuildError for a value that cannot be the name of a variable."""
    check_file_name(what, value)
    assert isinstance(value, str)
    if "=" in value:
        raise BuildError(
            f"{what} cannot be {describe(value)}", fix='give name and value apart: "NAME", "value"'
        )


def check_file_name(what: str, value: object) -> None:
    """Raises BuildError for a value that cannot be a file name: `..`, `a/b`, an empty str."""
    check_text(what, value, empty=False)
    assert isinstance(value, str)
    if value in (".", "..") or _CONTROL.search(value) or len(value) > _MAX_LENGTH:
        raise BuildError(
            f"{what} cannot be {describe(value)}",
            why="it becomes the name of a file or directory",
            fix=f"use a name without / and control characters, of at most {_MAX_LENGTH} characters",
        )


def check_process_type(what: str, value: object) -> None:
    """Raises BuildError for a value that cannot be the type of a process (B-135)."""
    check_file_name(what, value)
    assert isinstance(value, str)
    if not _TYPE.fullmatch(value):
        raise BuildError(
            f"{what} cannot be {describe(value)}", fix="use letters, digits, '.', '_' and '-' only"
        )


def describe(value: object) -> str:
    """The value for a message: its repr, shortened if it is long."""
    written = repr(value)
    return written if len(written) <= _MAX_LENGTH else f"{written[:_MAX_LENGTH]}…"


def _text_fix(value: object) -> str:
    return "leave it out, or give a str" if value is None else "write str(…) around it"


def _split_words(value: str) -> list[str]:
    import shlex  # only an error needs it

    try:
        return shlex.split(value)
    except ValueError:
        return value.split()
