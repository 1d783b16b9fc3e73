"""Runs the checks of `packhorse doctor`, each by trying the thing, and applies the fixes of `--fix`.

The names of the checks are stable, because errors (`HostError.check`) and scripts use them. A fix runs as
root, and is applied completely or not at all. Called by `cli.doctor`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from packhorse.base.dataclass import replace
from packhorse.doctor import machine as engines
from packhorse.doctor.machine import builder, certificates, disk, installation, kernel, limits, proxy, store
from packhorse.doctor.probe import CheckResult, CheckState, Fix, HostProbe
from packhorse.doctor.sandbox import (
    apparmor_restriction,
    bubblewrap_program,
    network,
    overlay,
    seccomp,
    subordinate_ids,
    user_namespaces,
)
from packhorse.errors import HostError, NotFoundError
from packhorse.host.folders import Folders

CHECKS: Mapping[str, Callable[[HostProbe], CheckResult]] = {
    "installation": installation,
    "kernel": kernel,
    "user-namespaces": user_namespaces,
    "apparmor": apparmor_restriction,
    "subordinate-ids": subordinate_ids,
    "bubblewrap": bubblewrap_program,
    "overlay": overlay,
    "seccomp": seccomp,
    "network": network,
    "limits": limits,
    "store": store,
    "disk": disk,
    "default-builder": builder,
    "certificates": certificates,
    "proxy": proxy,
    "engines": engines.engines,
}


def run_checks(environ: Mapping[str, str], *, names: Sequence[str] = ()) -> list[CheckResult]:
    """The lines with these names, or all, in the order of CHECKS; `environ` is the user's environment.

    NotFoundError for a name that there is not, UsageError for a PACKHORSE_HOME that is none.
    """
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise NotFoundError(f"the doctor has no line {unknown[0]!r}", why=f"there are {', '.join(CHECKS)}")
    with HostProbe(environ, Folders.find(environ)) as examined:
        chosen = (name for name in CHECKS if not names or name in names)
        return [replace(CHECKS[name](examined), name=name) for name in chosen]


def is_usable(lines: Iterable[CheckResult]) -> bool:
    """Whether nothing that builds need is missing."""
    return all(line.state is not CheckState.MISSING for line in lines)


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
