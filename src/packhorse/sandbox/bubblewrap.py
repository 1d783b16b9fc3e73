"""The runtime bubblewrap, the default one; made by `platform.wiring`, called by `runner`.

A step's options are `arguments`', its way into the namespace `entry`'s, its process `bubblewrap_process`'.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from packhorse.base.bubblewrap import find
from packhorse.base.step import SandboxSpec
from packhorse.base.userns import Namespace
from packhorse.sandbox import arguments, seccomp
from packhorse.sandbox.bubblewrap_process import BubblewrapProcess
from packhorse.sandbox.commands import words_of
from packhorse.sandbox.entry import USERNS, UsernsExec
from packhorse.sandbox.layout import Layout


class Bubblewrap:
    """A Runtime. Its sandboxes end with this process, however that ends.

    `init` is the native program that is the first process in them.
    """

    def __init__(self, namespace: Namespace, *, init: Path, program: Path | None = None) -> None:
        self._namespace = namespace
        self._init = init
        self._program = program or find()
        self._entry = UsernsExec(namespace.idmap, self._program)

    def start(
        self, spec: SandboxSpec, layout: Layout, on_started: Callable[[int], None]
    ) -> BubblewrapProcess:
        """Starts bubblewrap with the step's options; see `runner.Runtime`."""
        words = self._entry.words(spec, layout)
        return BubblewrapProcess(
            words or [str(self._program)],
            userns=USERNS if words else self._namespace.fd,
            options=lambda init: arguments.options(spec, layout, init=init),
            init=self._init,
            on_started=on_started,
        )

    def shell_line(self, spec: SandboxSpec, layout: Layout) -> str:
        """See `runner.Runtime`. The line makes its own namespace.

        What it cannot carry: pasta (the step then has loopback only), and for a user with subordinate ids
        those (files of other ids appear as nobody's).
        """
        words = self._entry.words(spec, layout)
        start = [*words, "--userns", USERNS] if words else [str(self._program), "--unshare-user"]
        document = b"".join(
            os.fsencode(word) + b"\0"
            for word in (*arguments.options(spec, layout), *arguments.command_options(spec.command))
        )
        documents = {9: document, 8: seccomp.make_filter()}
        return layout.repeat_line(
            [*start, "--args", "9", "--seccomp", "8"], documents, words_of(spec.command)
        )
