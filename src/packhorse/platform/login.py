"""The use cases behind `packhorse login` and `logout`. Called by `cli`.

Credentials are tried before they are kept, and kept where docker and podman both find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.errors import InputError, NotFoundError, RegistryError
from packhorse.image import authfile
from packhorse.image.authfile import AuthFile, key_of
from packhorse.image.credential_helper import CredentialHelper
from packhorse.image.keychain import Keychain, files
from packhorse.image.reference import DEFAULT_REGISTRY, Reference
from packhorse.image.registry.client import Registry
from packhorse.image.registry.credentials import Credentials, always
from packhorse.platform.network import Network


@dataclass(frozen=True, slots=True)
class Scope:
    """What a login is for: a registry, or those repositories of it that begin with `repository`."""

    registry: str
    repository: str = ""

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Reads HOST, HOST/PART, or the URL that docker wants for some; "" is docker's own registry.

        Raises InputError.
        """
        if "@" in text:
            raise InputError(
                "that is not a registry", why="it has a user name in it", fix="hand that over by --username"
            )
        host, _, path = authfile.spelled(text.strip()).partition("/")
        try:
            if not host:
                return cls(DEFAULT_REGISTRY)
            # What is no registry to docker's grammar (no dot, no port) can be none of an image.
            reference = Reference.parse(f"{host}/{path or 'any/repository'}")
            if reference.registry != host:
                raise InputError(f"not a registry: {host!r}", why="it has no dot and no port")
            return cls(host, path)
        except InputError as error:
            raise InputError(
                f"not a registry: {text.strip()[:200]!r}", why=error.why, fix="write HOST, or HOST:PORT"
            ) from error

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Kept:
    """Where credentials are kept: a file, or the program that it names as the registry's helper.

    `asked` is False where the registry let everybody in, so that they were not tried.
    """

    path: Path
    program: str
    asked: bool


def login(scope: Scope, credentials: Credentials, environ: Mapping[str, str], network: Network) -> Kept:
    """Tries credentials, and keeps them where they are let in.

    Raises RegistryError for those that are refused, NetworkError, and what helpers and files raise.
    """
    asked = _try(network.registry(scope.registry, lambda host: always(credentials)), scope)
    path = file_of(environ)
    helper = _helper(path, scope, environ)
    if helper is None:
        authfile.put(path, str(scope), credentials)
        return Kept(path, "", asked)
    helper.store(key_of(scope.registry), credentials.username, credentials.password)
    authfile.put(path, str(scope), None)  # as docker does, so that it knows of the login
    return Kept(path, helper.program, asked)


def logout(scope: Scope, environ: Mapping[str, str]) -> tuple[bool, str]:
    """Forgets credentials: whether there were any, and where some still are, "" when nowhere."""
    path = file_of(environ)
    helper = _helper(path, scope, environ)
    known = authfile.drop(path, str(scope))
    if helper is not None:
        try:
            helper.get(key_of(scope.registry))
            helper.erase(key_of(scope.registry))
            known = True
        except NotFoundError:
            pass
    left = Keychain(environ).find(scope.registry, scope.repository)
    return known, "" if left.anonymous else left.origin


def file_of(environ: Mapping[str, str]) -> Path:
    """Where logins are kept: in docker's file, which podman reads too, unless REGISTRY_AUTH_FILE is set."""
    return files(environ)[0]


def _helper(path: Path, scope: Scope, environ: Mapping[str, str]) -> CredentialHelper | None:
    """The helper that keeps a registry's passwords; it knows no parts of one."""
    return None if scope.repository else Keychain(environ).helper(AuthFile.read(path), scope.registry)


def _try(registry: Registry, scope: Scope) -> bool:
    try:
        return registry.greet(scope.repository)
    except RegistryError as error:
        if error.status not in (401, 403):
            raise
        raise RegistryError(
            f"{registry.host} refused the login",
            why=error.why.partition("\n")[0],
            fix="check user name and password; some registries want an access token in its place",
            status=error.status,
        ) from error
