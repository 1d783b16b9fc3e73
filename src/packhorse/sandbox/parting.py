"""What is taken down of steps that are over, while others go on; made by `platform.building` for a build.

That takes the kernel longer than it took to make it: to unmount an overlay is to write out all that its file
system has not written yet, and the device of a network waits until no processor uses it any more. Nobody has
to wait for either, but who mounts the same directories again.
"""

from __future__ import annotations

import os
import threading
from typing import Self

from packhorse.sandbox.network import Pasta


class Parting:
    """A context, which ends when all is taken down."""

    def __init__(self) -> None:
        self._networks: list[Pasta] = []
        self._mounts: list[threading.Thread] = []
        self._others: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.settle()
        while self._others:
            self._others.pop().join()
        for pasta in self._networks:
            pasta.close()

    def network(self, pasta: Pasta) -> None:
        """Takes down a network that no step uses any more."""
        pasta.let_go()
        self._networks.append(pasta)

    def mounts(self, descriptor: int, *, again: bool) -> None:
        """Closes a descriptor, with which mounts go whose directories may be mounted `again`."""
        thread = threading.Thread(target=os.close, args=(descriptor,), name="unmounting")
        try:
            thread.start()
        except RuntimeError:  # this user may have no more threads
            os.close(descriptor)
            return
        (self._mounts if again else self._others).append(thread)

    def settle(self) -> None:
        """Returns when all is gone that may be mounted again."""
        while self._mounts:
            self._mounts.pop().join()
