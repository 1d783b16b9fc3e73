"""Checks what a sandbox needs: namespaces, ids, bubblewrap, overlays, seccomp. Called by `doctor.checks`.

AppArmor restricts user namespaces on Ubuntu 23.10 and newer. There an ordinary user's program gets no
namespace, or one without rights, unless a profile allows it. Bubblewrap makes packhorse's namespaces, so the
profile that `--fix` installs is for bubblewrap only, at its path without links. The programs that bubblewrap
starts keep the profile. The profile confines nothing; the sandbox does that.
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
    """Whether AppArmor restricts the user namespaces of ordinary users."""
    return is_enabled() and _read_flag(_RESTRICTION) == "1"


def _read_flag(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def profile_name(program: Path) -> str:
    """Returns the name of a program's profile. Each installation of packhorse has its own."""
    return f"packhorse.{Digest.of(bytes(program)).hex[:8]}"


def profile_path(program: Path) -> Path:
    """Returns the path of a program's profile."""
    return _PROFILES / profile_name(program)


def profile(program: Path) -> str:
    """Writes the profile of `program`, an absolute path without links; InputError for an impossible path."""
    text = str(program)
    if not text.isprintable() or '"' in text or "\\" in text:
        raise InputError(
            f"no AppArmor profile can name {text!r}", fix="install packhorse in another directory"
        )
    # These characters are patterns in a profile, also inside quotation marks (apparmor.d(5), "Globbing").
    quoted = "".join(f"\\{character}" if character in "*?[]{}^" else character for character in text)
    return _PROFILE.format(name=profile_name(program), program=f'"{quoted}"')


def install_profile(program: Path) -> Fix:
    """Returns the fix that puts the profile in place and loads it."""
    target = profile_path(program)
    load = ("apparmor_parser", "--replace", str(target))
    return Fix(f"let {program} make user namespaces", (load,), ((target, profile(program)),))


def user_namespaces(probe: HostProbe) -> CheckResult:
    """Makes a user namespace with the ids that builds have."""
    namespace, trial = probe.namespace, probe.trial
    if trial.error is None or trial.failed_check != "user-namespaces":
        if isinstance(namespace, HostError):
            return _not_checked(trial.failed_check)
        count = sum(extent.count for extent in namespace.idmap.uids)
        return ok_line(f"made one with {count} id{'s' if count > 1 else ''}")
    found = trial.error.why or trial.error.what
    if isinstance(namespace, Namespace):
        found = f"made one that has no rights: {found}"
    return missing_line(found, _missing_permission())


def _missing_permission() -> str:
    """Says what forbids user namespaces, and who can allow them."""
    if is_restricted():
        return "see the line apparmor"
    for switch in ("user/max_user_namespaces", "kernel/unprivileged_userns_clone"):
        path = Path("/proc/sys") / switch
        if path.is_file() and path.read_text().strip() == "0":
            return f"an administrator forbids them: {switch.replace('/', '.')} is 0, see sysctl(8)"
    if in_container() or (os.geteuid() == 0 and not _is_whole_root()):
        return _container_options()
    return "a system call filter or a security module forbids it; ask the administrator of this machine"


def _container_options() -> str:
    """Returns docker's options for a container in which this user can make sandboxes."""
    options = "--security-opt seccomp=unconfined --security-opt systempaths=unconfined"
    if is_enabled():
        options += " --security-opt apparmor=unconfined"
    if os.geteuid() != 0:
        return f"start this container with {options}, or with --privileged"
    return (
        f"start this container with {options} --cap-add SYS_ADMIN --cap-add SYS_PTRACE, "
        "or with --privileged\n"
        "or use packhorse in it as an ordinary user (--user), without --cap-add"
    )


def _is_whole_root() -> bool:
    """Whether this process has CAP_SYS_PTRACE and CAP_SYS_ADMIN, to act on the namespaces of others."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", read_proc("status"), re.MULTILINE)
    return bool(found and int(found[1], 16) >> 19 & 0b101 == 0b101)


def in_container() -> bool:
    """Whether this seems to be a container."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def _not_checked(failed_check: str) -> CheckResult:
    """Makes the result of a check that another failed check prevents."""
    return missing_line(
        f"not tried, because the check {failed_check} failed", f"see {failed_check}", without=""
    )


def subordinate_ids(probe: HostProbe) -> CheckResult:
    """Looks for subordinate ids, and for whether the kernel accepts the map of ids."""
    idmap, namespace = probe.idmap, probe.namespace
    if isinstance(idmap, HostError):
        return missing_line(idmap.why, idmap.fix)
    if os.geteuid() == 0:
        first = idmap.uids[0].outside
        return ok_line(f"not needed: root's sandboxes have ids from {first} on")
    obstacle = userns.find_range_obstacle()
    if obstacle:
        without = (
            "builds work with one id: no process can be root inside, and files of other users look like yours"
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
        return "ask the administrator of this machine", None
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "give this user a name in /etc/passwd, and lines in /etc/subuid and /etc/subgid", None
    first = _first_unused_id()
    extent = f"{first}-{first + userns.SIZE - 1}"
    command = ("usermod", "--add-subuids", extent, "--add-subgids", extent, user)
    return f"sudo {' '.join(command)}", Fix(f"give {user} {userns.SIZE} subordinate ids", (command,))


def _first_unused_id() -> int:
    """Returns the first id above all those in /etc/subuid and /etc/subgid."""
    ends = [100_000]
    for table in (Path("/etc/subuid"), Path("/etc/subgid")):
        if table.is_file():
            found = re.findall(r"^[^:]*:([0-9]+):([0-9]+)\s*$", table.read_text(), re.MULTILINE)
            ends += [int(first) + int(count) for first, count in found]
    return max(ends)


def install_remedy(*packages: str) -> tuple[str, Fix | None]:
    """Says how to install packages of the distribution, and returns a fix for it if apt-get is there."""
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        return f"install {names} with this system's package manager", None
    command = ("apt-get", "install", "--yes", "--no-install-recommends", *packages)
    return f"sudo apt-get install {names}", Fix(f"install {names}", (command,))


def apparmor_restriction(probe: HostProbe) -> CheckResult:
    """Checks if AppArmor forbids packhorse's namespaces, because bubblewrap has no profile."""
    if not is_enabled():
        return ok_line("not used by this kernel")
    if not is_restricted():
        return ok_line("does not restrict user namespaces")
    if os.geteuid() == 0:
        return ok_line("restricts user namespaces of ordinary users, not root's")
    if probe.trial.error is None:
        return ok_line("restricts user namespaces, but allows packhorse's")
    if probe.trial.failed_check not in ("user-namespaces", "bubblewrap"):
        return ok_line("restricts user namespaces; packhorse's could not be tried yet")
    found = "forbids user namespaces of programs without a profile (apparmor_restrict_unprivileged_userns)"
    try:
        program = bubblewrap.find().resolve()
        fix = install_profile(program)
    except (HostError, InputError) as error:
        return missing_line(found, error.fix)
    return missing_line(found, f"packhorse doctor --fix installs a profile for {program}", fix)


def bubblewrap_program(probe: HostProbe) -> CheckResult:
    """Starts bubblewrap as builds do."""
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
        _container_options() if in_container() else trial.error.fix or "bubblewrap's message above says why"
    )
    return missing_line(trial.error.why or trial.error.what, remedy)


def overlay(probe: HostProbe) -> CheckResult:
    """Mounts an overlay on the store's file system, changes files, and looks at the marks that it leaves."""
    trial = probe.trial
    move = "put the store on ext4, xfs, btrfs or tmpfs, and not on an overlay (PACKHORSE_HOME)"
    if in_container():
        move += ", for example on a volume of this container"
    if trial.error is None and probe.overlay_obstacle:
        found = f"the file system of {probe.home} is {probe.overlay_obstacle}, which takes no overlays"
        without = "builds work on copies, which need time and space; packhorse run does not work"
        return limited_line(found, without, move)
    if trial.error is None and not trial.missing_marks:
        return ok_line(f"mounted and written below {probe.home}")
    if trial.error is None:
        return missing_line(f"{trial.missing_marks}, below {probe.home}", move)
    if trial.failed_check == "overlay":
        return missing_line(f"below {probe.home}: {trial.error.why}", move)
    return _not_checked(trial.failed_check)


def seccomp(probe: HostProbe) -> CheckResult:
    """Runs a program under the system call filter that buildpacks get."""
    trial = probe.trial
    if trial.error is None:
        return ok_line(f"ran a program under the filter for {os.uname().machine}")
    if trial.failed_check == "seccomp":
        remedy = "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64"
        return missing_line(trial.error.why or trial.error.what, remedy)
    return _not_checked(trial.failed_check)


def network(probe: HostProbe) -> CheckResult:
    """Gives a sandbox a network of its own, through pasta."""
    without = "builds use this machine's network, and so can reach its loopback"
    _, reason = sandbox_network.find_network()
    if "not installed" in reason:
        return limited_line(reason, without, *install_remedy("passt"))
    if reason and not sandbox_network.TUN.exists():
        remedy = "start this container with --device /dev/net/tun" if in_container() else "sudo modprobe tun"
        return limited_line(reason, without, remedy)
    if reason:
        remedy = "if other users may open it too: sudo chmod 666 /dev/net/tun"
        return limited_line(reason, without, remedy)
    reason = probe.own_network
    if reason:
        return limited_line(reason, without, "--network host and --network none work")
    return ok_line("gave a sandbox its own network, through pasta")
