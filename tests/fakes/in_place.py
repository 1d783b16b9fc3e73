"""A container of a builder's, without packhorse's sandbox: its directories over this machine's programs.

The phases of the lifecycle run in it as on a platform. It is a mount namespace, in which `/cnb` and
`/platform` are the builder's, `/workspace` and `/layers` are directories of the test, and the rest is this
machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from packhorse.linux import bubblewrap

SOURCE = Path(sys.modules["packhorse"].__path__[0]).parent
_CODE = (
    "import sys; sys.argv[0] = {phase!r}; sys.path.insert(0, {source!r}); "
    "from packhorse.phases.main import main; sys.exit(main(sys.argv))"
)


@dataclass
class InPlace:
    """The container. `root` has the builder's files, `work` the directories that buildpacks write to."""

    root: Path
    work: Path
    user: tuple[int, int]
    env: dict[str, str] = field(default_factory=dict)

    def begin(self, app: Path) -> None:
        """Makes the directories anew, as a platform makes its volumes, with a copy of the application."""
        for name in ("workspace", "layers", "home"):
            shutil.rmtree(self.work / name, ignore_errors=True)
            (self.work / name).mkdir()
            (self.work / name).chmod(0o777 if name == "workspace" else 0o755)
        shutil.copytree(app, self.work / "workspace", dirs_exist_ok=True)
        (self.work / "workspace").chmod(0o777)
        for name in ("cache", "tmp"):
            (self.work / name).mkdir(exist_ok=True)
        (self.work / "tmp").chmod(0o1777)
        for path in (self.work, *self.work.rglob("*")):
            if path.name != "tmp":
                os.chown(path, *self.user, follow_symlinks=False)

    def run(
        self, phase: str, *words: str, api: str = "0.14", root: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs a phase, as root or as the builder's user."""
        uid, gid = self.user
        who = [] if root else ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        code = _CODE.format(phase=phase, source=str(SOURCE))
        env = {
            "CNB_PLATFORM_API": api,
            "CNB_USER_ID": str(uid),
            "CNB_GROUP_ID": str(gid),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": "/home/builder",
            **self.env,
        }
        command = [*self._container(), *who, sys.executable, "-c", code, *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def ok(self, phase: str, *words: str, api: str = "0.14", root: bool = True) -> str:
        """Runs a phase that must succeed; returns what it said."""
        done = self.run(phase, *words, api=api, root=root)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def file(self, path: str) -> str:
        """The text of a file in the container."""
        return (self.work / path.lstrip("/")).read_text()

    def _container(self) -> list[str]:
        words = [str(bubblewrap.find()), "--tmpfs", "/", "--proc", "/proc", "--dev", "/dev"]
        words += ["--die-with-parent", "--unshare-pid"]
        kept = {SOURCE, Path(sys.prefix), Path(sys.base_prefix), Path("/usr"), Path("/etc"), Path("/opt")}
        for path in sorted(path for path in kept if path.exists()):
            for parent in reversed(path.parents[:-1]):  # bubblewrap would make them for root alone
                words += ["--perms", "0755", "--dir", str(parent)]
            words += ["--ro-bind", str(path), str(path)]
        for name in ("bin", "lib", "lib64", "sbin"):
            if Path("/", name).is_symlink():
                words += ["--symlink", f"usr/{name}", f"/{name}"]
        for name in ("cnb", "platform"):
            words += ["--ro-bind", str(self.root / name), f"/{name}"]
        for name, target in (
            *((name, f"/{name}") for name in ("workspace", "layers", "cache", "tmp")),
            ("home", "/home/builder"),
        ):
            words += ["--bind", str(self.work / name), target]
        return [*words, "--"]
