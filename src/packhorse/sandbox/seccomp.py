"""Makes the system call filter of a sandbox, a BPF program, and says what its root may do.

`launcher/init` loads the filter before it executes a command. The filter refuses what docker's default
profile (2026) refuses to a container without added capabilities, so that what works here works there:
namespaces, mounts, modules, keys, tracing of the kernel, memory policies. A refused call answers EPERM.
clone3(2), whose flags a filter cannot read, answers ENOSYS, and libc then uses clone(2). ENOSYS is also the
answer to a system call that is not known here, which a later kernel may have, and to every call of another
architecture (32-bit and x32 programs). The filter also refuses three things that docker allows: typing into a
terminal, tracing process 1 (init), and access to the memory of process 1.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.errors import SandboxError

MASKED_FILES = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/latency_stats", "/proc/sched_debug")
"""Files that show the machine's memory, timers or other users' keys. docker hides the same ones."""

MASKED_DIRECTORIES = ("/proc/acpi", "/proc/asound", "/proc/scsi")

READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""Paths that are read-only, for root inside too, as in docker."""

CAPABILITIES = (
    *("CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL"),
    *("CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"),
    "CAP_SYS_CHROOT",
)
"""The capabilities of root inside, over what belongs to its user namespace: docker's, without CAP_NET_RAW.
With that one, root could write the addresses of packets itself, and pasta connects to any address, this
machine's loopback included. Other users have no capabilities.
"""


def masked_paths() -> list[str]:
    """Returns the paths to hide that exist on this machine."""
    return [path for path in MASKED_FILES + MASKED_DIRECTORIES if Path(path).exists()]


_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "_sysctl": (156, None),
    "acct": (163, 89),
    "add_key": (248, 217),
    "afs_syscall": (183, None),
    "bpf": (321, 280),
    "clock_settime": (227, 112),
    "create_module": (174, None),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "get_kernel_syms": (177, None),
    "get_mempolicy": (239, 236),
    "getpmsg": (181, None),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "lsm_get_self_attr": (459, 459),
    "lsm_list_modules": (461, 461),
    "lsm_set_self_attr": (460, 460),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "putpmsg": (182, None),
    "query_module": (178, None),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "security": (185, None),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sysfs": (139, None),
    "syslog": (103, 116),
    "tuxcall": (184, None),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "ustat": (136, None),
    "vhangup": (153, 58),
    "vserver": (236, None),
}
"""Refused system calls with their numbers on x86_64 and aarch64; None if there is no such call."""

_LAST = 466
"""The highest number that is known here (removexattrat)."""

_UNIFIED = 424
"""From this number on, all architectures use the same numbers."""

_NAMESPACES = 0x7E020000
"""The CLONE_NEW… flags of clone(2): cgroup, UTS, IPC, user, PID, network and mount."""

_TERMINAL = (0x5412, 0x541C)
"""Refused requests of ioctl(2): TIOCSTI and TIOCLINUX, which type into a terminal (CVE-2017-5226)."""

_FAMILIES = (38, 40)
"""Refused families of socket(2), which belong to no network namespace: AF_ALG, the kernel's ciphers, and
AF_VSOCK, which reaches the host of a virtual machine.
"""

_PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Allowed arguments of personality(2): Linux, a 32-bit machine name, an old kernel version, and the query."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers of an architecture that the filter needs: its audit number and its system calls.

    `end` is the first free number below the unified ones. `memory` are the two calls that reach the memory of
    another process.
    """

    audit: int
    refused: tuple[int, ...]
    end: int
    clone: int
    clone3: int
    ioctl: int
    socket: int
    personality: int
    ptrace: int
    memory: tuple[int, int]


def _numbers(column: int) -> tuple[int, ...]:
    return tuple(sorted(number for row in _REFUSED.values() if (number := row[column]) is not None))


MACHINES = {
    "x86_64": Architecture(
        audit=0xC000003E,
        refused=_numbers(0),
        end=336,
        clone=56,
        clone3=435,
        ioctl=16,
        socket=41,
        personality=135,
        ptrace=101,
        memory=(310, 311),
    ),
    "aarch64": Architecture(
        audit=0xC00000B7,
        refused=_numbers(1),
        end=295,
        clone=220,
        clone3=435,
        ioctl=29,
        socket=198,
        personality=92,
        ptrace=117,
        memory=(270, 271),
    ),
}

# Offsets in struct seccomp_data. Arguments are 64 bits wide, low word first.
_NUMBER, _AUDIT, _ARGUMENT = 0, 4, 16
# Instructions of classic BPF (linux/filter.h): load a word, jump if equal / greater or equal / any bit set,
# return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

_Instruction = tuple[int, int, str]
"""Operation, operand, and a label: `name:` names this instruction, `name` is the target of a jump."""


def make_filter(machine: str | None = None) -> bytes:
    """Makes the filter for `machine` (uname's word; this machine by default), an array of struct sock_filter.

    Raises SandboxError for an unknown machine.
    """
    name = machine or os.uname().machine
    if name not in MACHINES:
        raise SandboxError(
            f"no system call filter for {name}", why="packhorse runs on x86_64 and aarch64", check="seccomp"
        )
    instructions = [*_by_number(MACHINES[name]), *_by_argument()]
    places = {label[:-1]: place for place, (_, _, label) in enumerate(instructions) if label.endswith(":")}
    return b"".join(
        struct.pack("=HBBI", operation, places[label] - place - 1 if label in places else 0, 0, operand)
        for place, (operation, operand, label) in enumerate(instructions)
    )


def _by_number(machine: Architecture) -> Iterator[_Instruction]:
    yield from (
        (_LOAD, _AUDIT, ""),
        (_EQUAL, machine.audit, "known"),
        (_RETURN, _UNKNOWN, ""),
        (_LOAD, _NUMBER, "known:"),
        (_AT_LEAST, _LAST + 1, "unknown"),  # x32 among them, whose numbers have a high bit set
        (_AT_LEAST, _UNIFIED, "listed"),
        (_AT_LEAST, machine.end, "unknown"),
        (_LOAD, _NUMBER, "listed:"),
        *((_EQUAL, number, "refuse") for number in machine.refused),
        (_EQUAL, machine.clone3, "unknown"),
        (_EQUAL, machine.clone, "clone"),
        (_EQUAL, machine.ioctl, "ioctl"),
        (_EQUAL, machine.socket, "socket"),
        (_EQUAL, machine.personality, "personality"),
        (_EQUAL, machine.ptrace, "ptrace"),
        *((_EQUAL, number, "memory") for number in machine.memory),
        (_RETURN, _ALLOW, ""),
    )


def _by_argument() -> Iterator[_Instruction]:
    first, second = _ARGUMENT, _ARGUMENT + 8
    yield from (
        (_LOAD, first, "clone:"),
        (_ANY_BIT, _NAMESPACES, "refuse"),
        (_RETURN, _ALLOW, ""),
        (_LOAD, second, "ioctl:"),
        *((_EQUAL, request, "refuse") for request in _TERMINAL),
        (_RETURN, _ALLOW, ""),
        (_LOAD, first, "socket:"),
        *((_EQUAL, family, "refuse") for family in _FAMILIES),
        (_RETURN, _ALLOW, ""),
        (_LOAD, first, "personality:"),
        *((_EQUAL, persona, "allow") for persona in _PERSONALITIES),
        (_RETURN, _REFUSE, ""),
        (_LOAD, first, "memory:"),
        (_EQUAL, 1, "refuse"),
        (_RETURN, _ALLOW, ""),
        (_LOAD, second, "ptrace:"),
        (_EQUAL, 1, "refuse"),
        (_RETURN, _ALLOW, "allow:"),
        (_RETURN, _REFUSE, "refuse:"),
        (_RETURN, _UNKNOWN, "unknown:"),
    )
