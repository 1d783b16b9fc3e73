"""Bubblewrap as a process that makes a sandbox and waits for its end; called by `bubblewrap`.

Bubblewrap makes the namespaces and mounts, and its child, which is process 1 inside, becomes `launcher/init`.
That says through its socket when it is there; the socket ends when bubblewrap fails.

Bubblewrap is left to come to that end by itself: killed before it has let its child go on, or by SIGPIPE
while it reports the child, it would leave the child waiting for ever. So its reports go into memory, not into
a pipe.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

from packhorse.errors import SandboxError
from packhorse.sandbox import arguments, blame, starter
from packhorse.sandbox.process import Process

_OFTEN = 1
"""Milliseconds after which it is looked whether bubblewrap has made its child."""


class BubblewrapProcess(Process):
    """A started bubblewrap.

    `read_error` start it; `userns` is the descriptor of its namespace, or what stands for that in
    `read_error`. `init` is the program that its child becomes; `options` are made with a descriptor of that.
    `on_started` is told of the child, which has its namespaces then and not yet all of its mounts.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        userns: int | str,
        options: Callable[[int], Sequence[str]],
        init: Path,
        on_started: Callable[[int], None] = lambda pid: None,
    ) -> None:
        super().__init__()
        try:
            self._start(words, userns, options, init)
            self._wait_for_mounts(on_started)
        except BaseException:
            self.close()
            raise

    def _start(
        self, words: Sequence[str], userns: int | str, options: Callable[[int], Sequence[str]], init: Path
    ) -> None:
        with ExitStack() as theirs:
            channel = self.init.take_descriptor(theirs)
            program = theirs.enter_context(init.open("rb")).fileno()
            given = theirs.enter_context(_memory_file(options(program)))
            self._status, self._said = (
                self._own.enter_context(FileIO(os.memfd_create(name, os.MFD_CLOEXEC), "r+"))
                for name in ("status", "said")
            )
            nothing = theirs.enter_context(FileIO(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)))
            status = self._status.fileno()
            passed = (channel, program, status, given)
            # `--sync-fd` makes bubblewrap close the namespace's descriptor, which its child would inherit.
            line = [*words, "--userns", str(userns), "--sync-fd", str(userns), "--args", str(given)]
            line += ["--json-status-fd", str(status), "--as-pid-1", "--"]
            line += [arguments.INIT, str(channel)]
            self._process = starter.start(
                line,
                pass_fds=(*passed, userns) if isinstance(userns, int) else passed,
                stdin=nothing.fileno(),
                stdout=self._said.fileno(),
                stderr=self._said.fileno(),
                # Ctrl-C would end bubblewrap, and with it the sandbox, before anybody is asked.
                process_group=0,
                cwd="/",
                env={},
                umask=0o022,
                # Who hands over a namespace gives up root's groups itself; to do it here costs a copy of this
                # process's page tables.
                extra_groups=[] if os.geteuid() == 0 and isinstance(userns, int) else None,
            )

    def _wait_for_mounts(self, on_started: Callable[[int], None]) -> None:
        ready = select.poll()
        ready.register(self.init.fileno(), select.POLLIN)
        early, gone = None, None
        while early is None and not ready.poll(_OFTEN):
            early = self._find_child()
        if early is not None:
            try:
                on_started(early)
            except (FileNotFoundError, ProcessLookupError) as error:
                gone = error
        is_ready = self._wait_until_ready()
        told = self._read_info("child-pid")
        if told is None or not is_ready:
            words = self.read_error()
            if words.startswith("bwrap: execvp "):
                why = words.rpartition(": ")[2]
                raise SandboxError(
                    "what a sandbox begins as cannot be started", why=why, check="installation"
                )
            raise SandboxError(
                "the sandbox cannot be made", why=words, check=blame.find_check(words, "bubblewrap")
            )
        if gone is not None:  # something else than a child that fails, which has said why
            raise gone
        if early is None:
            on_started(told)
        self._hold(told)

    def read_error(self) -> str:
        """See `Process`."""
        assert self._process is not None
        self._process.wait()
        return os.pread(self._said.fileno(), 65536, 0).decode(errors="replace").strip()

    def _find_child(self) -> int | None:
        """Bubblewrap's child, once it has a root of its own.

        Before that it brings up the loopback of a new network, which fails if somebody else has (*tried*:
        pasta does).
        """
        pid = self._read_info("child-pid")
        if pid is not None:
            with suppress(OSError):
                if not os.path.samestat(os.stat(f"/proc/{pid}/root/"), os.stat("/")):  # noqa: PTH116
                    return pid
        return None

    def _read_info(self, name: str) -> int | None:
        """What bubblewrap has reported under `name`, so far."""
        for line in os.pread(self._status.fileno(), 65536, 0).splitlines():
            with suppress(ValueError):
                document = json.loads(line)
                if name in document:
                    return int(document[name])
        return None


@contextmanager
def _memory_file(words: Sequence[str]) -> Iterator[int]:
    """A descriptor from which bubblewrap reads `read_error`: its own command line could be read by
    every user.
    """
    if any("\0" in word for word in words):
        raise SandboxError("a step's environment or paths have a NUL character")
    descriptor = os.memfd_create("options", os.MFD_CLOEXEC)
    try:
        with FileIO(descriptor, "w", closefd=False) as file:
            file.write(b"".join(os.fsencode(word) + b"\0" for word in words))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
