"""Which system calls a step may not make, as a BPF program; called by `room`.

It refuses what docker's default profile refuses to a container without capabilities, so that what works here
works there: namespaces, mounts, modules, keys, tracing of the kernel. It is a list of refusals, not of
permissions: the kernel's own checks stand behind it, and a compiler, node or python meets nothing that it
needs. What is refused answers EPERM; clone3(2), whose flags a filter cannot read, answers ENOSYS, whereupon
libc uses clone(2). Foreign architectures (32-bit programs) answer ENOSYS to everything. Loading it is
bubblewrap's.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass

from packhorse.errors import SandboxError

# The same numbers everywhere: they came after the tables of the architectures were unified.
_NEW = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "quotactl_fd": 443,
}

_X86_64 = _NEW | {
    "syslog": 103,
    "uselib": 134,
    "vhangup": 153,
    "pivot_root": 155,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "iopl": 172,
    "ioperm": 173,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "lookup_dcookie": 212,
    "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "move_pages": 279,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "open_by_handle_at": 304,
    "clock_adjtime": 305,
    "setns": 308,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
}

_AARCH64 = _NEW | {
    "lookup_dcookie": 18,
    "umount2": 39,
    "mount": 40,
    "pivot_root": 41,
    "vhangup": 58,
    "quotactl": 60,
    "acct": 89,
    "unshare": 97,
    "kexec_load": 104,
    "init_module": 105,
    "delete_module": 106,
    "clock_settime": 112,
    "syslog": 116,
    "reboot": 142,
    "settimeofday": 170,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "swapon": 224,
    "swapoff": 225,
    "move_pages": 239,
    "perf_event_open": 241,
    "fanotify_init": 262,
    "open_by_handle_at": 265,
    "clock_adjtime": 266,
    "setns": 268,
    "kcmp": 272,
    "finit_module": 273,
    "bpf": 280,
    "userfaultfd": 282,
    "kexec_file_load": 294,
}

_NAMESPACES = 0x7E020000
"""The CLONE_NEW… flags of clone(2): cgroup, UTS, IPC, user, PID, network and mount."""

_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
"""ioctl(2) requests that type into a terminal as if its user did (CVE-2017-5226)."""

_AF_VSOCK = 40
"""Sockets to the virtual machine's host, which belong to no network namespace."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the filter has to know of an architecture: its audit number and its system calls' numbers."""

    audit: int
    refused: tuple[int, ...]
    clone: int
    clone3: int
    ioctl: int
    socket: int


MACHINES = {
    "x86_64": Machine(0xC000003E, tuple(_X86_64.values()), clone=56, clone3=435, ioctl=16, socket=41),
    "aarch64": Machine(0xC00000B7, tuple(_AARCH64.values()), clone=220, clone3=435, ioctl=29, socket=198),
}

# Offsets in struct seccomp_data; arguments are 64 bits wide, of which the low word comes first.
_NUMBER, _AUDIT, _ARGUMENT = 0, 4, 16
# Instructions of classic BPF (linux/filter.h): load a word, jump if equal / greater or equal / any bit set,
# return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def program(machine: str | None = None) -> bytes:
    """The filter for `machine` (as uname has it; by default this one), as an array of struct sock_filter."""
    name = machine or os.uname().machine
    if name not in MACHINES:
        raise SandboxError(
            f"no system call filter for {name}", why="packhorse runs on x86_64 and aarch64", fix=""
        )
    chosen = MACHINES[name]
    # Operation, operand, and a label: `label:` names the instruction, any other is where a jump goes on
    # success.
    instructions: list[tuple[int, int, str]] = [
        (_LOAD, _AUDIT, ""),
        (_EQUAL, chosen.audit, "known"),
        (_RETURN, _UNKNOWN, ""),
        (_LOAD, _NUMBER, "known:"),
        (_AT_LEAST, 0x40000000, "unknown"),  # x32, whose numbers are those of x86_64 with this bit
        *((_EQUAL, number, "refuse") for number in sorted(chosen.refused)),
        (_EQUAL, chosen.clone3, "unknown"),
        (_EQUAL, chosen.clone, "clone"),
        (_EQUAL, chosen.ioctl, "ioctl"),
        (_EQUAL, chosen.socket, "socket"),
        (_RETURN, _ALLOW, ""),
        (_LOAD, _ARGUMENT, "clone:"),
        (_ANY_BIT, _NAMESPACES, "refuse"),
        (_RETURN, _ALLOW, ""),
        (_LOAD, _ARGUMENT + 8, "ioctl:"),
        (_EQUAL, _TIOCSTI, "refuse"),
        (_EQUAL, _TIOCLINUX, "refuse"),
        (_RETURN, _ALLOW, ""),
        (_LOAD, _ARGUMENT, "socket:"),
        (_EQUAL, _AF_VSOCK, "refuse"),
        (_RETURN, _ALLOW, ""),
        (_RETURN, _REFUSE, "refuse:"),
        (_RETURN, _UNKNOWN, "unknown:"),
    ]
    places = {label[:-1]: place for place, (_, _, label) in enumerate(instructions) if label.endswith(":")}
    return b"".join(
        struct.pack("=HBBI", operation, places[label] - place - 1 if label in places else 0, 0, operand)
        for place, (operation, operand, label) in enumerate(instructions)
    )
