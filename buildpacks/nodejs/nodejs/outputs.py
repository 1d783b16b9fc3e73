"""Finds what a build made to start: a framework's server, or files for a web server.

Reads files. Called by `buildpack`: `refuse_unstartable` before anything is installed, so that the user does
not wait for a build that makes nothing to start, and `choose_start` after the build scripts. It decides if
the source names no start command, or one that only developers want.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, replace

from . import script, start
from .detection import LAUNCHPOINT
from .project import Project, read_json
from .start import START_SCRIPT, StartCommand

_OUTPUTS = ("dist", "build", "out")
_OUT_DIR = re.compile(r'^\s*"outDir"\s*:\s*"([^"]+)"', re.MULTILINE)
_PAGES = ("index.html", "200.html")


@dataclass(frozen=True, slots=True)
class Framework:
    """A framework, known by the dependency `package`.

    `server` are globs of files to run with node, and `static` of folders with pages. With `is_single`, one
    page answers for all paths.
    """

    name: str
    package: str
    static: tuple[str, ...] = ()
    server: tuple[str, ...] = ()
    is_single: bool = False


# The first one that the project depends on counts: frameworks that use Vite come before it.
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
# The program, and its package, that runs a framework's output in build/server.
_SERVERS_OF_FRAMEWORKS = {
    "@react-router/dev": ("react-router-serve", "@react-router/serve"),
    "@remix-run/dev": ("remix-serve", "@remix-run/serve"),
}
_SERVER_FILE = "build/server/index.js"
_NO_FRAMEWORK = Framework("the build", "", static=("dist", "build", "out", "_site", "public"))

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


def choose_start(
    context: sdk.BuildContext,
    project: Project,
    found: StartCommand | None,
    *,
    dev: bool,
    built: bool = True,
    required: bool = True,
) -> StartCommand | None:
    """Chooses the start command after the build: `found`, or the build's output instead.

    A development server is replaced, unless the user named it or the image is for development (`dev`). If
    build scripts ran (`built`), files are looked up again. Raises InputError if nothing can be started, also
    for files for a web server; returns None if no command is `required`.
    """
    if found and found.runner and not found.programs:
        is_there = start.file_resolves(project, found.file, found.runner)
        if found.chosen:
            if not is_there:
                raise InputError(f"{LAUNCHPOINT} names a file that is not there: {found.file}")
            return found
        if is_there:
            return (
                _prefer_compiled(project, start.find_start(project, {}, generated=False) or found)
                if built
                else found
            )
        found = None
    is_exported = found and found.last[:2] == ("next", "start") and _is_exported(project)
    if found and not is_exported and (found.chosen or dev or not is_development(found)):
        refuse_missing(project, found)
        return found
    try:
        return _find_output(context, project, found)
    except InputError as error:
        if required:
            raise
        context.log.warning(f"the image has no process web: {error.what}")
        return None


def _prefer_compiled(project: Project, found: StartCommand) -> StartCommand:
    """`found`, or the JavaScript that the build made of its TypeScript, beside it or in a folder."""
    if found.runner != "node" or not found.file.endswith(start.TYPESCRIPT):
        return found
    stem = found.file.rpartition(".")[0]
    for folder in ("", *_output_folders(project)):
        for name in dict.fromkeys((stem, stem.removeprefix("src/"))):
            for made in (f"{name}{after}" for after in (".js", ".mjs", ".cjs")):
                path = f"{folder}/{made}" if folder else made
                if (project.directory / path).is_file():
                    return StartCommand(("node", path), f"the build made {path} of {found.file}")
    return found


def _output_folders(project: Project) -> tuple[str, ...]:
    """The folders where compilers put JavaScript: the one in tsconfig.json, and the usual ones."""
    config = project.directory / "tsconfig.json"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    named = [folder.removeprefix("./").rstrip("/") for folder in _OUT_DIR.findall(text)]
    own = [folder for folder in named if folder and folder[0] not in "./$"]
    return tuple(dict.fromkeys((*own, *_OUTPUTS)))


def refuse_missing(project: Project, found: StartCommand) -> None:
    """Raises InputError for `node <file>` or `bun <file>` without that file, and for a program of the
    application (`./start.sh`) that is missing or not executable.
    """
    _refuse_program(project, found)
    file = found.file
    if not file or file.startswith("/") or not found.programs:
        return
    if not (project.directory / file).is_dir() and not start.file_resolves(project, file, found.runner):
        raise InputError(
            f"the start command runs {file}, which is not there after the build",
            why=f"{found.source}: {' '.join(found.command)}",
            fix="have a build script make it, or name another file",
        )


def _refuse_program(project: Project, found: StartCommand) -> None:
    name = found.command[0]
    # Programs of modules are elsewhere until the image starts.
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


def _find_output(
    context: sdk.BuildContext, project: Project, before: StartCommand | None
) -> StartCommand | None:
    framework = find_framework(project)
    for pattern in framework.server:
        for path in sorted(project.directory.glob(pattern)):
            if framework.package == "@sveltejs/kit" and not (path.parent / "handler.js").is_file():
                continue
            file = path.relative_to(project.directory).as_posix()
            return _replace_start(
                context, before, StartCommand(("node", file), f"{framework.name} made {file}")
            )
    is_next = framework.package == "next" and (project.directory / ".next/BUILD_ID").is_file()
    if is_next and not _is_exported(project):
        return _replace_start(
            context, before, StartCommand(("next", "start"), "Next.js made .next", programs=("next",))
        )
    if framework.package in _SERVERS_OF_FRAMEWORKS and (project.directory / _SERVER_FILE).is_file():
        program, package = _SERVERS_OF_FRAMEWORKS[framework.package]
        if package in project.dependency_names(("dependencies",)):
            made = StartCommand(
                (program, _SERVER_FILE), f"{framework.name} made {_SERVER_FILE}", programs=(program,)
            )
            return _replace_start(context, before, made)
        raise InputError(
            f"{framework.name} made {_SERVER_FILE}, and nothing runs it",
            why="package.json has no start script for production",
            fix=f'npm install {package}, and in package.json "scripts": '
            f'{{"start": "{program} {_SERVER_FILE}"}}',
        )
    folder = _find_pages(project, framework)
    if folder:
        raise static_site_error(framework, folder, before, made="made")
    if before is None:
        later = start.find_start(project, {}, generated=False)
        assert later is not None  # since it is required
        if start.file_resolves(project, later.file, later.runner):
            return _prefer_compiled(project, later)
        raise start.no_start_error(project)
    raise InputError(
        f"the start script runs a development server: {' '.join(before.command)}",
        why="the build made nothing that this buildpack could start in its place",
        fix=f"write a start script for production, or name the script to start in {START_SCRIPT}",
    )


def _replace_start(
    context: sdk.BuildContext, before: StartCommand | None, made: StartCommand
) -> StartCommand:
    if before is not None:
        context.log.warning(
            f"the start script runs a development server ({' '.join(before.command)}); the result of "
            f"the build starts instead; {START_SCRIPT}=start keeps the start script"
        )
        return replace(made, env=before.env)
    return made


def is_main_missing(project: Project, found: StartCommand) -> bool:
    """Whether `main` of package.json names a file beside it that is missing, like its TypeScript source."""
    name = found.file
    if found.programs or found.chosen or not name or "/" in name.removeprefix("./"):
        return False
    stem = name.removesuffix(".js")
    sources = [project.directory / f"{stem}{ending}" for ending in start.TYPESCRIPT]
    is_there = start.file_resolves(project, name, found.runner)
    return not is_there and not any(path.is_file() for path in sources)


def depends_on_build(project: Project, found: StartCommand | None, *, dev: bool) -> bool:
    """Whether the start depends on the build's output: no command, `next start`, `node build`."""
    if found is None or found.last[:2] == ("next", "start") or is_main_missing(project, found):
        return True
    outputs = [pattern for framework in FRAMEWORKS for pattern in framework.server]
    is_output = any(PurePosixPath(found.file or ".").match(folder) for folder in (*outputs, "build"))
    return not found.chosen and ((not dev and is_development(found)) or is_output)


def is_development(found: StartCommand) -> bool:
    """Whether the command runs a development server."""
    words = tuple(word for word in found.last[:2] if not word.startswith("-"))
    return words in _DEVELOPMENT or words[:1] == ("parcel",)


def find_framework(project: Project) -> Framework:
    """The framework that builds the application, or one without a package."""
    names = set(project.dependency_names(("dependencies", "devDependencies")))
    return next((framework for framework in FRAMEWORKS if framework.package in names), _NO_FRAMEWORK)


def _is_exported(project: Project) -> bool:
    """Whether next.config has `output: "export"`, with which Next.js makes no server."""
    path = project.directory / ".next/required-server-files.json"
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        # A build that only exports may not write the record.
        return (project.directory / "out/index.html").is_file()
    config = said.get("config") if isinstance(said, Mapping) else None
    return isinstance(config, Mapping) and config.get("output") == "export"


def _find_pages(project: Project, framework: Framework) -> str:
    """The folder with pages: the framework's usual one, or another one."""
    for pattern in (*framework.static, *_NO_FRAMEWORK.static):
        for folder in sorted(project.directory.glob(pattern)):
            if any((folder / page).is_file() for page in _PAGES):
                return folder.relative_to(project.directory).as_posix()
    return ""


def static_site_error(
    framework: Framework, folder: str, before: StartCommand | None, *, made: str
) -> InputError:
    """The error for pages that nothing serves; `made` is the verb, `made` or `makes`."""
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


# Tools that only make files from sources: a build with only these makes no server.
_BUILDERS = {
    *("astro", "craco", "docusaurus", "eleventy", "gatsby", "next", "ng", "nuxi", "nuxt", "parcel"),
    *("react-router", "react-scripts", "svelte-check", "svelte-kit", "vite", "vitepress", "vue-cli-service"),
    *("eslint", "prettier", "rimraf", "sass", "tailwindcss", "tsc", "vue-tsc", "cp", "echo", "mkdir", "rm"),
}
# Packages that are a server, or make one from a Vite project.
_SERVERS = {
    *("express", "fastify", "h3", "hono", "koa", "nitro", "nitropack", "polka", "vike", "vinxi"),
    *("@analogjs/platform", "@builder.io/qwik-city", "@hapi/hapi", "@nestjs/core", "@qwik.dev/router"),
    *("@angular/ssr", "@nguniversal/express-engine", "@solidjs/start", "@sveltejs/kit"),
    *("@tanstack/react-start", "@tanstack/solid-start", "@hono/vite-build", "vite-plugin-ssr"),
}
_ENDINGS = (".js", ".mjs", ".cjs", ".ts", ".mts")
_PRESET = re.compile(r"\bpreset\s*:\s*[\"']([\w-]+)[\"']")
_NODE_PRESETS = ("node-server", "node", "node-cluster", "node-middleware", "node-listener", "bun")
_EXPORT = re.compile(r"(?:^|[{,])\s*output\s*:\s*[\"']export[\"']", re.MULTILINE)
_NO_SERVER = re.compile(r"(?:^|[{,])\s*ssr\s*:\s*false\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Adapters:
    """Packages that adapt a framework's output to a platform: `node` to Node.js, `static` to a web server.

    `settings` are the files, without endings, that import one; `use` shows how.
    """

    prefix: str
    settings: tuple[str, ...]
    node: str
    static: str
    others: tuple[str, ...]
    use: str


_ADAPTERS = {
    "@sveltejs/kit": Adapters(
        "@sveltejs/adapter-",
        ("svelte.config", "vite.config"),
        node="node",
        static="static",
        others=("auto", "cloudflare", "cloudflare-workers", "netlify", "vercel"),
        use="`import adapter from '@sveltejs/adapter-node'`",
    ),
    "astro": Adapters(
        "@astrojs/",
        ("astro.config",),
        node="node",
        static="",
        others=("cloudflare", "netlify", "vercel"),
        use="`import node from '@astrojs/node'` and `adapter: node({ mode: 'standalone' })`",
    ),
}


def refuse_unstartable(
    project: Project, found: StartCommand | None, scripts: Sequence[str], env: Mapping[str, str]
) -> None:
    """Raises InputError if the build `scripts` certainly make nothing that can be started.

    `found` is the start command before the build, `env` has the variables of the build.
    """
    if not scripts:
        return
    framework = find_framework(project)
    if framework.package in _ADAPTERS:
        _refuse_adapter(project, framework, found)
    if framework.package == "nuxt":
        _refuse_preset(project, framework, env.get("NITRO_PRESET", ""))
    if found and found.file and not is_main_missing(project, found):
        return
    folder = _static_folder(project, framework, scripts)
    if folder:
        raise static_site_error(framework, folder, found, made="makes")


def _refuse_adapter(project: Project, framework: Framework, found: StartCommand | None) -> None:
    """Raises InputError if the adapter is not for Node.js, or makes a static site."""
    adapters = _ADAPTERS[framework.package]
    text = _read_settings(project, *adapters.settings)
    names = "|".join((adapters.node, *filter(None, (adapters.static,)), *adapters.others))
    imported = set(re.findall(rf"[\"']{re.escape(adapters.prefix)}({names})(?:/[\w-]+)?[\"']", text))
    if len(imported) != 1 or imported == {adapters.node}:
        return
    (name,) = imported
    where = next(
        one for one in adapters.settings if f"{adapters.prefix}{name}" in _read_settings(project, one)
    )
    if name == adapters.static:
        raise static_site_error(framework, framework.static[0], found, made="makes")
    adapter = f"{adapters.prefix}{adapters.node}"
    why = f"{adapters.prefix}{name} makes files only for that platform"
    if name == "auto":
        why = "it chooses by variables of hosting platforms, and the build has none"
    raise InputError(
        f"{framework.name} makes no server for Node.js with {adapters.prefix}{name}",
        why=why,
        fix=f"`npm install --save-dev {adapter}`, and in {where} {adapters.use}; no start script is needed",
    )


def _refuse_preset(project: Project, framework: Framework, variable: str) -> None:
    """Raises InputError if Nuxt's preset is not for Node.js."""
    presets = [variable] if variable else _PRESET.findall(_read_settings(project, "nuxt.config"))
    if len(presets) != 1 or presets[0].replace("_", "-") in _NODE_PRESETS:
        return
    where = "NITRO_PRESET" if variable else "nuxt.config"
    raise InputError(
        f"{framework.name} makes no server for Node.js with the preset {presets[0]}",
        why=f"{where} names it",
        fix="set NITRO_PRESET=node-server for the build, or name that preset in nuxt.config; it is what Nuxt "
        "takes where none is named",
    )


def _static_folder(project: Project, framework: Framework, scripts: Sequence[str]) -> str:
    """The folder of a static site that `scripts` make; empty if they may make something else."""
    names = set(project.dependency_names(("dependencies", "devDependencies")))
    texts = [project.scripts.get(name, "") for name in scripts]
    if not framework.package or not texts or not _only_builds(project, scripts):
        return ""
    match framework.package:
        case "next":
            config = _read_settings(project, "next.config")
            is_static = _EXPORT.search(config) is not None and "process.env" not in config
        case "nuxt":
            is_static = any(re.search(r"\b(?:nuxt|nuxi) generate\b", text) for text in texts)
        case "astro":
            is_static = "adapter" not in _read_settings(project, "astro.config")
        case "@react-router/dev" | "@remix-run/dev":
            config = _read_settings(project, "react-router.config", "vite.config")
            is_static = _NO_SERVER.search(config) is not None and "process.env" not in config
        case _:
            may_be = not framework.server or framework.package == "@angular/core"
            is_static = may_be and names.isdisjoint(_SERVERS) and "--ssr" not in " ".join(texts)
    if not is_static:
        return ""
    return _angular_folder(project) if framework.package == "@angular/core" else framework.static[0]


def _only_builds(project: Project, scripts: Sequence[str]) -> bool:
    """Whether `scripts` run only tools that make files from sources."""
    try:
        programs = {name for each in scripts for name in script.read_script(project, each).programs}
    except (InputError, KeyError):
        return False
    return bool(programs) and programs <= _BUILDERS


def _read_settings(project: Project, *names: str) -> str:
    """The text of a tool's settings without comment lines; empty without such a file."""
    paths = [project.directory / f"{name}{ending}" for name in names for ending in _ENDINGS]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()]
    lines = "\n".join(texts).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("//", "*", "/*")))


def _angular_folder(project: Project) -> str:
    """Where Angular puts the pages of the first application that angular.json names."""
    try:
        said = read_json(project.directory / "angular.json", "angular.json")
    except InputError:
        return "dist"
    projects = said.get("projects") if isinstance(said, dict) else None
    name = next(iter(projects), "") if isinstance(projects, dict) else ""
    return f"dist/{name}/browser" if name else "dist"
