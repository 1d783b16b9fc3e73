"""What an attacker would want of this machine, set up by the invoking user, who runs this as a program.

Prints one JSON object of variables for the attacker, then waits for the end of its stdin and cleans up. With
words behind it, it instead puts a key into its session's keyring, takes the terminal on stdin as its own, and
becomes these words: packhorse.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
import termios
import threading
from contextlib import suppress
from pathlib import Path

KEY = "packhorse-test-key"
VISITS = "visits"
"""The file in the home that has a line for each visit to one of the services."""

_NAME = "packhorse-test"
_KEYCTL = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
_ADD_KEY = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
_libc = ctypes.CDLL(None, use_errno=True)


def become(words: list[str]) -> None:
    join, session = 1, -3
    assert _libc.syscall(_KEYCTL, join, None) > 0
    assert _libc.syscall(_ADD_KEY, b"user", KEY.encode(), b"SECRET-key", ctypes.c_size_t(10), session) > 0
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.execv(words[0], words)


def _sweep() -> None:
    """Removes the files of victims that were killed."""
    for directory in ("/tmp", "/dev/shm"):
        for path in Path(directory).glob(f"{_NAME}-*"):
            if not Path("/proc", path.name.rpartition("-")[2]).exists():
                with suppress(OSError):  # another user's
                    path.unlink()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    _sweep()
    home, name = Path.home(), f"{_NAME}-{os.getpid()}"
    files = {
        "HOST_CANARY": home / "canary",
        "HOST_CREDENTIALS": home / ".docker" / "config.json",
        "HOST_TEMPORARY": Path("/tmp") / name,
        "HOST_SHARED_FILE": Path("/dev/shm") / name,
    }
    path_socket = home / "engine.sock"
    key, create = 0x5EC00000 + os.getpid(), 0o1600
    realtime = ctypes.CDLL("librt.so.1", use_errno=True)
    try:
        for path in files.values():
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"SECRET-{path.name}\n")
        segment = _libc.shmget(key, ctypes.c_size_t(4096), create)
        queue, semaphores = _libc.msgget(key, create), _libc.semget(key, 1, create)
        assert min(segment, queue, semaphores, realtime.mq_open(f"/{name}".encode(), 0o102, 0o600, None)) >= 0
        listening = [
            _bound(socket.AF_UNIX, str(path_socket)),
            _bound(socket.AF_UNIX, f"\0{name}"),
            _bound(socket.AF_INET, ("127.0.0.1", 0)),
            _bound(socket.AF_INET6, ("::1", 0)),
            _bound(socket.AF_INET, ("127.9.9.9", 0)),
            _bound(socket.AF_INET, (_address(), 0)),
        ]
        hearing = [
            _open(socket.AF_INET, ("127.0.0.1", 0)),
            _open(socket.AF_INET, ("127.9.9.9", 0)),
            _open(socket.AF_INET6, ("::1", 0)),
        ]
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        datagrams.bind(f"\0{name}-datagrams")
        for one in listening:
            threading.Thread(target=_speak, args=(one, home / VISITS), daemon=True).start()
        for one in hearing:
            threading.Thread(target=_answer, args=(one, home / VISITS), daemon=True).start()
        given = {
            **{variable: str(path) for variable, path in files.items()},
            "HOST_HOME": str(home),
            "HOST_PID": str(os.getpid()),
            "HOST_IPC": str(key),
            "HOST_QUEUE": f"/{name}",
            "HOST_KEY": KEY,
            "HOST_SOCKET": str(path_socket),
            "HOST_ABSTRACT": name,
            "HOST_DATAGRAM": f"{name}-datagrams",
            "HOST_PORT": str(listening[2].getsockname()[1]),
            "HOST_PORT6": str(listening[3].getsockname()[1]),
            "HOST_OTHER_PORT": str(listening[4].getsockname()[1]),
            "HOST_ADDRESS": listening[5].getsockname()[0],
            "HOST_ADDRESS_PORT": str(listening[5].getsockname()[1]),
            "HOST_UDP": str(hearing[0].getsockname()[1]),
            "HOST_OTHER_UDP": str(hearing[1].getsockname()[1]),
            "HOST_UDP6": str(hearing[2].getsockname()[1]),
        }
        print(json.dumps(given), flush=True)
        sys.stdin.read()
    finally:
        for path in (*files.values(), path_socket):
            path.unlink(missing_ok=True)
        _libc.shmctl(_libc.shmget(key, ctypes.c_size_t(0), 0), 0, None)
        _libc.msgctl(_libc.msgget(key, 0), 0, None)
        _libc.semctl(_libc.semget(key, 0, 0), 0, 0)
        realtime.mq_unlink(f"/{name}".encode())


def _open(family: int, address: object, kind: int = socket.SOCK_DGRAM) -> socket.socket:
    made = socket.socket(family, kind)
    made.bind(address)
    return made


def _bound(family: int, address: object) -> socket.socket:
    made = _open(family, address, socket.SOCK_STREAM)
    made.listen()
    return made


def _address() -> str:
    """The address from which this machine speaks to others; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, suppress(OSError):
        asking.connect(("192.0.2.1", 9))
        return str(asking.getsockname()[0])
    return "127.0.0.1"


def _note(visits: Path, service: socket.socket) -> None:
    with visits.open("a") as file:
        file.write(f"{service.type.name} {service.getsockname()!r}\n")


def _speak(listening: socket.socket, visits: Path) -> None:
    while True:
        connection, _ = listening.accept()
        _note(visits, listening)
        with connection, suppress(OSError):  # the visitor is gone
            connection.sendall(b"SECRET-service\n")


def _answer(hearing: socket.socket, visits: Path) -> None:
    while True:
        _, visitor = hearing.recvfrom(100)
        _note(visits, hearing)
        hearing.sendto(b"SECRET-service\n", visitor)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        become(sys.argv[1:])
    main()
