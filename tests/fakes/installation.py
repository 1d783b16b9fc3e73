"""packhorse as a user has it: a wheel in a virtual environment of the system's python, and homes for it.

Everything is below one directory that every user of the machine may pass through.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", "tests", "__pycache__", ".*_cache", ".hypothesis", "dist"
)
_OURS = ("PYTEST", "PYTHON", "VIRTUAL_ENV", "PACKHORSE", "XDG_", "NO_COLOR")
"""Beginnings of variables of this process that would change what the program does."""
_OWN = ("trees", "roots", "kept", "caches", "leases", "scratch", "locks")
"""Directories of a store that do not go over to a clone of its home."""


@dataclass(frozen=True)
class Home:
    """A PACKHORSE_HOME and its owner, who runs `program` there."""

    program: Path
    path: Path
    owner: pwd.struct_passwd = field(default_factory=lambda: pwd.getpwuid(os.geteuid()))

    def environment(self, more: Mapping[str, str] = {}) -> dict[str, str]:
        """This process's, but that the home is its own, and `more`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        return kept | {"HOME": str(self.path), "PACKHORSE_HOME": str(self.path), **more}

    def start(
        self, *arguments: str | Path, env: Mapping[str, str] = {}, **options: object
    ) -> subprocess.Popen[str]:
        """Starts `packhorse ARGUMENTS` in a session of its own; options as Popen's."""
        chosen: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "start_new_session": True,
            "cwd": self.path,
            **options,
        }
        if self.owner.pw_uid != os.geteuid():
            chosen |= {"user": self.owner.pw_uid, "group": self.owner.pw_gid, "extra_groups": []}
        words = [str(self.program), *map(str, arguments)]
        return subprocess.Popen(words, env=self.environment(env), text=True, **chosen)  # type: ignore[call-overload,no-any-return]

    def run(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] = {},
        input: str = "",
        timeout: float = 240,
        **options: object,
    ) -> subprocess.CompletedProcess[str]:
        """Runs `packhorse ARGUMENTS` to its end, whatever that is."""
        process = self.start(*arguments, env=env, **{"stdin": subprocess.PIPE, **options})
        try:
            out, err = process.communicate(input, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out or "", err or "")

    def ok(self, *arguments: str | Path, **options: object) -> str:
        """What `packhorse ARGUMENTS` prints, stripped; fails when it fails."""
        done = self.run(*arguments, **options)  # type: ignore[arg-type]
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def image_id(self, name: str) -> str:
        """The ID of an image in this home's store."""
        return str(json.loads(self.ok("inspect", "--output", "json", name))["id"])

    def clone(self, path: Path, owner: pwd.struct_passwd | None = None) -> Home:
        """A home at `path` with the images of this one, whose blobs it shares, and nothing unpacked."""
        owner = owner or self.owner
        shutil.copytree(
            self.path / "store",
            path / "store",
            copy_function=_take_over,
            ignore=shutil.ignore_patterns(*_OWN, "gate", "unsettled"),
        )
        for name in _OWN:
            (path / "store" / name).mkdir()
        for directory in (path, *(entry for entry in path.rglob("*") if entry.is_dir())):
            os.chown(directory, owner.pw_uid, owner.pw_gid)
        return Home(self.program, path, owner)


def _take_over(source: str, target: str) -> None:
    """Blobs are never written again, so one copy serves all; the rest is replaced, never changed."""
    os.link(source, target)


def install(directory: Path) -> Path:
    """Builds the wheel and installs it in `directory`, with the system's python; returns the program."""
    source = directory / "source"
    shutil.copytree(REPOSITORY, source, ignore=NOT_SOURCE)  # the build writes into its source
    _run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-build-isolation", "--wheel-dir", directory, source),
    )
    shutil.rmtree(source)
    (wheel,) = directory.glob("*.whl")
    _run("/usr/bin/python3", "-m", "venv", directory / "venv")
    python = directory / "venv" / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    return directory / "venv" / "bin" / "packhorse"


def _run(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
