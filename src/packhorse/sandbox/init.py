"""Our end of the socket to a sandbox's first process, `launcher/init`; called by `running` and the runtimes.

`monitor` talks to that program too, without this module, whose imports would take it too long.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from packhorse.sandbox import order
from packhorse.sandbox.order import Answer, Order


class Init:
    """The first process of a sandbox. When `close` is called, or this process ends, all of that ends."""

    def __init__(self) -> None:
        self._channel, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def take_descriptor(self, theirs: ExitStack) -> int:
        """The descriptor with which it is to be started, closed with `theirs`."""
        theirs.enter_context(self._theirs)
        return self._theirs.fileno()

    def fileno(self) -> int:
        """What is readable when there is an answer."""
        return self._channel.fileno()

    def start(self, number: int, command: Order, program: bytes, descriptors: Sequence[int]) -> None:
        """Has a command started, under a number that none which runs has, with `descriptors` as 0, 1 and on.

        `program` is its system call filter.
        """
        data = order.encode(command, program)
        # Its environment may have secrets, and more bytes than a message.
        with open(os.memfd_create("order", os.MFD_CLOEXEC), "wb", buffering=0) as file:  # noqa: PTH123
            file.write(data)
            with suppress(ConnectionError):  # `receive` tells that nobody is there
                message = order.encode_request(order.START, number)
                socket.send_fds(self._channel, [message], [file.fileno(), *descriptors])

    def signal(self, number: int, signal: int) -> None:
        """Sends a signal to a command that runs. Safe from a signal handler."""
        with suppress(OSError):
            self._channel.send(order.encode_request(order.SIGNAL, number, signal), socket.MSG_DONTWAIT)

    def receive(self) -> Answer | None:
        """The next answer; None when the process is gone."""
        try:
            data = self._channel.recv(order.SIZE)
        except ConnectionError:
            return None
        return order.decode(data) if data else None

    def close(self) -> None:
        """Ends the process, if it has begun and still runs."""
        self._channel.close()
        self._theirs.close()
