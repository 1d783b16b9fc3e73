"""The use case behind `packhorse doctor`: what this machine has for packhorse, each thing found by trying it.

The names of the checks are stable: errors name them (`HostError.check`), and so do scripts. Mending is
`platform.doctor.mending`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from packhorse.base.dataclass import replace
from packhorse.errors import NotFoundError
from packhorse.platform.doctor import engines, machine, sandbox
from packhorse.platform.doctor.diagnosis import CheckResult, CheckState
from packhorse.platform.doctor.examination import HostProbe
from packhorse.platform.folders import Folders

CHECKS: Mapping[str, Callable[[HostProbe], CheckResult]] = {
    "installation": machine.installation,
    "kernel": machine.kernel,
    "user-namespaces": sandbox.user_namespaces,
    "apparmor": sandbox.apparmor_restriction,
    "subordinate-ids": sandbox.subordinate_ids,
    "bubblewrap": sandbox.bubblewrap_program,
    "overlay": sandbox.overlay,
    "seccomp": sandbox.seccomp,
    "network": sandbox.network,
    "limits": machine.limits,
    "store": machine.store,
    "disk": machine.disk,
    "default-builder": machine.builder,
    "certificates": machine.certificates,
    "proxy": machine.proxy,
    "engines": engines.engines,
}


def run_checks(environ: Mapping[str, str], *, names: Sequence[str] = ()) -> list[CheckResult]:
    """The lines with these names, or all, in the order of CHECKS; `environ` is the user's environment.

    NotFoundError for a name that there is not, UsageError for a PACKHORSE_HOME that is none.
    """
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise NotFoundError(f"the doctor has no line {unknown[0]!r}", why=f"there are {', '.join(CHECKS)}")
    with HostProbe(environ, Folders.find(environ)) as examined:
        chosen = (name for name in CHECKS if not names or name in names)
        return [replace(CHECKS[name](examined), name=name) for name in chosen]


def is_usable(lines: Iterable[CheckResult]) -> bool:
    """Whether nothing that builds need is missing."""
    return all(line.state is not CheckState.MISSING for line in lines)
