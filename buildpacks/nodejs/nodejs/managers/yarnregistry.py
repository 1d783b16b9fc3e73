"""The registry, proxy and certificates set for npm, handed on to Yarn: one setting serves both.

On the arrow plan → layers. Called by `yarn` and `berry`. Yarn 1 reads .npmrc, but not all of npm's places;
its successors read none. What is set for Yarn itself goes before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from packhorse import sdk

from ..registry import Registry
from .yarnrc import Settings

_WHITELIST = "unsafeHttpWhitelist"
_HOST = re.compile(r"[\w.*:-]+")


def for_classic(context: sdk.BuildContext, settings: Settings) -> dict[str, str]:
    """The variables for Yarn 1; `registry` of .yarnrc goes before that of npm."""
    npm = Registry(context).settings()
    said = {
        f"npm_config_{name.replace('-', '_')}": npm[name]
        for name in ("registry", "proxy", "https-proxy", "noproxy", "strict-ssl")
        if name in npm
    }
    if "registry" in settings.classic:
        said.pop("npm_config_registry", None)
    return {**said, **_authority(context.env, npm)}


def for_berry(context: sdk.BuildContext, settings: Settings, plain: tuple[str, ...]) -> dict[str, str]:
    """The variables for Yarn 2 and newer; `plain` are hosts that npm asks without TLS for some scopes."""
    npm, env = Registry(context).settings(), context.env
    said = _authority(env, npm)
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
        hosts += _HOST.findall(settings.berry.get(_WHITELIST, ""))
        said["YARN_UNSAFE_HTTP_WHITELIST"] = ",".join(dict.fromkeys(hosts))
    if npm.get("strict-ssl") == "false":
        said["YARN_ENABLE_STRICT_SSL"] = "0"
    if not _is_spared(registry, npm.get("noproxy") or env.get("NO_PROXY") or env.get("no_proxy") or ""):
        http = npm.get("proxy") or env.get("HTTP_PROXY") or env.get("http_proxy")
        https = npm.get("https-proxy") or env.get("HTTPS_PROXY") or env.get("https_proxy")
        said |= {"YARN_HTTP_PROXY": http} if http and "httpProxy" not in settings.berry else {}
        said |= {"YARN_HTTPS_PROXY": https} if https and "httpsProxy" not in settings.berry else {}
    return {name: value for name, value in said.items() if name not in env}


def _authority(env: Mapping[str, str], npm: Mapping[str, str]) -> dict[str, str]:
    """npm's `cafile`, as every Node.js knows it."""
    file = npm.get("cafile", "")
    return {"NODE_EXTRA_CA_CERTS": file} if "NODE_EXTRA_CA_CERTS" not in env and Path(file).is_file() else {}


def _is_spared(registry: str, exceptions: str) -> bool:
    """Whether NO_PROXY spares the registry, which Yarn 2 and newer would not ask."""
    host = urlsplit(registry).hostname or ""
    names = [name.strip().lstrip("*").lstrip(".") for name in exceptions.split(",")]
    return bool(exceptions) and any(not name or f".{host}".endswith(f".{name}") for name in names)
