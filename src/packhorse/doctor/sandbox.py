"""AppArmor's restriction of user namespaces (Ubuntu 23.10 and newer), and the profile that lifts it.

Called by the doctor's check of that name. On such a machine an ordinary user's program gets a namespace in
which it has no rights, or none at all, unless a profile allows it one. Bubblewrap makes packhorse's
namespaces and runs in them, so the profile is for that program alone, by the path behind all links; what it
starts keeps the profile. It confines nothing: what holds a step is its sandbox.

The doctor's checks on what a sandbox is made of, each by having it made; called by `doctor.checks`.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.doctor.probe import CheckResult, Fix, HostProbe, limited_line, missing_line, ok_line
from packhorse.errors import HostError, InputError
from packhorse.linux import bubblewrap, userns
from packhorse.linux.processes import read_proc
from packhorse.linux.userns import Namespace
from packhorse.sandbox import network as sandbox_network

_PROFILES = Path("/etc/apparmor.d")
_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_RESTRICTION = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")

_PROFILE = """\
# Made by packhorse doctor --fix: lets packhorse's bubblewrap make user namespaces, and use them.
abi <abi/4.0>,
include <tunables/global>

profile {name} {program} flags=(unconfined) {{
  userns,

  include if exists <local/{name}>
}}
"""


def is_enabled() -> bool:
    """Whether the kernel uses AppArmor."""
    return _read_flag(_ENABLED) == "Y"


def is_restricted() -> bool:
    """Whether namespaces of ordinary users' programs are restricted."""
    return is_enabled() and _read_flag(_RESTRICTION) == "1"


def _read_flag(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def profile_name(program: Path) -> str:
    """What the profile for a program is called: several installs of packhorse have one each."""
    return f"packhorse.{Digest.of(bytes(program)).hex[:8]}"


def profile_path(program: Path) -> Path:
    """Where the profile for a program is put."""
    return _PROFILES / profile_name(program)


def profile(program: Path) -> str:
    """The profile; `program` is an absolute path without links. InputError when none can name it."""
    text = str(program)
    if not text.isprintable() or '"' in text or "\\" in text:
        raise InputError(
            f"no AppArmor profile can name {text!r}", fix="install packhorse in another directory"
        )
    # In a profile these stand for other paths, in quotation marks too (apparmor.d(5), "Globbing").
    quoted = "".join(f"\\{character}" if character in "*?[]{}^" else character for character in text)
    return _PROFILE.format(name=profile_name(program), program=f'"{quoted}"')


def install_profile(program: Path) -> Fix:
    """Puts the profile in place and loads it."""
    target = profile_path(program)
    load = ("apparmor_parser", "--replace", str(target))
    return Fix(f"let {program} make user namespaces", (load,), ((target, profile(program)),))


def user_namespaces(probe: HostProbe) -> CheckResult:
    """Makes one, with the ids that builds have."""
    namespace, trial = probe.namespace, probe.trial
    if trial.error is None or trial.failed_check != "user-namespaces":
        if isinstance(namespace, HostError):
            return _not_checked(trial.failed_check)
        count = sum(extent.count for extent in namespace.idmap.uids)
        return ok_line(f"made one with {count} id{'s' if count > 1 else ''}")
    found = trial.error.why or trial.error.what
    if isinstance(namespace, Namespace):
        found = f"made one that gives no rights: {found}"
    return missing_line(found, _missing_permission())


def _missing_permission() -> str:
    """What has to be allowed, and by whom, for a namespace that cannot be made."""
    if is_restricted():
        return "see the line apparmor"
    for switch in ("user/max_user_namespaces", "kernel/unprivileged_userns_clone"):
        path = Path("/proc/sys") / switch
        if path.is_file() and path.read_text().strip() == "0":
            return f"an administrator forbids them: {switch.replace('/', '.')} is 0, see sysctl(8)"
    if in_container() or (os.geteuid() == 0 and not _is_whole_root()):
        return _container_options()
    return "something guards this process, a system call filter or a security module; ask who set it up"


def _container_options() -> str:
    """How a container has to be started, in docker's words, for this user to make sandboxes in it."""
    options = "--security-opt seccomp=unconfined --security-opt systempaths=unconfined"
    if is_enabled():
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
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", read_proc("status"), re.MULTILINE)
    return bool(found and int(found[1], 16) >> 19 & 0b101 == 0b101)


def in_container() -> bool:
    """Whether this seems to be a container."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def _not_checked(failed_check: str) -> CheckResult:
    """The line of something that was not come to, since something else is missing."""
    return missing_line("not tried, for want of something else", f"see {failed_check}", without="")


def subordinate_ids(probe: HostProbe) -> CheckResult:
    """Whether there is more than one id, and whether the kernel takes the map."""
    idmap, namespace = probe.idmap, probe.namespace
    if isinstance(idmap, HostError):
        return missing_line(idmap.why, idmap.fix)
    if os.geteuid() == 0:
        first = idmap.uids[0].outside
        return ok_line(f"not needed: root's sandboxes have ids from {first} on")
    obstacle = userns.find_range_obstacle()
    if obstacle:
        without = (
            "builds work, with one id: nothing can be root inside, and other users' files look like one's own"
        )
        return limited_line(obstacle, without, *_more_ids_remedy(obstacle))
    if isinstance(namespace, HostError) and namespace.check == "subordinate-ids":
        return missing_line(namespace.why, namespace.fix)
    spare = [extent for extent in idmap.uids if extent.outside != os.geteuid()]
    count, first = sum(extent.count for extent in spare), min(extent.outside for extent in spare)
    return ok_line(f"{count} from {first} on")


def _more_ids_remedy(obstacle: str) -> tuple[str, Fix | None]:
    if "is not installed" in obstacle:
        return install_remedy("uidmap")
    if "has no line for user" not in obstacle:
        return "ask who set this machine up", None
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "give this user a name in /etc/passwd, and lines in /etc/subuid and /etc/subgid", None
    first = _first_unused_id()
    extent = f"{first}-{first + userns.SIZE - 1}"
    command = ("usermod", "--add-subuids", extent, "--add-subgids", extent, user)
    return f"sudo {' '.join(command)}", Fix(f"give {user} {userns.SIZE} subordinate ids", (command,))


def _first_unused_id() -> int:
    """The first id above all that /etc/subuid and /etc/subgid give to anybody."""
    ends = [100_000]
    for table in (Path("/etc/subuid"), Path("/etc/subgid")):
        if table.is_file():
            found = re.findall(r"^[^:]*:([0-9]+):([0-9]+)\s*$", table.read_text(), re.MULTILINE)
            ends += [int(first) + int(count) for first, count in found]
    return max(ends)


def install_remedy(*packages: str) -> tuple[str, Fix | None]:
    """How packages of the distribution are installed: in words, and as a mend where that is known."""
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        return f"install {names} with this system's package manager", None
    command = ("apt-get", "install", "--yes", "--no-install-recommends", *packages)
    return f"sudo apt-get install {names}", Fix(f"install {names}", (command,))


def apparmor_restriction(probe: HostProbe) -> CheckResult:
    """Whether AppArmor keeps namespaces from programs without a profile, packhorse's among them."""
    if not is_enabled():
        return ok_line("not used by this kernel")
    if not is_restricted():
        return ok_line("does not restrict user namespaces")
    if os.geteuid() == 0:
        return ok_line("restricts user namespaces of ordinary users, not root's")
    if probe.trial.error is None:
        return ok_line("restricts user namespaces, and lets packhorse have its own")
    if probe.trial.failed_check not in ("user-namespaces", "bubblewrap"):
        return ok_line("restricts user namespaces; whether packhorse's too is to be seen yet")
    found = "keeps user namespaces from programs without a profile (apparmor_restrict_unprivileged_userns)"
    try:
        program = bubblewrap.find().resolve()
        mend = install_profile(program)
    except (HostError, InputError) as error:
        return missing_line(found, error.fix)
    return missing_line(found, f"packhorse doctor --fix puts a profile for {program} there", mend)


def bubblewrap_program(probe: HostProbe) -> CheckResult:
    """Starts it, as builds do."""
    trial = probe.trial
    try:
        program = bubblewrap.choose()
    except HostError as error:
        found = ": ".join(filter(None, [error.what, error.why.replace("\n", "; ")]))
        return missing_line(found, error.fix)
    if trial.error is None:
        unfit = f"; not used: {program.unfit_reason}" if program.unfit_reason else ""
        return ok_line(f"made a sandbox: {program.path} ({program.origin}){unfit}")
    if trial.failed_check != "bubblewrap":
        return _not_checked(trial.failed_check)
    remedy = (
        _container_options() if in_container() else trial.error.fix or "its own words above say what it lacks"
    )
    return missing_line(trial.error.why or trial.error.what, remedy)


def overlay(probe: HostProbe) -> CheckResult:
    """Mounts one on the store's file system, writes there, and looks at the marks this leaves."""
    trial = probe.trial
    move = "put the store on ext4, xfs, btrfs or tmpfs, and not on an overlay (PACKHORSE_HOME)"
    if in_container():
        move += ": a volume of this container, for instance"
    if trial.error is None and probe.overlay_obstacle:
        found = f"the file system of {probe.home} is {probe.overlay_obstacle}, which takes no overlays"
        without = "builds work on plain copies, which take time and room; images cannot be run"
        return limited_line(found, without, move)
    if trial.error is None and not trial.missing_marks:
        return ok_line(f"mounted and written below {probe.home}")
    if trial.error is None:
        return missing_line(f"{trial.missing_marks}, below {probe.home}", move)
    if trial.failed_check == "overlay":
        return missing_line(f"below {probe.home}: {trial.error.why}", move)
    return _not_checked(trial.failed_check)


def seccomp(probe: HostProbe) -> CheckResult:
    """Runs a program under the system call filter of steps."""
    trial = probe.trial
    if trial.error is None:
        return ok_line(f"ran a program under the filter for {os.uname().machine}")
    if trial.failed_check == "seccomp":
        remedy = "take a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64"
        return missing_line(trial.error.why or trial.error.what, remedy)
    return _not_checked(trial.failed_check)


def network(probe: HostProbe) -> CheckResult:
    """Gives a sandbox a network of its own, through pasta."""
    without = "builds use this machine's network, and so reach what listens on its loopback"
    _, reason = sandbox_network.find_network()
    if "not installed" in reason:
        return limited_line(reason, without, *install_remedy("passt"))
    if reason and not sandbox_network.TUN.exists():
        remedy = "start this container with --device /dev/net/tun" if in_container() else "sudo modprobe tun"
        return limited_line(reason, without, remedy)
    if reason:
        remedy = "let this user open it, if others of this machine may: sudo chmod 666 /dev/net/tun"
        return limited_line(reason, without, remedy)
    reason = probe.own_network
    if reason:
        return limited_line(reason, without, "--network host and --network none work")
    return ok_line("gave a sandbox one of its own, through pasta")
