"""packhorse as a command with a home of its own, for tests that build nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import packhorse.cli

START = Path(packhorse.cli.__file__).parent / "start.py"


class Command:
    """Runs packhorse in `home`; `environ` is all that it sees of the environment but for PATH."""

    def __init__(self, home: Path, **environ: str) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        self.environ = {
            "HOME": str(home),
            "PACKHORSE_HOME": str(home / "packhorse"),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "PATH": os.environ["PATH"],
            **environ,
        }
        self.said = ""
        """All that any command has printed."""

    def run(
        self, *words: str | Path, given: str | None = None, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-P", str(START), *map(str, words)],
            env={**self.environ, **environ},
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.said += done.stdout + done.stderr
        return done

    def ok(self, *words: str | Path, given: str | None = None, **environ: str) -> str:
        done = self.run(*words, given=given, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def fails(self, code: int, *words: str | Path, given: str | None = None, **environ: str) -> str:
        done = self.run(*words, given=given, **environ)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stderr
