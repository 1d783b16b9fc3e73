"""A container engine, dockerd or podman: the eight calls of the Docker Engine API that packhorse makes.

Called by `image.daemon`, which knows what is sent and read. `base.engine_address` finds where the engine
listens, `base.dial` connects to it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import IO, Any, TypeVar
from urllib.parse import quote

from packhorse.base.dial import Connection
from packhorse.base.engine_address import Address, error_reason
from packhorse.errors import EngineError

_ANSWER_TIMEOUT = 60
"""Seconds in which an engine answers a ping, or takes the next bytes."""
_QUERY_TIMEOUT = 300
"""Seconds in which it answers a question: it may have images to load for others first."""
_WORK_TIMEOUT = 3600
"""Seconds in which it has loaded an image or begins to save one: it may first write gigabytes."""
_TOLD, _LOADED = 64 << 20, 1 << 20
"""The most bytes of what it tells of ten thousands of images, and of what it says to one that it takes."""
_CHUNK = 1 << 20
_VERSION = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
_OLD = re.compile(r"Docker/(1[0-9]|2[01])\.")
"""What a dockerd calls itself that cannot have containerd's store yet."""
_MESSAGE_LIMIT = 200  # bytes of what answers in another engine's place
_STDERR_LIMIT = 2000  # bytes of what ssh complains of

Answer = TypeVar("Answer")


class _MissingError(EngineError):
    """The engine does not have what it was asked about."""


class Engine:
    """One engine, connected to when it is first asked. Methods raise EngineError when it does not answer or
    refuses, and may be called by several threads.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: list[Connection] = []
        self._stderr: IO[bytes] | None = None
        self._version = ""
        self._program = ""

    def check(self) -> None:
        """Asks for the newest API version that the engine has; raises EngineError if no engine answers.

        A ping tells it in a header. dockerd asks other programs before it answers what its version is.
        """
        if self._version:
            return
        with self._map_errors():
            connection, answer = self._exchange("GET", "/_ping", _ANSWER_TIMEOUT)
            version = answer.headers.get("Api-Version", "")
            self._program = answer.headers.get("Server", "")
            # A server that wants TLS, or is no engine, may say so.
            said = (
                answer.read(_MESSAGE_LIMIT).decode(errors="replace").strip() if answer.status >= 400 else ""
            )
            connection.close()
        if not _VERSION.fullmatch(version):
            raise self._no_engine_error(f"it does not tell its version{f': {said}' if said else ''}")
        self._version = f"/v{version}"

    def image(self, name: str) -> Mapping[str, Any] | None:
        """What the engine says of an image, as `docker image inspect` prints it; None if it has none."""
        try:
            found = self._ask(dict, _url_path(name, "json"))
        except _MissingError:
            return None
        if not isinstance(found.get("Id"), str):
            raise self._no_engine_error("it tells of an image without an ID")
        return found

    def history(self, name: str) -> Sequence[Mapping[str, Any]]:
        """An image's history, the newest first, as `docker history` prints it."""
        return self._ask_for_objects(_url_path(name, "history"))

    def images(self) -> tuple[str, ...]:
        """The IDs of all images, the newest first."""
        created = [(item.get("Created"), item.get("Id")) for item in self._ask_for_objects("/images/json")]
        known = [(time if isinstance(time, int | float) else 0, name) for time, name in created]
        newest_first = sorted(known, key=lambda item: -item[0])
        return tuple(name for _, name in newest_first if isinstance(name, str))

    def shares_layers(self) -> bool:
        """Whether an image may be loaded without the layers that the engine has already.

        dockerd's own image store takes that; containerd's and podman want every layer, each time.
        """
        self.check()
        if _OLD.match(self._program):
            return True
        if not self._program.startswith("Docker/"):
            told = self._ask(dict, "/version")
            if "podman" in str(told.get("Components")).lower():
                return False
        return "containerd.snapshotter" not in str(self._ask(dict, "/info").get("DriverStatus"))

    def save(self, name: str) -> Iterator[bytes]:
        """The archive that `docker save` would write."""
        with self._send("GET", _url_path(name, "get"), _WORK_TIMEOUT) as answer:
            while chunk := answer.read(_CHUNK):
                yield chunk

    def load(self, archive: Iterable[bytes], length: int) -> None:
        """Has the engine take an archive of `length` bytes, as `docker load` does.

        What it says then that went wrong is an EngineError, too.
        """
        with self._send("POST", "/images/load?quiet=1", _WORK_TIMEOUT, archive, length) as answer:
            text = self._read(answer, _LOADED).decode(errors="replace").strip()
        while text:
            line, end = self._parse(text)
            text = text[end:].lstrip()
            if isinstance(line, dict) and "error" in line:
                why = str(line["error"]).strip()
                raise EngineError(f"{self} did not take the image", why=why, fix=_find_remedy(why))

    def __str__(self) -> str:
        return f"the container engine at {self.address.host}"

    def _ask(self, kind: type[Answer], path: str) -> Answer:
        """The answer, which must be of a `kind`: something else than an engine may listen there."""
        with self._send("GET", path, _QUERY_TIMEOUT) as answer:
            found, _ = self._parse(self._read(answer, _TOLD).decode(errors="replace").strip())
        if not isinstance(found, kind):
            raise self._no_engine_error(f"it answers with {type(found).__name__} instead of {kind.__name__}")
        return found

    def _ask_for_objects(self, path: str) -> list[Mapping[str, Any]]:
        found = self._ask(list, path)
        if not all(isinstance(item, dict) for item in found):
            raise self._no_engine_error("its list has something else than objects in it")
        return found

    def _parse(self, text: str) -> tuple[Any, int]:
        """The JSON value that the text begins with, and where it ends."""
        try:
            return json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError) as error:
            raise self._no_engine_error("its answer is no JSON") from error

    def _read(self, answer: HTTPResponse, most: int) -> bytes:
        data = answer.read(most + 1)
        if len(data) > most:
            raise self._no_engine_error(f"its answer has more than {most} bytes")
        return data

    @contextmanager
    def _send(
        self, method: str, path: str, timeout: float, body: Iterable[bytes] | None = None, length: int = 0
    ) -> Iterator[HTTPResponse]:
        """The answer of the engine, which begins within `timeout` seconds, if it does not refuse."""
        self.check()
        with self._map_errors():
            connection, answer = self._exchange(method, self._version + path, timeout, body, length)
            try:
                if answer.status >= 400:
                    why = _error_message(answer.read(_LOADED)) or answer.reason
                    refused = _MissingError if answer.status == 404 else EngineError
                    raise refused(f"{self} refused", why=why, fix=_find_remedy(why))
                yield answer
            finally:
                if answer.isclosed():  # which it is when it was read to its end
                    self._idle.append(connection)
                else:
                    connection.close()

    def _exchange(
        self, method: str, path: str, timeout: float, body: Iterable[bytes] | None = None, length: int = 0
    ) -> tuple[Connection, HTTPResponse]:
        headers = {"Content-Type": "application/x-tar", "Content-Length": str(length)} if body else {}
        while True:
            connection = self._connect() if body else self._idle_connection()
            is_kept = connection.sock is not None
            try:
                try:
                    connection.request(method, path, body, headers)
                except BrokenPipeError:  # it may have said why before it hung up
                    if body is None:
                        raise
                connection.sock.settimeout(timeout)
                return connection, connection.getresponse()
            except BaseException as error:
                connection.close()
                # An engine may close a connection that nothing comes over.
                if not (is_kept and isinstance(error, ConnectionError)):
                    raise

    def _idle_connection(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _connect(self) -> Connection:
        if self.address.host.startswith("ssh://") and self._stderr is None:
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 -- for as long as the engine
        return Connection(self.address, timeout=_ANSWER_TIMEOUT, stderr=self._stderr)

    def _no_engine_error(self, why: str) -> EngineError:
        what = f"what answers at {self.address.host} is no container engine"
        fix = f"name another ({self.address.origin} named this one): --docker-host, DOCKER_HOST"
        return EngineError(what, why=why, fix=fix)

    @contextmanager
    def _map_errors(self) -> Iterator[None]:
        """Turns what a connection raises into EngineErrors."""
        try:
            yield
        except (HTTPException, OSError, UnicodeError) as error:
            complaints = os.pread(self._stderr.fileno(), _STDERR_LIMIT, 0) if self._stderr else b""
            why = complaints.decode(errors="replace").strip() or error_reason(error)
            raise EngineError(f"{self} cannot be asked", why=why, fix=self._suggest_fix(why)) from error

    def _suggest_fix(self, why: str) -> str:
        if self._stderr:
            return "see that `ssh` reaches that machine without asking anything, and that docker is there"
        if "SSL" in why or "certificate" in why:
            return "check the address, and ca.pem, cert.pem, key.pem in DOCKER_CERT_PATH or docker's context"
        if "ermission denied" in why:
            return "join the group that may use it (often docker), or use an engine of your own user"
        return f"start it, or name another ({self.address.origin} named this one): --docker-host, DOCKER_HOST"


def _url_path(name: str, what: str) -> str:
    return f"/images/{quote(name, safe='/:', errors='replace')}/{what}"


def _error_message(data: bytes) -> str:
    """What an engine says when it refuses: the message of an object, or what else it answers with."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    message = found.get("message") if isinstance(found, dict) else None
    return message if isinstance(message, str) else data[:_MESSAGE_LIMIT].decode(errors="replace").strip()


def _find_remedy(why: str) -> str:
    return "free some space where the engine keeps images" if "no space left" in why else ""
