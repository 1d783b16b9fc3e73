"""What beside the source changes an installation: the user's variables, and the settings of his bindings.

On the arrow plan → layers. Called by `nodejs.modules`, whose keys are in the image's labels: the same build
on another machine must have the same. So only what the user gives to this build counts, not what the build
image or the machine has; and of that neither what gives access, nor from where packages come, how they come
(registries, proxies, certificates, caches, retries), and what is said meanwhile: the lock holds whatever
these are, and they differ from place to place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from packhorse import sdk

from . import credentials
from .project import digest

_PREFIXES = ("npm_config_", "pnpm_config_", "yarn_", "bun_")
_COMPILING = {"CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "PYTHON"}
_SECRET = re.compile(r"auth|passw|token|secret|credential|://[^/\s]*@", re.IGNORECASE)
_MEANINGLESS = {
    *("ident", "email", "username", "key", "keyfile", "cert", "certfile", "ca", "cafile", "ssl"),
    *("registry", "registries", "host", "mirror", "url", "server", "proxy", "noproxy", "network", "http"),
    *("https", "fetch", "timeout", "retry", "retries", "maxsockets", "concurrency", "offline", "online"),
    *("cache", "store", "tmp", "tmpdir", "folder", "userconfig", "globalconfig", "prefix", "nodedir"),
    *("log", "loglevel", "logs", "reporter", "progress", "color", "colors", "unicode", "silent", "quiet"),
    *("json", "timing", "notifier", "telemetry", "audit", "fund", "yes", "editor", "browser"),
}
# How a line with a setting begins. Others are not read: they may go on with a secret.
_LINES = {
    ".npmrc": re.compile(r"([^=;#]+)="),
    ".yarnrc": re.compile(r"(?:\"([^\"]+)\"|([^\s\"#]+))\s"),
    ".yarnrc.yml": re.compile(r"(?:\s*- )?([^:#]+):"),
}


def key(context: sdk.BuildContext) -> dict[str, str]:
    """Names for people → digests; what there is nothing of is empty."""
    found = {"settings in the environment": _digest(sorted(_variables(context.platform.env)))}
    for binding, name, path in credentials.settings(context):
        found[f"{name} of the binding {binding.type}"] = _digest(list(lines(name, path)))
    return found


def _variables(env: Mapping[str, str]) -> Iterator[str]:
    for name, value in env.items():
        prefix = next((prefix for prefix in _PREFIXES if name.lower().startswith(prefix)), "")
        matters = name in _COMPILING or (prefix and _matters(name[len(prefix) :]))
        if matters and not _SECRET.search(value):
            yield f"{name.lower() if prefix else name}={value.strip()}"


def lines(file: str, path: Path) -> Iterator[str]:
    """The lines of a settings file that decide what is installed."""
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        match = _LINES[file].match(line)
        name = next((part for part in match.groups() if part), "") if match else ""
        if name.strip() and not _SECRET.search(line) and _matters(name):
            yield line.rstrip()


def _matters(name: str) -> bool:
    """Whether a setting decides what is installed; `enableMirror`, `enable-mirror`, `ENABLE_MIRROR` alike."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip()).lower())
    return bool(words) and not _SECRET.search(name) and not _MEANINGLESS.intersection(words)


def _digest(lines: list[str]) -> str:
    if not lines:
        return ""
    return digest("\n".join(lines).encode(errors="surrogateescape"))
