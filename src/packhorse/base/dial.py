"""An engine on another machine, reached by ssh as the docker client does it (docker/cli, cli/connhelper).

Called by `base.engine`. The docker library has this only with an ssh client in Python; here the machine's own
is used, with its configuration, keys and agent.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import weakref
from pathlib import Path
from shutil import which
from typing import IO
from urllib.parse import urlsplit

from packhorse.errors import EngineError, InputError

_PATIENCE = 30
"""Seconds in which the other machine has to answer."""
_SAID = 2000


class Tunnel:
    """A socket on this machine, each connection to which is one `docker system dial-stdio` over there.

    It takes no more connections, and its files are gone, when nobody holds the tunnel any more.
    """

    def __init__(self, host: str) -> None:
        """`host` is `ssh://[USER@]HOST[:PORT][/PATH OF A SOCKET]`; raises InputError, EngineError."""
        command = _command(host)
        if which("ssh") is None:
            raise EngineError(
                "ssh is not on PATH", why=f"the engine at {host} needs it", fix="install openssh-client"
            )
        self._directory = tempfile.TemporaryDirectory(prefix="packhorse-")
        self._errors = (Path(self._directory.name) / "said").open("w+b")
        # By its descriptor: a socket's path has at most 107 bytes, and TMPDIR may have more.
        descriptor = os.open(self._directory.name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, descriptor)
        path = f"/proc/self/fd/{descriptor}/engine.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self.address = f"unix://{path}"
        # Wakes the thread, which would hold the socket until the process ends.
        weakref.finalize(self, self._listener.shutdown, socket.SHUT_RDWR)
        threading.Thread(target=_serve, args=(self._listener, command, self._errors), daemon=True).start()

    def said(self) -> str:
        """What ssh, or docker over there, has complained of."""
        self._errors.seek(0)
        return self._errors.read(_SAID).decode(errors="replace").strip()


def _serve(listener: socket.socket, command: list[str], errors: IO[bytes]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            end = connection.fileno()
            try:
                subprocess.Popen(command, stdin=end, stdout=end, stderr=errors)
            except OSError as error:
                errors.write(f"{command[0]} cannot be started: {error.strerror}".encode())
                errors.flush()


def _command(host: str) -> list[str]:
    try:
        url = urlsplit(host)
        port = url.port
    except ValueError as error:
        raise InputError(f"{host[:300]!r} is no address of an engine", why=str(error)) from error
    if not url.hostname or url.password is not None or url.hostname.startswith("-"):
        raise InputError(
            f"not the address of an engine by ssh, at {url.hostname or 'no host'}",
            why="it has no host, or a password: those are for ssh to ask, and to know",
            fix="write ssh://USER@HOST:PORT",
        )
    options = ["-o", f"ConnectTimeout={_PATIENCE}", "-T"]
    options += ["-l", url.username] if url.username else []
    options += ["-p", str(port)] if port else []
    there = ["--host", f"unix://{url.path}"] if url.path.strip("/") else []
    return ["ssh", *options, "--", url.hostname, "docker", *there, "system", "dial-stdio"]
