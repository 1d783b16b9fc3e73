"""Runs the checks of `packhorse doctor`, and applies the fixes of `--fix`. Called by `cli.doctor`.

A check tries what builds do, for example makes a sandbox. The names of the checks are stable, because errors
(`HostError.check`) and scripts use them. A fix runs as root, and a failed fix leaves none of its files.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
    """Runs the checks with these names, or all, in the order of CHECKS; `environ` is the user's environment.

    Raises NotFoundError for an unknown name, and UsageError for a wrong PACKHORSE_HOME.
    """
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise NotFoundError(
            f"the doctor has no line {unknown[0]!r}", why=f"its lines are {', '.join(CHECKS)}"
        )
    with HostProbe(environ, Folders.find(environ)) as examined:
        chosen = (name for name in CHECKS if not names or name in names)
        return [replace(CHECKS[name](examined), name=name) for name in chosen]


def is_usable(lines: Iterable[CheckResult]) -> bool:
    """Whether builds can work here."""
    return all(line.state is not CheckState.MISSING for line in lines)


def shell_lines(fix: Fix) -> list[str]:
    """Returns a fix's commands as shell lines for people; `FILE` stands for a file with the fix's text."""
    lines = [
        shlex.join([*_root_prefix(), *words])
        for target, _ in fix.files
        for words in _placing_commands("FILE", target)
    ]
    return lines + [shlex.join([*_root_prefix(), *words]) for words in fix.commands]


def apply(fix: Fix) -> None:
    """Runs the commands of a fix as root.

    Raises HostError if one fails, or if there is no sudo; then it removes the fix's files again.
    """
    with _write_files(fix) as placing:
        try:
            for words in [*placing, *fix.commands]:
                _run(words)
        except HostError:
            for target, _ in fix.files:
                with suppress(HostError):  # the first error says what is wrong
                    _run(("rm", "-f", str(target), str(_temporary_path(target))))
            raise


@contextmanager
def _write_files(fix: Fix) -> Iterator[list[tuple[str, ...]]]:
    """Writes the fix's texts to temporary files, and yields the commands that put them in place."""
    with tempfile.TemporaryDirectory(prefix="packhorse-") as directory:
        placing = []
        for number, (target, text) in enumerate(fix.files):
            file = Path(directory) / str(number)
            file.write_text(text)
            placing += _placing_commands(str(file), target)
        yield placing


def _placing_commands(source: str, target: Path) -> list[tuple[str, ...]]:
    new = str(_temporary_path(target))
    return [("install", "-m", "0644", source, new), ("mv", "-fT", new, str(target))]


def _temporary_path(target: Path) -> Path:
    # AppArmor must not read an unfinished file: it ignores names that begin with a dot (apparmor_parser(8)).
    return target.with_name(f".{target.name}.new")


def _root_prefix() -> Sequence[str]:
    """Returns the words that make root run a command; HostError without sudo."""
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
