"""④ Files with passwords for registries: docker's config.json and podman's auth.json, which have one form.

Called by `image.keychain` and `platform.login`. Other programs keep their settings in the same file, so a
change keeps every key that it does not concern, in its order. No message has a value of such a file in it.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from packhorse.base.dataclass import dataclass, field
from packhorse.base.files import read
from packhorse.errors import FormatError, InputError, StoreError
from packhorse.image.reference import DEFAULT_REGISTRY
from packhorse.image.registry.credentials import Credentials
from packhorse.image.wire import MANIFEST_LIMIT, JsonNode

_DOCKER_HUB = {f"index.{DEFAULT_REGISTRY}", f"registry-1.{DEFAULT_REGISTRY}"}
_VERSIONS = {"v1", "v2"}  # what old keys have behind the host


@dataclass(frozen=True, slots=True)
class AuthFile:
    """What such a file says. `document` is all of it; `auths` has the entries by registry, or registry and
    part of a repository, in one spelling; `keys` their names in the file; `helpers` the programs that keep
    passwords, by registry.
    """

    where: str
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    auths: Mapping[str, JsonNode] = field(default_factory=dict, repr=False)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    store: str = ""
    helpers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file; one that is not there is empty. Raises InputError, FormatError."""
        try:
            return cls.parse(read(path, limit=MANIFEST_LIMIT), str(path))
        except InputError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return cls(str(path))
            raise

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Self:
        """Reads the content of such a file; raises FormatError."""
        if not raw.strip():
            return cls(where)
        document = JsonNode.parse(raw, where)
        auths: dict[str, JsonNode] = {}
        keys: dict[str, tuple[str, ...]] = {}
        found = document.node("auths")
        for key in found.fields if found else ():
            entry = found.node(key) if found else None
            name = normalise_key(key)
            keys[name] = (*keys.get(name, ()), key)
            # Of several keys for one thing that counts which is spelled as it is asked for; then the first.
            if entry is not None and entry.fields and (name not in auths or key == name):
                auths[name] = entry
        helpers = {
            normalise_key(key): value for key, value in document.mapping("credHelpers").items() if value
        }
        return cls(where, document.fields, auths, keys, document.text("credsStore"), helpers)

    def helper(self, registry: str) -> str:
        """The helper that keeps a registry's passwords, "" when the file itself does."""
        return self.helpers.get(registry, self.store)

    def find(self, registry: str, repository: str) -> Credentials | None:
        """The entry for a repository: the one with the longest part of its name, at last the registry's."""
        name = f"{registry}/{repository}".rstrip("/")
        while name:
            if name in self.auths:
                return self._credentials(name)
            name = name.rpartition("/")[0]
        return None

    def _credentials(self, name: str) -> Credentials:
        entry, origin = self.auths[name], f"the credentials are those for {name} in {self.where}"
        identity, token = entry.text("identitytoken"), entry.text("registrytoken")
        user, password = entry.text("username"), entry.text("password")
        encoded = entry.text("auth")
        if encoded:
            try:
                pair = base64.b64decode(encoded, validate=True).decode()
            except ValueError:
                pair = ""
            user, colon, password = pair.partition(":")
            if not colon:
                raise FormatError(
                    f"the credentials for {name} in {self.where} cannot be read",
                    why="`auth` is not the base64 form of USER:PASSWORD",
                    fix=f"log in to {name.partition('/')[0]} again",
                ) from None
            password = password.strip("\0")
        return Credentials(user, password, identity, token, origin)


def normalise_key(key: str) -> str:
    """One spelling for the many that keys have: no scheme, no version of an API, Docker Hub by one name."""
    _, separator, rest = key.partition("://")
    host, _, path = (rest if separator else key).partition("/")
    if separator or path.strip("/") in _VERSIONS:
        path = ""
    host = DEFAULT_REGISTRY if host in _DOCKER_HUB else host
    return f"{host}/{path}".rstrip("/")


def registry_key(registry: str) -> str:
    """How docker and podman both write a registry into such a file, and docker's helpers are asked for it."""
    return f"https://index.{DEFAULT_REGISTRY}/v1/" if registry == DEFAULT_REGISTRY else registry


def write_entry(path: Path, name: str, credentials: Credentials | None) -> None:
    """Writes an entry, an empty one without `credentials`; raises InputError, FormatError, StoreError."""
    encoded = credentials.basic.removeprefix("Basic ") if credentials else ""
    with _lock(path):
        old = AuthFile.read(path)
        keys = old.keys.get(name, ())
        key = registry_key(name) if registry_key(name) in keys or not keys else keys[0]
        entries = {**(old.document.get("auths") or {}), key: {"auth": encoded} if credentials else {}}
        _write(path, {**old.document, "auths": entries})


def remove_entries(path: Path, name: str) -> bool:
    """Takes all entries for a registry, or a part of it, out of a file; whether there were any."""
    if not AuthFile.read(path).keys.get(name):
        return False
    with _lock(path):
        old = AuthFile.read(path)
        keys = old.keys.get(name, ())
        if keys:
            entries = {key: entry for key, entry in old.document["auths"].items() if key not in keys}
            _write(path, {**old.document, "auths": entries})
        return bool(keys)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keeps other commands of packhorse from writing to the same directory, which is made if need be."""
    import fcntl

    directory = path.parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written",
            why=error.strerror or str(error),
            fix="set DOCKER_CONFIG to a directory",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Replaces a file at once by one that only its owner can read, indented as docker does it; a link to it
    stays one.
    """
    text = json.dumps(document, indent="\t")
    target = Path(os.path.realpath(path))
    temporary = None
    try:
        owner = target.stat() if target.exists() else None
        descriptor, name = tempfile.mkstemp(prefix=".packhorse-", dir=target.parent)  # mode 0600
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            if owner is not None and (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            os.fsync(descriptor)
        temporary.replace(target)
        temporary = None
    except OSError as error:
        raise StoreError(f"{path} cannot be written", why=error.strerror or str(error)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
