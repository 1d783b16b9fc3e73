"""What is taken down of sandboxes that are over, while others go on; made by `platform` for a build or a run.

That takes the kernel longer than it took to make it: to unmount an overlay is to write out all that its file
system has not written yet, and the device of a network waits until no processor uses it any more. Nobody has
to wait for either, but who mounts the same directories again, or has volumes. What is still mounted when the
command ends is seen by no process any more, and its directories can be removed.
"""

from __future__ import annotations

import os
import subprocess
from typing import Self

from packhorse.base import native, orphan
from packhorse.errors import HostError
from packhorse.sandbox.network import Pasta

_TIMEOUT = 0.01
"""Seconds in which the mounts of a small build are gone."""


class TeardownQueue:
    """A context, which ends when all is taken down but perhaps mounts."""

    def __init__(self) -> None:
        self._networks: list[Pasta] = []
        self._holders: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._holders:
            orphan.detach(self._holders.pop(), timeout=_TIMEOUT)
        for pasta in self._networks:
            pasta.close()

    def add_network(self, pasta: Pasta) -> None:
        """Takes down a network that no step uses any more."""
        pasta.terminate()
        self._networks.append(pasta)

    def add_mounts(self, descriptor: int) -> None:
        """Closes a descriptor, with which mounts go."""
        if not self._hand_over(descriptor):
            os.close(descriptor)

    def _hand_over(self, descriptor: int) -> bool:
        """Has another process be the last to have a descriptor, so that the kernel works in the end of that.

        False when there is none.
        """
        held, hold = os.pipe()
        try:
            words = [str(native.find_program("leash")), "last", str(descriptor)]
            self._holders.append(orphan.start(words, pass_fds=[descriptor], stdin=held))
            os.close(descriptor)
        except (OSError, HostError):
            return False
        finally:
            os.close(held)
            os.close(hold)
        return True
