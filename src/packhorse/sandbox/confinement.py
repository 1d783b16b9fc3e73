"""What a step is denied and what its root may, whatever runtime makes its sandbox; called by the runtimes."""

from __future__ import annotations

from pathlib import Path

MASKED_FILES = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/latency_stats", "/proc/sched_debug")
"""What tells about the machine or other users' keys; docker hides the same."""

MASKED_DIRECTORIES = ("/proc/acpi", "/proc/asound", "/proc/scsi")

READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""What is to be read only, by root too, whose namespaces' settings are below /proc/sys; as docker has it."""

CAPABILITIES = (
    *("CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL"),
    *("CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"),
    "CAP_SYS_CHROOT",
)
"""What root inside may do, over what belongs to its namespace: what docker lets a container's root do, but
for CAP_NET_RAW. With that it could write the addresses of packets itself, and pasta connects to any address,
this machine's loopback included. Anybody else has nothing.
"""


def masked_paths() -> list[str]:
    """Those of the masked paths that exist on this machine."""
    return [path for path in MASKED_FILES + MASKED_DIRECTORIES if Path(path).exists()]
