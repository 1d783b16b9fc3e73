"""④ Who this user is to which registry: what docker, podman and a build platform have left to be found.

One of the edges that read the environment. Made in `platform.wiring`; `image.registry` asks it when a
registry asks who we are, so that no helper program runs for what anybody may have.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from packhorse.base import gojson
from packhorse.errors import InputError, NotFoundError, PackhorseError
from packhorse.image.authfile import AuthFile, normalise_key, registry_key
from packhorse.image.credential_helper import TIMEOUT, CredentialHelper
from packhorse.image.registry.credentials import Credentials, Lookup

REGISTRY_AUTH = "CNB_REGISTRY_AUTH"
"""A variable with a JSON object of headers by registry (Platform API, "Registry Authentication")."""

_AUTH_CONFIG = "DOCKER_AUTH_CONFIG"  # the content of a config.json, in place of the file


class Keychain:
    """Credentials by registry and repository; usable from several threads. Reads nothing until it is asked.

    The first that knows the registry counts: CNB_REGISTRY_AUTH, DOCKER_AUTH_CONFIG, the files of `files`.
    A file or helper that cannot be read is passed over, and named by the error if the registry then refuses.
    """

    def __init__(self, environ: Mapping[str, str], *, timeout: float = TIMEOUT) -> None:
        self._environ = environ
        self._timeout = timeout
        self._files: tuple[AuthFile, ...] | None = None
        self._problems: list[str] = []
        self._answers: dict[tuple[str, str], Credentials | str] = {}
        self._lock = threading.Lock()

    def lookup(self, registry: str) -> Lookup:
        """What `image.registry` asks for the repositories of one registry."""
        return partial(self.find, registry)

    def find(self, registry: str, repository: str = "") -> Credentials:
        """The credentials for a repository, anonymous where there are none.

        Raises InputError for a CNB_REGISTRY_AUTH that cannot be read: it was made for this very command.
        """
        with self._lock:
            given = _parse_headers(self._environ.get(REGISTRY_AUTH, "")).get(registry)
            if given is not None:
                return given
            problems: list[str] = []
            for file in self._read():
                found = self._ask(file, registry, problems)
                try:
                    found = found or file.find(registry, repository)
                except PackhorseError as error:
                    problems.append(str(error))
                if found is not None:
                    return found
        lines = [f"there are no credentials for {registry}", *self._problems, *problems]
        return Credentials(origin="\n".join(lines))

    def helper(self, file: AuthFile, registry: str) -> CredentialHelper | None:
        """The helper that keeps a registry's passwords by what a file says."""
        name = file.helper(registry)
        return CredentialHelper(name, self._environ, self._timeout) if name else None

    def _read(self) -> tuple[AuthFile, ...]:
        if self._files is None:
            found = []
            for read in self._sources():
                try:
                    found.append(read())
                except PackhorseError as error:
                    self._problems.append(str(error))
            self._files = tuple(found)
        return self._files

    def _sources(self) -> Iterator[Callable[[], AuthFile]]:
        text = self._environ.get(_AUTH_CONFIG, "")
        if text:
            yield partial(AuthFile.parse, text.encode(errors="surrogateescape"), _AUTH_CONFIG)
        for path in auth_files(self._environ):
            yield partial(AuthFile.read, path)

    def _ask(self, file: AuthFile, registry: str, problems: list[str]) -> Credentials | None:
        """What the helper that a file names for a registry has; each is asked once for one registry."""
        helper = self.helper(file, registry)
        if helper is None:
            return None
        key = helper.name, registry
        if key not in self._answers:
            try:
                self._answers[key] = helper.get(registry_key(registry))
            except NotFoundError:
                self._answers[key] = ""
            except PackhorseError as error:
                self._answers[key] = f"{error}\n{file.where} names it"
        answer = self._answers[key]
        if isinstance(answer, Credentials):
            return answer
        if answer:
            problems.append(answer)
        return None


def user_keychain() -> Keychain:
    """The keychain of who runs this process."""
    return Keychain(os.environ)


def auth_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where credentials are looked for, in this order; none need be there.

    REGISTRY_AUTH_FILE, docker's config.json, podman's auth.json of this session and of the user.
    """
    named = environ.get("REGISTRY_AUTH_FILE", "")
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.geteuid()}"
    settings = Path(environ.get("XDG_CONFIG_HOME") or _home(environ) / ".config")
    found = [Path(named)] if named else []
    found.append(Path(environ.get("DOCKER_CONFIG") or _home(environ) / ".docker") / "config.json")
    if environ.get("XDG_RUNTIME_DIR"):
        found.append(Path(runtime) / "containers" / "auth.json")
    else:
        found.append(Path(runtime) / "auth.json")
    return (*found, settings / "containers" / "auth.json")


def _home(environ: Mapping[str, str]) -> Path:
    """The user's home; one without any gets a place where nothing is."""
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        return Path("/nonexistent")


def _parse_headers(text: str) -> dict[str, Credentials]:
    """CNB_REGISTRY_AUTH: `{"HOST": "Basic …"}`, or Bearer, or X-Identity; "" has none. Raises InputError."""
    if not text:
        return {}
    try:
        fields = gojson.loads(text)
        items = [(str(host), str(header)) for host, header in fields.items()]
    except (ValueError, AttributeError, RecursionError):
        # Neither text nor cause: they have passwords.
        raise InputError(
            f"{REGISTRY_AUTH} cannot be read",
            why="it is not a JSON object",
            fix="""write {"HOST": "Basic BASE64-OF-USER:PASSWORD"}""",
        ) from None
    return {normalise_key(host): _credentials(host, header) for host, header in items}


def _credentials(host: str, header: str) -> Credentials:
    scheme, _, value = header.strip().partition(" ")
    origin, value = f"the credentials are those for {host} in {REGISTRY_AUTH}", value.strip()
    if scheme.lower() == "bearer" and value:
        return Credentials(registry_token=value, origin=origin)
    if scheme.lower() == "x-identity" and value:
        return Credentials(identity_token=value, origin=origin)
    try:
        user, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        colon = ""
    if scheme.lower() != "basic" or not colon:
        raise InputError(
            f"{REGISTRY_AUTH} cannot be read",
            why=f"its header for {host} is neither Basic with USER:PASSWORD in base64, Bearer nor X-Identity",
        ) from None
    return Credentials(user, password, origin=origin)
