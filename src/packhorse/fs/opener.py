"""Opens a user's files whose mode forbids it, by a child process; also the functions that ask the child.

The child is root of a user namespace that has only the user's own ids. So it can read every file of the user,
whatever its mode, and otherwise no more than the user can. A request has a directory descriptor and a path
below it. The child opens only regular files and directories, only for reading, and sends the descriptor back.
Only `fs.shut` uses this module, and imports it at the first such entry.
"""

from __future__ import annotations

import atexit
import errno
import os
import socket
import stat
import struct
import subprocess
import threading
from array import array
from contextlib import suppress

from packhorse.errors import HostError
from packhorse.linux import syscalls

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
OPEN, ATTRIBUTE = 0, 1
_REQUEST = struct.Struct("<BIH")  # OPEN or ATTRIBUTE, flags of open(2), length of the path that follows
_LONGEST = 1 << 17
"""The most bytes of a message: an attribute has at most 64 KiB, a path 4 KiB."""

_KEPT_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class _Child:
    """The child and the socket to it. The child ends when the socket is closed, or when this process ends."""

    def __init__(self) -> None:
        # Imported here, because most commands never start the child.
        from packhorse.linux import userns
        from packhorse.linux.processes import python_command

        own = userns.map_as_root(userns.choose_map(mode=userns.MapMode.SINGLE))
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far, userns.make_namespace(own) as namespace:
            self._process = userns.spawn(
                [*python_command("packhorse.fs.opener"), str(far.fileno())],
                namespace=namespace,
                pass_fds=[far.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        atexit.register(self.end)

    def ask(self, directory: int, request: bytes) -> tuple[int, bytes, int]:
        """Sends a request; returns an errno or 0, the data, and a descriptor or -1. Raises HostError."""
        answer = b""
        descriptors: list[int] = []
        with suppress(ConnectionError):  # the child has ended; its stderr says why
            socket.send_fds(self._socket, [request], [directory])
            answer, descriptors = _receive(self._socket)
        if not answer:
            said = self._process.communicate()[1].decode(errors="replace").strip()
            raise HostError(
                "a file whose mode denies its owner access cannot be read",
                why=said or f"the process that reads it ended with status {self._process.returncode}",
                check="user-namespaces",
            )
        number = int.from_bytes(answer[:4], "little")
        return number, answer[4:], descriptors[0] if descriptors else -1

    def end(self) -> None:
        """Kills the child and closes the socket."""
        atexit.unregister(self.end)
        self._socket.close()
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


_lock = threading.Lock()
_child: _Child | None = None


def ask(directory: int, what: int, flags: int, path: str, name: str = "") -> tuple[bytes, int]:
    """Asks the child for OPEN or ATTRIBUTE, and starts it first if necessary.

    Returns the data and the descriptor. Raises OSError, and HostError if no child can be started.
    """
    global _child  # this process starts only one, however many trees it reads
    if os.geteuid() == 0:
        # The kernel refused root for another reason than the mode, so a child would be refused too.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    encoded = os.fsencode(path)
    request = _REQUEST.pack(what, flags, len(encoded)) + encoded + os.fsencode(name)
    with _lock:
        child = _child = _child or _Child()
        try:
            number, data, descriptor = child.ask(directory, request)
        except BaseException:
            # The answer may still arrive, and the next request would get it. So the next one starts a child.
            _child = None
            child.end()
            raise
    if number:
        raise OSError(number, os.strerror(number))
    return data, descriptor


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """The next message, b"" at the end, and the descriptors that came with it."""
    numbers = array("i")
    space = socket.CMSG_LEN(numbers.itemsize)
    data, attached, _, _ = connection.recvmsg(_LONGEST, space, socket.MSG_CMSG_CLOEXEC)
    for _, kind, content in attached:
        if kind == socket.SCM_RIGHTS:
            numbers.frombytes(content)
    return data, list(numbers)


# The rest of the module runs in the child.


def main(words: list[str]) -> int:
    """Answers requests on the socket whose descriptor `words` has, until the other end is closed."""
    with socket.socket(fileno=int(words[0])) as connection:
        while True:
            request, descriptors = _receive(connection)
            if not request:
                return 0
            try:
                data, answers = _answer(descriptors[0], request)
                message = bytes(4) + data
            except OSError as error:
                message, answers = (error.errno or errno.EIO).to_bytes(4, "little"), []
            socket.send_fds(connection, [message], answers)
            for descriptor in {*answers, *descriptors}:
                os.close(descriptor)


def _answer(directory: int, request: bytes) -> tuple[bytes, list[int]]:
    """The data and the descriptors that answer a request. Raises OSError."""
    what, flags, length = _REQUEST.unpack_from(request)
    path = os.fsdecode(request[_REQUEST.size : _REQUEST.size + length])
    name = os.fsdecode(request[_REQUEST.size + length :])
    held = directory
    if path:
        held = syscalls.openat2(directory, path, flags & _KEPT_FLAGS | os.O_PATH, resolve=_RESOLVE)
    try:
        if what == ATTRIBUTE:
            return os.getxattr(f"/proc/self/fd/{held}", name), []
        if flags & os.O_PATH:
            return b"", [os.dup(held)]
        return b"", [_reopen(held, flags)]
    finally:
        if held != directory:
            os.close(held)


def _reopen(held: int, flags: int) -> int:
    """Opens for reading what the O_PATH descriptor `held` leads to; OSError for other kinds of files."""
    mode = os.fstat(held).st_mode
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return os.open(f"/proc/self/fd/{held}", _READ_FLAGS | flags & os.O_DIRECTORY)
