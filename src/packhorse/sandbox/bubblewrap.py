"""The runtime bubblewrap, the default one; made by `platform.wiring`, called by `runner`.

A step's options are `arguments`', its way into the namespace `entry`'s, its process `bubblewrap_process`'.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from packhorse.base.bubblewrap import find
from packhorse.base.step import Step
from packhorse.base.userns import Namespace
from packhorse.sandbox import arguments, seccomp
from packhorse.sandbox.bubblewrap_process import BubblewrapProcess
from packhorse.sandbox.commands import words_of
from packhorse.sandbox.entry import USERNS, Entry
from packhorse.sandbox.layout import Layout


class Bubblewrap:
    """A Runtime. Its sandboxes end with this process, however that ends.

    `init` is the native program that is the first process in them.
    """

    def __init__(self, namespace: Namespace, *, init: Path, program: Path | None = None) -> None:
        self._namespace = namespace
        self._init = init
        self._program = program or find()
        self._entry = Entry(namespace.idmap, self._program)

    def hold(self, step: Step, layout: Layout, begun: Callable[[int], None]) -> BubblewrapProcess:
        """Starts bubblewrap with the step's options; see `runner.Runtime`."""
        words = self._entry.words(step, layout)
        return BubblewrapProcess(
            words or [str(self._program)],
            userns=USERNS if words else self._namespace.fd,
            options=lambda init: arguments.options(step, layout, init=init),
            init=self._init,
            begun=begun,
        )

    def line(self, step: Step, layout: Layout) -> str:
        """See `runner.Runtime`. The line makes its own namespace.

        What it cannot carry: pasta (the step then has loopback only), and for a user with subordinate ids
        those (files of other ids appear as nobody's).
        """
        words = self._entry.words(step, layout)
        start = [*words, "--userns", USERNS] if words else [str(self._program), "--unshare-user"]
        document = b"".join(
            os.fsencode(word) + b"\0"
            for word in (*arguments.options(step, layout), *arguments.of_command(step.command))
        )
        documents = {9: document, 8: seccomp.program()}
        return layout.repeated([*start, "--args", "9", "--seccomp", "8"], documents, words_of(step.command))
