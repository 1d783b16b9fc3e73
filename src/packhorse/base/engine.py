"""A container engine, dockerd or podman, behind the Docker Engine API.

The only importer of the docker library, which is loaded when an engine is first asked. Called by
`image.daemon`; what is sent and read is that module's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from packhorse.base.body import Bounded, Sized
from packhorse.base.dataclass import dataclass
from packhorse.base.dial import Tunnel
from packhorse.errors import EngineError, InputError

if TYPE_CHECKING:
    from docker import APIClient
    from docker.tls import TLSConfig
    from requests import Response

INHERIT = "inherit"
"""What pack's users write for the engine that the environment names."""

_SOCKET = "/var/run/docker.sock"
_PODMAN_SOCKETS = ("/run/podman/podman.sock",)
_SCHEMES = ("unix://", "tcp://", "ssh://", "http://", "https://")
_ANSWER = 60
"""Seconds in which an engine answers a ping, or takes the next bytes."""
_QUESTION = 300
"""Seconds in which it answers a question: it may have images to load for others first."""
_WORK = 3600
"""Seconds in which it has loaded an image or begins to save one: it may first write gigabytes."""
_TOLD, _LOADED = 64 << 20, 1 << 20
"""The most bytes of what it tells of ten thousands of images, and of what it says to one that it takes."""
_CHUNK = 1 << 20
_VERSION = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
_OLD = re.compile(r"Docker/(1[0-9]|2[01])\.")
"""What a dockerd calls itself that cannot have containerd's store yet."""
_SAID = 200  # bytes of what answers in another engine's place
_LABEL = 63
"""Characters between two dots of a host's name, at most."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens, and with which certificates; `origin` is who named it."""

    host: str
    origin: str
    tls: TLSConfig | None = None


class Engine:
    """One engine, connected to when it is first asked. Methods raise EngineError when it does not answer or
    refuses.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._clients: dict[int, APIClient] = {}
        self._version = ""
        self._tunnel: Tunnel | None = None
        self._program = ""

    def check(self) -> None:
        """Raises EngineError when the engine does not answer."""
        with self._faults():
            self._connected()

    def image(self, name: str) -> Mapping[str, Any] | None:
        """What the engine says of an image, as `docker image inspect` prints it; None if it has none."""
        from docker.errors import NotFound

        try:
            found = self._ask(dict, lambda client: client.inspect_image(name))
        except EngineError as error:
            if isinstance(error.__cause__, NotFound):
                return None
            raise
        if not isinstance(found.get("Id"), str):
            raise self._stranger("it tells of an image without an ID")
        return found

    def history(self, name: str) -> Sequence[Mapping[str, Any]]:
        """An image's history, the newest first, as `docker history` prints it."""
        return self._tables(lambda client: client.history(name))

    def images(self) -> tuple[str, ...]:
        """The IDs of all images, the newest first."""
        listed = self._tables(lambda client: client.images())
        known = [(_number(item.get("Created")), item.get("Id")) for item in listed]
        return tuple(name for _, name in sorted(known, key=_age) if isinstance(name, str))

    def shares_layers(self) -> bool:
        """Whether an image may be loaded without the layers that the engine has already.

        dockerd's own image store takes that; containerd's and podman want every layer, each time.
        """
        with self._faults():
            self._connected()
        if _OLD.match(self._program):
            return True
        if not self._program.startswith("Docker/"):
            told = self._ask(dict, lambda client: client.version())
            if "podman" in str(told.get("Components")).lower():
                return False
        status = self._ask(dict, lambda client: client.info()).get("DriverStatus")
        return "containerd.snapshotter" not in str(status)

    def save(self, name: str) -> Iterator[bytes]:
        """The archive that `docker save` would write."""
        with self._faults(), closing(self._connected(_WORK).get_image(name, chunk_size=_CHUNK)) as chunks:
            yield from chunks

    def load(self, archive: Iterable[bytes], length: int) -> None:
        """Has the engine take an archive of `length` bytes, as `docker load` does.

        What it says then that went wrong is an EngineError, too.
        """
        with self._faults():
            for line in self._connected(_WORK).load_image(Sized(archive, length), quiet=True):
                if isinstance(line, dict) and "error" in line:
                    why = str(line["error"]).strip()
                    raise EngineError(f"{self} did not take the image", why=why, fix=_remedy(why))

    def __str__(self) -> str:
        return f"the container engine at {self.address.host}"

    def _ask(self, kind: type[Answer], question: Callable[[APIClient], object]) -> Answer:
        """The answer, which must be of a `kind`: something else than an engine may listen there."""
        with self._faults():
            answer = question(self._connected())
        if not isinstance(answer, kind):
            raise self._stranger(f"it answers with {type(answer).__name__} instead of {kind.__name__}")
        return answer

    def _tables(self, question: Callable[[APIClient], object]) -> list[Mapping[str, Any]]:
        """An answer that is a list of objects."""
        found = self._ask(list, question)
        if not all(isinstance(item, dict) for item in found):
            raise self._stranger("its list has something else than objects in it")
        return found

    def _connected(self, patience: int = 0) -> APIClient:
        """A client that waits so many seconds for an answer, by itself as many as a question may take."""
        patience = patience or _QUESTION
        if patience not in self._clients:
            self._version = self._version or self._greeted()
            client = self._client_for(self._version)
            client.timeout = (_ANSWER, patience)
            self._clients[patience] = client
        return self._clients[patience]

    def _greeted(self) -> str:
        """The newest API version that the engine has; raises EngineError if nothing of the kind answers.

        A ping tells it in a header. dockerd asks other programs before it answers what its version is.
        """
        from docker.constants import DEFAULT_DOCKER_API_VERSION

        client = self._client_for(DEFAULT_DOCKER_API_VERSION)
        with client.get(f"{client.base_url}/_ping", timeout=_ANSWER, stream=True) as answer:
            version: str = answer.headers.get("Api-Version", "")
            self._program = answer.headers.get("Server", "")
            # What wants TLS, or is another's, may say so.
            said = b"" if answer.ok else next(answer.iter_content(_SAID), b"")
        if not _VERSION.fullmatch(version):
            quoted = f": {said.decode(errors='replace').strip()}" if said else ""
            raise self._stranger(f"it does not tell its version{quoted}")
        return version

    def _stranger(self, why: str) -> EngineError:
        what = f"what answers at {self.address.host} is no container engine"
        fix = f"name another ({self.address.origin} named this one): --docker-host, DOCKER_HOST"
        return EngineError(what, why=why, fix=fix)

    def _client_for(self, version: str) -> APIClient:
        """A client that has asked nothing yet."""
        from docker import APIClient

        host = self.address.host
        if host.startswith("ssh://"):
            self._tunnel = self._tunnel or Tunnel(host)
            host = self._tunnel.address
        client = APIClient(base_url=host, version=version, timeout=_ANSWER, tls=self.address.tls or False)
        # requests would prefer REQUESTS_CA_BUNDLE to the engine's own authority, and look into ~/.netrc.
        client.trust_env = False
        client.hooks["response"].append(self._bounded)
        return client

    def _bounded(self, answer: Response, **_: object) -> None:
        """Has an answer that never ends end in an EngineError; an image's archive is as long as it is."""
        if not urlsplit(answer.url).path.endswith("/get"):
            most = _LOADED if answer.request.method == "POST" else _TOLD
            error = self._stranger(f"its answer has more than {most} bytes")
            answer.raw = Bounded(answer.raw, most, error)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turns what the library raises into EngineErrors."""
        from docker.errors import APIError, DockerException, StreamParseError
        from requests.exceptions import JSONDecodeError, RequestException

        try:
            yield
        except (JSONDecodeError, StreamParseError, RecursionError, UnicodeError) as error:
            raise self._stranger("its answer is no JSON") from error
        except (KeyError, TypeError, AttributeError) as error:
            # The library takes an error's JSON for an object with a message.
            if not isinstance(error.__context__, RequestException):
                raise
            raise EngineError(f"{self} refused", why=str(error.__context__)) from error
        except APIError as error:
            why = str(error.explanation or error)
            raise EngineError(f"{self} refused", why=why, fix=_remedy(why)) from error
        except (DockerException, RequestException, OSError) as error:
            why = (self._tunnel.said() if self._tunnel else "") or _reason(error)
            raise EngineError(f"{self} cannot be asked", why=why, fix=self._fix(why)) from error

    def _fix(self, why: str) -> str:
        if self._tunnel:
            return "see that `ssh` reaches that machine without asking anything, and that docker is there"
        if "SSL" in why or "certificate" in why:
            return "check the address, and ca.pem, cert.pem, key.pem in DOCKER_CERT_PATH or docker's context"
        if "ermission denied" in why:
            return "join the group that may use it (often docker), or use an engine of your own user"
        return f"start it, or name another ({self.address.origin} named this one): --docker-host, DOCKER_HOST"


def find(asked: str, environ: Mapping[str, str]) -> Address | None:
    """The engine that a user means: `asked` (`--docker-host`), DOCKER_HOST, the docker context, or who
    listens where engines do; None when nobody names one and none listens.

    `inherit` asks the environment, as pack has it. Raises InputError for an address that is none, and for a
    context that does not exist.
    """
    if asked and asked != INHERIT:
        return Address(_checked(asked, "--docker-host"), "--docker-host", _certificates(asked, environ))
    host = environ.get("DOCKER_HOST", "")
    if host:
        return Address(_checked(host, "DOCKER_HOST"), "DOCKER_HOST", _certificates(host, environ))
    return _of_context(environ) or _listening(environ)


def _of_context(environ: Mapping[str, str]) -> Address | None:
    """The engine of the docker client's current context, unless that is the default one.

    Read as the client keeps it (docker/cli, cli/context/store): the library finds none without a config.json.
    """
    config = Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or "/") / ".docker")
    name = environ.get("DOCKER_CONTEXT") or _current(config / "config.json")
    if name in ("", "default"):
        return None
    key = hashlib.sha256(os.fsencode(name)).hexdigest()
    endpoints = _document(config / "contexts" / "meta" / key / "meta.json").get("Endpoints")
    endpoint = endpoints.get("docker") if isinstance(endpoints, dict) else None
    if not isinstance(endpoint, dict) or not endpoint.get("Host"):
        raise InputError(
            f"there is no docker context {name!r}",
            why=f"none is kept below {config / 'contexts'}",
            fix="`docker context ls` lists them; name an engine with --docker-host",
        )
    origin = f"the docker context {name}"
    host = _checked(str(endpoint["Host"]), origin)
    folder = config / "contexts" / "tls" / key / "docker"
    return Address(
        host, origin, _tls(folder, verify=not endpoint.get("SkipTLSVerify")) if folder.exists() else None
    )


def _current(path: Path) -> str:
    """The context that a config.json names; one that cannot be read names none, as for the client."""
    try:
        return str(_document(path).get("currentContext") or "")
    except InputError:
        return ""


def _document(path: Path) -> Mapping[str, Any]:
    """The object in one of docker's files; an empty one where there is no file."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read", why=_reason(error), fix="mend it, or remove it") from error
    return found if isinstance(found, dict) else {}


def _listening(environ: Mapping[str, str]) -> Address | None:
    """Whoever listens where engines do: dockerd, podman of this user, podman of root."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    own = (f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock") if runtime else ()
    for path in (_SOCKET, *own, *_PODMAN_SOCKETS):
        if os.access(path, os.R_OK | os.W_OK):
            return Address(f"unix://{path}", "nobody; it is the usual one")
    if Path(_SOCKET).exists():
        return Address(f"unix://{_SOCKET}", "nobody; it is the usual one")
    return None


def _certificates(host: str, environ: Mapping[str, str]) -> TLSConfig | None:
    """What DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say, as for the docker client."""
    verify, path = environ.get("DOCKER_TLS_VERIFY", ""), environ.get("DOCKER_CERT_PATH", "")
    if not (verify or path) or not host.startswith(("tcp://", "https://")):
        return None
    return _tls(Path(path or Path(environ.get("HOME") or "/") / ".docker"), verify=bool(verify))


def _tls(directory: Path, *, verify: bool) -> TLSConfig:
    """Certificates in a directory under the names that docker gives them; the client's own may be missing."""
    from docker.errors import DockerException
    from docker.tls import TLSConfig

    own = str(directory / "cert.pem"), str(directory / "key.pem")
    authority = directory / "ca.pem"
    try:
        has_own = any(Path(path).exists() for path in own)
        return TLSConfig(
            client_cert=own if has_own else None,
            ca_cert=str(authority) if authority.exists() else None,
            verify=verify,
        )
    except (DockerException, OSError) as error:
        raise InputError(
            f"the certificates in {directory} cannot be used",
            why=_reason(error),
            fix="it must have ca.pem, and cert.pem and key.pem where the engine wants to know who you are",
        ) from error


def _checked(host: str, origin: str) -> str:
    """An address, as it was written; raises InputError, without a password that may be in it."""
    shown = repr(host[:300]) if "@" not in host else "what was written"
    try:
        url = urlsplit(host)
        port = url.port  # looked at for the error
        name = url.hostname or ""
    except ValueError as error:
        raise _no_address(f"{origin}: {shown} is no address of an engine", str(error)) from error
    if not host.startswith(_SCHEMES) or not host.partition("://")[2]:
        raise _no_address(f"{origin}: {shown} is no address of an engine")
    if url.scheme in ("tcp", "http", "https"):
        if "@" in url.netloc:
            raise _no_address(
                f"{origin}: the address of an engine has no user and no password",
                "an engine knows its users by their certificates",
            )
        labels = name.split(".")
        if port == 0 or not name.isprintable() or max(map(len, labels)) > _LABEL or "" in labels[:-1]:
            raise _no_address(f"{origin}: {shown} is no address of an engine", "that is no host and port")
    return host


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0


def _age(known: tuple[float, object]) -> float:
    return -known[0]


def _no_address(what: str, why: str = "") -> InputError:
    return InputError(what, why=why, fix="write unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST")


def _remedy(why: str) -> str:
    return "free some space where the engine keeps images" if "no space left" in why else ""


def _reason(error: BaseException) -> str:
    """The innermost of what the libraries have wrapped into each other, which alone says what is wrong."""
    innermost: BaseException = error
    seen: set[int] = set()
    while id(innermost) not in seen:
        seen.add(id(innermost))
        inner = [argument for argument in innermost.args if isinstance(argument, BaseException)]
        behind = getattr(innermost, "reason", None)
        deeper = innermost.__cause__ or (behind if isinstance(behind, BaseException) else None)
        innermost = deeper or (inner[0] if inner else None) or innermost.__context__ or innermost
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror[0].lower() + innermost.strerror[1:]
    return str(innermost) or type(innermost).__name__
