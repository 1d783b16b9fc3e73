"""④ Programs that keep passwords for docker: `docker-credential-NAME`, asked through their pipes.

The protocol is docker's ("Credential helper protocol"): a verb as the argument, a server or a JSON object on
stdin, JSON or one line of complaint on stdout. Called by `image.keychain`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from packhorse.base import gojson
from packhorse.base.dataclass import dataclass
from packhorse.base.http.message import sanitize
from packhorse.errors import FormatError, HostError, NotFoundError
from packhorse.image.registry.credentials import Credentials

TIMEOUT = 60.0
"""Seconds that a helper may take: some ask their user for a password."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_LIMIT = 1 << 20
_TOKEN_USER = "<token>"  # what docker's helpers say for a user when the secret is an identity token

# What helpers print when they have nothing; there is no other sign of it (docker-credential-helpers).
_NOTHING = ("credentials not found", "no credentials server url", "no credentials username")


@dataclass(frozen=True, slots=True)
class CredentialHelper:
    """One helper by the name that a configuration has for it; `environ` is what it runs in.

    Methods raise HostError for a helper that is missing, hangs, fails or says nonsense. What a helper prints
    to stdout is never shown: it may be the secret that was asked for.
    """

    name: str
    environ: Mapping[str, str]
    timeout: float = TIMEOUT

    @property
    def program(self) -> str:
        """The name of the program."""
        return f"docker-credential-{self.name}"

    def get(self, server: str) -> Credentials:
        """What it has for a server; raises NotFoundError when that is nothing."""
        said = self._call("get", server)
        try:
            fields = gojson.loads(said)
            user, secret = fields["Username"], fields["Secret"]
        except (ValueError, TypeError, KeyError, RecursionError):
            user = secret = None
        if not isinstance(user, str) or not isinstance(secret, str):
            # The cause is left out: it has the text.
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
        """Has it keep credentials."""
        self._call("store", json.dumps({"ServerURL": server, "Username": username, "Secret": secret}))

    def erase(self, server: str) -> None:
        """Has it forget a server; raises NotFoundError when it does not know it."""
        self._call("erase", server)

    def list(self) -> dict[str, str]:
        """The servers that it has credentials for, with their user names."""
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
                why=f"it was asked to {verb} and said nothing for {self.timeout:g} seconds",
                fix=f"see whether `{self.program} {verb}` waits for something",
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
            text = "what it printed is not shown, it may be a secret" if text or said else "it said nothing"
        how = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
        return HostError(
            f"{self.program} failed",
            why=f"asked to {verb}, it {how}: {text}",
            fix=f"see what `{self.program} list` says",
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a helper that still runs; what it has started may hold the pipes and is not waited for."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):  # a pipe that the helper closed
                pipe.close()
