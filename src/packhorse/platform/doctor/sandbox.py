"""The doctor's checks on what a sandbox is made of, each by having it made; called by `doctor.checkup`."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from pathlib import Path

from packhorse.base import bubblewrap, proc, userns
from packhorse.base.userns import Namespace
from packhorse.errors import HostError, InputError
from packhorse.platform.doctor import apparmor
from packhorse.platform.doctor.diagnosis import Line, Mend, limited_line, missing_line, ok_line
from packhorse.platform.doctor.examination import Examination
from packhorse.sandbox import network as sandbox_network


def user_namespaces(examined: Examination) -> Line:
    """Makes one, with the ids that builds have."""
    namespace, trial = examined.namespace, examined.trial
    if trial.error is None or trial.blamed != "user-namespaces":
        if isinstance(namespace, HostError):
            return _elsewhere(trial.blamed)
        count = sum(extent.count for extent in namespace.idmap.uids)
        return ok_line(f"made one with {count} id{'s' if count > 1 else ''}")
    found = trial.error.why or trial.error.what
    if isinstance(namespace, Namespace):
        found = f"made one that gives no rights: {found}"
    return missing_line(found, _permission())


def _permission() -> str:
    """What has to be allowed, and by whom, for a namespace that cannot be made."""
    if apparmor.restricts():
        return "see the line apparmor"
    for switch in ("user/max_user_namespaces", "kernel/unprivileged_userns_clone"):
        path = Path("/proc/sys") / switch
        if path.is_file() and path.read_text().strip() == "0":
            return f"an administrator forbids them: {switch.replace('/', '.')} is 0, see sysctl(8)"
    if in_container() or (os.geteuid() == 0 and not _is_whole_root()):
        return _container()
    return "something guards this process, a system call filter or a security module; ask who set it up"


def _container() -> str:
    """How a container has to be started, in docker's words, for this user to make sandboxes in it."""
    options = "--security-opt seccomp=unconfined --security-opt systempaths=unconfined"
    if apparmor.enabled():
        options += " --security-opt apparmor=unconfined"
    if os.geteuid() != 0:
        return f"start this container with {options}, or with --privileged"
    return (
        f"start this container with {options} --cap-add SYS_ADMIN --cap-add SYS_PTRACE, "
        "or with --privileged\n"
        "or use packhorse in it as an ordinary user (--user), who needs no --cap-add"
    )


def _is_whole_root() -> bool:
    """Whether this process may act on others' namespaces: it has CAP_SYS_PTRACE and CAP_SYS_ADMIN."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", proc.told("status"), re.MULTILINE)
    return bool(found and int(found[1], 16) >> 19 & 0b101 == 0b101)


def in_container() -> bool:
    """Whether this seems to be a container."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def _elsewhere(blamed: str) -> Line:
    """The line of something that was not come to, since something else is missing."""
    return missing_line("not tried, for want of something else", f"see {blamed}", without="")


def subordinate_ids(examined: Examination) -> Line:
    """Whether there is more than one id, and whether the kernel takes the map."""
    idmap, namespace = examined.idmap, examined.namespace
    if isinstance(idmap, HostError):
        return missing_line(idmap.why, idmap.fix)
    if os.geteuid() == 0:
        first = idmap.uids[0].outside
        return ok_line(f"not needed: root's sandboxes have ids from {first} on")
    obstacle = userns.range_obstacle()
    if obstacle:
        without = (
            "builds work, with one id: nothing can be root inside, and other users' files look like one's own"
        )
        return limited_line(obstacle, without, *_more_ids(obstacle))
    if isinstance(namespace, HostError) and namespace.check == "subordinate-ids":
        return missing_line(namespace.why, namespace.fix)
    spare = [extent for extent in idmap.uids if extent.outside != os.geteuid()]
    count, first = sum(extent.count for extent in spare), min(extent.outside for extent in spare)
    return ok_line(f"{count} from {first} on")


def _more_ids(obstacle: str) -> tuple[str, Mend | None]:
    if "is not installed" in obstacle:
        return installing("uidmap")
    if "has no line for user" not in obstacle:
        return "ask who set this machine up", None
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "give this user a name in /etc/passwd, and lines in /etc/subuid and /etc/subgid", None
    first = _unused_ids()
    extent = f"{first}-{first + userns.SIZE - 1}"
    command = ("usermod", "--add-subuids", extent, "--add-subgids", extent, user)
    return f"sudo {' '.join(command)}", Mend(f"give {user} {userns.SIZE} subordinate ids", (command,))


def _unused_ids() -> int:
    """The first id above all that /etc/subuid and /etc/subgid give to anybody."""
    ends = [100_000]
    for table in (Path("/etc/subuid"), Path("/etc/subgid")):
        if table.is_file():
            found = re.findall(r"^[^:]*:([0-9]+):([0-9]+)\s*$", table.read_text(), re.MULTILINE)
            ends += [int(first) + int(count) for first, count in found]
    return max(ends)


def installing(*packages: str) -> tuple[str, Mend | None]:
    """How packages of the distribution are installed: in words, and as a mend where that is known."""
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        return f"install {names} with this system's package manager", None
    command = ("apt-get", "install", "--yes", "--no-install-recommends", *packages)
    return f"sudo apt-get install {names}", Mend(f"install {names}", (command,))


def apparmor_restriction(examined: Examination) -> Line:
    """Whether AppArmor keeps namespaces from programs without a profile, packhorse's among them."""
    if not apparmor.enabled():
        return ok_line("not used by this kernel")
    if not apparmor.restricts():
        return ok_line("does not restrict user namespaces")
    if os.geteuid() == 0:
        return ok_line("restricts user namespaces of ordinary users, not root's")
    if examined.trial.error is None:
        return ok_line("restricts user namespaces, and lets packhorse have its own")
    if examined.trial.blamed not in ("user-namespaces", "bubblewrap"):
        return ok_line("restricts user namespaces; whether packhorse's too is to be seen yet")
    found = "keeps user namespaces from programs without a profile (apparmor_restrict_unprivileged_userns)"
    try:
        program = bubblewrap.find().resolve()
        mend = apparmor.mend(program)
    except (HostError, InputError) as error:
        return missing_line(found, error.fix)
    return missing_line(found, f"packhorse doctor --fix puts a profile for {program} there", mend)


def bubblewrap_program(examined: Examination) -> Line:
    """Starts it, as builds do."""
    trial = examined.trial
    try:
        program = bubblewrap.choose()
    except HostError as error:
        found = ": ".join(filter(None, [error.what, error.why.replace("\n", "; ")]))
        return missing_line(found, error.fix)
    if trial.error is None:
        unfit = f"; not used: {program.unfit}" if program.unfit else ""
        return ok_line(f"made a sandbox: {program.path} ({program.origin}){unfit}")
    if trial.blamed != "bubblewrap":
        return _elsewhere(trial.blamed)
    remedy = _container() if in_container() else trial.error.fix or "its own words above say what it lacks"
    return missing_line(trial.error.why or trial.error.what, remedy)


def overlay(examined: Examination) -> Line:
    """Mounts one on the store's file system, writes there, and looks at the marks this leaves."""
    trial = examined.trial
    move = "put the store on ext4, xfs, btrfs or tmpfs, and not on an overlay (PACKHORSE_HOME)"
    if in_container():
        move += ": a volume of this container, for instance"
    if trial.error is None and examined.overlay_obstacle:
        found = f"the file system of {examined.home} is {examined.overlay_obstacle}, which takes no overlays"
        without = "builds work on plain copies, which take time and room; images cannot be run"
        return limited_line(found, without, move)
    if trial.error is None and not trial.marks:
        return ok_line(f"mounted and written below {examined.home}")
    if trial.error is None:
        return missing_line(f"{trial.marks}, below {examined.home}", move)
    if trial.blamed == "overlay":
        return missing_line(f"below {examined.home}: {trial.error.why}", move)
    return _elsewhere(trial.blamed)


def seccomp(examined: Examination) -> Line:
    """Runs a program under the system call filter of steps."""
    trial = examined.trial
    if trial.error is None:
        return ok_line(f"ran a program under the filter for {os.uname().machine}")
    if trial.blamed == "seccomp":
        remedy = "take a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64"
        return missing_line(trial.error.why or trial.error.what, remedy)
    return _elsewhere(trial.blamed)


def network(examined: Examination) -> Line:
    """Gives a sandbox a network of its own, through pasta."""
    without = "builds use this machine's network, and so reach what listens on its loopback"
    _, reason = sandbox_network.available()
    if "not installed" in reason:
        return limited_line(reason, without, *installing("passt"))
    if reason and not sandbox_network.TUN.exists():
        remedy = "start this container with --device /dev/net/tun" if in_container() else "sudo modprobe tun"
        return limited_line(reason, without, remedy)
    if reason:
        remedy = "let this user open it, if others of this machine may: sudo chmod 666 /dev/net/tun"
        return limited_line(reason, without, remedy)
    reason = examined.own_network
    if reason:
        return limited_line(reason, without, "--network host and --network none work")
    return ok_line("gave a sandbox one of its own, through pasta")
