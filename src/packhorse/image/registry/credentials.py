"""④ Who somebody is to a registry, as a value; made by `image.keychain` and presented by `registry.auth`."""

from __future__ import annotations

import base64
from collections.abc import Callable

from packhorse.base.dataclass import dataclass, field

SHORTEST = 4
"""Characters of a secret that is looked for in what a server says; shorter ones are in any text."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A password with its user, or a token in its place; nothing of it for somebody anonymous.

    An identity token is exchanged for the tokens that a registry takes (OAuth 2 calls it a refresh token); a
    registry token is one of those itself. `origin` says where they are from, or why there are none, for
    errors.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    origin: str = ""

    @property
    def anonymous(self) -> bool:
        """Whether there is nothing to present."""
        return not (self.username or self.password or self.identity_token or self.registry_token)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nobody may be shown, longest first, as it is and as it is presented."""
        pair = self.basic.removeprefix("Basic ")
        found = {self.password, self.identity_token, self.registry_token, pair}
        return tuple(sorted((each for each in found if len(each) >= SHORTEST), key=len, reverse=True))

    @property
    def basic(self) -> str:
        """The value of an Authorization header with the password (RFC 7617), "" when there is none."""
        if not (self.username or self.password):
            return ""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


ANONYMOUS = Credentials()

Lookup = Callable[[str], Credentials]
"""The credentials for a repository of one registry; for "", those for the registry as a whole."""


def constant_lookup(credentials: Credentials) -> Lookup:
    """The Lookup of who is the same everywhere."""
    return lambda repository: credentials


nobody = constant_lookup(ANONYMOUS)
