"""Finds the TCP ports on which the processes of a step listen, as this machine's kernel shows them.

Called by `room`. A step with a network of its own has a table of sockets of its own. On the host's network
the table is the machine's, and the step's sockets are found by the descriptors of its processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from packhorse.base import proc
from packhorse.base.dataclass import dataclass

_LISTEN = "0A"  # TCP_LISTEN, as proc_net_tcp.txt of the kernel writes it
_LOOPBACK_6 = "00000000000000000000000001000000"
_MAPPED = "0000000000000000FFFF0000"  # how an IPv6 address begins that stands for one of IPv4


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A TCP port on which somebody listens; with `loopback` only what is on loopback can connect to it."""

    port: int
    loopback: bool


def find_listeners(pid: int, *, own_network: bool) -> frozenset[Listener]:
    """The ports on which the step with the first process `pid` listens; none when it is gone.

    A port on which it listens on loopback and elsewhere is not `loopback`.
    """
    found: dict[int, bool] = {}
    inodes = None if own_network else frozenset(_open_sockets(pid))
    for port, loopback, inode in _listening_sockets(pid):
        if inodes is None or inode in inodes:
            found[port] = loopback and found.get(port, True)
    return frozenset(Listener(port, loopback) for port, loopback in found.items())


def _listening_sockets(pid: int) -> Iterator[tuple[int, bool, str]]:
    """Port, whether it is on loopback alone, and inode of each listening socket of a network namespace."""
    for name in ("net/tcp", "net/tcp6"):
        with suppress(OSError):  # the process is gone, or the kernel has no IPv6
            for line in proc.read_proc(name, pid).splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN:
                    address, _, port = fields[1].partition(":")
                    yield int(port, 16), _is_loopback(address), fields[9]


def _is_loopback(address: str) -> bool:
    """Whether a hexadecimal address is one of loopback; each 32 bits of it are in this machine's order."""
    return address == _LOOPBACK_6 or (
        address.removeprefix(_MAPPED)[6:] == "7F" and len(address.removeprefix(_MAPPED)) == 8
    )


def _open_sockets(pid: int) -> Iterator[str]:
    """The inodes of all sockets that a process and those below it have open."""
    for process in _process_tree(pid):
        with suppress(OSError):  # it is gone meanwhile
            for descriptor in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor))  # noqa: PTH115
                    if found:
                        yield found[1]


def _process_tree(pid: int) -> Iterator[int]:
    """A process and all below it. Orphans of a PID namespace become children of its first process."""
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        yield process
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208
                with suppress(OSError):
                    waiting += map(int, proc.read_proc(f"task/{thread}/children", process).split())
