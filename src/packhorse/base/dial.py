"""A connection to a container engine: through a socket, by TCP with or without TLS, or by ssh.

Called by `base.engine` and the doctor. By ssh it is as the docker client does it (docker/cli,
cli/connhelper): each connection is one `docker system dial-stdio` over there, with this machine's own ssh,
its configuration, keys and agent.
"""

from __future__ import annotations

import socket
import subprocess
from http.client import HTTPConnection
from shutil import which
from typing import IO
from urllib.parse import urlsplit

from packhorse.base.engine_address import Address
from packhorse.errors import EngineError, InputError

_CONNECT_TIMEOUT = 30
"""Seconds in which the other machine has to answer ssh."""
_PORTS = {"http": 80, "https": 443}


class Connection(HTTPConnection):
    """`stderr` takes what ssh, or docker over there, writes to its standard error."""

    def __init__(self, address: Address, *, timeout: float, stderr: IO[bytes] | None = None) -> None:
        self._address, self._stderr = address, stderr
        self._url = url = urlsplit(address.host)
        self._is_tcp = url.scheme not in ("unix", "ssh")
        self._is_encrypted = self._is_tcp and (address.tls is not None or url.scheme == "https")
        port = url.port or _PORTS.get(url.scheme, 2376 if self._is_encrypted else 2375)
        super().__init__((url.hostname or "") if self._is_tcp else "localhost", port, timeout=timeout)

    def connect(self) -> None:
        """Connects; raises OSError, and InputError or EngineError where ssh cannot be used."""
        if self._is_tcp:
            super().connect()
        elif self._url.scheme == "ssh":
            self._start_ssh()
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect("/" + self._address.host.partition("://")[2].lstrip("/"))
        if self._is_encrypted:
            import ssl

            context = self._address.tls or ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)

    def _start_ssh(self) -> None:
        command = _ssh_command(self._address.host)
        if which("ssh") is None:
            what = f"the engine at {self._address.host} needs it"
            raise EngineError("ssh is not on PATH", why=what, fix="install openssh-client")
        self.sock, end = socket.socketpair()
        self.sock.settimeout(self.timeout)
        with end:
            subprocess.Popen(command, stdin=end.fileno(), stdout=end.fileno(), stderr=self._stderr)


def _ssh_command(host: str) -> list[str]:
    """The command for `ssh://[USER@]HOST[:PORT][/PATH OF A SOCKET]`; raises InputError."""
    url = urlsplit(host)
    if not url.hostname or url.password is not None or url.hostname.startswith("-"):
        raise InputError(
            f"not the address of an engine by ssh, at {url.hostname or 'no host'}",
            why="it has no host, or a password: those are for ssh to ask, and to know",
            fix="write ssh://USER@HOST:PORT",
        )
    options = ["-o", f"ConnectTimeout={_CONNECT_TIMEOUT}", "-T"]
    options += ["-l", url.username] if url.username else []
    options += ["-p", str(url.port)] if url.port else []
    there = ["--host", f"unix://{url.path}"] if url.path.strip("/") else []
    return ["ssh", *options, "--", url.hostname, "docker", *there, "system", "dial-stdio"]
