"""What is known before an installation: that a build makes nothing that Node.js could start."""

from pathlib import Path
from typing import Any

import pytest
from nodejs import build_scripts, outputs
from nodejs.project import Project
from nodejs.start import find_start
from nodejs.workspace import Workspace

from packhorse.errors import InputError


def foreseen(
    app: Path,
    package: str,
    build: str,
    start: str = "",
    *,
    settings: dict[str, str] | None = None,
    others: tuple[str, ...] = (),
    main: str = "",
    **env: str,
) -> InputError | None:
    """The error before a build of an application with `package`; None where the build goes on."""
    for name, text in (settings or {}).items():
        (app / name).write_text(text)
    scripts = {**({"build": build} if build else {}), **({"start": start} if start else {})}
    manifest: dict[str, Any] = {"scripts": scripts, "devDependencies": dict.fromkeys((package, *others), "1")}
    project = Project(app, {**manifest, **({"main": main} if main else {})})
    chosen = build_scripts.choose_scripts(Workspace(project, project), None)
    found = find_start(project, env, generated=bool(chosen))
    if outputs.depends_on_build(project, found, dev=False):
        try:
            outputs.refuse_unstartable(project, found, chosen, env)
        except InputError as error:
            return error
    return None


@pytest.mark.parametrize(
    ("package", "build", "start", "made"),
    [
        ("vite", "tsc -b && vite build", "", "Vite makes files for a web server, in dist"),
        ("vite", "vue-tsc && vite build", "vite", "Vite makes files for a web server, in dist"),
        ("react-scripts", "react-scripts build", "react-scripts start", "Create React App makes files"),
        ("astro", "astro build", "astro dev", "Astro makes files for a web server, in dist"),
        ("@angular/core", "ng build", "ng serve", "Angular makes files for a web server, in dist"),
        ("gatsby", "gatsby build", "gatsby develop", "Gatsby makes files for a web server, in public"),
        ("nuxt", "nuxt generate", "", "Nuxt makes files for a web server, in .output/public"),
        ("@docusaurus/core", "docusaurus build", "docusaurus start", "Docusaurus makes files"),
    ],
)
def test_a_static_site_is_told_before_anything_is_installed(
    tmp_path: Path, package: str, build: str, start: str, made: str
) -> None:
    error = foreseen(tmp_path, package, build, start)
    assert error is not None
    assert error.what.startswith(f"this is a static site: {made}")
    assert '"start": "serve ' in error.fix


@pytest.mark.parametrize(
    ("package", "build", "start"),
    [
        ("vite", "vite build && node prerender.js", ""),
        ("vite", "vite build && vite build --ssr src/server.ts", ""),
        ("vite", "vite build; esbuild server.ts", ""),
        ("vite", "npm ci && vite build", ""),
        ("vite", "vite build", "node server.js"),
        ("vite", "vite build", "serve -s dist"),
        ("vite", "vite build", "vite preview"),
        ("vite", "", "vite"),
        ("some-generator", "generate", ""),
        ("next", "next build", "next start"),
        ("nuxt", "nuxt build", ""),
        ("@react-router/dev", "react-router build", "react-router dev"),
        ("astro", "astro build", "astro preview"),
    ],
)
def test_what_may_make_a_server_is_built(tmp_path: Path, package: str, build: str, start: str) -> None:
    assert foreseen(tmp_path, package, build, start) is None


def test_who_chooses_a_development_server_or_has_a_server_among_the_packages_is_believed(
    tmp_path: Path,
) -> None:
    assert foreseen(tmp_path, "vite", "vite build", others=("express",)) is None
    assert foreseen(tmp_path, "@angular/core", "ng build", others=("@angular/ssr",)) is None
    assert foreseen(tmp_path, "vite", "vite build", "vite", BP_NPM_START_SCRIPT="start") is None


def test_a_main_that_nothing_makes_is_no_start(tmp_path: Path) -> None:
    assert foreseen(tmp_path, "vite", "vite build", main="index.js") is not None
    assert foreseen(tmp_path, "vite", "vite build", main="dist/server.js") is None
    (tmp_path / "index.ts").touch()
    assert foreseen(tmp_path, "vite", "vite build", main="index.js") is None


def test_the_folder_of_an_angular_application_is_named(tmp_path: Path) -> None:
    settings = {"angular.json": '{"projects": {"shop": {}}}'}
    error = foreseen(tmp_path, "@angular/core", "ng build", "ng serve", settings=settings)
    assert error is not None
    assert '"start": "serve -s dist/shop/browser"' in error.fix


@pytest.mark.parametrize(
    ("config", "is_static"),
    [
        ("export default { output: 'export' }", True),
        ('module.exports = {\n  reactStrictMode: true,\n  output: "export", // static\n}', True),
        ("export default {\n  // output: 'export',\n}", False),
        ("export default { output: 'standalone' }", False),
        ("export default { ...(process.env.STATIC && { output: 'export' }) }", False),
    ],
)
def test_a_next_export_is_a_static_site(tmp_path: Path, config: str, is_static: bool) -> None:
    error = foreseen(tmp_path, "next", "next build", "next start", settings={"next.config.mjs": config})
    assert (error is not None) is is_static


def test_react_router_without_a_server_is_a_static_site(tmp_path: Path) -> None:
    settings = {"react-router.config.ts": "export default {\n  ssr: false,\n} satisfies Config;\n"}
    error = foreseen(tmp_path, "@react-router/dev", "react-router build", settings=settings)
    assert error is not None
    assert '"start": "serve -s build/client"' in error.fix


@pytest.mark.parametrize("start", ["", "vite dev", "node build", "node build/index.js"])
@pytest.mark.parametrize("file", ["svelte.config", "vite.config"])
def test_sveltekits_adapter_that_makes_no_server_is_named_with_the_one_that_does(
    tmp_path: Path, start: str, file: str
) -> None:
    settings = {f"{file}.js": "import adapter from '@sveltejs/adapter-auto';\n"}
    error = foreseen(tmp_path, "@sveltejs/kit", "vite build", start, settings=settings, others=("vite",))
    assert error is not None
    assert error.what == "SvelteKit makes no server for Node.js with @sveltejs/adapter-auto"
    assert f"`npm install --save-dev @sveltejs/adapter-node`, and in {file} `import adapter" in error.fix


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ("import adapter from '@sveltejs/adapter-node';", ""),
        ("import adapter from './adapter.js';", ""),
        ("// from '@sveltejs/adapter-auto'\nimport adapter from '@sveltejs/adapter-node';", ""),
        ("import a from '@sveltejs/adapter-auto';\nimport b from '@sveltejs/adapter-node';", ""),
        ("import adapter from '@sveltejs/adapter-vercel';", "SvelteKit makes no server for Node.js with"),
        ("import adapter from '@sveltejs/adapter-static';", "this is a static site: SvelteKit makes files"),
    ],
)
def test_the_adapter_is_the_one_that_the_settings_import(tmp_path: Path, settings: str, what: str) -> None:
    error = foreseen(tmp_path, "@sveltejs/kit", "vite build", settings={"svelte.config.js": settings})
    assert (error.what if error else "").startswith(what)
    assert bool(error) is bool(what)


def test_an_adapter_of_astro_for_another_place_is_told(tmp_path: Path) -> None:
    config = "import vercel from '@astrojs/vercel/serverless';\nexport default { adapter: vercel() };"
    error = foreseen(tmp_path, "astro", "astro build", settings={"astro.config.mjs": config})
    assert error is not None
    assert error.what == "Astro makes no server for Node.js with @astrojs/vercel"
    assert "adapter: node({ mode: 'standalone' })" in error.fix
    for own in (
        "import node from '@astrojs/node'; const x = { adapter: node() };",
        "import adapter from 'astro-other';",
    ):
        assert foreseen(tmp_path, "astro", "astro build", settings={"astro.config.mjs": own}) is None


@pytest.mark.parametrize(
    ("config", "variable", "where"),
    [
        ("export default { nitro: { preset: 'vercel' } }", "", "nuxt.config names it"),
        ("export default {}", "cloudflare_pages", "NITRO_PRESET names it"),
        ("export default { nitro: { preset: 'node-server' } }", "", ""),
        ("export default { nitro: { preset: 'vercel' } }", "node_server", ""),
        ("export default { nitro: { preset: choose() } }", "", ""),
    ],
)
def test_a_preset_of_nuxt_for_another_place_is_told(
    tmp_path: Path, config: str, variable: str, where: str
) -> None:
    env = {"NITRO_PRESET": variable} if variable else {}
    settings = {"nuxt.config.ts": config}
    error = foreseen(tmp_path, "nuxt", "nuxt build", "nuxt dev", settings=settings, **env)
    assert (error.why if error else "") == where
