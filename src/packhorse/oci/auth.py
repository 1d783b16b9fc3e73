"""Finds the credentials for a registry where docker, podman and build platforms keep them.

`Keychain` looks in environment variables, in docker's config.json and podman's auth.json (`AuthFile`; both
have the same form), and asks docker's credential helpers (`CredentialHelper`). `host.wiring` makes one;
`oci.registry.auth` calls it when a registry asks for credentials, so that no helper runs for a public image.
`login` writes and removes entries.

Other programs keep their settings in the same file, so a change keeps all other keys, in their order. No
error message contains a value from such a file.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from packhorse.base.dataclass import dataclass, field
from packhorse.base.files import read
from packhorse.base.go_json import loads
from packhorse.errors import FormatError, HostError, InputError, NotFoundError, PackhorseError, StoreError
from packhorse.http.client import sanitize
from packhorse.oci.reference import DEFAULT_REGISTRY
from packhorse.oci.types import MANIFEST_LIMIT, JsonNode

SHORTEST_SECRET = 4
"""The fewest characters of a secret that packhorse removes from messages; shorter ones occur in any text."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and password, or a token. All of them are "" for an anonymous user.

    An identity token (OAuth 2: refresh token) is exchanged for registry tokens; a registry accepts a registry
    token directly. `origin` says in errors where the credentials come from, or why there are none.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    origin: str = ""

    @property
    def anonymous(self) -> bool:
        """Whether there is neither a name, a password nor a token."""
        return not (self.username or self.password or self.identity_token or self.registry_token)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may show, longest first: password and tokens, as they are and as they are sent."""
        pair = self.basic.removeprefix("Basic ")
        found = {self.password, self.identity_token, self.registry_token, pair}
        return tuple(sorted((each for each in found if len(each) >= SHORTEST_SECRET), key=len, reverse=True))

    @property
    def basic(self) -> str:
        """The value of an Authorization header with name and password (RFC 7617), "" if there are none."""
        if not (self.username or self.password):
            return ""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


ANONYMOUS = Credentials()

Lookup = Callable[[str], Credentials]
"""Finds the credentials for a repository of one registry; for "", those for the registry as a whole."""


def constant_lookup(credentials: Credentials) -> Lookup:
    """Makes a Lookup that finds the same credentials for every repository."""
    return lambda repository: credentials


ANONYMOUS_LOOKUP = constant_lookup(ANONYMOUS)


_DOCKER_HUB = {f"index.{DEFAULT_REGISTRY}", f"registry-1.{DEFAULT_REGISTRY}"}
_VERSIONS = {"v1", "v2"}  # in old keys this path follows the host


@dataclass(frozen=True, slots=True)
class AuthFile:
    """The content of a config.json or auth.json.

    `document` is all of it. `auths` has the entries by normalised key: a registry, or a registry and the
    first part of a repository. `keys` has each entry's keys as the file spells them. `store` is the
    credential helper for all registries, and `helpers` are those for single registries.
    """

    where: str
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    auths: Mapping[str, JsonNode] = field(default_factory=dict, repr=False)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    store: str = ""
    helpers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file; a missing file counts as empty. Raises InputError, FormatError."""
        try:
            return cls.parse(read(path, limit=MANIFEST_LIMIT), str(path))
        except InputError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return cls(str(path))
            raise

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Self:
        """Parses the content of such a file; raises FormatError."""
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
            # Several keys can have one normalised form. The key in this form counts, else the first one.
            if entry is not None and entry.fields and (name not in auths or key == name):
                auths[name] = entry
        helpers = {
            normalise_key(key): value for key, value in document.mapping("credHelpers").items() if value
        }
        return cls(where, document.fields, auths, keys, document.text("credsStore"), helpers)

    def helper(self, registry: str) -> str:
        """Returns the helper that stores a registry's credentials, "" if the file itself stores them."""
        return self.helpers.get(registry, self.store)

    def find(self, registry: str, repository: str) -> Credentials | None:
        """Returns the entry for the longest part of a repository's name, or the registry's, or None."""
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
                    why="`auth` is not USER:PASSWORD in base64",
                    fix=f"log in to {name.partition('/')[0]} again",
                ) from None
            password = password.strip("\0")
        return Credentials(user, password, identity, token, origin)


def normalise_key(key: str) -> str:
    """Normalises a key of an auth file: no scheme, no API version, and one name for Docker Hub."""
    _, separator, rest = key.partition("://")
    host, _, path = (rest if separator else key).partition("/")
    if separator or path.strip("/") in _VERSIONS:
        path = ""
    host = DEFAULT_REGISTRY if host in _DOCKER_HUB else host
    return f"{host}/{path}".rstrip("/")


def registry_key(registry: str) -> str:
    """Returns the key for a registry that docker and podman write, and that docker's helpers expect."""
    return f"https://index.{DEFAULT_REGISTRY}/v1/" if registry == DEFAULT_REGISTRY else registry


def write_entry(path: Path, name: str, credentials: Credentials | None) -> None:
    """Writes an entry for a normalised key; without `credentials` it is empty, as if a helper has them.

    Raises InputError, FormatError, StoreError.
    """
    encoded = credentials.basic.removeprefix("Basic ") if credentials else ""
    with _lock(path):
        old = AuthFile.read(path)
        keys = old.keys.get(name, ())
        key = registry_key(name) if registry_key(name) in keys or not keys else keys[0]
        entries = {**(old.document.get("auths") or {}), key: {"auth": encoded} if credentials else {}}
        _write(path, {**old.document, "auths": entries})


def remove_entries(path: Path, name: str) -> bool:
    """Removes all entries for a normalised key from a file; returns whether there were any."""
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
    """Locks the file's directory against other packhorse commands; makes the directory if it is missing."""
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
    """Replaces a file atomically, indented as docker does it. Only the owner can read the new file.

    A symbolic link stays; the file behind it is replaced.
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


TIMEOUT = 60.0
"""The most seconds that a helper may take: some ask the user for a password."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_LIMIT = 1 << 20
_TOKEN_USER = "<token>"  # the user name that helpers return when the secret is an identity token

# A helper prints this if it has no credentials, and gives no other sign of it (docker-credential-helpers).
_NOTHING = ("credentials not found", "no credentials server url", "no credentials username")


@dataclass(frozen=True, slots=True)
class CredentialHelper:
    """A program `docker-credential-NAME` that stores credentials; `environ` is its environment.

    By docker's protocol it gets a verb as its argument, and a server or a JSON object on stdin. It prints
    JSON, or one line of error. Methods raise HostError if the helper is missing, hangs, fails or prints
    something else. No message shows its stdout, which may contain the secret.
    """

    name: str
    environ: Mapping[str, str]
    timeout: float = TIMEOUT

    @property
    def program(self) -> str:
        """The name of the program."""
        return f"docker-credential-{self.name}"

    def get(self, server: str) -> Credentials:
        """Returns its credentials for a server; raises NotFoundError if it has none."""
        said = self._call("get", server)
        try:
            fields = loads(said)
            user, secret = fields["Username"], fields["Secret"]
        except (ValueError, TypeError, KeyError, RecursionError):
            user = secret = None
        if not isinstance(user, str) or not isinstance(secret, str):
            # Not chained to its cause, which contains the helper's output.
            raise HostError(
                f"{self.program} gave no credentials that can be read",
                why="it did not print a JSON object with Username and Secret",
            ) from None
        if not secret:
            raise NotFoundError(f"{self.program} has no credentials for {server}", why="the secret is empty")
        origin = f"the credentials are those that {self.program} gave"
        if user == _TOKEN_USER:
            return Credentials(identity_token=secret, origin=origin)
        return Credentials(user, secret, origin=origin)

    def store(self, server: str, username: str, secret: str) -> None:
        """Stores credentials for a server."""
        self._call("store", json.dumps({"ServerURL": server, "Username": username, "Secret": secret}))

    def erase(self, server: str) -> None:
        """Removes the credentials for a server; raises NotFoundError if it has none."""
        self._call("erase", server)

    def list(self) -> dict[str, str]:
        """Returns the servers that it has credentials for, with their user names; raises FormatError."""
        said = self._call("list", "")
        try:
            fields = json.loads(said or b"{}")
            return {str(server): str(user) for server, user in fields.items()}
        except (ValueError, AttributeError, RecursionError):
            raise FormatError(
                f"the list of {self.program} cannot be read", why="it is not a JSON object"
            ) from None

    def _call(self, verb: str, text: str) -> bytes:
        if not _NAME.fullmatch(self.name):
            raise HostError(
                f"{self.name[:100]!r} cannot be a credential helper",
                why="its name has letters, digits, '.', '_' and '-'",
            )
        try:
            process = subprocess.Popen(
                [self.program, verb],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self.environ),
            )
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            why = "there is no such program on PATH" if missing else error.strerror or str(error)
            raise HostError(
                f"{self.program} cannot be asked for credentials",
                why=why,
                fix="install it, or take it out of the file that names it",
            ) from error
        try:
            said, complained = process.communicate(text.encode(), self.timeout)
        except subprocess.TimeoutExpired:
            raise HostError(
                f"{self.program} does not answer",
                why=f"`{self.program} {verb}` did not end within {self.timeout:g} seconds",
                fix="run it yourself to see what it waits for",
            ) from None
        finally:
            _end(process)
        if process.returncode:
            raise self._refusal_error(verb, said, complained, process.returncode)
        return said[:_LIMIT]

    def _refusal_error(
        self, verb: str, said: bytes, complained: bytes, status: int
    ) -> HostError | NotFoundError:
        heard = (said + b"\n" + complained).decode(errors="replace").lower()
        nothing = next((words for words in _NOTHING if words in heard), "")
        if nothing:
            return NotFoundError(f"{self.program} has no such credentials", why=f"it said: {nothing}")
        text = sanitize(complained.decode(errors="replace"))
        if "{" in text or not text:
            text = "its output is not shown, because it may have a secret" if text or said else "no output"
        how = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
        return HostError(
            f"{self.program} failed",
            why=f"`{self.program} {verb}` {how}: {text}",
            fix=f"see what `{self.program} list` prints",
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a helper that still runs, and closes its pipes, which its children may hold open for longer."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):  # the helper has closed its end
                pipe.close()


REGISTRY_AUTH = "CNB_REGISTRY_AUTH"
"""The variable with a JSON object of headers by registry (Platform API, "Registry Authentication")."""

_AUTH_CONFIG = "DOCKER_AUTH_CONFIG"  # the content of a config.json, in place of the file


class Keychain:
    """Finds credentials by registry and repository. Usable from several threads; reads nothing in advance.

    The first source with credentials counts: CNB_REGISTRY_AUTH, DOCKER_AUTH_CONFIG, then the files of
    `auth_files`. A file or helper that cannot be read is skipped; if the registry then refuses the request,
    the error names it.
    """

    def __init__(self, environ: Mapping[str, str], *, timeout: float = TIMEOUT) -> None:
        self._environ = environ
        self._timeout = timeout
        self._files: tuple[AuthFile, ...] | None = None
        self._problems: list[str] = []
        self._answers: dict[tuple[str, str], Credentials | str] = {}
        self._lock = threading.Lock()

    def lookup(self, registry: str) -> Lookup:
        """Makes the Lookup for one registry."""
        return partial(self.find, registry)

    def find(self, registry: str, repository: str = "") -> Credentials:
        """Returns the credentials for a repository, anonymous ones if there are none.

        Raises InputError if CNB_REGISTRY_AUTH cannot be read: whoever set it meant it for this command.
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
        """Makes the helper that a file names for a registry; None if it names none."""
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
        """Asks the helper that a file names for a registry, at most once; its errors go to `problems`."""
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
    """Makes the keychain of this process's user."""
    return Keychain(os.environ)


def auth_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Returns the files that may have credentials, in the order of search; any of them may be missing.

    REGISTRY_AUTH_FILE, docker's config.json, podman's auth.json of this session, then the one of this user.
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
    """Returns the user's home; for a user without one, a path that does not exist."""
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        return Path("/nonexistent")


def _parse_headers(text: str) -> dict[str, Credentials]:
    """Parses CNB_REGISTRY_AUTH: `{"HOST": "Basic …"}`, or Bearer, or X-Identity. Raises InputError."""
    if not text:
        return {}
    try:
        fields = loads(text)
        items = [(str(host), str(header)) for host, header in fields.items()]
    except (ValueError, AttributeError, RecursionError):
        # Without the text and the cause, which contain passwords.
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
