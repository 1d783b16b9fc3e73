"""Stores and removes the credentials for a registry. Called by `cli.login`.

`login` tries credentials first, and stores them where docker and podman both find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.errors import InputError, NotFoundError, RegistryError
from packhorse.host.registries import RegistryConnections
from packhorse.oci.auth import (
    AuthFile,
    CredentialHelper,
    Credentials,
    Keychain,
    auth_files,
    constant_lookup,
    normalise_key,
    registry_key,
    remove_entries,
    write_entry,
)
from packhorse.oci.reference import DEFAULT_REGISTRY, Reference
from packhorse.oci.registry.client import Registry


@dataclass(frozen=True, slots=True)
class LoginScope:
    """What a login is for: a registry, or its repositories that begin with `repository`."""

    registry: str
    repository: str = ""

    @classmethod
    def parse(cls, text: str) -> LoginScope:
        """Reads HOST, HOST/PART, or a URL as docker wants for some registries; "" is docker's own registry.

        Raises InputError.
        """
        if "@" in text:
            raise InputError(
                "that is not a registry", why="it has a user name in it", fix="write that with --username"
            )
        host, _, path = normalise_key(text.strip()).partition("/")
        try:
            if not host:
                return cls(DEFAULT_REGISTRY)
            # docker's grammar takes a host without a dot or port as a part of the repository. So no image
            # could name such a registry.
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
class LoginResult:
    """Where the credentials are stored: a file, or the program that the file names as the registry's helper.

    `was_tried` is False if the registry needs no login, so that it did not check the credentials.
    """

    path: Path
    program: str
    was_tried: bool


def login(
    scope: LoginScope, credentials: Credentials, environ: Mapping[str, str], network: RegistryConnections
) -> LoginResult:
    """Tries credentials, and stores them if the registry accepts them.

    Raises RegistryError if the registry refuses them, NetworkError, and the errors of helpers and files.
    """
    asked = _try_login(network.registry(scope.registry, lambda host: constant_lookup(credentials)), scope)
    path = login_file(environ)
    helper = _helper(path, scope, environ)
    if helper is None:
        write_entry(path, str(scope), credentials)
        return LoginResult(path, "", asked)
    helper.store(registry_key(scope.registry), credentials.username, credentials.password)
    write_entry(path, str(scope), None)  # as docker does, so that it knows of the login
    return LoginResult(path, helper.program, asked)


def logout(scope: LoginScope, environ: Mapping[str, str]) -> tuple[bool, str]:
    """Removes credentials. Returns whether there were any, and where others still are ("" if nowhere)."""
    path = login_file(environ)
    helper = _helper(path, scope, environ)
    known = remove_entries(path, str(scope))
    if helper is not None:
        try:
            helper.get(registry_key(scope.registry))
            helper.erase(registry_key(scope.registry))
            known = True
        except NotFoundError:
            pass
    left = Keychain(environ).find(scope.registry, scope.repository)
    return known, "" if left.anonymous else left.origin


def login_file(environ: Mapping[str, str]) -> Path:
    """Returns the file of logins: docker's, which podman reads too, unless REGISTRY_AUTH_FILE is set."""
    return auth_files(environ)[0]


def _helper(path: Path, scope: LoginScope, environ: Mapping[str, str]) -> CredentialHelper | None:
    """Finds the helper that stores a registry's passwords. Helpers know only whole registries."""
    return None if scope.repository else Keychain(environ).helper(AuthFile.read(path), scope.registry)


def _try_login(registry: Registry, scope: LoginScope) -> bool:
    try:
        return registry.check_login(scope.repository)
    except RegistryError as error:
        if error.status not in (401, 403):
            raise
        raise RegistryError(
            f"{registry.host} refused the login",
            why=error.why.partition("\n")[0],
            fix="check user name and password; some registries want an access token instead of the password",
            status=error.status,
        ) from error
