"""What a build leaves to be started: a framework's server, or files for a web server.

On the arrow plan → layers; looks which files there are. Called by `nodejs.buildpack` after the build scripts.
It decides where the sources name no start of their own, or one that only developers want.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, replace

from . import start
from .detection import LAUNCHPOINT
from .project import Project
from .start import START_SCRIPT, Start

_OUTPUTS = ("dist", "build", "out")
_OUT_DIR = re.compile(r'^\s*"outDir"\s*:\s*"([^"]+)"', re.MULTILINE)
_PAGES = ("index.html", "200.html")


@dataclass(frozen=True, slots=True)
class Framework:
    """`package` is what a project that uses it depends on; `server` are globs of files to run with node, and
    `static` of folders with pages. `is_single` says that one page answers for all paths."""

    name: str
    package: str
    static: tuple[str, ...] = ()
    server: tuple[str, ...] = ()
    is_single: bool = False


# The first whose package there is: those built upon Vite come before it.
FRAMEWORKS = (
    Framework("Next.js", "next", static=("out",)),
    Framework("Nuxt", "nuxt", static=(".output/public", "dist"), server=(".output/server/index.mjs",)),
    Framework("SvelteKit", "@sveltejs/kit", static=("build",), server=("build/index.js",)),
    Framework("Astro", "astro", static=("dist",), server=("dist/server/entry.mjs",)),
    Framework(
        "Angular",
        "@angular/core",
        static=("dist/*/browser", "dist/*", "dist"),
        server=("dist/*/server/server.mjs",),
        is_single=True,
    ),
    Framework("Gatsby", "gatsby", static=("public",)),
    Framework("Docusaurus", "@docusaurus/core", static=("build",)),
    Framework("Create React App", "react-scripts", static=("build",), is_single=True),
    Framework("Vue CLI", "@vue/cli-service", static=("dist",), is_single=True),
    Framework("VitePress", "vitepress", static=(".vitepress/dist", "docs/.vitepress/dist")),
    Framework("Eleventy", "@11ty/eleventy", static=("_site",)),
    Framework("React Router", "@react-router/dev", static=("build/client",), is_single=True),
    Framework("Remix", "@remix-run/dev", static=("build/client",), is_single=True),
    Framework("Vite", "vite", static=("dist",), is_single=True),
    Framework("Parcel", "parcel", static=("dist",), is_single=True),
)
# The program, and its package, that runs what a framework's build has put into build/server.
_RUNS = {
    "@react-router/dev": ("react-router-serve", "@react-router/serve"),
    "@remix-run/dev": ("remix-serve", "@remix-run/serve"),
}
_SERVED = "build/server/index.js"
_ANY = Framework("the build", "", static=("dist", "build", "out", "_site", "public"))

_DEVELOPMENT = {
    ("astro",),
    ("astro", "dev"),
    ("craco", "start"),
    ("docusaurus", "start"),
    ("ember", "serve"),
    ("gatsby", "develop"),
    ("next",),
    ("next", "dev"),
    ("ng", "serve"),
    ("nuxi", "dev"),
    ("nuxt",),
    ("nuxt", "dev"),
    ("parcel",),
    ("react-router", "dev"),
    ("react-scripts", "start"),
    ("rsbuild", "dev"),
    ("vite",),
    ("vite", "dev"),
    ("vite", "serve"),
    ("vitepress", "dev"),
    ("vue-cli-service", "serve"),
    ("webpack", "serve"),
    ("webpack-dev-server",),
}


def settle(
    context: sdk.BuildContext,
    project: Project,
    found: Start | None,
    *,
    dev: bool,
    built: bool = True,
    required: bool = True,
) -> Start | None:
    """The start command after the build: `found`, or what the build made in its place.

    A development server gives way, unless the user named it or the image is for development (`dev`). Files
    are looked for again where build scripts ran (`built`). Where nothing starts it raises InputError, also
    for files for a web server; None if none is `required`.
    """
    if found and found.runner and not found.programs:
        is_there = start.resolves(project, found.file, found.runner)
        if found.chosen:
            if not is_there:
                raise InputError(f"{LAUNCHPOINT} names a file that is not there: {found.file}")
            return found
        if is_there:
            return _compiled(project, start.find(project, {}, generated=False) or found) if built else found
        found = None
    is_exported = found and found.last[:2] == ("next", "start") and _is_exported(project)
    if found and not is_exported and (found.chosen or dev or not is_development(found)):
        refuse_missing(project, found)
        return found
    try:
        return _made(context, project, found)
    except InputError as error:
        if required:
            raise
        context.log.warning(f"the image has no process web: {error.what}")
        return None


def _compiled(project: Project, found: Start) -> Start:
    """`found`, or the JavaScript that the build has made of its TypeScript, beside it or in a folder."""
    if found.runner != "node" or not found.file.endswith(start.TYPESCRIPT):
        return found
    stem = found.file.rpartition(".")[0]
    for folder in ("", *_output_folders(project)):
        for name in dict.fromkeys((stem, stem.removeprefix("src/"))):
            for made in (f"{name}{after}" for after in (".js", ".mjs", ".cjs")):
                path = f"{folder}/{made}" if folder else made
                if (project.directory / path).is_file():
                    return Start(("node", path), f"the build made {path} of {found.file}")
    return found


def _output_folders(project: Project) -> tuple[str, ...]:
    """The folders where compilers put JavaScript: the one that tsconfig.json names, and the usual ones."""
    config = project.directory / "tsconfig.json"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    named = [folder.removeprefix("./").rstrip("/") for folder in _OUT_DIR.findall(text)]
    own = [folder for folder in named if folder and folder[0] not in "./$"]
    return tuple(dict.fromkeys((*own, *_OUTPUTS)))


def refuse_missing(project: Project, found: Start) -> None:
    """Raises InputError for a plain `node <file>` or `bun <file>` of a file that the application lacks, and
    for a program of the application's own (`./start.sh`) that it lacks or that may not be executed.
    """
    _refuse_program(project, found)
    file = found.file
    if not file or file.startswith("/") or not found.programs:
        return
    if not (project.directory / file).is_dir() and not start.resolves(project, file, found.runner):
        raise InputError(
            f"the start command runs {file}, which is not there after the build",
            why=f"{found.source}: {' '.join(found.command)}",
            fix="have a build script make it, or name another file",
        )


def _refuse_program(project: Project, found: Start) -> None:
    name = found.command[0]
    # What modules have is elsewhere until the image is started.
    if "/" not in name or name.startswith("/") or "node_modules" in name:
        return
    path = project.directory / name
    if not path.is_file():
        raise InputError(
            f"the start command runs {name}, which is not there after the build",
            why=f"{found.source}: {' '.join(found.command)}",
            fix="have a build script make it, or name another file",
        )
    if not path.stat().st_mode & 0o111:
        raise InputError(
            f"the start command runs {name}, which is not executable",
            why=f"{found.source}: {' '.join(found.command)}",
            fix=f"`chmod +x {name}` and commit it (`git add --chmod=+x {name}`), or name what runs it",
        )


def _made(context: sdk.BuildContext, project: Project, before: Start | None) -> Start | None:
    framework = of_project(project)
    for pattern in framework.server:
        for path in sorted(project.directory.glob(pattern)):
            if framework.package == "@sveltejs/kit" and not (path.parent / "handler.js").is_file():
                continue
            file = path.relative_to(project.directory).as_posix()
            return _instead(context, before, Start(("node", file), f"{framework.name} made {file}"))
    is_next = framework.package == "next" and (project.directory / ".next/BUILD_ID").is_file()
    if is_next and not _is_exported(project):
        return _instead(context, before, Start(("next", "start"), "Next.js made .next", programs=("next",)))
    if framework.package in _RUNS and (project.directory / _SERVED).is_file():
        program, package = _RUNS[framework.package]
        if package in project.dependency_names(("dependencies",)):
            made = Start((program, _SERVED), f"{framework.name} made {_SERVED}", programs=(program,))
            return _instead(context, before, made)
        raise InputError(
            f"{framework.name} made {_SERVED}, and nothing runs it",
            why="package.json has no start script for production",
            fix=f'npm install {package}, and in package.json "scripts": {{"start": "{program} {_SERVED}"}}',
        )
    folder = _pages(project, framework)
    if folder:
        raise static(framework, folder, before, made="made")
    if before is None:
        later = start.find(project, {}, generated=False)
        assert later is not None  # since it is required
        if start.resolves(project, later.file, later.runner):
            return _compiled(project, later)
        raise start.nothing(project)
    raise InputError(
        f"the start script runs a development server: {' '.join(before.command)}",
        why="the build made nothing that this buildpack could start in its place",
        fix=f"write a start script for production, or name the script to start in {START_SCRIPT}",
    )


def _instead(context: sdk.BuildContext, before: Start | None, made: Start) -> Start:
    if before is not None:
        context.log.warning(
            f"the start script runs a development server ({' '.join(before.command)}); what the build made "
            f"is started instead; {START_SCRIPT}=start keeps it"
        )
        return replace(made, env=before.env)
    return made


def is_gone(project: Project, found: Start) -> bool:
    """Whether `main` of package.json names a file beside it that is not there, nor a source of it."""
    name = found.file
    if found.programs or found.chosen or not name or "/" in name.removeprefix("./"):
        return False
    stem = name.removesuffix(".js")
    sources = [project.directory / f"{stem}{ending}" for ending in start.TYPESCRIPT]
    is_there = start.resolves(project, name, found.runner)
    return not is_there and not any(path.is_file() for path in sources)


def may_give_way(project: Project, found: Start | None, *, dev: bool) -> bool:
    """Whether the start depends on what the build makes: no command, `next start`, `node build`."""
    if found is None or found.last[:2] == ("next", "start") or is_gone(project, found):
        return True
    outputs = [pattern for framework in FRAMEWORKS for pattern in framework.server]
    is_output = any(PurePosixPath(found.file or ".").match(folder) for folder in (*outputs, "build"))
    return not found.chosen and ((not dev and is_development(found)) or is_output)


def is_development(found: Start) -> bool:
    """Whether the command runs a development server."""
    words = tuple(word for word in found.last[:2] if not word.startswith("-"))
    return words in _DEVELOPMENT or words[:1] == ("parcel",)


def of_project(project: Project) -> Framework:
    """The framework that builds the application; one without a package where none is known."""
    names = set(project.dependency_names(("dependencies", "devDependencies")))
    return next((framework for framework in FRAMEWORKS if framework.package in names), _ANY)


def _is_exported(project: Project) -> bool:
    """Whether next.config has `output: "export"`, of which Next.js makes no server."""
    path = project.directory / ".next/required-server-files.json"
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        # A build that only exports need not leave the record.
        return (project.directory / "out/index.html").is_file()
    config = said.get("config") if isinstance(said, Mapping) else None
    return isinstance(config, Mapping) and config.get("output") == "export"


def _pages(project: Project, framework: Framework) -> str:
    """The folder with the pages, which are where the framework puts them, or elsewhere by its settings."""
    for pattern in (*framework.static, *_ANY.static):
        for folder in sorted(project.directory.glob(pattern)):
            if any((folder / page).is_file() for page in _PAGES):
                return folder.relative_to(project.directory).as_posix()
    return ""


def static(framework: Framework, folder: str, before: Start | None, *, made: str) -> InputError:
    """The error for files that nothing serves; `made` is the verb for what the framework does with them."""
    single = "-s " if framework.is_single else ""
    started = " ".join(before.command) if before else ""
    reason = (
        f"the start script ({started}) does not serve them" if started else "nothing starts a server for them"
    )
    return InputError(
        f"this is a static site: {framework.name} {made} files for a web server, in {folder}",
        why=reason,
        fix="add a server to the dependencies and start it: `npm install serve`, and in package.json "
        f'"scripts": {{"start": "serve {single}{folder}"}}; or name a file to run in {LAUNCHPOINT}, a script '
        f"in {START_SCRIPT}, or the process `web` in a Procfile",
    )
