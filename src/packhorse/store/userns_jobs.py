"""Starts a child as root of a sandbox's user namespace, and gives it work in the store (`userns_worker`).

Only that root can give files to a user's subordinate ids, and remove such files. The child also parses
hostile tars, because there a tar that exploits a fault gains no rights over the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from packhorse.errors import FormatError, StoreError
from packhorse.linux import userns
from packhorse.linux.processes import python_command
from packhorse.linux.userns import Namespace
from packhorse.store.leases import Lease, map_errors, open_directory


def run(
    words: Sequence[str],
    *,
    where: Path,
    namespace: Namespace,
    lease: Lease,
    directories: Sequence[int],
    stdin: Iterable[bytes] = (),
) -> dict[str, Any]:
    """Runs `userns_worker` with `words` in `namespace`, writes `stdin` to it, and returns its JSON answer.

    The child inherits the descriptors `directories`; `words` names them by number. Errors name the path
    `where`. The child holds the lease too: if this process is killed, no sweep removes the files that the
    child still uses. Raises FormatError for a layer that cannot be unpacked, StoreError, and what iterating
    over `stdin` raises.
    """
    assert lease.descriptor is not None  # `Lease.temporary_path` has refused a read-only store
    with userns.spawn(
        [*python_command("packhorse.store.userns_worker"), *words],
        namespace=namespace,
        pass_fds=(*directories, lease.descriptor),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        try:
            try:
                for chunk in stdin:
                    child.stdin.write(chunk)
            except BrokenPipeError:
                pass  # the child has ended early, and its answer says why
            answer, message = child.communicate()
        except BaseException:
            child.kill()
            with suppress(BrokenPipeError):
                child.stdin.close()
            raise
    if child.returncode == 0:
        return _parse_answer(answer)
    if child.returncode == 1 and answer:
        raise _child_error(_parse_answer(answer), where)
    raise _ended_error(child, where, message)


class Unpacker:
    """A child that unpacks one layer after another into the directory `where`, because a start takes 60 ms.

    `owners` says whether the namespace has more than one id. After an error it cannot be used again.
    """

    def __init__(self, where: Path, *, namespace: Namespace, lease: Lease, owners: bool) -> None:
        assert lease.descriptor is not None  # as in `run`
        self._where = where
        with open_directory(where) as parent:
            words = ["unpack-all", str(parent), "yes" if owners else "no"]
            self._child = userns.spawn(
                [*python_command("packhorse.store.userns_worker"), *words],
                namespace=namespace,
                pass_fds=(parent, lease.descriptor),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )

    def unpack(self, name: str, chunks: Iterable[bytes]) -> dict[str, Any]:
        """Unpacks the tar in `chunks` into the new directory `name`. Raises the same errors as `run`."""
        stdin, stdout = self._child.stdin, self._child.stdout
        assert stdin is not None
        assert stdout is not None
        with suppress(BrokenPipeError):  # the child has ended early, and its answer says why
            stdin.write(f"{name}\n".encode())
            for chunk in filter(None, chunks):
                stdin.write(len(chunk).to_bytes(4, "little"))
                stdin.write(chunk)
            stdin.write(bytes(4))
            stdin.flush()
        answer = _parse_answer(stdout.readline() or b"{}")
        if "files" in answer:
            return answer
        if answer:
            raise _child_error(answer, self._where)
        raise _ended_error(self._child, self._where, self._read_message())

    def _read_message(self) -> bytes:
        """Ends the child, and returns what it has written to stderr."""
        self.close()
        assert self._child.stderr is not None
        return self._child.stderr.read() or b""

    def close(self) -> None:
        """Ends the child. Layers that it has unpacked stay."""
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):
            self._child.kill()
            self._child.stdin.close()
        self._child.wait()


def _ended_error(child: subprocess.Popen[bytes], where: Path, message: bytes) -> StoreError:
    """The error for a child that has ended without an answer."""
    why = message.decode(errors="replace").strip() or f"its process ended with status {child.returncode}"
    return StoreError(f"the store cannot be used at {where}", why=why, check="store")


def _parse_answer(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


def _child_error(answer: dict[str, Any], where: Path) -> Exception:
    """The error that the child's answer describes, for `where`."""
    if answer["kind"] == "OSError":
        try:
            with map_errors(where):
                raise OSError(answer["errno"], os.strerror(answer["errno"]))
        except StoreError as error:
            return error
    kind = StoreError if answer["kind"] == "HostError" else FormatError
    return kind(answer["what"], why=answer["why"], fix=answer["fix"], check=answer["check"])
