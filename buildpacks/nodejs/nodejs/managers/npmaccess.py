"""npm's registries of scopes and what gives access to them, in the form of Yarn 2 and newer.

On the arrow plan → layers. Called by `berry`. Yarn itself reads no .npmrc; for as long as it installs, the
user who builds has what the ones of npm say as his own `.yarnrc.yml`, before which the project's goes.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from packhorse import sdk
from packhorse.sdk.dataclass import dataclass, field

from .. import secret
from ..project import Project
from . import npmrc, yarnrc

_SCOPE = re.compile(r"@([^:/\s]+):registry")
_ACCESS = re.compile(r"(//.+?)/?:(_authToken|_auth|username|_password)")
_VARIABLE = re.compile(r"\$\{(\w+)\??\}")


@dataclass(frozen=True, slots=True)
class Access:
    """The registries by scope, without its `@`, and npm's settings for addresses such as `//host/path`."""

    scopes: Mapping[str, str] = field(default_factory=dict)
    registries: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Reads several .npmrc, of which the later ones count more."""
        scopes: dict[str, str] = {}
        registries: dict[str, dict[str, str]] = {}
        for text in texts:
            for key, value in secret.npm_settings(text):
                if value and (scope := _SCOPE.fullmatch(key)):
                    scopes[scope[1]] = value.rstrip("/")
                elif value and (access := _ACCESS.fullmatch(key)):
                    registries.setdefault(access[1], {})[access[2]] = value
        return cls(scopes, registries)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of scopes that are asked without TLS, which Yarn refuses by itself."""
        urls = [urlsplit(url) for url in self.scopes.values()]
        return tuple(dict.fromkeys(url.hostname for url in urls if url.scheme == "http" and url.hostname))

    def yaml(self) -> str:
        """As `.yarnrc.yml` has it, for unscoped packages, too; empty where there is nothing."""
        lines = ["npmScopes:"] if self.scopes else []
        for scope, url in sorted(self.scopes.items()):
            lines += [f"  {json.dumps(scope)}:", f"    npmRegistryServer: {_quoted(url)}"]
        given = {address: _given(said) for address, said in sorted(self.registries.items())}
        lines += ["npmRegistries:"] if any(given.values()) else []
        for address, setting in given.items():
            if setting:
                lines += [f"  {json.dumps(address)}:", f"    {setting}", "    npmAlwaysAuth: true"]
        return "".join(f"{line}\n" for line in lines)


@contextmanager
def lent(context: sdk.BuildContext, project: Project) -> Iterator[tuple[str, ...]]:
    """While it lasts, Yarn has what npm's settings say; yields the hosts to be asked without TLS.

    Who has a `.yarnrc.yml` of his own, by a binding, has said it in Yarn's form.
    """
    path = Path(context.env.get("HOME") or Path.home(), yarnrc.BERRY)
    access = Access.of(npmrc.texts(context, project))
    said = access.yaml()
    if not said or os.path.lexists(path):
        yield ()
        return
    path.touch(mode=0o600)
    try:
        path.write_text(said)
        yield access.hosts
    finally:
        path.unlink(missing_ok=True)


def _given(said: Mapping[str, str]) -> str:
    """The setting that gives access: a token before a user's name and password."""
    if "_authToken" in said:
        return f"npmAuthToken: {_quoted(said['_authToken'])}"
    if "_auth" in said:
        return f"npmAuthIdent: {_quoted(said['_auth'])}"
    if "username" not in said or "_password" not in said:
        return ""
    try:
        password = base64.b64decode(said["_password"], validate=True)
    except binascii.Error:
        return ""
    both = said["username"].encode() + b":" + password
    return f"npmAuthIdent: {json.dumps(base64.b64encode(both).decode())}"


def _quoted(value: str) -> str:
    """A value of npm, whose variables need not be set, in Yarn's spelling."""
    return json.dumps(_VARIABLE.sub(r"${\1-}", value))
