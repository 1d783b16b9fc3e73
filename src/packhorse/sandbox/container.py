"""A sandbox as a container; made by `oci`.

The container is made by a child, `monitor`. Its first process is `launcher/init`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from packhorse.base import proc
from packhorse.errors import SandboxError
from packhorse.sandbox import blame
from packhorse.sandbox.process import Process

MONITOR = proc.python_command("packhorse.sandbox.monitor")

_MOMENTARY = re.compile(r"cloned binary: Device or resource busy")
"""What runc says when it could not seal the copy of itself that it runs from, a page of which was in use for
a moment (fcntl(2), F_ADD_SEALS); nothing has been made then."""


class RuntimeBusy(SandboxError):
    """The runtime met something that passes: the same container can be made when asked for again."""


class Container(Process):
    """A container made by a monitor, with its `options`, from what of a plan is not descriptors.

    `init` is the program of its first process; `inputs` are descriptors that the options name.
    """

    def __init__(
        self, options: Sequence[str], plan: dict[str, Any], *, init: Path, inputs: Sequence[int]
    ) -> None:
        super().__init__()
        self._root = -1
        self._unmount: Callable[[int], None] = os.close
        try:
            self._start(options, plan, init, inputs)
            self._receive()
        except BaseException:
            self.close()
            raise

    def _start(self, options: Sequence[str], plan: dict[str, Any], init: Path, inputs: Sequence[int]) -> None:
        with ExitStack() as theirs:
            self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._own.enter_context(self._control)
            theirs.enter_context(control)
            channel = self.init.take_descriptor(theirs)
            program = os.open(init, os.O_PATH | os.O_CLOEXEC)
            theirs.callback(os.close, program)
            descriptors = {"control": control.fileno(), "channel": channel, "init": program}
            self._said = os.memfd_create("said", os.MFD_CLOEXEC)
            self._own.callback(os.close, self._said)
            document = os.memfd_create("plan", os.MFD_CLOEXEC)
            theirs.callback(os.close, document)
            os.write(document, json.dumps(plan | descriptors).encode())
            os.lseek(document, 0, os.SEEK_SET)
            self._process = subprocess.Popen(
                [*MONITOR, str(document), *options, "--"],
                pass_fds=(*inputs, control.fileno(), channel, program, document),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                # Ctrl-C would end it, and with it the sandbox, before anybody is asked.
                process_group=0,
                cwd="/",
                env={},
                umask=0o022,
            )

    def _receive(self) -> None:
        """Waits until the first process is ready."""
        data, descriptors, _, _ = socket.recv_fds(self._control, 1, 3, socket.MSG_CMSG_CLOEXEC)
        if not data:
            words = self.read_error()
            kind = RuntimeBusy if _MOMENTARY.search(words) else SandboxError
            raise kind(
                "the sandbox cannot be made",
                why=words,
                fix="leave out --sandbox, for bubblewrap to make it",
                check=blame.find_check(words, ""),
            )
        # The second, the mount namespace, keeps what is mounted below the root when all processes are gone.
        self._root, mounts, self._pidfd = descriptors
        for descriptor in (self._root, self._pidfd):
            self._own.callback(os.close, descriptor)
        self._own.callback(lambda: self._unmount(mounts))
        text = Path(f"/proc/self/fdinfo/{self._pidfd}").read_text()
        (pid,) = re.findall(r"^Pid:\s*(\d+)$", text, re.MULTILINE)
        self.pid = int(pid)
        if not self._wait_until_ready():
            raise SandboxError(
                "the sandbox cannot be made",
                why="its first process cannot have the user's id",
                check="user-namespaces",
            )

    def read_error(self) -> str:
        """What the monitor and the runtime say, on their end: the runtime's log lines without their marks."""
        assert self._process is not None
        self._process.wait()
        said = os.pread(self._said, 65536, 0).decode(errors="replace").strip()
        lines = [_plain_line(line) for line in said.splitlines()]
        return "\n".join(dict.fromkeys(lines)) or f"it ended with status {self._process.returncode}"

    def open_root(self, close: Callable[[int], None] = os.close) -> int:
        """See `Process`: the tree as the monitor has mounted it, without the kernel's directories."""
        self._unmount = close
        return os.dup(self._root)


def _plain_line(line: str) -> str:
    message = re.search(r'msg="((?:[^"\\]|\\.)*)"', line)
    return re.sub(r"\\(.)", r"\1", message[1]) if message else line
