"""What is known before anything is installed: that a build will make nothing that Node.js could start.

On the arrow source → plan; a reader. Called by `nodejs.buildpack`, so that the user does not wait for an
installation and a build first. It raises only where manifest and settings leave no doubt; everything else is
left to `nodejs.outputs`, which looks at what the build made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass

from . import outputs, script
from .outputs import Framework
from .project import Project, document
from .start import Start

# What only makes files of sources: a build that runs nothing else makes no server.
_BUILDERS = {
    *("astro", "craco", "docusaurus", "eleventy", "gatsby", "next", "ng", "nuxi", "nuxt", "parcel"),
    *("react-router", "react-scripts", "svelte-check", "svelte-kit", "vite", "vitepress", "vue-cli-service"),
    *("eslint", "prettier", "rimraf", "sass", "tailwindcss", "tsc", "vue-tsc", "cp", "echo", "mkdir", "rm"),
}
# What makes a server of a project for Vite, or is one.
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
    """The packages that make a framework's output for one place each: `node` for Node.js, `static` for none.

    `settings` are the names of the files, without their endings, in which one is imported; `use` says how.
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


def refuse(project: Project, found: Start | None, scripts: Sequence[str], env: Mapping[str, str]) -> None:
    """Raises InputError where the build `scripts` are certain to make nothing that could be started.

    `found` is the start command before the build, `env` has the variables of the build.
    """
    if not scripts:
        return
    framework = outputs.of_project(project)
    if framework.package in _ADAPTERS:
        _refuse_adapter(project, framework, found)
    if framework.package == "nuxt":
        _refuse_preset(project, framework, env.get("NITRO_PRESET", ""))
    if found and found.file and not outputs.is_gone(project, found):
        return
    folder = _static_folder(project, framework, scripts)
    if folder:
        raise outputs.static(framework, folder, found, made="makes")


def _refuse_adapter(project: Project, framework: Framework, found: Start | None) -> None:
    """Raises InputError where the output is for another place than Node.js, or is a static site."""
    adapters = _ADAPTERS[framework.package]
    text = _settings(project, *adapters.settings)
    names = "|".join((adapters.node, *filter(None, (adapters.static,)), *adapters.others))
    imported = set(re.findall(rf"[\"']{re.escape(adapters.prefix)}({names})(?:/[\w-]+)?[\"']", text))
    if len(imported) != 1 or imported == {adapters.node}:
        return
    (name,) = imported
    where = next(one for one in adapters.settings if f"{adapters.prefix}{name}" in _settings(project, one))
    if name == adapters.static:
        raise outputs.static(framework, framework.static[0], found, made="makes")
    adapter = f"{adapters.prefix}{adapters.node}"
    why = f"{adapters.prefix}{name} makes files for that platform alone"
    if name == "auto":
        why = "it chooses by variables of hosting platforms, and the build has none"
    raise InputError(
        f"{framework.name} makes no server for Node.js with {adapters.prefix}{name}",
        why=why,
        fix=f"`npm install --save-dev {adapter}`, and in {where} {adapters.use}; no start script is needed",
    )


def _refuse_preset(project: Project, framework: Framework, variable: str) -> None:
    """Raises InputError where Nuxt's output is for another place than Node.js."""
    presets = [variable] if variable else _PRESET.findall(_settings(project, "nuxt.config"))
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
    """The folder of a static site that `scripts` make; empty where they may make something else."""
    names = set(project.dependency_names(("dependencies", "devDependencies")))
    texts = [project.scripts.get(name, "") for name in scripts]
    if not framework.package or not texts or not _only_builds(project, scripts):
        return ""
    match framework.package:
        case "next":
            config = _settings(project, "next.config")
            is_static = _EXPORT.search(config) is not None and "process.env" not in config
        case "nuxt":
            is_static = any(re.search(r"\b(?:nuxt|nuxi) generate\b", text) for text in texts)
        case "astro":
            is_static = "adapter" not in _settings(project, "astro.config")
        case "@react-router/dev" | "@remix-run/dev":
            config = _settings(project, "react-router.config", "vite.config")
            is_static = _NO_SERVER.search(config) is not None and "process.env" not in config
        case _:
            may_be = not framework.server or framework.package == "@angular/core"
            is_static = may_be and names.isdisjoint(_SERVERS) and "--ssr" not in " ".join(texts)
    if not is_static:
        return ""
    return _angular_folder(project) if framework.package == "@angular/core" else framework.static[0]


def _only_builds(project: Project, scripts: Sequence[str]) -> bool:
    """Whether `scripts` run nothing but tools that make files of sources."""
    try:
        programs = {name for each in scripts for name in script.read(project, each).programs}
    except (InputError, KeyError):
        return False
    return bool(programs) and programs <= _BUILDERS


def _settings(project: Project, *names: str) -> str:
    """The text of a tool's settings without lines that are comments; empty where there is no such file."""
    paths = [project.directory / f"{name}{ending}" for name in names for ending in _ENDINGS]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()]
    lines = "\n".join(texts).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("//", "*", "/*")))


def _angular_folder(project: Project) -> str:
    """Where Angular puts the pages of the first application that angular.json names."""
    try:
        said = document(project.directory / "angular.json", "angular.json")
    except InputError:
        return "dist"
    projects = said.get("projects") if isinstance(said, dict) else None
    name = next(iter(projects), "") if isinstance(projects, dict) else ""
    return f"dist/{name}/browser" if name else "dist"
