"""Runs `mmdebstrap`: chooses its options for this machine, stops it, and explains its failures.

Its settings keep the host's own files and settings out of a root. `distro.files` removes the rest from the
finished root. Called by `distro.roots`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO, Literal, cast

from packhorse.builder.distro.files import MTIME
from packhorse.errors import HostError, NetworkError, PackhorseError
from packhorse.host.distribution import Suite
from packhorse.host.folders import SCRATCH
from packhorse.linux import userns
from packhorse.sandbox.process import ParentDeathGuard

Mode = Literal["root", "unshare", "fakechroot"]

# Each with the seconds that mmdebstrap gets to clean up. SIGINT comes first, because only then does fakeroot
# end its daemon.
_SIGNALS = ((signal.SIGINT, 15), (signal.SIGTERM, 15), (signal.SIGKILL, 5))
_POLL_SECONDS = 0.1
_PASSED_ENVIRONMENT = ("PATH", "HOME", "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
# Settings of the host that say how to reach its mirrors; not which unsigned mirrors it trusts, nor which
# indexes it reads.
_HOST_SETTING = re.compile(
    r"Acquire::(https?|ftp|Retries|ForceIPv[46]|Check-Valid-Until|Check-Date|Max-ValidTime)\b.*;",
    re.IGNORECASE,
)
_OWN_SETTINGS = (
    'Dir::Etc::netrc "/etc/apt/auth.conf";',
    'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";',
    # Otherwise the host's machine-id would decide which updates a root gets (Ubuntu).
    'APT::Get::Always-Include-Phased-Updates "true";',
)
# Makes the merged /usr, as debootstrap does, without the package `usrmerge`, which needs all of perl.
_SETUP = (
    'for d in bin sbin lib {lib64}; do mkdir -p "$1/usr/$d"; ln -s "usr/$d" "$1/$d"; done; '
    r"printf 'Package: usrmerge\nPin: version *\nPin-Priority: -1\n' "
    '>"$1/etc/apt/preferences.d/00packhorse"'
)
_CUSTOMIZE = 'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*'
_OTHER_BUILDER = "or name a builder with --builder"
_LINES_SHOWN = 8
_WRONG_KEY = (
    "check that the mirrors below /etc/apt are the distribution's and its keyring package is up to date"
)
_FAILURES = (
    ("No space left on device|Disk quota exceeded", HostError, f"free space in {SCRATCH}"),
    ("NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|signatures (couldn't|were invalid)", NetworkError, _WRONG_KEY),
    (
        "Failed to fetch|Could not (resolve|connect)|Connection (failed|timed out|refused)|Temporary failure",
        NetworkError,
        "see that `apt-get update` works: the same mirrors and proxies are used",
    ),
    ("is not signed", NetworkError, _WRONG_KEY),
)


def mmdebstrap_command(
    packages: Sequence[str], *, suite: Suite, arch: str, mode: Mode, apt_conf: Path
) -> list[str]:
    """Returns the command that reads a sources.list from standard input, and writes a root as a tar.

    mmdebstrap copies `apt_conf` into the root, because the settings of an option would be visible to other
    users, and the addresses of proxies and mirrors may contain passwords.
    """
    return [
        "mmdebstrap",
        f"--mode={mode}",
        "--variant=essential",
        "--format=tar",
        f"--architectures={arch}",
        f"--include={','.join(packages)}",
        "--dpkgopt=force-unsafe-io",
        "--skip=output/dev,cleanup/apt,cleanup/reproducible",
        f"--setup-hook=upload {apt_conf} /etc/apt/apt.conf.d/98packhorse",
        f"--setup-hook={_SETUP.format(lib64='lib64' if arch == 'amd64' else '')}",
        f"--customize-hook={_CUSTOMIZE}",
        suite.codename,
        "-",
        "-",
    ]


def apt_settings(dump: str) -> str:
    """Selects the settings for apt's downloads from the output of `apt-config dump`."""
    kept = filter(_HOST_SETTING.fullmatch, dump.splitlines())
    return "".join(f"{line}\n" for line in (*kept, *_OWN_SETTINGS))


def host_apt_settings(env: Mapping[str, str]) -> str:
    """Returns this machine's settings for apt's downloads; HostError if apt-config fails."""
    try:
        done = subprocess.run(
            ["apt-config", "dump"], env=dict(env), capture_output=True, text=True, check=False
        )
        why = done.stderr.strip()
    except OSError as error:
        done, why = None, f"apt-config: {error.strerror}"
    if done is None or done.returncode != 0:
        raise HostError(
            "apt's configuration cannot be read", why=why, fix="try apt-config dump", check="default-builder"
        )
    return apt_settings(done.stdout)


def choose_mode(*, root: bool, range_of_ids: bool, path: str) -> Mode:
    """Chooses how mmdebstrap is root inside: really, in a user namespace, or simulated by fakechroot.

    `range_of_ids` says that the user has subordinate ids. Raises HostError, with what to install, if `path`
    lacks a tool.
    """
    mode: Mode = "root" if root else "unshare" if range_of_ids else "fakechroot"
    tools = ("mmdebstrap", "fakechroot", "fakeroot") if mode == "fakechroot" else ("mmdebstrap",)
    missing = [tool for tool in tools if shutil.which(tool, path=path) is None]
    if missing:  # the package of each tool has the tool's name
        raise HostError(
            "the default builder cannot be made yet: a tool is missing",
            why=f"not found on PATH: {', '.join(missing)}",
            fix=f"sudo apt-get install {' '.join(missing)}\n{_OTHER_BUILDER}",
            check="default-builder",
        )
    return mode


def host_mode(path: str) -> Mode:
    """Chooses the mode for the user of this process; HostError."""
    root = os.geteuid() == 0
    return choose_mode(
        root=root, range_of_ids=not root and userns.choose_map().mode is userns.MapMode.RANGE, path=path
    )


class Mmdebstrap:
    """A running mmdebstrap; `output` is the tar that it writes."""

    def __init__(
        self, process: subprocess.Popen[bytes], progress: Callable[[str], None], cancelled: Event
    ) -> None:
        self.output = cast(BinaryIO, process.stdout)
        self._process = process
        self._cancelled = cancelled
        self._stopped = Event()
        self._last_lines: deque[str] = deque(maxlen=40)
        self._listener = Thread(target=self._listen, args=(progress,), daemon=True)
        self._watcher = Thread(target=self._watch, daemon=True)
        self._listener.start()
        self._watcher.start()

    def finish(self) -> None:
        """Waits for the end; raises HostError or NetworkError if mmdebstrap failed."""
        while self.output.read(1 << 16):  # a tar is padded; unread padding would be a broken pipe
            pass
        self._watcher.join()
        if self._cancelled.is_set():
            raise HostError(
                "a root file system of the default builder was not finished",
                why="it was cancelled",
                fix="run it again",
            )
        if self._process.returncode != 0:
            raise explain_failure(self._process.returncode, self._last_lines)

    def stop(self) -> None:
        """Ends it if it still runs, and gives it time to remove its chroot."""
        self.output.close()
        self._stopped.set()
        self._watcher.join()

    def _listen(self, progress: Callable[[str], None]) -> None:
        for raw in cast(BinaryIO, self._process.stderr):
            line = raw.decode(errors="replace").rstrip()
            self._last_lines.append(line)
            if line.startswith("I: ") and line.endswith("...") and "tempdir" not in line:
                progress(line.removeprefix("I: ").removesuffix("..."))

    def _watch(self) -> None:
        """Ends the whole process group after its leader, and reaps the leader last.

        The leader may be a wrapper that dies of the first signal (`fakechroot`). Then its children would hold
        the pipes open for ever. Their error output ends when they are gone, and so does `_listener`.
        """
        while not (self._has_ended() or self._cancelled.is_set()):
            if self._stopped.wait(_POLL_SECONDS):
                break
        for number, seconds in _SIGNALS:
            os.killpg(self._process.pid, number)
            self._listener.join(seconds)
        self._process.wait()

    def _has_ended(self) -> bool:
        """Whether the process has ended. Does not reap it, so that no other process gets its group's id."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _own_mounts() -> tuple[str, ...]:
    """Returns the words before a command that make its mounts end with it; none if this user cannot mount.

    As root, mmdebstrap mounts /proc and /sys below its directory. If it were killed, they would stay mounted,
    and a later `rm -r` would walk into them.
    """
    prefix = ("unshare", "--mount")
    may = subprocess.run((*prefix, "true"), capture_output=True, check=False).returncode == 0
    return prefix if may else ()


@contextmanager
def run_mmdebstrap(
    command: Sequence[str],
    *,
    sources: Path,
    temporary: Path,
    env: Mapping[str, str],
    progress: Callable[[str], None],
    cancelled: Event,
) -> Iterator[Mmdebstrap]:
    """Starts `command` with `sources` as its input and `temporary` as its TMPDIR.

    It ends at the end of the block, when `cancelled` is set, or with this process.
    """
    chosen = {name: value for name, value in env.items() if name in _PASSED_ENVIRONMENT}
    with sources.open("rb") as stdin:
        process = subprocess.Popen(
            (*_own_mounts(), *command),
            env=chosen | {"TMPDIR": str(temporary), "SOURCE_DATE_EPOCH": str(MTIME)},
            cwd="/",
            umask=0o022,
            start_new_session=True,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    run = Mmdebstrap(process, progress, cancelled)
    try:
        guard = ParentDeathGuard.for_group(process.pid)
        try:
            yield run
        finally:
            run.stop()
            guard.close()
    finally:
        run.stop()


def explain_failure(status: int, lines: Iterable[str]) -> PackhorseError:
    """Turns a failure of mmdebstrap into an error: its `status` (negative: a signal) and its last lines."""
    messages = [line for line in lines if not line.startswith("I: ")]
    what = "mmdebstrap did not finish the default builder's root file system"
    if status < 0:
        return HostError(what, why=f"it was ended by {signal.Signals(-status).name}", fix="run it again")
    complaints = [line for line in messages if line.startswith(("E: ", "W: ", "dpkg: error"))]
    why = "\n".join((complaints or messages)[-_LINES_SHOWN:]) or f"it ended with status {status}"
    for pattern, kind, fix in _FAILURES:
        if re.search(pattern, "\n".join(messages)):
            return kind(what, why=why, fix=fix)
    return HostError(what, why=why, fix=_OTHER_BUILDER, check="default-builder")
