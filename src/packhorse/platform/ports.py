"""Ports of this machine, asked for before anything starts on them. Called by `platform.run` and `cli.run`."""

from __future__ import annotations

import errno
import socket

from packhorse.base.step import Port
from packhorse.errors import RunError

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def free() -> int:
    """A TCP port of this machine that nobody uses now."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def check(port: Port) -> None:
    """Raises RunError when the port of this machine cannot be had: somebody has it, or it is root's."""
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    with socket.socket(family, _KINDS[port.protocol]) as one:
        # Connections that are over keep a port for a while, and stand in nobody's way.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(port.protocol == "tcp"))
        try:
            one.bind((port.address, port.host_port))
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.EACCES:
                why = "ports below 1024 are root's"
            raise RunError(
                f"port {port.host_port} of this machine cannot be used",
                why=why,
                fix=f"choose another: -p OTHER:{port.port}",
            ) from error
