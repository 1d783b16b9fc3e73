"""What a fuzz target is: a parser and its seeds. Targets stand in `archives`, `documents` and `texts`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.errors import PackhorseError

SEPARATOR = b"\n%%\n"
"""Parts the documents of one input."""

_LONGEST = 13_000  # characters of an error, which somebody is to read
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass(frozen=True, slots=True)
class Target:
    """One parser: `run` takes any bytes, and raises for what must never happen."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


@contextmanager
def refusing(*kinds: type[PackhorseError]) -> Iterator[None]:
    """Lets the block end in one of these errors, if it is one that a person can read."""
    try:
        yield
    except kinds as error:
        text = str(error)
        assert error.what, "an error says what happened"
        assert len(text) <= _LONGEST, f"an error of {len(text)} characters"


@contextmanager
def directory() -> Iterator[Path]:
    """A directory that is gone afterwards, in memory where there is some."""
    with tempfile.TemporaryDirectory(dir=_MEMORY, prefix="fuzz-") as name:
        yield Path(name)


def documents(data: bytes) -> list[bytes]:
    """The documents of an input. `@2@` in one stands for the digest of the second, `#2#` for its size.

    The first counts as 0; only later documents can be named, so that digests can be made at all.
    """
    parts = data.split(SEPARATOR)[:8]
    for number in reversed(range(len(parts))):
        for later in range(number + 1, len(parts)):
            parts[number] = parts[number].replace(b"@%d@" % later, str(Digest.of(parts[later])).encode())
            parts[number] = parts[number].replace(b"#%d#" % later, b"%d" % len(parts[later]))
    return parts


def joined(*parts: bytes) -> bytes:
    """The input that has these documents."""
    return SEPARATOR.join(parts)


def table(*targets: Sequence[Target]) -> dict[str, Target]:
    """Targets by name."""
    return {target.name: target for some in targets for target in some}
