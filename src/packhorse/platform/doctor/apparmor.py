"""AppArmor's restriction of user namespaces (Ubuntu 23.10 and newer), and the profile that lifts it.

Called by the doctor's check of that name. On such a machine an ordinary user's program gets a namespace in
which it has no rights, or none at all, unless a profile allows it one. Bubblewrap makes packhorse's
namespaces and runs in them, so the profile is for that program alone, by the path behind all links; what it
starts keeps the profile. It confines nothing: what holds a step is its sandbox.
"""

from __future__ import annotations

from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.errors import InputError
from packhorse.platform.doctor.diagnosis import Fix

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
    return _read(_ENABLED) == "Y"


def is_restricted() -> bool:
    """Whether namespaces of ordinary users' programs are restricted."""
    return is_enabled() and _read(_RESTRICTION) == "1"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def name(program: Path) -> str:
    """What the profile for a program is called: several installs of packhorse have one each."""
    return f"packhorse.{Digest.of(bytes(program)).hex[:8]}"


def path(program: Path) -> Path:
    """Where the profile for a program is put."""
    return _PROFILES / name(program)


def profile(program: Path) -> str:
    """The profile; `program` is an absolute path without links. InputError when none can name it."""
    text = str(program)
    if not text.isprintable() or '"' in text or "\\" in text:
        raise InputError(
            f"no AppArmor profile can name {text!r}", fix="install packhorse in another directory"
        )
    # In a profile these stand for other paths, in quotation marks too (apparmor.d(5), "Globbing").
    quoted = "".join(f"\\{character}" if character in "*?[]{}^" else character for character in text)
    return _PROFILE.format(name=name(program), program=f'"{quoted}"')


def install_profile(program: Path) -> Fix:
    """Puts the profile in place and loads it."""
    target = path(program)
    load = ("apparmor_parser", "--replace", str(target))
    return Fix(f"let {program} make user namespaces", (load,), ((target, profile(program)),))
