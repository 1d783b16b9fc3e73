"""The thread that starts sandboxes, which reach no abstract socket of this machine; called by the runtimes.

Abstract sockets belong to a network, not to a file tree: with the machine's network a step would reach those
of its user's desktop, which take whoever has the user's id for the user. Landlock keeps a thread, and all
that it starts, from abstract sockets of others. It cannot be taken back, so there is a thread for it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from packhorse.base import syscalls


def start(words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Starts a process, with options as Popen's. One that ends with its parent ends with this process."""

    def popen() -> subprocess.Popen[bytes]:
        return subprocess.Popen(words, **options)

    return _thread().submit(popen).result()


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        1, thread_name_prefix="sandboxes", initializer=syscalls.restrict_abstract_sockets
    )
