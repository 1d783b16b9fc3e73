"""Reads package.json, and looks which files lie beside it.

Reads only. Called by `workspace`, `versions` and others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, field

DEPENDENCIES = ("dependencies", "optionalDependencies", "peerDependencies")
"""The tables of a manifest with dependencies for launch."""

_DEPENDENCY_FIELDS = (
    *DEPENDENCIES,
    "devDependencies",
    "peerDependenciesMeta",
    "dependenciesMeta",
    "overrides",
    "resolutions",
    "installConfig",
    "workspaces",
    # Whose install scripts may run: npm's word, and Bun's.
    "allowScripts",
    "trustedDependencies",
)
INSTALL_SCRIPTS = (
    "preinstall",
    "install",
    "postinstall",
    "prepublish",
    "preprepare",
    "prepare",
    "postprepare",
)
_BUN_TYPES = ("@types/bun", "bun-types")
_LOCAL = ("file:", "link:", "portal:", "./", "../", "/", "~/")
_DEPTH = 100
# Package managers compile it, unless the application has a script for that.
_GYP_FILE = "binding.gyp"
_NEED_INSIDE = {
    "next": "its bundler takes no module from outside the project",
    "prisma": "it generates code into node_modules",
    "@prisma/client": "it generates code into node_modules",
}

_EXAMPLES = {
    "it": 'an object: {"name": "shop", "main": "server.js"}',
    "name": '"name": "shop"',
    "version": '"version": "1.0.0"',
    "main": '"main": "server.js"',
    "scripts": '"scripts": {"start": "node server.js"}',
    "engines": '"engines": {"node": "22"}',
    "devDependencies": '"devDependencies": {"typescript": "^5.9.0"}',
    "dependencies": '"dependencies": {"express": "^5.1.0"}',
    "optionalDependencies": '"optionalDependencies": {"fsevents": "^2.3.0"}',
    "peerDependencies": '"peerDependencies": {"react": "^19.0.0"}',
}


@dataclass(frozen=True, slots=True)
class Project:
    """A directory with its package.json; the manifest is empty without one.

    `vendored` says that node_modules came with the source. `bun_above` says where the root of the workspace
    asks for Bun, if Bun installs the workspace.
    """

    directory: Path
    manifest: Mapping[str, Any] = field(default_factory=dict)
    vendored: bool = False
    bun_above: str = ""

    @classmethod
    def read(cls, directory: Path, name: str = "package.json") -> Self:
        """Reads `directory`; raises InputError, with line and column, if package.json cannot be used.

        Errors use `name` for the file.
        """
        modules = directory / "node_modules"
        is_own = modules.is_dir() and not modules.is_symlink()
        return cls(
            directory,
            manifest=_read_manifest(directory / "package.json", name),
            vendored=is_own and any(entry.name[0] != "." for entry in modules.iterdir()),
        )

    @property
    def name(self) -> str:
        """The package's name, or an empty str."""
        return str(self.manifest.get("name", ""))

    @property
    def version(self) -> str:
        """The package's version, or an empty str."""
        return str(self.manifest.get("version", ""))

    @property
    def main(self) -> str:
        """The file that `main` names, for Bun also `module`; else empty."""
        module = self.manifest.get("module") if self.runner == "bun" else ""
        return str(self.manifest.get("main", "")) or (module if isinstance(module, str) else "")

    @property
    def runner(self) -> str:
        """The program that runs its files: `node`, or `bun` if it asks for Bun."""
        return "bun" if self.bun_reason else "node"

    @property
    def bun_reason(self) -> str:
        """Where it asks for Bun and not for Node.js; empty if it does not."""
        runtimes = self.runtimes
        if self.node_range or "node" in runtimes:
            return ""
        if self.engine("bun"):
            return f"package.json engines.bun: {self.engine('bun')}"
        if "bun" in runtimes:
            return f"package.json devEngines.runtime: bun {runtimes['bun']}".rstrip()
        names = set(self.dependency_names((*DEPENDENCIES, "devDependencies")))
        own = next((f"package.json has {name}" for name in _BUN_TYPES if name in names), "")
        return own or self.bun_above

    @property
    def runtimes(self) -> Mapping[str, str]:
        """The versions of `devEngines.runtime` by name; it is one table or several."""
        engines = self.manifest.get("devEngines")
        said = engines.get("runtime") if isinstance(engines, Mapping) else None
        found: dict[str, str] = {}
        for runtime in said if isinstance(said, list) else [said]:
            if isinstance(runtime, Mapping) and isinstance(runtime.get("name"), str):
                version = runtime.get("version")
                found.setdefault(runtime["name"], version.strip() if isinstance(version, str) else "")
        return found

    @property
    def scripts(self) -> Mapping[str, str]:
        """The scripts by name."""
        return self._table("scripts")

    @property
    def node_range(self) -> str:
        """`engines.node`, or an empty str."""
        return self.engine("node")

    def engine(self, name: str) -> str:
        """The version range in `engines` for a program, or an empty str."""
        return self._table("engines").get(name, "").strip()

    def dependency_names(self, parts: Iterable[str]) -> Iterator[str]:
        """The names in some tables of dependencies, such as `devDependencies`."""
        for part in parts:
            yield from self._table(part)

    def dependencies(self, parts: Iterable[str]) -> Iterator[tuple[str, str]]:
        """The names and ranges in some tables of dependencies."""
        for part in parts:
            yield from self._table(part).items()

    @property
    def has_dependencies(self) -> bool:
        """Whether there is a dependency for launch."""
        return any(self._table(name) for name in DEPENDENCIES)

    @property
    def has_dev_dependencies(self) -> bool:
        """Whether there are devDependencies."""
        return bool(self._table("devDependencies"))

    @property
    def inside_reason(self) -> str:
        """Why node_modules must be a directory in the application; empty if a link to a layer works."""
        specs = {
            name: spec
            for part in (*DEPENDENCIES, "devDependencies")
            for name, spec in self._table(part).items()
        }
        for name, spec in specs.items():
            if spec.startswith(_LOCAL):
                return f"{name} comes from the application's own files ({spec})"
        for name, reason in _NEED_INSIDE.items():
            if name in specs:
                return f"package.json has {name}: {reason}"
        for name in INSTALL_SCRIPTS:
            if name in self.scripts:
                return f"package.json has a script {name}, which may use any file of the application"
        if (self.directory / _GYP_FILE).is_file() and self.manifest.get("gypfile") is not False:
            return f"there is {_GYP_FILE}, which an installation compiles"
        return ""

    @property
    def dependencies_digest(self) -> str:
        """The SHA-256 of everything in package.json about dependencies, as `sha256:<hex>`."""
        said = {name: self.manifest[name] for name in _DEPENDENCY_FIELDS if name in self.manifest}
        return digest(json.dumps(said, sort_keys=True).encode())

    def digest(self, name: str) -> str:
        """The SHA-256 of a file of the project, as `sha256:<hex>`; empty without the file."""
        path = self.directory / name
        return digest(path.read_bytes()) if name and path.is_file() else ""

    def _table(self, name: str) -> Mapping[str, str]:
        table: Mapping[str, str] = self.manifest.get(name, {})
        return table


def read_json(path: Path, name: str) -> object:
    """Reads a JSON file; None without one. Raises InputError, which uses `name` for the file."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{name} is not a file", fix="put a file there, or nothing")
        text = path.read_text(encoding="utf-8-sig")
        read: object = json.loads(text)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise InputError(
                f"{name} is a link that leads nowhere: {path.readlink()}",
                fix="put the file itself there, or add the file to which it leads to the source",
            ) from error
        return None
    except OSError as error:
        raise InputError(f"{name} cannot be read", why=str(error)) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8", why=str(error), fix="save it as UTF-8") from error
    except json.JSONDecodeError as error:
        line = text.splitlines()[error.lineno - 1 : error.lineno]
        raise InputError(
            f"{name} is not valid JSON",
            why="\n".join((f"line {error.lineno}, column {error.colno}: {error.msg}", *line)),
            fix="correct it there",
        ) from error
    except ValueError as error:
        raise InputError(f"{name} has a number that is too long", why=str(error)) from error
    except RecursionError as error:
        raise _too_deep(name) from error
    level = [read]
    for _ in range(_DEPTH):
        tables = [
            value.values() if isinstance(value, dict) else value
            for value in level
            if isinstance(value, dict | list)
        ]
        level = [inner for table in tables for inner in table]
    if level:
        raise _too_deep(name)
    return read


def _too_deep(name: str) -> InputError:
    return InputError(f"{name} has tables within tables, more than {_DEPTH} deep")


def _read_manifest(path: Path, name: str) -> dict[str, Any]:
    """Reads package.json. Like npm, it ignores null, and `engines` that is not a table."""
    manifest = read_json(path, name)
    if manifest is None and not path.exists():
        return {}
    if isinstance(manifest, dict):
        manifest = {key: value for key, value in manifest.items() if value is not None}
        if not isinstance(manifest.get("engines"), dict):
            manifest.pop("engines", None)
    issues = _find_issues(manifest)
    if issues:
        raise InputError(f"{name} cannot be used", issues=issues, fix=_example(issues))
    assert isinstance(manifest, dict)
    return manifest


def _find_issues(manifest: object) -> list[str]:
    """Every value in package.json with another type than npm expects."""
    if not isinstance(manifest, dict):
        return ["it must be an object"]
    issues = [
        f"{name} must be text"
        for name in ("name", "version", "main")
        if not isinstance(manifest.get(name, ""), str)
    ]
    for name in ("scripts", "engines", "devDependencies", *DEPENDENCIES):
        table = manifest.get(name, {})
        if not isinstance(table, dict):
            issues.append(f"{name} must be an object")
        else:
            issues += [
                f"{name}.{key} must be text" for key, value in table.items() if not isinstance(value, str)
            ]
    return issues


def _example(issues: Iterable[str]) -> str:
    """Examples of the fields that the issues name."""
    fields = dict.fromkeys(issue.partition(" ")[0].partition(".")[0] for issue in issues)
    return f"write {', '.join(_EXAMPLES[field] for field in fields)}"


def digest(data: bytes) -> str:
    """The SHA-256 of `data`, as `sha256:<hex>`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
