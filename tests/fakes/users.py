"""Two ordinary users of this machine, made once and left there: one with subordinate ids, one without."""

from __future__ import annotations

import fcntl
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

RANGE, SINGLE = "ph-range", "ph-single"
_TABLES = (Path("/etc/subuid"), Path("/etc/subgid"))


def ensure(name: str) -> pwd.struct_passwd:
    """The user RANGE or SINGLE, made when there is none, with the ids it stands for; needs root."""
    with Path("/run/lock/packhorse-test-users").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            pwd.getpwnam(name)
        except KeyError:
            subprocess.run(["useradd", "--create-home", name], check=True)
        for table in _TABLES:
            _set(table, name, subordinate=name == RANGE)
    return pwd.getpwnam(name)


def interpreter(name: str) -> str:
    """A python that the user may execute; that of the tests may stand in a home that is shut."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        done = subprocess.run(
            ["runuser", "-u", name, "--", candidate, "-c", check], capture_output=True, check=False
        )
        if done.returncode == 0:
            return candidate
    raise AssertionError(f"{name} can execute no python from 3.11")


def let_pass(directory: Path) -> None:
    """Lets every user go to a directory of a test, which pytest makes for its own user alone."""
    top = Path(tempfile.gettempdir())
    for path in (directory, *directory.parents):
        if path != top and path.is_relative_to(top):
            path.chmod(0o755)


def _set(table: Path, name: str, *, subordinate: bool) -> None:
    lines = table.read_text().splitlines() if table.exists() else []
    others = [line for line in lines if not line.startswith(f"{name}:")]
    if subordinate and others == lines:
        # Above every extent that is there.
        start = max((sum(map(int, line.split(":")[1:])) for line in lines), default=100_000)
        _replace(table, "\n".join([*lines, f"{name}:{max(start, 100_000)}:65536"]) + "\n")
    elif not subordinate and others != lines:
        _replace(table, "".join(f"{line}\n" for line in others))


def _replace(table: Path, text: str) -> None:
    """At once: others may be reading it."""
    new = table.with_name(f"{table.name}.packhorse")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(table)
