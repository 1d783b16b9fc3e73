"""Reads the project's Yarn settings, and gives Yarn the settings for npm.

Called by `yarn` and `yarn_release`. It reads only the few settings that decide how to run Yarn. Yarn 1 reads
.npmrc, but not all of npm's places; its successors read none. So npm's registry, proxy, certificates and
credentials are passed on, and one setting serves both. Settings for Yarn itself win. While Berry
installs, npm's credentials are in a `.yarnrc.yml` of the user who builds.
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

from .. import credentials
from ..project import Project
from ..registry import Registry
from . import npm

BERRY, CLASSIC = ".yarnrc.yml", ".yarnrc"
_WORD = re.compile(r"""(?:"([^"]+)"|([\w.:@/-]+))\s+(?:"([^"]*)"|(\S+))\s*""")


@dataclass(frozen=True, slots=True)
class YarnSettings:
    """The plain settings of the top level by name; lists and tables are left out."""

    berry: Mapping[str, str] = field(default_factory=dict)
    classic: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads the two files, if they exist."""
        berry = (_scalar(line) for line in _lines(directory / BERRY))
        classic = (_WORD.fullmatch(line) for line in _lines(directory / CLASSIC))
        return cls(
            berry=dict(found for found in berry if found),
            classic={found[1] or found[2]: found[3] or found[4] or "" for found in classic if found},
        )

    @property
    def release(self) -> str:
        """The path of the Yarn that comes with the source, or nothing."""
        return self.berry.get("yarnPath", "") or self.classic.get("yarn-path", "")

    @property
    def linker(self) -> str:
        """How Yarn 2 and newer lay out modules: `pnp`, unless the project sets another linker."""
        return self.berry.get("nodeLinker", "pnp")

    @property
    def cache(self) -> str:
        """The folder of the project with the packages that come with the source."""
        return self.berry.get("cacheFolder", ".yarn/cache")


def _scalar(line: str) -> tuple[str, str] | None:
    """The name and value of a line such as `nodeLinker: pnp`, with a plain or quoted value and perhaps a
    comment.
    """
    name, _, said = line.partition(":")
    value = said.strip()
    if not name.isascii() or not name.isalpha() or not said[:1].isspace() or value[:1] in ("", "#"):
        return None
    if value[0] in "\"'":
        quoted, closing, behind = value[1:].partition(value[0])
        if closing and behind.strip()[:1] in ("", "#"):
            return name, quoted
    return name, value.partition("#")[0].rstrip()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


_SCOPE = re.compile(r"@([^:/\s]+):registry")
_ACCESS = re.compile(r"(//.+?)/?:(_authToken|_auth|username|_password)")
_VARIABLE = re.compile(r"\$\{(\w+)\??\}")


@dataclass(frozen=True, slots=True)
class NpmAccess:
    """The registries by scope, without its `@`, and npm's settings for addresses such as `//host/path`."""

    scopes: Mapping[str, str] = field(default_factory=dict)
    registries: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Reads several .npmrc files; the later ones win."""
        scopes: dict[str, str] = {}
        registries: dict[str, dict[str, str]] = {}
        for text in texts:
            for key, value in credentials.npm_settings(text):
                if value and (scope := _SCOPE.fullmatch(key)):
                    scopes[scope[1]] = value.rstrip("/")
                elif value and (access := _ACCESS.fullmatch(key)):
                    registries.setdefault(access[1], {})[access[2]] = value
        return cls(scopes, registries)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of scopes that npm uses without TLS, which Yarn refuses by default."""
        urls = [urlsplit(url) for url in self.scopes.values()]
        return tuple(dict.fromkeys(url.hostname for url in urls if url.scheme == "http" and url.hostname))

    def yaml(self) -> str:
        """The text for `.yarnrc.yml`, for unscoped packages too; empty if there is nothing to set."""
        lines = ["npmScopes:"] if self.scopes else []
        for scope, url in sorted(self.scopes.items()):
            lines += [f"  {json.dumps(scope)}:", f"    npmRegistryServer: {_quote(url)}"]
        given = {address: _auth_setting(said) for address, said in sorted(self.registries.items())}
        lines += ["npmRegistries:"] if any(given.values()) else []
        for address, setting in given.items():
            if setting:
                lines += [f"  {json.dumps(address)}:", f"    {setting}", "    npmAlwaysAuth: true"]
        return "".join(f"{line}\n" for line in lines)


@contextmanager
def lend_npm_access(context: sdk.BuildContext, project: Project) -> Iterator[tuple[str, ...]]:
    """In the block, Yarn has npm's settings; yields the hosts that need no TLS.

    If the user has an own `.yarnrc.yml` (a binding), its settings are used instead.
    """
    path = Path(context.env.get("HOME") or Path.home(), BERRY)
    access = NpmAccess.of(npm.read_npmrcs(context, project))
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


def _auth_setting(said: Mapping[str, str]) -> str:
    """The setting with the credentials: a token, else user name and password."""
    if "_authToken" in said:
        return f"npmAuthToken: {_quote(said['_authToken'])}"
    if "_auth" in said:
        return f"npmAuthIdent: {_quote(said['_auth'])}"
    if "username" not in said or "_password" not in said:
        return ""
    try:
        password = base64.b64decode(said["_password"], validate=True)
    except binascii.Error:
        return ""
    both = said["username"].encode() + b":" + password
    return f"npmAuthIdent: {json.dumps(base64.b64encode(both).decode())}"


def _quote(value: str) -> str:
    """A value of npm, whose variables may be unset, in Yarn's form."""
    return json.dumps(_VARIABLE.sub(r"${\1-}", value))


_HTTP_HOSTS = "unsafeHttpWhitelist"
_HOST = re.compile(r"[\w.*:-]+")


def classic_variables(context: sdk.BuildContext, settings: YarnSettings) -> dict[str, str]:
    """The variables for Yarn 1; `registry` in .yarnrc wins over that of npm."""
    npm = Registry(context).settings()
    said = {
        f"npm_config_{name.replace('-', '_')}": npm[name]
        for name in ("registry", "proxy", "https-proxy", "noproxy", "strict-ssl")
        if name in npm
    }
    if "registry" in settings.classic:
        said.pop("npm_config_registry", None)
    return {**said, **_authority_variables(context.env, npm)}


def berry_variables(
    context: sdk.BuildContext, settings: YarnSettings, plain: tuple[str, ...]
) -> dict[str, str]:
    """The variables for Yarn 2 and newer; `plain` are hosts that npm uses without TLS for some scopes."""
    npm, env = Registry(context).settings(), context.env
    said = _authority_variables(env, npm)
    hosts = list(plain)
    registry = npm.get("registry", "")
    if registry and "npmRegistryServer" not in settings.berry:
        said["YARN_NPM_REGISTRY_SERVER"] = registry.rstrip("/")
        url = urlsplit(registry)
        if url.scheme == "http" and url.hostname:
            hosts.append(url.hostname)
    else:
        registry = settings.berry.get("npmRegistryServer", "")
    if hosts:
        hosts += _HOST.findall(settings.berry.get(_HTTP_HOSTS, ""))
        said["YARN_UNSAFE_HTTP_WHITELIST"] = ",".join(dict.fromkeys(hosts))
    if npm.get("strict-ssl") == "false":
        said["YARN_ENABLE_STRICT_SSL"] = "0"
    if not _bypasses_proxy(registry, npm.get("noproxy") or env.get("NO_PROXY") or env.get("no_proxy") or ""):
        http = npm.get("proxy") or env.get("HTTP_PROXY") or env.get("http_proxy")
        https = npm.get("https-proxy") or env.get("HTTPS_PROXY") or env.get("https_proxy")
        said |= {"YARN_HTTP_PROXY": http} if http and "httpProxy" not in settings.berry else {}
        said |= {"YARN_HTTPS_PROXY": https} if https and "httpsProxy" not in settings.berry else {}
    return {name: value for name, value in said.items() if name not in env}


def _authority_variables(env: Mapping[str, str], npm: Mapping[str, str]) -> dict[str, str]:
    """npm's `cafile`, in the variable that every Node.js reads."""
    file = npm.get("cafile", "")
    return {"NODE_EXTRA_CA_CERTS": file} if "NODE_EXTRA_CA_CERTS" not in env and Path(file).is_file() else {}


def _bypasses_proxy(registry: str, exceptions: str) -> bool:
    """Whether NO_PROXY excludes the registry from the proxy. Yarn 2 and newer do not read NO_PROXY."""
    host = urlsplit(registry).hostname or ""
    names = [name.strip().lstrip("*").lstrip(".") for name in exceptions.split(",")]
    return bool(exceptions) and any(not name or f".{host}".endswith(f".{name}") for name in names)
