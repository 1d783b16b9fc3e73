"""Gives up root before anything of a buildpack runs (platform.md; SECURITY.md, "In place").

A phase that starts as root reads the credentials, puts the ownership of its directories right, and becomes
the CNB user, without supplementary groups. Started as another user, it stays that user. Then its memory and
environment are hidden from other processes of the same user, because a buildpack is one.
"""

from __future__ import annotations

import errno
import os
import pwd
import socket
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

from packhorse.errors import HostError
from packhorse.linux.syscalls import make_undumpable


def is_root() -> bool:
    """Whether this process is root."""
    return os.getuid() == 0


def own_directories(directories: Sequence[str], uid: int, gid: int) -> None:
    """Gives directories and everything in them to the CNB user, if that user cannot write to them.

    Only root can. A missing directory is no error. As in the reference, the top decides for everything below.
    Raises HostError.
    """
    if not is_root():
        return
    for directory in filter(None, directories):
        try:
            status = Path(directory).stat()
            if not _may_write(status, uid, gid):
                _give(Path(directory), uid, gid)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise HostError(
                f"{directory} cannot be given to the user {uid}:{gid}", why=error.strerror or str(error)
            ) from error


def _may_write(status: os.stat_result, uid: int, gid: int) -> bool:
    mode = status.st_mode
    return (
        status.st_uid == uid
        or (status.st_gid == gid and bool(mode & stat.S_IWGRP))
        or bool(mode & stat.S_IWOTH)
    )


def _give(top: Path, uid: int, gid: int) -> None:
    os.chown(top, uid, gid, follow_symlinks=False)
    for above, directories, files, descriptor in os.fwalk(top):
        for name in (*directories, *files):
            os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
        del above


def become(uid: int, gid: int) -> None:
    """Becomes the user `uid:gid` for good, if this process is root and the user another. Raises HostError."""
    if not is_root() or (os.getgid() == gid and uid == 0):
        return
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise HostError(
            f"this process cannot become the user {uid}:{gid}",
            why=f"{error.strerror}: it is root without the right to change its user (CAP_SETUID, CAP_SETGID)",
            fix="start it as that user",
        ) from error


class SocketOpener:
    """Connects to a socket as root for a process that gives up root: a child that stays root does it.

    No buildpack can reach the child: it belongs to another user, and only this process has the other end of
    its socket. The child ends when this process ends. Raises OSError if no child can be made.
    """

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._end, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self._end.close()
            try:
                _open_sockets(path, end)
            finally:
                os._exit(0)
        end.close()

    def connect(self) -> socket.socket:
        """Returns a new connection. Raises OSError."""
        with self._lock:
            self._end.send(b"?")
            answer, descriptors, _, _ = socket.recv_fds(self._end, 16, 1)
        if not descriptors:
            number = int(answer or b"0") or errno.ECONNREFUSED
            raise OSError(number, os.strerror(number))
        return socket.socket(fileno=descriptors[0])


def _open_sockets(path: str, end: socket.socket) -> None:
    """Answers each question with a connected socket or the number of an error, until `end` is closed."""
    while end.recv(1):
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(path)
                socket.send_fds(end, [b"0"], [connection.fileno()])
            except OSError as error:
                end.send(str(error.errno or errno.ECONNREFUSED).encode())


def hide_from_buildpacks() -> None:
    """Hides this process's memory, environment and descriptors from processes of the same user."""
    make_undumpable()


def find_account(uid: int) -> tuple[str, str]:
    """The name and the home directory of a user, by /etc/passwd; empty texts if it has none."""
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return "", ""
    return account.pw_name, account.pw_dir
