"""The address of a container engine: what an option, the environment or a docker context names.

Called by `platform.wiring`; `base.engine` speaks to the engine there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from packhorse.base.dataclass import dataclass
from packhorse.errors import InputError

if TYPE_CHECKING:
    from ssl import SSLContext

INHERIT = "inherit"
"""What pack's users write for the engine that the environment names."""

_SOCKET = "/var/run/docker.sock"
_PODMAN_SOCKETS = ("/run/podman/podman.sock",)
_SCHEMES = ("unix://", "tcp://", "ssh://", "http://", "https://")
_LABEL = 63
"""Characters between two dots of a host's name, at most."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens, and with which certificates; `origin` says what named it."""

    host: str
    origin: str
    tls: SSLContext | None = None


def find(asked: str, environ: Mapping[str, str]) -> Address | None:
    """The engine that a user means: `asked` (`--docker-host`), DOCKER_HOST, the docker context, or who
    listens where engines do; None when nobody names one and none listens.

    `inherit` asks the environment, as pack has it. Raises InputError for an address that is none, and for a
    context that does not exist.
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
    """The engine of the docker client's current context, unless that is the default one.

    Read as the client keeps it (docker/cli, cli/context/store).
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
            why=f"none is kept below {config / 'contexts'}",
            fix="`docker context ls` lists them; name an engine with --docker-host",
        )
    origin = f"the docker context {name}"
    host = _check_address(str(endpoint["Host"]), origin)
    folder = config / "contexts" / "tls" / key / "docker"
    return Address(
        host, origin, _make_tls(folder, verify=not endpoint.get("SkipTLSVerify")) if folder.exists() else None
    )


def _current_context(path: Path) -> str:
    """The context that a config.json names; one that cannot be read names none, as for the client."""
    try:
        return str(_read_json(path).get("currentContext") or "")
    except InputError:
        return ""


def _read_json(path: Path) -> Mapping[str, Any]:
    """The object in one of docker's files; an empty one where there is no file."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read", why=error_reason(error), fix="mend it, or remove it"
        ) from error
    return found if isinstance(found, dict) else {}


def _find_listening(environ: Mapping[str, str]) -> Address | None:
    """Whoever listens where engines do: dockerd, podman of this user, podman of root."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    own = (f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock") if runtime else ()
    for path in (_SOCKET, *own, *_PODMAN_SOCKETS):
        if os.access(path, os.R_OK | os.W_OK):
            return Address(f"unix://{path}", "nobody; it is the usual one")
    if Path(_SOCKET).exists():
        return Address(f"unix://{_SOCKET}", "nobody; it is the usual one")
    return None


def _environment_tls(host: str, environ: Mapping[str, str]) -> SSLContext | None:
    """What DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say, as for the docker client."""
    verify, path = environ.get("DOCKER_TLS_VERIFY", ""), environ.get("DOCKER_CERT_PATH", "")
    if not (verify or path) or not host.startswith(("tcp://", "https://")):
        return None
    return _make_tls(Path(path or Path(environ.get("HOME") or "/") / ".docker"), verify=bool(verify))


def _make_tls(directory: Path, *, verify: bool) -> SSLContext:
    """Certificates in a directory under the names that docker gives them; the client's own may be missing."""
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
            fix="it must have ca.pem, and cert.pem and key.pem where the engine wants to know who you are",
        ) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _check_address(host: str, origin: str) -> str:
    """An address, as it was written; raises InputError, without a password that may be in it."""
    shown = repr(host[:300]) if "@" not in host else "what was written"
    try:
        url = urlsplit(host)
        port = url.port  # looked at for the error
        name = url.hostname or ""
    except ValueError as error:
        raise _address_error(f"{origin}: {shown} is no address of an engine", str(error)) from error
    if not host.startswith(_SCHEMES) or not host.partition("://")[2]:
        raise _address_error(f"{origin}: {shown} is no address of an engine")
    if url.scheme in ("tcp", "http", "https"):
        if "@" in url.netloc:
            raise _address_error(
                f"{origin}: the address of an engine has no user and no password",
                "an engine knows its users by their certificates",
            )
        labels = name.split(".")
        if port == 0 or not name.isprintable() or max(map(len, labels)) > _LABEL or "" in labels[:-1]:
            raise _address_error(f"{origin}: {shown} is no address of an engine", "that is no host and port")
    return host


def _address_error(what: str, why: str = "") -> InputError:
    return InputError(what, why=why, fix="write unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST")


def error_reason(error: BaseException) -> str:
    """What a system call or a library says went wrong, in the middle of a sentence."""
    words = error.strerror if isinstance(error, OSError) else ""
    return words[0].lower() + words[1:] if words else str(error) or type(error).__name__
