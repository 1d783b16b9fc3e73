"""Where an application says which Node.js it wants: settings and files, read as their own tools read them.

On the arrow source → plan; a reader without side effects. Called by `nodejs.buildpack`; ranges of what is
said here `nodejs.request` makes.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass

from .project import Project

SETTING = "BP_NODE_VERSION"
_FILES = (".nvmrc", ".node-version")
_TOOLS = ".tool-versions"
_BUN_FILE = ".bun-version"
# What asdf takes from elsewhere than a release: the next version of the line serves instead.
_NO_RELEASE = ("system", "ref:", "path:")
_DEPTH = 10


@dataclass(frozen=True, slots=True)
class Said:
    """What one source says, unread: `text` of `source`, as in `22` of `.nvmrc`."""

    source: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


def read(project: Project, env: Mapping[str, str], above: Project | None = None) -> tuple[Said, ...]:
    """All that is said of Node.js, what counts most first: the project's before that of the one `above` it.

    Raises InputError for a volta.extends that leads nowhere.
    """
    setting = env.get(SETTING, "").strip()
    said = [Said(SETTING, setting)] if setting else []
    said += _of(project)
    if above is not None and above.directory != project.directory:
        said += [Said(f"the workspace's {one.source}", one.text) for one in _of(above)]
    return tuple(said)


def read_bun(project: Project) -> Said | None:
    """What the files beside package.json say of Bun's version; None where they say nothing."""
    text = next(_lines(project.directory / _BUN_FILE), "")
    tool = "" if text else _tool(project.directory / _TOOLS, ("bun",))
    if not text and not tool:
        return None
    return Said(_BUN_FILE, text.removeprefix("bun-")) if text else Said(_TOOLS, tool)


def _of(project: Project) -> Iterator[Said]:
    if project.node_range:
        yield Said("package.json engines.node", project.node_range)
    for name in _FILES:
        text = next(_lines(project.directory / name), "")
        if text:
            yield Said(name, text)
    tool = _tool(project.directory / _TOOLS, ("nodejs", "node"))
    if tool:
        yield Said(_TOOLS, tool)
    volta = _volta(project)
    if volta:
        yield Said("package.json volta.node", volta)
    runtime = project.runtimes.get("node")
    if runtime:
        yield Said("package.json devEngines.runtime", runtime)


def _lines(path: Path) -> Iterator[str]:
    """The lines of `path` that say something, without their comments; none when there is no such file."""
    if not path.is_file():
        return
    data = path.read_bytes()
    # PowerShell's `>` writes UTF-16.
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")
    for line in text.splitlines():
        said = line.partition("#")[0].strip()
        if said:
            yield said


def _tool(path: Path, names: tuple[str, ...]) -> str:
    """The first release that a line of .tool-versions has for a tool of these names: the most preferred."""
    for line in _lines(path):
        name, *versions = line.split()
        if name in names:
            releases = (version for version in versions if not version.startswith(_NO_RELEASE))
            return next(releases, "").removeprefix("latest:").removeprefix("prefix:")
    return ""


def _volta(project: Project) -> str:
    """`volta.node`, or that of the manifest that `volta.extends` names."""
    manifest: object = project.manifest
    path = project.directory / "package.json"
    for _ in range(_DEPTH):
        volta = manifest.get("volta") if isinstance(manifest, Mapping) else None
        if not isinstance(volta, Mapping):
            return ""
        version, extends = volta.get("node"), volta.get("extends")
        if isinstance(version, str) and version.strip():
            return version.strip()
        if not isinstance(extends, str):
            return ""
        path = path.parent / extends
        try:
            manifest = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"package.json volta.extends names no manifest: {extends}",
                why=str(error),
                fix="name the package.json that has volta.node, or say the version in engines.node",
            ) from error
    raise InputError("package.json volta.extends goes round in a circle", fix="say volta.node in one of them")
