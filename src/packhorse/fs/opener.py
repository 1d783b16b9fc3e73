"""Opens files that only root could open, for an ordinary user: a child process, and this end of its socket.

The child is root of a user namespace that has only the user's own ids. So it can read what belongs to the
user, whatever its mode, and nothing else that the user cannot. It opens only regular files and directories,
only for reading, below the directory that comes with a request, and sends the descriptor back. Only `fs.shut`
calls this module, and imports it when the first such entry is met.
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
_REQUEST = struct.Struct("<BIH")  # what is asked for, flags of open(2), length of the path that follows
_LONGEST = 1 << 17
"""Bytes of a message: an attribute has at most 64 KiB, a path 4 KiB."""

_KEPT_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class _Child:
    """The child, and the socket to it. It ends when the socket is closed, also by the end of this process."""

    def __init__(self) -> None:
        # Only a command that meets such an entry pays for these.
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
        """The answer to a request: an errno or 0, data, and a descriptor, -1 for none."""
        answer = b""
        descriptors: list[int] = []
        with suppress(ConnectionError):  # it has ended, and says why
            socket.send_fds(self._socket, [request], [directory])
            answer, descriptors = _receive(self._socket)
        if not answer:
            said = self._process.communicate()[1].decode(errors="replace").strip()
            raise HostError(
                "what the mode of a file shuts its owner out of cannot be read",
                why=said or f"the process that reads it ended with status {self._process.returncode}",
                check="user-namespaces",
            )
        number = int.from_bytes(answer[:4], "little")
        return number, answer[4:], descriptors[0] if descriptors else -1

    def end(self) -> None:
        """Ends the child, which has nothing to finish."""
        atexit.unregister(self.end)
        self._socket.close()
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


_lock = threading.Lock()
_child: _Child | None = None


def ask(directory: int, what: int, flags: int, path: str, name: str = "") -> tuple[bytes, int]:
    """Asks the child, started if there is none, for OPEN or ATTRIBUTE; answers the data and the descriptor.

    Raises OSError, and HostError where there can be no child.
    """
    global _child  # one for the process, however many trees are read
    if os.geteuid() == 0:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))  # root's refusal has another reason
    encoded = os.fsencode(path)
    request = _REQUEST.pack(what, flags, len(encoded)) + encoded + os.fsencode(name)
    with _lock:
        child = _child = _child or _Child()
        try:
            number, data, descriptor = child.ask(directory, request)
        except BaseException:
            # Its answer may still be on the way: the next request is another child's.
            _child = None
            child.end()
            raise
    if number:
        raise OSError(number, os.strerror(number))
    return data, descriptor


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """The next message, b"" at the end, and the descriptor that came with it."""
    numbers = array("i")
    space = socket.CMSG_LEN(numbers.itemsize)
    data, attached, _, _ = connection.recvmsg(_LONGEST, space, socket.MSG_CMSG_CLOEXEC)
    for _, kind, content in attached:
        if kind == socket.SCM_RIGHTS:
            numbers.frombytes(content)
    return data, list(numbers)


# the child


def main(words: list[str]) -> int:
    """Answers requests on the socket, a descriptor, until its other end is closed."""
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
    """A descriptor for reading what is held; OSError if that is no regular file or directory."""
    mode = os.fstat(held).st_mode
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return os.open(f"/proc/self/fd/{held}", _READ_FLAGS | flags & os.O_DIRECTORY)
