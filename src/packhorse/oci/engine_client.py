"""Calls a container engine, dockerd or podman, by the Docker Engine API.

`find` decides which engine a user means: an option, DOCKER_HOST, the docker context or a usual socket.
`Connection` connects by a socket, by TCP with or without TLS, or by ssh. `Engine` makes the calls.
`oci.engine` knows what is sent and read. The doctor checks the connection.

An ssh connection works as in the docker client (docker/cli, cli/connhelper): each one is a process `docker
system dial-stdio` on the other machine, started by this machine's ssh with the user's configuration, keys and
agent.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from shutil import which
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote, urlsplit

from packhorse.base.dataclass import dataclass
from packhorse.errors import EngineError, InputError

if TYPE_CHECKING:
    from ssl import SSLContext

INHERIT = "inherit"
"""The address that means the environment's engine, as in pack's `--docker-host inherit`."""

_SOCKET = "/var/run/docker.sock"
_PODMAN_SOCKETS = ("/run/podman/podman.sock",)
_SCHEMES = ("unix://", "tcp://", "ssh://", "http://", "https://")
_LABEL = 63  # the most characters between two dots of a host name
_CONNECT_TIMEOUT = 30  # seconds for ssh to connect
_PORTS = {"http": 80, "https": 443}
_ANSWER_TIMEOUT = 60  # seconds for a ping, or to receive the next bytes
_QUERY_TIMEOUT = 300  # seconds for a question: the engine may be busy with other clients' images
_WORK_TIMEOUT = 3600  # seconds to load an image, or to begin saving one: it may first write gigabytes
_ANSWER_LIMIT = 64 << 20  # bytes of an answer; a list of images can be long
_MESSAGES_LIMIT = 1 << 20  # bytes of an error, or of the messages about a loaded image
_CHUNK = 1 << 20
_VERSION = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
_OLD = re.compile(r"Docker/(1[0-9]|2[01])\.")  # the Server header of a dockerd without containerd's store
_EXCERPT_LIMIT = 200  # bytes of an answer that does not come from an engine
_STDERR_LIMIT = 2000  # bytes of ssh's errors
_Answer = TypeVar("_Answer")


class Connector(Protocol):
    """Makes connections to an engine's socket for a process without the right to do so."""

    def connect(self) -> socket.socket:
        """Returns a new connection; raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens, and the certificates for it.

    `origin` says in errors what named the engine; it is "" for an engine at a usual socket. `connector` makes
    the connections to a socket that this process itself may not open.
    """

    host: str
    origin: str
    tls: SSLContext | None = None
    connector: Connector | None = None


def find(asked: str, environ: Mapping[str, str]) -> Address | None:
    """Finds the engine that a user means; returns None if nothing names one and none listens.

    The first of these counts: `asked` (`--docker-host`) unless it is `inherit`, DOCKER_HOST, the current
    docker context, a usual socket. Raises InputError for an invalid address, and for a context that does not
    exist.
    """
    if asked and asked != INHERIT:
        return Address(
            _check_address(asked, "--docker-host"), "--docker-host", _environment_tls(asked, environ)
        )
    host = environ.get("DOCKER_HOST", "")
    if host:
        return Address(_check_address(host, "DOCKER_HOST"), "DOCKER_HOST", _environment_tls(host, environ))
    return _find_in_context(environ) or _find_listening(environ)


def _find_in_context(environ: Mapping[str, str]) -> Address | None:
    """Finds the engine of docker's current context; None for the default context.

    The docker client stores contexts in these files (docker/cli, cli/context/store).
    """
    config = Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or "/") / ".docker")
    name = environ.get("DOCKER_CONTEXT") or _current_context(config / "config.json")
    if name in ("", "default"):
        return None
    key = hashlib.sha256(os.fsencode(name)).hexdigest()
    endpoints = _read_json(config / "contexts" / "meta" / key / "meta.json").get("Endpoints")
    endpoint = endpoints.get("docker") if isinstance(endpoints, dict) else None
    if not isinstance(endpoint, dict) or not endpoint.get("Host"):
        raise InputError(
            f"there is no docker context {name!r}",
            why=f"{config / 'contexts'} has none of this name",
            fix="see `docker context ls`, or name an engine with --docker-host",
        )
    origin = f"the docker context {name}"
    host = _check_address(str(endpoint["Host"]), origin)
    folder = config / "contexts" / "tls" / key / "docker"
    return Address(
        host, origin, _make_tls(folder, verify=not endpoint.get("SkipTLSVerify")) if folder.exists() else None
    )


def _current_context(path: Path) -> str:
    """Returns the context that a config.json names; "" if it cannot be read, as in the docker client."""
    try:
        return str(_read_json(path).get("currentContext") or "")
    except InputError:
        return ""


def _read_json(path: Path) -> Mapping[str, Any]:
    """Reads the JSON object in one of docker's files; an empty one if there is no file. Raises InputError."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read", why=error_reason(error), fix="repair it, or remove it"
        ) from error
    return found if isinstance(found, dict) else {}


def _find_listening(environ: Mapping[str, str]) -> Address | None:
    """Finds a usual socket that this user may open: of dockerd, of this user's engine, of root's podman.

    Returns dockerd's socket if it exists, so that the error about permissions names it.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    own = (f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock") if runtime else ()
    for path in (_SOCKET, *own, *_PODMAN_SOCKETS):
        if os.access(path, os.R_OK | os.W_OK):
            return Address(f"unix://{path}", "")
    if Path(_SOCKET).exists():
        return Address(f"unix://{_SOCKET}", "")
    return None


def _environment_tls(host: str, environ: Mapping[str, str]) -> SSLContext | None:
    """Makes the TLS context for DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, as the docker client does."""
    verify, path = environ.get("DOCKER_TLS_VERIFY", ""), environ.get("DOCKER_CERT_PATH", "")
    if not (verify or path) or not host.startswith(("tcp://", "https://")):
        return None
    return _make_tls(Path(path or Path(environ.get("HOME") or "/") / ".docker"), verify=bool(verify))


def _make_tls(directory: Path, *, verify: bool) -> SSLContext:
    """Makes a TLS context of a directory's ca.pem, cert.pem and key.pem. Missing files are not used."""
    import ssl

    authority, certificate, key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
    try:
        context = ssl.create_default_context(cafile=authority if authority.exists() else None)
        if certificate.exists() or key.exists():
            context.load_cert_chain(certificate, key)
    except OSError as error:
        raise InputError(
            f"the certificates in {directory} cannot be used",
            why=error_reason(error),
            fix="put ca.pem there, and if the engine asks for a client certificate, cert.pem and key.pem",
        ) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _check_address(host: str, origin: str) -> str:
    """Returns a valid address unchanged; raises InputError, which does not show a password in it."""
    shown = repr(host[:300]) if "@" not in host else "what was written"
    invalid = f"{origin}: {shown} is no address of an engine"
    try:
        url = urlsplit(host)
        port = url.port  # raises ValueError if it is not a number
        name = url.hostname or ""
    except ValueError as error:
        raise _address_error(invalid, str(error)) from error
    if not host.startswith(_SCHEMES) or not host.partition("://")[2]:
        raise _address_error(invalid)
    if url.scheme in ("tcp", "http", "https"):
        if "@" in url.netloc:
            raise _address_error(
                f"{origin}: the address of an engine has no user and no password",
                "an engine identifies its users by certificates",
            )
        labels = name.split(".")
        if port == 0 or not name.isprintable() or max(map(len, labels)) > _LABEL or "" in labels[:-1]:
            raise _address_error(invalid, "that is no host and port")
    return host


def _address_error(what: str, why: str = "") -> InputError:
    return InputError(what, why=why, fix="write unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST")


def socket_path(address: Address) -> str:
    """Returns the path of the socket at an address with `unix://`, "" for another address."""
    scheme, _, path = address.host.partition("://")
    return "/" + path.lstrip("/") if scheme == "unix" else ""


def error_reason(error: BaseException) -> str:
    """Returns the message of an error, in lower case for the middle of a sentence."""
    words = error.strerror if isinstance(error, OSError) else ""
    return words[0].lower() + words[1:] if words else str(error) or type(error).__name__


class Connection(HTTPConnection):
    """One HTTP connection to an engine: by a socket, by TCP with or without TLS, or by ssh.

    `stderr` receives the errors of ssh, and of docker on the other machine.
    """

    def __init__(self, address: Address, *, timeout: float, stderr: IO[bytes] | None = None) -> None:
        self._address, self._stderr = address, stderr
        self._url = url = urlsplit(address.host)
        self._is_tcp = url.scheme not in ("unix", "ssh")
        self._is_encrypted = self._is_tcp and (address.tls is not None or url.scheme == "https")
        port = url.port or _PORTS.get(url.scheme, 2376 if self._is_encrypted else 2375)
        super().__init__((url.hostname or "") if self._is_tcp else "localhost", port, timeout=timeout)

    def connect(self) -> None:
        """Connects; raises OSError, and for ssh also InputError or EngineError."""
        if self._is_tcp:
            super().connect()
        elif self._url.scheme == "ssh":
            self._start_ssh()
        elif self._address.connector is not None:
            self.sock = self._address.connector.connect()
            self.sock.settimeout(self.timeout)
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(socket_path(self._address))
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
    """Returns the command for `ssh://[USER@]HOST[:PORT][/PATH OF A SOCKET]`; raises InputError."""
    url = urlsplit(host)
    if not url.hostname or url.password is not None or url.hostname.startswith("-"):
        raise InputError(
            f"not the address of an engine by ssh, at {url.hostname or 'no host'}",
            why="it has no host, or it has a password, which ssh asks for itself",
            fix="write ssh://USER@HOST:PORT",
        )
    options = ["-o", f"ConnectTimeout={_CONNECT_TIMEOUT}", "-T"]
    options += ["-l", url.username] if url.username else []
    options += ["-p", str(url.port)] if url.port else []
    there = ["--host", f"unix://{url.path}"] if url.path.strip("/") else []
    return ["ssh", *options, "--", url.hostname, "docker", *there, "system", "dial-stdio"]


class _MissingError(EngineError):
    """The engine answers 404."""


class Engine:
    """One engine, with connections that are opened when needed and used again.

    Usable from several threads. Methods raise EngineError if the engine does not answer or refuses.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: list[Connection] = []
        self._stderr: IO[bytes] | None = None
        self._version = ""
        self._program = ""

    def check(self) -> None:
        """Learns the engine's newest API version, once, by a ping; raises EngineError if no engine answers.

        A ping is fast: for `/version`, dockerd asks other programs.
        """
        if self._version:
            return
        with self._map_errors():
            connection, answer = self._exchange("GET", "/_ping", _ANSWER_TIMEOUT)
            version = answer.headers.get("Api-Version", "")
            self._program = answer.headers.get("Server", "")
            refused = answer.status >= 400  # such as by a server that wants TLS
            said = answer.read(_EXCERPT_LIMIT).decode(errors="replace").strip() if refused else ""
            connection.close()
        if not _VERSION.fullmatch(version):
            raise self._no_engine_error(f"it does not tell its version{f': {said}' if said else ''}")
        self._version = f"/v{version}"

    def image(self, name: str) -> Mapping[str, Any] | None:
        """Returns the object that `docker image inspect` prints; None if the engine lacks the image."""
        try:
            found = self._ask(dict, _url_path(name, "json"))
        except _MissingError:
            return None
        if not isinstance(found.get("Id"), str):
            raise self._no_engine_error("its answer about an image has no ID")
        return found

    def history(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Returns an image's history, the newest entry first."""
        return self._ask_for_objects(_url_path(name, "history"))

    def images(self) -> tuple[str, ...]:
        """Returns the IDs of all images, the newest first."""
        images = self._ask_for_objects("/images/json")
        images.sort(key=_creation_time, reverse=True)
        return tuple(item["Id"] for item in images if isinstance(item.get("Id"), str))

    def shares_layers(self) -> bool:
        """Whether the engine loads images without the layers that it has.

        dockerd's own image store does. containerd's image store and podman need all layers each time.
        """
        self.check()
        if _OLD.match(self._program):
            return True
        if not self._program.startswith("Docker/"):
            version = self._ask(dict, "/version")
            if "podman" in str(version.get("Components")).lower():
                return False
        return "containerd.snapshotter" not in str(self._ask(dict, "/info").get("DriverStatus"))

    def save(self, name: str) -> Iterator[bytes]:
        """Yields the archive that `docker save` writes."""
        with self._send("GET", _url_path(name, "get"), _WORK_TIMEOUT) as answer:
            while chunk := answer.read(_CHUNK):
                yield chunk

    def load(self, archive: Iterable[bytes], length: int) -> None:
        """Sends an archive of `length` bytes, as `docker load` does.

        The engine may answer with status 200 and then report an error, which raises EngineError too.
        """
        with self._send("POST", "/images/load?quiet=1", _WORK_TIMEOUT, archive, length) as answer:
            text = self._read(answer, _MESSAGES_LIMIT)
        while text:
            message, end = self._parse(text)
            text = text[end:].lstrip()
            if isinstance(message, dict) and "error" in message:
                why = str(message["error"]).strip()
                raise EngineError(f"{self} did not take the image", why=why, fix=_find_remedy(why))

    def __str__(self) -> str:
        return f"the container engine at {self.address.host}"

    def _ask(self, kind: type[_Answer], path: str) -> _Answer:
        """Returns the JSON value at `path`; EngineError if it is not a `kind`, so no engine sent it."""
        with self._send("GET", path, _QUERY_TIMEOUT) as answer:
            found, _ = self._parse(self._read(answer, _ANSWER_LIMIT))
        if not isinstance(found, kind):
            raise self._no_engine_error(f"it answers with {type(found).__name__} instead of {kind.__name__}")
        return found

    def _ask_for_objects(self, path: str) -> list[Mapping[str, Any]]:
        found = self._ask(list, path)
        if not all(isinstance(item, dict) for item in found):
            raise self._no_engine_error("its list has something other than objects")
        return found

    def _parse(self, text: str) -> tuple[Any, int]:
        """Parses the JSON value at the start of a text; returns it and its length."""
        try:
            return json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError) as error:
            raise self._no_engine_error("its answer is no JSON") from error

    def _read(self, answer: HTTPResponse, limit: int) -> str:
        data = answer.read(limit + 1)
        if len(data) > limit:
            raise self._no_engine_error(f"its answer has more than {limit} bytes")
        return data.decode(errors="replace").strip()

    @contextmanager
    def _send(
        self, method: str, path: str, timeout: float, body: Iterable[bytes] | None = None, length: int = 0
    ) -> Iterator[HTTPResponse]:
        """Yields the engine's answer, waiting `timeout` seconds for it; raises EngineError if it refuses."""
        self.check()
        with self._map_errors():
            connection, answer = self._exchange(method, self._version + path, timeout, body, length)
            try:
                if answer.status >= 400:
                    why = _error_message(answer.read(_MESSAGES_LIMIT)) or answer.reason
                    refused = _MissingError if answer.status == 404 else EngineError
                    raise refused(f"{self} refused", why=why, fix=_find_remedy(why))
                yield answer
            finally:
                if answer.isclosed():  # it was read to its end
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
                except BrokenPipeError:  # the engine may have sent an error before it closed the connection
                    if body is None:
                        raise
                connection.sock.settimeout(timeout)
                return connection, connection.getresponse()
            except BaseException as error:
                connection.close()
                # The engine may have closed an idle connection: use the next one.
                if not (is_kept and isinstance(error, ConnectionError)):
                    raise

    def _idle_connection(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _connect(self) -> Connection:
        if self.address.host.startswith("ssh://") and self._stderr is None:
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 -- used by all connections
        return Connection(self.address, timeout=_ANSWER_TIMEOUT, stderr=self._stderr)

    def _no_engine_error(self, why: str) -> EngineError:
        what = f"what answers at {self.address.host} is no container engine"
        return EngineError(what, why=why, fix=self._suggest_another())

    def _suggest_another(self) -> str:
        origin = f" ({self.address.origin} named this one)" if self.address.origin else ""
        return f"name another{origin}: --docker-host, DOCKER_HOST"

    @contextmanager
    def _map_errors(self) -> Iterator[None]:
        """Raises the errors of a connection as EngineErrors."""
        try:
            yield
        except (HTTPException, OSError, UnicodeError) as error:
            printed = os.pread(self._stderr.fileno(), _STDERR_LIMIT, 0) if self._stderr else b""
            why = printed.decode(errors="replace").strip() or error_reason(error)
            raise EngineError(f"{self} cannot be asked", why=why, fix=self._suggest_fix(why)) from error

    def _suggest_fix(self, why: str) -> str:
        if self._stderr:
            return "check that `ssh` reaches that machine without a question, and that docker is there"
        if "SSL" in why or "certificate" in why:
            return "check the address, and ca.pem, cert.pem, key.pem in DOCKER_CERT_PATH or docker's context"
        if "ermission denied" in why:
            return "join the group that may use it (often docker), or use an engine of your own user"
        return f"start it, or {self._suggest_another()}"


def _url_path(name: str, what: str) -> str:
    return f"/images/{quote(name, safe='/:', errors='replace')}/{what}"


def _creation_time(image: Mapping[str, Any]) -> float:
    time = image.get("Created")
    return time if isinstance(time, int | float) else 0


def _error_message(data: bytes) -> str:
    """Returns the error message in an engine's answer, or the beginning of the answer."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    message = found.get("message") if isinstance(found, dict) else None
    return message if isinstance(message, str) else data[:_EXCERPT_LIMIT].decode(errors="replace").strip()


def _find_remedy(why: str) -> str:
    return "free some space where the engine keeps images" if "no space left" in why else ""
