"""Options and arguments that several commands share, and how their text becomes values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from packhorse.cli.main import Context
from packhorse.errors import InputError, UsageError
from packhorse.platform.folders import Folders
from packhorse.store.store import Store


@contextmanager
def opened_store(context: Context, *, frees: bool = False) -> Iterator[Store]:
    """The user's store, made when there is none; `frees` for commands that must work on a full disk."""
    with Store.open(Folders.find(context.environ).store, frees=frees) as store:
        yield store


def environment(given: Iterable[str], files: Iterable[Path], environ: Mapping[str, str]) -> dict[str, str]:
    """`--env NAME=value`, or `NAME` for the caller's own value, over the lines of each `--env-file`.

    Files have one `NAME=value` (or `NAME`) a line; empty lines and those that begin with `#` are passed over,
    as docker does. Raises UsageError for a name that cannot be one, InputError for a file that cannot be
    read.
    """
    values: dict[str, str] = {}
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise InputError(f"the env file {file} cannot be read", why=error.strerror or "") from error
        except UnicodeDecodeError as error:
            raise InputError(f"the env file {file} is not UTF-8", why=str(error)) from error
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                _set(values, line.lstrip(), environ, where=f"{file}:{number}")
    for text in given:
        _set(values, text, environ, where="--env")
    return values


def _set(values: dict[str, str], text: str, environ: Mapping[str, str], *, where: str) -> None:
    name, equals, value = text.partition("=")
    if not name or any(character in name for character in "/\0 \t") or "\0" in value:
        raise UsageError(
            f"{where}: {text.partition('=')[0]!r} is not a variable's name", fix="write NAME=value"
        )
    if equals:
        values[name] = value
    elif name in environ:
        values[name] = environ[name]
