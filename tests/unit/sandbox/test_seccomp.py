"""The filter refuses what it should, on both architectures (interpreted) and on this one (loaded)."""

from __future__ import annotations

import importlib.util
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from packhorse.errors import SandboxError
from packhorse.sandbox import seccomp

ALLOW, REFUSE, UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026
MACHINES = sorted(seccomp.MACHINES)


def answer(program: bytes, audit: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel answers to a call: an interpreter for the five instructions that the filter has."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, audit, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    place = accumulator = 0
    while True:
        operation, yes, no, operand = code[place]
        place += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x06:
            return int(operand)
        else:
            holds = {
                0x15: accumulator == operand,
                0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }[operation]
            place += yes if holds else no


def headers(machine: str) -> dict[str, int]:
    """The kernel's own table of system calls, as zig has it for every architecture."""
    spec = importlib.util.find_spec("ziglang")
    assert spec is not None and spec.origin is not None
    directory = {"x86_64": "x86-linux-any", "aarch64": "aarch64-linux-any"}[machine]
    path = Path(spec.origin).parent / "lib/libc/include" / directory / "asm/unistd_64.h"
    found = re.findall(r"^#define __NR_(\w+)\s+(\d+)$", path.read_text(), re.MULTILINE)
    return {name: int(number) for name, number in found}


@pytest.mark.parametrize(("column", "machine"), [(0, "x86_64"), (1, "aarch64")])
def test_every_number_is_the_kernels(column: int, machine: str) -> None:
    table, known = headers(machine), seccomp.MACHINES[machine]
    for name, row in seccomp._REFUSED.items():
        assert row[column] == table.get(name), name
    names = ("clone", "clone3", "ioctl", "socket", "personality", "ptrace")
    assert [table[name] for name in names] == [getattr(known, name) for name in names]
    assert known.memory == (table["process_vm_readv"], table["process_vm_writev"])
    assert table["removexattrat"] == seccomp._LAST


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_listed_is_refused_what_is_known_allowed_and_what_is_not_known_does_not_exist(
    machine: str,
) -> None:
    known, program = seccomp.MACHINES[machine], seccomp.make_filter(machine)
    table = set(headers(machine).values())
    for number in set(range(1000)) - {known.personality, known.clone3}:
        if number > seccomp._LAST or known.end <= number < 424:
            expected = UNKNOWN
        elif number in known.refused:
            expected = REFUSE
        else:
            expected = ALLOW
        assert answer(program, known.audit, number) == expected, number
        # Between the tables' ends only aarch64 has numbers without a call, which the kernel refuses itself.
        assert expected is not ALLOW or number in table or 244 <= number < 260
    assert answer(program, known.audit, known.clone3) == UNKNOWN


@pytest.mark.parametrize("machine", MACHINES)
def test_processes_and_threads_are_made_and_namespaces_are_not(machine: str) -> None:
    known, program = seccomp.MACHINES[machine], seccomp.make_filter(machine)
    fork, thread = 0x01200011, 0x003D0F00
    for flags in (fork, thread):
        assert answer(program, known.audit, known.clone, (flags,)) == ALLOW
    for bit in (0x02000000, 0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(program, known.audit, known.clone, (fork | bit,)) == REFUSE


def verdicts(machine: str, call: str, *calls: tuple[int, ...]) -> list[int]:
    program, known = seccomp.make_filter(machine), seccomp.MACHINES[machine]
    number = known.memory[0] if call == "memory" else getattr(known, call)
    return [answer(program, known.audit, number, arguments) for arguments in calls]


@pytest.mark.parametrize("machine", MACHINES)
def test_nobody_types_into_the_terminal(machine: str) -> None:
    window_size, type_in, paste = 0x5413, 0x5412, 0x541C
    assert verdicts(machine, "ioctl", (0, window_size)) == [ALLOW]
    for request in (type_in, paste, 1 << 32 | type_in):
        assert verdicts(machine, "ioctl", (0, request)) == [REFUSE]


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_reach_neither_the_hypervisor_nor_the_kernels_ciphers(machine: str) -> None:
    unix, inet, alg, netlink, vsock = 1, 2, 38, 16, 40
    assert verdicts(machine, "socket", (unix,), (inet,), (netlink,)) == [ALLOW] * 3
    assert verdicts(machine, "socket", (alg,), (vsock,)) == [REFUSE] * 2


@pytest.mark.parametrize("machine", MACHINES)
def test_a_personality_without_random_addresses_is_refused(machine: str) -> None:
    linux32, ask, no_random, short_inode = 0x8, 0xFFFFFFFF, 0x0040000, 0x0100000
    assert verdicts(machine, "personality", (0,), (linux32,), (ask,)) == [ALLOW] * 3
    assert verdicts(machine, "personality", (no_random,), (short_inode,)) == [REFUSE] * 2


@pytest.mark.parametrize("machine", MACHINES)
def test_processes_may_be_traced_but_not_the_sandboxs_own(machine: str) -> None:
    seize = 0x4206
    assert verdicts(machine, "ptrace", (seize, 7), (seize, 1)) == [ALLOW, REFUSE]
    assert verdicts(machine, "memory", (7,), (1,)) == [ALLOW, REFUSE]


def test_calls_of_another_architecture_do_not_exist() -> None:
    program = seccomp.make_filter("x86_64")
    i386 = 0x40000003
    assert answer(program, i386, 1) == UNKNOWN
    assert answer(program, seccomp.MACHINES["x86_64"].audit, 0x40000000 | 1) == UNKNOWN


def test_a_machine_without_a_filter_is_refused() -> None:
    with pytest.raises(SandboxError, match="riscv64"):
        seccomp.make_filter("riscv64")


LOADED = """
import ctypes, errno, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
program = sys.stdin.buffer.read()
class Prog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
prog = Prog(len(program) // 8, program)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(prog)) == 0, os.strerror(ctypes.get_errno())
refused = []
for flags in (0x10000000, 0x00020000):
    assert libc.unshare(flags) == -1
    refused.append(ctypes.get_errno())
assert libc.mount(b"none", b"/", b"tmpfs", 0, None) == -1
refused.append(ctypes.get_errno())
thread = threading.Thread(target=refused.append, args=(0,)); thread.start(); thread.join()
pid = os.fork()
if pid == 0:
    os._exit(3)
refused.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(refused)
"""


@pytest.mark.system
def test_the_kernel_takes_the_filter_and_python_works_under_it() -> None:
    if os.uname().machine not in seccomp.MACHINES:
        pytest.fail("this machine's architecture has no filter")
    done = subprocess.run(
        [sys.executable, "-c", LOADED], input=seccomp.make_filter(), capture_output=True, check=False
    )
    assert done.stdout == b"[1, 1, 1, 0, 3]\n", done.stderr
