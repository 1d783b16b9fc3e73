"""The two base root file systems of the default builder, made from the distribution's own packages.

Called by `platform/builder` the first time the default builder is needed, before any arrow. What a root has
is in `distro.packages` and `distro.npm`, what of it stays in `distro.files`, where packages come from in
`distro.sources`. The same package versions give the same bytes on every machine, as root and as a user.
Making images of the roots (environment, user, labels) is the caller's.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import BinaryIO

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.diskspace import FULL
from packhorse.errors import DiskFull, FormatError, HostError
from packhorse.platform.distro.files import RootEntry, write_root
from packhorse.platform.distro.mmdebstrap import (
    host_apt_settings,
    host_mode,
    mmdebstrap_command,
    run_mmdebstrap,
)
from packhorse.platform.distro.npm import fetch_npm_wheel, npm_entries
from packhorse.platform.distro.packages import RootKind, wanted_packages
from packhorse.platform.distro.sources import AptSource, Suite, os_release_fields
from packhorse.platform.sbom.base import versions


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
        packages=versions([written.dpkg_status]),
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
