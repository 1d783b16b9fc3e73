"""Builds with buildpacks that attack, for one of this machine's users, and what the user has to lose."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fakes import foreign_builder, tiny_root
from fakes.installation import Home
from fakes.shell_buildpack import shell_buildpack
from packhorse.base.installation import launcher
from packhorse.oci.layout import Layout
from packhorse.oci.place import push_image

BUILDER, RUN = "packhorse.local/attack/builder", "packhorse.local/attack/run"
PROGRAMS = ("find", "mkfifo", "sed", "truncate", "wc")
_PYTHON = "/usr/bin/python3"
_VICTIM = Path(__file__).parents[1] / "attacker" / "victim.py"
_ATTEMPT = re.compile(r"ATTEMPT (\S+) (refused|got|hung|killed) ?(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Done:
    """A build: its exit status and all that it has said."""

    status: int
    said: str

    @property
    def attempts(self) -> dict[str, str]:
        """What the attacker says of each attempt: `EPERM` and the like where refused, else the text."""
        found = {}
        for name, kind, text in _ATTEMPT.findall(self.said):
            found[name] = errno.errorcode[int(text)] if kind == "refused" else f"{kind} {text}".strip()
        return found


@dataclass
class Ground:
    """A home with the attacked builder in its store.

    `given` are the variables that the attacker needs, `done` builds that several tests look at, `held` what
    is to stay open.
    """

    home: Home
    work: Path
    given: Mapping[str, str]
    victim: subprocess.Popen[bytes]
    options: tuple[str, ...] = ()
    done: dict[str, Done] = field(default_factory=dict)
    held: list[object] = field(default_factory=list)

    def buildpack(self, name: str, *, build: str, detect: str = "", tail: str = "") -> Path:
        """A buildpack `test/NAME` of shell scripts; `tail` stands at the end of its buildpack.toml."""
        path = self.work / f"buildpack-{name}"
        shutil.rmtree(path, ignore_errors=True)
        shell_buildpack(path, f"test/{name}", build=build, detect=detect)
        with (path / "buildpack.toml").open("a") as file:
            file.write(tail)
        return path

    def app(self, name: str) -> Path:
        """A new source directory with one file, the user's."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        (path / "source").write_text("print('hello')\n")
        self.own(path)
        return path

    def own(self, path: Path) -> None:
        """Gives a tree to the user."""
        owner = self.home.owner
        for entry in (path, *path.rglob("*")):
            os.chown(entry, owner.pw_uid, owner.pw_gid, follow_symlinks=False)

    def build(
        self,
        image: str,
        app: Path,
        *buildpacks: Path,
        builder: str = BUILDER,
        options: tuple[str, ...] = (),
        look: Callable[[str], None] = lambda line: None,
    ) -> Done:
        """Runs `packhorse build` on a terminal of its own, which it has for stdin; the user's secrets are in
        its environment and in its keyring. `look` gets each line it says.
        """
        words = [self.home.program, "build", "--verbose", image, "--path", app, "--builder", builder]
        for buildpack in buildpacks:
            words += ["--buildpack", buildpack]
        for variable, value in self.given.items():
            words += ["--env", f"{variable}={value}"]
        return self.run([*words, *self.options, *options], look)

    def run(self, words: list[str | Path], look: Callable[[str], None] = lambda line: None) -> Done:
        """Runs a command line of packhorse's so."""
        master, slave = pty.openpty()
        try:
            process = subprocess.Popen(
                [_PYTHON, self.work / "victim.py", *map(str, words)],
                env=self.home.environment(
                    {"TOKEN": "SECRET-variable", "SSH_AUTH_SOCK": self.given["HOST_SOCKET"]}
                ),
                stdin=slave,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.home.path,
                user=self.home.owner.pw_uid,
                group=self.home.owner.pw_gid,
                extra_groups=[],
            )
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line.decode(errors="replace"))
                look(said[-1].rstrip())
            process.wait()
            os.set_blocking(slave, False)
            typed = b""
            try:
                typed = os.read(slave, 100)
            except BlockingIOError:
                pass
            except OSError as error:
                assert error.errno == errno.EIO
            assert typed == b"", "something was typed into the user's terminal"
        finally:
            os.close(master)
            os.close(slave)
        return Done(process.returncode, "".join(said))


@contextmanager
def ground(home: Home, work: Path, layout: Path, *, options: tuple[str, ...] = ()) -> Iterator[Ground]:
    """Makes the home, fills its store from `layout`, and holds the user's things as long as it is used.

    `options` are further ones of every build.
    """
    owner = home.owner
    for path, mode in ((home.path, 0o700), (work, 0o755)):
        path.mkdir()
        os.chown(path, owner.pw_uid, owner.pw_gid)
        path.chmod(mode)
    for name in (BUILDER, RUN):
        home.ok("copy", f"oci:{layout}:{name.rpartition('/')[2]}", name)
    shutil.copy(_VICTIM, work / "victim.py")
    victim = subprocess.Popen(
        [_PYTHON, "-I", work / "victim.py"],
        env={"HOME": str(home.path), "TOKEN": "SECRET-environment"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=owner.pw_uid,
        group=owner.pw_gid,
        extra_groups=[],
    )
    try:
        assert victim.stdout is not None and victim.stdin is not None
        given = json.loads(victim.stdout.readline())
        given["HOST_STORE"] = str(home.path / "store" / "index.json")
        yield Ground(home, work, given, victim, options)
    finally:
        victim.stdin.close()
        victim.wait()
        assert not Path(given["HOST_SHARED_FILE"]).exists()


def images(layout: Path, scratch: Path, attacker: Path) -> Path:
    """Writes the builder and its run image to an OCI layout: a small root with a setuid program."""
    tree = tiny_root.make(scratch / "root", programs=PROGRAMS)
    shutil.copy(attacker, tree / "bin" / "attacker")
    shutil.copy(shutil.which("id") or "/usr/bin/id", tree / "bin" / "setuid-id")
    (tree / "bin" / "setuid-id").chmod(0o6755)
    layer = foreign_builder.base(tree)
    arch = "amd64" if os.uname().machine == "x86_64" else "arm64"
    builder = foreign_builder.builder_image(layer, run=RUN, launcher=launcher(arch))
    push_image(builder, Layout(layout, "builder"))
    push_image(foreign_builder.run_image(layer), Layout(layout, "run"))
    return layout
