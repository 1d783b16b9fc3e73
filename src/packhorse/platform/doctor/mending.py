"""What `packhorse doctor --fix` does: a line's mend, as root, whole or not at all. Called by `cli.doctor`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from packhorse.errors import HostError
from packhorse.platform.doctor.diagnosis import Fix

_NEW = ".new"


def shell_lines(mend: Fix) -> list[str]:
    """What is run, for a person to read: one line for a shell each; `FILE` stands for the text of a file."""
    lines = [
        shlex.join([*_root_prefix(), *words])
        for target, _ in mend.files
        for words in _placing_commands("FILE", target)
    ]
    return lines + [shlex.join([*_root_prefix(), *words]) for words in mend.commands]


def apply(mend: Fix) -> None:
    """Does it; HostError when that fails, or nobody here may be root. Files are as before then."""
    with _write_files(mend) as placing:
        try:
            for words in [*placing, *mend.commands]:
                _run(words)
        except HostError:
            for target, _ in mend.files:
                _run(("rm", "-f", str(target), f"{target}{_NEW}"))
            raise


@contextmanager
def _write_files(mend: Fix) -> Iterator[list[tuple[str, ...]]]:
    """The commands that put the mend's files in place, each at once."""
    with tempfile.TemporaryDirectory(prefix="packhorse-") as directory:
        placing = []
        for number, (target, text) in enumerate(mend.files):
            file = Path(directory) / str(number)
            file.write_text(text)
            placing += _placing_commands(str(file), target)
        yield placing


def _placing_commands(source: str, target: Path) -> list[tuple[str, ...]]:
    # Names that end so are passed over by who reads the directory (apparmor_parser(8)) until they are whole.
    new = str(target.with_name(f".{target.name}{_NEW}"))
    return [("install", "-m", "0644", source, new), ("mv", "-fT", new, str(target))]


def _root_prefix() -> Sequence[str]:
    """What stands before a command that root has to run."""
    if os.geteuid() == 0:
        return ()
    sudo = shutil.which("sudo")
    if sudo is None:
        raise HostError(
            "this needs root, and there is no sudo",
            fix="run the commands that `packhorse doctor` names as root",
        )
    return ("sudo",)


def _run(words: Sequence[str]) -> None:
    line = [*_root_prefix(), *words]
    try:
        done = subprocess.run(line, check=False)
    except OSError as error:
        raise HostError(f"{line[0]} cannot be run", why=error.strerror or "") from error
    if done.returncode != 0:
        raise HostError(f"`{shlex.join(line)}` failed", why=f"it ended with status {done.returncode}")
