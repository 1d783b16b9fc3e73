"""The filter refuses what it should, on both architectures (interpreted) and on this one (loaded)."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

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


@pytest.mark.parametrize("machine", MACHINES)
def test_every_listed_call_is_refused_and_its_neighbours_are_not(machine: str) -> None:
    known, program = seccomp.MACHINES[machine], seccomp.program(machine)
    special = {known.clone, known.clone3, known.ioctl, known.socket}
    for number in set(range(500)) - special:
        expected = REFUSE if number in known.refused else ALLOW
        assert answer(program, known.audit, number) == expected, number
    assert answer(program, known.audit, known.clone3) == UNKNOWN


@pytest.mark.parametrize("machine", MACHINES)
def test_processes_and_threads_are_made_and_namespaces_are_not(machine: str) -> None:
    known, program = seccomp.MACHINES[machine], seccomp.program(machine)
    fork, thread = 0x01200011, 0x003D0F00
    for flags in (fork, thread):
        assert answer(program, known.audit, known.clone, (flags,)) == ALLOW
    for bit in (0x02000000, 0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(program, known.audit, known.clone, (fork | bit,)) == REFUSE


@pytest.mark.parametrize("machine", MACHINES)
def test_nobody_types_into_the_terminal_or_calls_the_hypervisor(machine: str) -> None:
    known, program = seccomp.MACHINES[machine], seccomp.program(machine)
    window_size, type_in, paste = 0x5413, 0x5412, 0x541C
    assert answer(program, known.audit, known.ioctl, (0, window_size)) == ALLOW
    assert answer(program, known.audit, known.ioctl, (0, type_in)) == REFUSE
    assert answer(program, known.audit, known.ioctl, (0, paste)) == REFUSE
    assert answer(program, known.audit, known.ioctl, (0, 1 << 32 | type_in)) == REFUSE
    unix, vsock = 1, 40
    assert answer(program, known.audit, known.socket, (unix,)) == ALLOW
    assert answer(program, known.audit, known.socket, (vsock,)) == REFUSE


def test_calls_of_another_architecture_do_not_exist() -> None:
    program = seccomp.program("x86_64")
    i386 = 0x40000003
    assert answer(program, i386, 1) == UNKNOWN
    assert answer(program, seccomp.MACHINES["x86_64"].audit, 0x40000000 | 1) == UNKNOWN


def test_a_machine_without_a_filter_is_refused() -> None:
    with pytest.raises(SandboxError, match="riscv64"):
        seccomp.program("riscv64")


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


def test_the_kernel_takes_the_filter_and_python_works_under_it() -> None:
    if os.uname().machine not in seccomp.MACHINES:
        pytest.fail("this machine's architecture has no filter")
    done = subprocess.run(
        [sys.executable, "-c", LOADED], input=seccomp.program(), capture_output=True, check=False
    )
    assert done.stdout == b"[1, 1, 1, 0, 3]\n", done.stderr
