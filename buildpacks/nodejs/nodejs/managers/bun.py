"""Runs Bun: an adapter of `port.Manager`. Also provides the layer `bun`, for launch too.

It installs copies. With a `focus` it installs for the named members and for the root. Of bun.lock only the
paths of the projects are read. The binary lockfile (bun.lockb) is not read.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from packhorse import sdk
from packhorse.errors import BuildpackFailed, InputError, NetworkError, PackhorseError
from packhorse.sdk.dataclass import dataclass

from .. import credentials
from ..failures import FailedScript, error_for_code, git_error
from ..node_modules import delete
from ..workspace import Workspace
from . import npm, port, tool
from .choice import Choice
from .port import Order
from .tool import DownloadedManager, Package, Tool

NAME = "bun.lock"
_TABLE = re.compile(r'  "(\w+)": \{')
_PROJECT = re.compile(r'    "((?:[^"\\]|\\.)*)": \{.*')


def check_lock(text: str) -> None:
    """Raises InputError for a lockfile with merge conflicts, which Bun ignores."""
    port.refuse_merge_conflicts(text, name=NAME, fix=f"resolve them, run `bun install`, and commit {NAME}")


def lock_projects(text: str) -> Iterator[str]:
    """The paths of all projects of the workspace; that of the root is empty."""
    table = ""
    for line in text.splitlines():
        if match := _TABLE.match(line):
            table = match[1]
        elif table == "workspaces" and (match := _PROJECT.fullmatch(line)):
            yield match[1]


_STORE = ".bun"
_SETTINGS = "bunfig.toml"
_NEWEST = "1"
_ARCHITECTURES = {"amd64": "x64", "arm64": "aarch64"}
_PATCH = re.compile(r'"([^"]+\.(?:patch|diff))"')
_STATUS = re.compile(r"^error: GET .* - (\d{3})$", re.MULTILINE)
_BLOCKED = re.compile(r"^Blocked \d+ \w+", re.MULTILINE)
_UNTRUSTED = re.compile(r"^\./node_modules/(\S+) @(\S+)", re.MULTILINE)
_SCRIPT = re.compile(r'^error: (?:\w+ script from "([^"\n]+)"|script "\w+") exited with', re.MULTILINE)
_GIT = re.compile(r"^error: .*cloning repository for (\S+)$", re.MULTILINE)
_SHOWN = 6
# What Bun says for what npm and Node.js have codes for.
_WORDS = {
    "ConnectionRefused": "ECONNREFUSED",
    "ConnectionClosed": "ECONNRESET",
    "FailedToOpenSocket": "ENOTFOUND",
    "DNSResolutionFailed": "ENOTFOUND",
    "Timeout": "ETIMEDOUT",
    "Integrity check failed": "EINTEGRITY",
    "No version matching": "ETARGET",
    "UNABLE_TO_GET_ISSUER_CERT_LOCALLY": "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
    "UNABLE_TO_VERIFY_LEAF_SIGNATURE": "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
    "SELF_SIGNED_CERT_IN_CHAIN": "SELF_SIGNED_CERT_IN_CHAIN",
    "DEPTH_ZERO_SELF_SIGNED_CERT": "DEPTH_ZERO_SELF_SIGNED_CERT",
}


def provide_bun(context: sdk.BuildContext, choice: Choice, *, launch: bool) -> Tool:
    """Makes or keeps the layer `bun`: the version in package.json, else the newest, which reads all
    lockfiles.

    With `launch`, it is in the image, and Bun runs the application.
    """
    arch = _ARCHITECTURES.get(context.target.arch, context.target.arch)
    commands = {"bun": "bin/bun", "bunx": "bin/bun"}
    package = Package("bun", commands, parts=(f"@oven/bun-linux-{arch}",))
    return tool.provide_tool(context, package, choice, range=choice.range or _NEWEST, launch=launch)


@dataclass(frozen=True, slots=True)
class Bun(DownloadedManager):
    """The Bun of `tool` for `project`, the root of a workspace if there is one."""

    name = "Bun"
    command = "bun"
    install_command = "bun install"
    linker = "node-modules"
    incremental = None
    inside_reason = ""

    @property
    def env(self) -> Mapping[str, str]:
        """Bun and Node.js on PATH."""
        return {**self.tool.env(self.runtime), "DO_NOT_TRACK": "1"}

    @property
    def key(self) -> Mapping[str, str]:
        """The lock, the settings and patches."""
        names = (self.lock, _SETTINGS, *self._patches)
        return {
            **{name: self.project.digest(name) for name in names if name},
            ".npmrc": credentials.settings_digest(self.project.directory / ".npmrc"),
        }

    @property
    def files(self) -> tuple[str, ...]:
        """The lock, the settings and patches."""
        return tuple(name for name in (self.lock, _SETTINGS, ".npmrc", *self._patches) if name)

    @property
    def slice(self) -> tuple[str, ...]:
        """node_modules of each project in bun.lock; without one, of the first levels of folders."""
        found = tuple(lock_projects(self._text))
        if not found:
            return port.MODULES_GLOBS
        return tuple(str(PurePosixPath(path, "node_modules")) for path in found)

    def install(self, order: Order) -> None:
        """Runs `bun install --frozen-lockfile`; see `port.Manager`. Lists the install scripts that did not
        run.
        """
        check_lock(self._text)
        if not self.lock:
            port.warn_of_missing_lock(self.context.log, NAME, self.command)
        output = self._install(order)
        if _BLOCKED.search(output):
            self._warn_of_blocked(order.directory)

    def prune(self, order: Order) -> None:
        """Removes the packages that an installation for production, made beside it from the cache, does not
        have.
        """
        with tempfile.TemporaryDirectory() as folder:
            beside = Path(folder)
            members = tuple(Workspace.read(order.directory, "").members)
            for file in (*self.files, "package.json", *(f"{path}/package.json" for path in members)):
                if (order.directory / file).is_file():
                    (beside / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(order.directory / file, beside / file)
            there = Order(beside, dev=False, cache=order.cache, focus=order.focus)
            self._install(there, "--ignore-scripts", "--prefer-offline")
            for path in ("", *members):
                _keep_common(order.directory / path / "node_modules", beside / path / "node_modules")

    @property
    def _text(self) -> str:
        path = self.project.directory / NAME
        return path.read_text(errors="replace") if self.lock == NAME and path.is_file() else ""

    @property
    def _patches(self) -> tuple[str, ...]:
        """The patches that package.json names, as in the lockfile, by their paths."""
        return tuple(sorted(path for path in set(_PATCH.findall(self._text)) if self.project.digest(path)))

    def _install(self, order: Order, *options: str) -> str:
        home = order.cache or Path(self.context.env.get("HOME") or "/tmp", ".cache/packhorse-bun")
        lock = "--frozen-lockfile" if self.lock else "--no-save"
        kind = () if order.dev else ("--production",)
        chosen = (f"--filter={name}" for name in (("./", *order.focus) if order.focus else ()))
        argv = ["bun", "install", lock, *kind, *chosen, *options]
        argv += ["--backend=copyfile", f"--cache-dir={home}"]
        with npm.merge_npmrcs(self.context, self.project) as access:
            try:
                return self.context.run(argv, cwd=order.directory, env={**self.env, **access})
            except sdk.CommandFailed as failure:
                raise bun_error(failure, self.project.directory) from failure

    def _warn_of_blocked(self, directory: Path) -> None:
        said = self.context.capture(["bun", "pm", "untrusted"], cwd=directory, env=self.env)
        names = ", ".join(f"{name}@{version}" for name, version in _UNTRUSTED.findall(said))
        self.context.log.warning(
            f"Bun did not run the install scripts of {names or 'some packages'}, as package.json does not "
            "allow it; run `bun pm trust <package>` and commit what it changes"
        )


def bun_error(failure: sdk.CommandFailed, root: Path | None = None) -> PackhorseError:
    """The error that a failed Bun command means."""
    text = failure.output
    lines = [line for line in text.splitlines() if line.startswith(("error: ", "note: "))]
    why = "\n".join(line.partition(": ")[2] for line in lines[:_SHOWN])
    if script := _SCRIPT.search(text):
        printed = text[: script.start()].splitlines()[_before_scripts(text) :]
        return FailedScript(script[1] or "", "", printed).error()
    if git := _GIT.search(text):
        return git_error(_address(text, git[1]), why.splitlines())
    if "lockfile is frozen" in text:
        return InputError(
            "bun.lock does not match package.json", why=why, fix="run `bun install` and commit bun.lock"
        )
    if known := error_for_code(_npm_code(text), why, client="Bun", lock=NAME, root=root):
        return known
    if status := _STATUS.search(text):
        return NetworkError(f"the package registry answered with an error ({status[1]})", why=why)
    return BuildpackFailed(failure.what, why=why or "its output is above")


def _before_scripts(text: str) -> int:
    """The number of lines that Bun prints before the first script runs."""
    own = ("bun install v", "Resolv", "Saved lockfile", "$ ")
    lines = text.splitlines()
    return next((at for at, line in enumerate(lines) if not line.startswith(own)), len(lines))


def _address(text: str, name: str) -> str:
    """The address of the dependency that Bun could not clone, else its name."""
    found = re.search(rf"{re.escape(name)}@(\S+) failed to resolve", text)
    return found[1] if found else name


def _npm_code(text: str) -> str:
    """The code of npm or Node.js with the same meaning as Bun's message."""
    if status := _STATUS.search(text):
        return f"E{status[1]}"
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    return next((code for word, code in _WORDS.items() if any(word in line for line in errors)), "")


def _keep_common(modules: Path, wanted: Path) -> None:
    """Removes each package of `modules` that is not in `wanted`, in every layout of Bun.

    Files that build scripts made there (`.prisma`) stay.
    """
    for path in list(_packages(modules)):
        if not (wanted / path).exists() and not (wanted / path).is_symlink():
            delete(modules / path)
    for folder in [path for path in modules.glob("@*") if path.is_dir() and not any(path.iterdir())]:
        folder.rmdir()
    if modules.is_dir() and not any(modules.iterdir()):
        modules.rmdir()


def _packages(modules: Path) -> Iterator[Path]:
    """The packages of a node_modules directory and of those inside it, by their paths below `modules`."""
    for pattern in ("[!.@]*", "@*/*", f"{_STORE}/*"):
        for path in sorted(modules.glob(pattern)):
            if path.name == "node_modules":
                continue
            below = path.relative_to(modules)
            yield below
            if not path.is_symlink() and (path / "node_modules").is_dir():
                yield from (below / "node_modules" / inner for inner in _packages(path / "node_modules"))
