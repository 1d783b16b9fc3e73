"""Keeps credentials for registries out of the image, and decides which settings count in a layer's key.

Called by `buildpack`, by `modules` and by the managers. The package managers read settings files and fill in
variables (`${NPM_TOKEN}`) themselves. A value is harmless only if it is nothing but a variable's name. A
default (`${NPM_TOKEN:-abc}`) is a credential.

The keys of layers are in the image's labels, and the same build on another machine must have the same keys.
So only variables and bindings that the user gives to this build count, and nothing of the build image or the
machine. Of these, credentials and everything that differs by place do not count: registries, proxies,
certificates, caches, retries and the amount of output. The lockfile decides what is installed.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

from packhorse import sdk
from packhorse.errors import InputError, PackhorseError
from packhorse.sdk.dataclass import replace

from .managers.choice import LOCKS
from .node_modules import explain_refusal
from .project import digest

_KEYS = frozenset(("_auth", "_authtoken", "_password", "password", "token", "key"))
"""Keys of credentials, in lower case, without the registry in keys such as `//npm.example/:_authToken`."""
_URL = re.compile(r"://([^/\s:@\"']*)(?::([^/\s@]*))?@")
_WEB = re.compile(r"https?$", re.IGNORECASE)
_WEB_LENGTH = len("https")
_MASK = "***"
_BRACED = re.compile(r"\$\{\w+(?:\?|:?-)?\}")
_VARIABLE = re.compile(r"\$\w+|\$\{\w+\}")
_BERRY_KEY = re.compile(r"npmAuth(?:Token|Ident)", re.IGNORECASE)
_BERRY_HARMLESS = re.compile(
    r"""["']?\s*:\s*(?:(["']?)\$\{\w+(?::?-)?\}\1|""|''|null|~)[ \t]*(?:[,}\r\n#]|$)"""
)
_BERRY_ENTRY = re.compile(r"""npmAuth(?:Token|Ident)["']?\s*:\s*[^\n]*""", re.IGNORECASE)
_QUOTES = "\"'"


def has_credential(name: str, text: str) -> bool:
    """Whether the `text` of a settings file called `name` has a credential, not only a variable's name."""
    return _has_url_credential(text) or _CHECKS[name](text)


def settings_digest(path: Path) -> str:
    """The SHA-256 of a settings file without its credentials, as `sha256:<hex>`; empty without a file."""
    if not path.is_file():
        return ""
    text = _URL.sub("://", path.read_text(encoding="utf-8-sig", errors="replace"))
    if path.name == ".yarnrc.yml":
        kept = _BERRY_ENTRY.sub("", text)
    else:
        split = _split_yarnrc if path.name == ".yarnrc" else _split_ini
        kept = "\n".join(line.strip() for line in _split_lines(text) if not _is_access_key(split(line)[0]))
    return f"sha256:{hashlib.sha256(kept.encode()).hexdigest()}"


def url_credentials(text: str) -> tuple[str, ...]:
    """The passwords in URLs, and users without a password, which are tokens."""
    return tuple(dict.fromkeys(word for found in _URL.finditer(text) if (word := _credential_in(found))))


def strip_url_credentials(text: str) -> str:
    """Removes credentials from the URLs in a text."""
    return _URL.sub(lambda found: "://" if _credential_in(found) else found[0], text)


def mask_url_credentials(text: str) -> str:
    """Replaces credentials in the URLs of a text by asterisks."""
    if "://" not in text:
        return text
    return _URL.sub(lambda found: f"://{_MASK}@" if _credential_in(found) else found[0], text)


def _has_url_credential(text: str) -> bool:
    return any(_credential_in(found) for found in _URL.finditer(text))


def _credential_in(found: re.Match[str]) -> str:
    """The credential in a URL before its host; empty for a user name or a variable.

    A name without a password is a user name for `ssh:`, and `git` is one everywhere.
    """
    user, password = found[1], found[2]
    scheme = found.string[max(0, found.start() - _WEB_LENGTH) : found.start()]
    if password is None and (user == "git" or not _WEB.search(scheme)):
        return ""
    word = password or user
    return "" if _BRACED.fullmatch(word) else word


def npm_settings(text: str) -> Iterator[tuple[str, str]]:
    """The keys and values of a .npmrc; both are empty for a line without a setting."""
    return map(_split_ini, _split_lines(text))


def _is_in_npmrc(text: str) -> bool:
    return _any_credential(npm_settings(text))


def _is_in_yarnrc(text: str) -> bool:
    return _any_credential(map(_split_yarnrc, _split_lines(text)))


def _any_credential(pairs: Iterator[tuple[str, str]]) -> bool:
    return any(bool(value) and _is_access_key(key) and not _BRACED.fullmatch(value) for key, value in pairs)


def _is_in_yarnrc_yml(text: str) -> bool:
    """Whether the text has a credential. YAML has many forms: what is not clearly harmless counts as one."""
    said = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return any(not _BERRY_HARMLESS.match(said, found.end()) for found in _BERRY_KEY.finditer(said))


def _is_in_bunfig(text: str) -> bool:
    try:
        said = list(_leaves("", tomllib.loads(text)))
    except (ValueError, RecursionError):
        return any(word in text.lower() for word in _KEYS)
    return any(
        _has_url_credential(value) or bool(value and _is_access_key(key) and not _VARIABLE.fullmatch(value))
        for key, value in said
    )


def _leaves(key: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(name, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(key, inner)
    else:
        yield key, str(value)


_CHECKS: Mapping[str, Callable[[str], bool]] = {
    ".npmrc": _is_in_npmrc,
    ".yarnrc": _is_in_yarnrc,
    ".yarnrc.yml": _is_in_yarnrc_yml,
    "bunfig.toml": _is_in_bunfig,
}
SETTINGS_FILES = tuple(_CHECKS)


def _is_access_key(key: str) -> bool:
    return key.rpartition(":")[2].removesuffix("[]").lower() in _KEYS


def _split_lines(text: str) -> list[str]:
    return re.split(r"[\r\n]+", text)


def _split_ini(line: str) -> tuple[str, str]:
    """The key and value of a line in an ini file; `;` and `#` begin comments outside quotes."""
    said = line.strip()
    if said.startswith((";", "#")):
        return "", ""
    key, _, value = said.partition("=")
    value = value.strip()
    if not (len(value) > 1 and value[0] in _QUOTES and value[-1] == value[0]):
        value = re.split(r"(?<!\\)[;#]", value, maxsplit=1)[0].strip()
    return key.strip().strip(_QUOTES), value.strip(_QUOTES).strip()


def _split_yarnrc(line: str) -> tuple[str, str]:
    """The key and value of a line of Yarn 1's settings, with white space between them."""
    said = line.strip()
    if said.startswith("#"):
        return "", ""
    if said.startswith('"'):
        key, _, value = said[1:].partition('"')
    else:
        key, value = (*said.split(maxsplit=1), "", "")[:2]
    return key.rstrip(":"), value.lstrip(":").strip().strip(_QUOTES)


_BINDINGS = {"npmrc": (".npmrc",), "yarnrc": (".yarnrc.yml", ".yarnrc")}
"""Types of bindings, also of other buildpacks, and the user's settings files that each may have."""

_MANIFESTS_AND_LOCKS = ("package.json", *LOCKS)
_BINARY = ".lockb"
_STORES = (".pnpm", ".bun")


@contextmanager
def link_bindings(context: sdk.BuildContext) -> Iterator[None]:
    """Makes the bindings `npmrc` and `yarnrc` the settings of the user who builds, by links in the home.

    The links have no secret and are removed afterwards. Raises InputError for a binding without its file, or
    if the build image has such settings already.
    """
    home = Path(context.env.get("HOME") or Path.home())
    links: list[Path] = []
    try:
        for binding, name, source in bound_settings(context):
            link = home / name
            try:
                link.symlink_to(source)
            except FileExistsError as error:
                raise InputError(
                    f"the binding {binding.name} cannot be used",
                    why=f"the build image already has {link}",
                    fix="use a builder without it, or put both settings into the binding's file",
                ) from error
            links.append(link)
            context.log.detail(f"{name} of the binding {binding.name}")
        yield
    finally:
        for link in links:
            link.unlink(missing_ok=True)


def bound_settings(context: sdk.BuildContext) -> Iterator[tuple[sdk.Binding, str, Path]]:
    """Each binding with settings, the name of the user's file, and the binding's file. Raises InputError."""
    for kind, names in _BINDINGS.items():
        binding = context.bindings.one_of_type(kind)
        if binding is not None:
            yield (binding, *_find_settings_file(binding, names))


def _find_settings_file(binding: sdk.Binding, names: Sequence[str]) -> tuple[str, Path]:
    """The name of the settings that a binding has, and its file; a name may lack its dot."""
    for name in names:
        source = binding.file(name, name.removeprefix("."))
        if source:
            return name, source
    raise InputError(
        f"the binding {binding.name} has no {names[0]}",
        why=f"its type is {binding.type}; it has {', '.join(binding.entries) or 'nothing'}",
        fix=f"name its file {' or '.join(names)}",
    )


def file_has_credential(path: Path) -> bool:
    """Whether a settings file has a credential, not only the name of a variable."""
    return has_credential(path.name, path.read_text(encoding="utf-8-sig", errors="replace"))


def find_settings_and_locks(app: Path) -> tuple[list[Path], list[Path]]:
    """Finds settings files, and manifests and lockfiles, in the application but not in its modules.

    It walks once, because an application may have very many files.
    """
    settings, naming = [], []
    for folder, subfolders, names in os.walk(app):
        subfolders[:] = sorted(name for name in subfolders if name != "node_modules")
        there = set(names)
        settings += [Path(folder, name) for name in SETTINGS_FILES if name in there]
        naming += [Path(folder, name) for name in _MANIFESTS_AND_LOCKS if name in there]
    return settings, naming


def mask_log(context: sdk.BuildContext) -> sdk.BuildContext:
    """Returns the context with a log that masks credentials in URLs."""
    out, err = (cast(TextIO, _MaskingStream(stream)) for stream in (context.log.out, context.log.err))
    return replace(context, log=replace(context.log, out=out, err=err))


@contextmanager
def mask_errors() -> Iterator[None]:
    """Masks credentials in URLs of errors that the block raises."""
    try:
        yield
    except PackhorseError as error:
        error.what, error.why, error.fix = (
            mask_url_credentials(text) for text in (error.what, error.why, error.fix)
        )
        raise


class _MaskingStream(io.TextIOBase):
    """A text stream that masks credentials in URLs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        """Writes the masked text."""
        return self._stream.write(mask_url_credentials(text))

    def flush(self) -> None:
        """Flushes the stream."""
        self._stream.flush()


def remove_credentials(context: sdk.BuildContext) -> None:
    """Removes settings files with credentials from the application, after everything is installed.

    If such a file is a link, also removes its target in the application. Manifests and lockfiles stay,
    without the credentials in their URLs. Raises InputError if a file cannot be removed, and if the name of a
    module's folder has a credential.
    """
    app = context.app.resolve()
    settings, naming = find_settings_and_locks(app)
    _strip_files(context, app, naming)
    for path in settings:
        if not path.is_file() or not file_has_credential(path):
            continue
        name, target = path.relative_to(app), path.resolve()
        with explain_refusal(f"{name} has a credential in it and"):
            path.unlink()
            if target.is_relative_to(app):
                target.unlink(missing_ok=True)
        context.log.warning(
            f"{name} has a credential, so it is not in the image; "
            "name a variable there, as in ${NPM_TOKEN}, and give its value to the build"
        )


def _strip_files(context: sdk.BuildContext, app: Path, paths: Iterable[Path]) -> None:
    """Removes credentials from the URLs of dependencies in manifests and lockfiles."""
    said: set[str] = set()
    for path in paths:
        text = path.read_text(encoding="latin-1") if path.is_file() else ""
        if not (found := url_credentials(text)):
            continue
        said.update(found)
        name, target = path.relative_to(app), path.resolve()
        with explain_refusal(f"{name} has a credential in it and"):
            if not target.is_relative_to(app):
                path.unlink()
                target = path
            if path.suffix == _BINARY:
                target.unlink()
            else:
                target.write_text(strip_url_credentials(text), encoding="latin-1", newline="")
        context.log.warning(
            f"{name} has a credential in a URL, which is removed in the image; put it into the settings of "
            "git or of the package manager instead"
        )
    _refuse_names(context, said)


def _refuse_names(context: sdk.BuildContext, said: Collection[str]) -> None:
    """Raises InputError if pnpm or Bun named a module's folder by a URL with a credential."""
    places = (context.app / "node_modules", context.layers / "modules/node_modules")
    folders = (folder for place in places for store in _STORES for folder in (place / store).glob("*"))
    for folder in folders if said else ():
        if word := next((word for word in said if word in folder.name), ""):
            raise InputError(
                "the image would have a credential in the name of a folder",
                why=folder.name.replace(word, "***"),
                fix="remove it from the dependency's URL, and put it into the settings of git or of the "
                "package manager",
            )


_PREFIXES = ("npm_config_", "pnpm_config_", "yarn_", "bun_")
_COMPILING = {"CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "PYTHON"}
_SECRET = re.compile(r"auth|passw|token|secret|credential|://[^/\s]*@", re.IGNORECASE)
_IRRELEVANT_WORDS = {
    *("ident", "email", "username", "key", "keyfile", "cert", "certfile", "ca", "cafile", "ssl"),
    *("registry", "registries", "host", "mirror", "url", "server", "proxy", "noproxy", "network", "http"),
    *("https", "fetch", "timeout", "retry", "retries", "maxsockets", "concurrency", "offline", "online"),
    *("cache", "store", "tmp", "tmpdir", "folder", "userconfig", "globalconfig", "prefix", "nodedir"),
    *("log", "loglevel", "logs", "reporter", "progress", "color", "colors", "unicode", "silent", "quiet"),
    *("json", "timing", "notifier", "telemetry", "audit", "fund", "yes", "editor", "browser"),
}
# How a line with a setting begins. Other lines are not read, because they may continue a secret.
_SETTING_LINES = {
    ".npmrc": re.compile(r"([^=;#]+)="),
    ".yarnrc": re.compile(r"(?:\"([^\"]+)\"|([^\s\"#]+))\s"),
    ".yarnrc.yml": re.compile(r"(?:\s*- )?([^:#]+):"),
}


def settings_key(context: sdk.BuildContext) -> dict[str, str]:
    """The settings that decide what is installed, as digests by name; empty without any."""
    found = {"settings in the environment": _digest_lines(sorted(_relevant_variables(context.platform.env)))}
    for binding, name, path in bound_settings(context):
        found[f"{name} of the binding {binding.type}"] = _digest_lines(list(relevant_lines(name, path)))
    return found


def _relevant_variables(env: Mapping[str, str]) -> Iterator[str]:
    for name, value in env.items():
        prefix = next((prefix for prefix in _PREFIXES if name.lower().startswith(prefix)), "")
        matters = name in _COMPILING or (prefix and _is_relevant(name[len(prefix) :]))
        if matters and not _SECRET.search(value):
            yield f"{name.lower() if prefix else name}={value.strip()}"


def relevant_lines(file: str, path: Path) -> Iterator[str]:
    """The lines of a settings file that decide what is installed."""
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        match = _SETTING_LINES[file].match(line)
        name = next((part for part in match.groups() if part), "") if match else ""
        if name.strip() and not _SECRET.search(line) and _is_relevant(name):
            yield line.rstrip()


def _is_relevant(name: str) -> bool:
    """Whether a setting decides what is installed; `enableMirror`, `enable-mirror`, `ENABLE_MIRROR` alike."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip()).lower())
    return bool(words) and not _SECRET.search(name) and not _IRRELEVANT_WORDS.intersection(words)


def _digest_lines(lines: list[str]) -> str:
    if not lines:
        return ""
    return digest("\n".join(lines).encode(errors="surrogateescape"))
