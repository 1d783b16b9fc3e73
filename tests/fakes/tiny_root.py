"""A root file system of a few megabytes, made of this machine's own shell and coreutils, for tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from packhorse.linux import userns
from packhorse.linux.userns import MapMode, Namespace

PROGRAMS = (
    *("sh", "bash", "cat", "chmod", "cp", "echo", "env", "grep", "head", "id", "kill", "ln", "ls", "mkdir"),
    *("mv", "readlink", "rm", "rmdir", "setsid", "sleep", "sort", "stat", "touch", "true", "uname"),
)
"""What every tiny root has in /bin."""

_PASSWD = "root:x:0:0:root:/root:/bin/sh\ncnb:x:1000:1000::/home/cnb:/bin/sh\n"
_GROUP = "root:x:0:\ncnb:x:1000:\n"


def make(directory: Path, *, programs: Sequence[str] = ()) -> Path:
    """Makes the tree in `directory` (which must not exist), owned by whoever runs this; returns it."""
    for name in ("bin", "etc", "home/cnb", "lib", "tmp", "usr", "var"):
        (directory / name).mkdir(parents=True)
    (directory / "tmp").chmod(0o1777)
    (directory / "usr" / "bin").symlink_to("../bin")
    (directory / "etc" / "passwd").write_text(_PASSWD)
    (directory / "etc" / "group").write_text(_GROUP)
    sources = []
    for program in (*PROGRAMS, *programs):
        found = shutil.which(program)
        assert found is not None, f"{program} is not on this machine"
        sources.append(os.path.realpath(found))
        _copy(sources[-1], directory / "bin" / program)
    for library in _libraries(tuple(sources)):
        # The loader is asked for by its full name, the others are searched for in /lib as well.
        loader = "ld-linux" in library
        place = library.replace("/usr/", "/") if loader else f"/lib/{os.path.basename(library)}"
        _copy(os.path.realpath(library), directory / place.lstrip("/"))
    return directory


def own(tree: Path, namespace: Namespace) -> Path:
    """Gives the tree to the namespace's root, as an unpacked image is; its /home/cnb to 1000. Returns it.

    With a single id there is no such root, and the tree stays its maker's.
    """
    idmap = namespace.idmap
    if idmap.mode is MapMode.SINGLE:
        return tree
    if idmap.mode is MapMode.ROOT:
        root, user = ("{}:{}".format(*idmap.to_outside(number, number)) for number in (0, 1000))
        subprocess.run(["chown", "-R", root, str(tree)], check=True)
        subprocess.run(["chown", user, str(tree / "home/cnb")], check=True)
        return tree
    for words in (["-R", "0:0", str(tree)], ["1000:1000", str(tree / "home/cnb")]):
        chown = shutil.which("chown") or "/bin/chown"
        assert userns.spawn([chown, *words], namespace=namespace).wait() == 0
    return tree


def remove(tree: Path, namespace: Namespace) -> None:
    """Removes a tree whose entries belong to ids of the namespace."""
    if namespace.idmap.mode is not MapMode.RANGE:
        shutil.rmtree(tree)
        return
    program = shutil.which("rm") or "/bin/rm"
    assert userns.spawn([program, "-rf", str(tree)], namespace=namespace).wait() == 0


@cache
def _libraries(programs: tuple[str, ...]) -> list[str]:
    """The paths of all libraries that the programs are linked with, the loader among them."""
    # ldd fails where one of the programs is linked with none.
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r"(/\S+) \(0x", listed)))


def _copy(source: str, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
