"""The runtime bubblewrap, the default one; made by `platform.wiring`, called by `runner`.

A step's options are `arguments`', its way into the namespace `entry`'s, its process `bubblewrap_process`'.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from packhorse.base.bubblewrap import find
from packhorse.base.step import Step
from packhorse.base.userns import Mode, Namespace
from packhorse.sandbox import arguments, seccomp
from packhorse.sandbox.bubblewrap_process import BubblewrapProcess
from packhorse.sandbox.entry import USERNS, Entry
from packhorse.sandbox.layout import Layout
from packhorse.sandbox.terminal import Terminal


class Bubblewrap:
    """A Runtime. Its sandboxes end with this process, however that ends.

    `init` is the native program that steps begin as whose command is said later, and root's steps.
    """

    def __init__(self, namespace: Namespace, *, init: Path, program: Path | None = None) -> None:
        self._namespace = namespace
        self._init = init
        self._program = program or find()
        self._entry = Entry(namespace.idmap, self._program)

    def hold(
        self, step: Step, layout: Layout, terminal: Terminal | None, begun: Callable[[int], None]
    ) -> BubblewrapProcess:
        """Starts bubblewrap with the step's options; see `runner.Runtime`."""
        words = self._entry.words(step, layout)
        command = arguments.command(step)
        idmap = self._namespace.idmap
        # Root's steps begin as a program of ours that takes from its capabilities what would be inherited;
        # bubblewrap would leave that to the command.
        begins_as_init = step.deferred or (step.uid == 0 and terminal is None)
        return BubblewrapProcess(
            words or [str(self._program)],
            userns=USERNS if words else self._namespace.fd,
            options=arguments.options(step, layout),
            command=terminal.words(command, step.argv[0]) if terminal else command,
            attached=step.attached,
            leashed=idmap.mode is Mode.RANGE and idmap.outside(step.uid, step.gid)[0] != os.getuid(),
            passed=terminal.passed if terminal else (),
            init=self._init if begins_as_init else None,
            assigned=None if step.deferred else step,
            begun=begun,
        )

    def line(self, step: Step, layout: Layout) -> str:
        """See `runner.Runtime`. The line makes its own namespace.

        What it cannot carry: pasta (the step then has loopback only), and for a user with subordinate ids
        those (files of other ids appear as nobody's).
        """
        words = self._entry.words(step, layout)
        start = [*words, "--userns", USERNS] if words else [str(self._program), "--unshare-user"]
        document = b"".join(os.fsencode(word) + b"\0" for word in arguments.options(step, layout))
        documents = {9: document, 8: seccomp.program()}
        return layout.repeated([*start, "--args", "9", "--seccomp", "8"], documents, arguments.command(step))
