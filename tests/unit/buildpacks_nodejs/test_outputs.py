"""What starts an application is looked for again when it is built, and whether the image can run it."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from nodejs import outputs, programs
from nodejs.programs import Engines
from nodejs.project import Project
from nodejs.start import StartCommand, find_start
from nodejs.workspace import Workspace

from fakes.build_context import build_context
from packhorse import sdk
from packhorse.errors import InputError


def context(app: Path, **env: str) -> sdk.BuildContext:
    return build_context(app, env={"PATH": "/nowhere", **env})


def lay(app: Path, *files: str) -> None:
    for name in files:
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text("{}")


def settled(app: Path, manifest: dict[str, Any], *, dev: bool = False, **env: str) -> StartCommand | None:
    """The start command after a build that is over."""
    project = Project(app, manifest)
    return outputs.choose_start(context(app), project, find_start(project, env, generated=True), dev=dev)


@pytest.mark.parametrize(
    ("package", "files", "command"),
    [
        ("nuxt", [".output/server/index.mjs", ".output/public/index.html"], "node .output/server/index.mjs"),
        ("@sveltejs/kit", ["build/index.js", "build/handler.js"], "node build/index.js"),
        ("astro", ["dist/server/entry.mjs", "dist/client/index.html"], "node dist/server/entry.mjs"),
        ("@angular/core", ["dist/shop/server/server.mjs"], "node dist/shop/server/server.mjs"),
        ("next", [".next/BUILD_ID"], "next start"),
    ],
)
def test_a_frameworks_server_is_started(tmp_path: Path, package: str, files: list[str], command: str) -> None:
    lay(tmp_path, *files)
    found = settled(tmp_path, {"dependencies": {package: "1"}})
    assert found is not None
    assert " ".join(found.command) == command


@pytest.mark.parametrize(
    ("package", "start", "page", "name", "serve"),
    [
        ("vite", "", "dist/index.html", "Vite", "serve -s dist"),
        ("vite", "vite", "dist/index.html", "Vite", "serve -s dist"),
        ("react-scripts", "react-scripts start", "build/index.html", "Create React App", "serve -s build"),
        ("astro", "astro dev", "dist/index.html", "Astro", "serve dist"),
        ("next", "next start", "out/index.html", "Next.js", "serve out"),
        (
            "@angular/core",
            "ng serve",
            "dist/shop/browser/index.html",
            "Angular",
            "serve -s dist/shop/browser",
        ),
        ("@sveltejs/kit", "", "build/200.html", "SvelteKit", "serve build"),
        ("@docusaurus/core", "docusaurus start", "build/index.html", "Docusaurus", "serve build"),
        ("gatsby", "npm run develop", "public/index.html", "Gatsby", "serve public"),
        ("vite", "vite --port $PORT", "build/index.html", "Vite", "serve -s build"),
        ("some-generator", "", "_site/index.html", "the build", "serve _site"),
    ],
)
def test_a_static_site_is_recognised_and_told_how_to_be_served(
    tmp_path: Path, package: str, start: str, page: str, name: str, serve: str
) -> None:
    lay(tmp_path, page)
    scripts = {"build": "x", "develop": "gatsby develop", **({"start": start} if start else {})}
    with pytest.raises(InputError) as caught:
        settled(tmp_path, {"scripts": scripts, "devDependencies": {package: "1"}})
    folder = page.rpartition("/")[0]
    assert caught.value.what == f"this is a static site: {name} made files for a web server, in {folder}"
    assert f'"start": "{serve}"' in caught.value.fix


def test_a_static_site_has_no_web_process_where_other_processes_are_enough(tmp_path: Path) -> None:
    lay(tmp_path, "dist/index.html")
    said = io.StringIO()
    project = Project(tmp_path, {"devDependencies": {"vite": "1"}})
    here = build_context(tmp_path, said=said)
    assert outputs.choose_start(here, project, None, dev=False, required=False) is None
    assert "warning: the image has no process web: this is a static site: Vite made files" in said.getvalue()


def test_who_names_a_development_server_or_builds_for_development_has_it(tmp_path: Path) -> None:
    lay(tmp_path, "dist/index.html")
    manifest = {"scripts": {"start": "vite"}, "dependencies": {"vite": "1"}}
    for found in (
        settled(tmp_path, manifest, dev=True),
        settled(tmp_path, manifest, BP_NPM_START_SCRIPT="start"),
    ):
        assert found is not None
        assert found.command == ("vite",)


def test_a_development_server_gives_way_to_what_the_build_made(tmp_path: Path) -> None:
    lay(tmp_path, "dist/server/entry.mjs")
    found = settled(tmp_path, {"scripts": {"start": "HOST=:: astro dev"}, "dependencies": {"astro": "1"}})
    assert found is not None
    assert (found.command, found.env) == (("node", "dist/server/entry.mjs"), {"HOST": "::"})


@pytest.mark.parametrize(
    ("package", "server", "program"),
    [
        ("@react-router/dev", "@react-router/serve", "react-router-serve"),
        ("@remix-run/dev", "@remix-run/serve", "remix-serve"),
    ],
)
def test_the_server_of_react_router_and_remix_is_started_by_its_package(
    tmp_path: Path, package: str, server: str, program: str
) -> None:
    lay(tmp_path, "build/server/index.js", "build/client/index.html")
    found = settled(tmp_path, {"devDependencies": {package: "7"}, "dependencies": {server: "7"}})
    assert found is not None
    assert (found.command, found.programs) == ((program, "build/server/index.js"), (program,))
    with pytest.raises(InputError, match=r"made build/server/index\.js, and nothing runs it") as caught:
        settled(tmp_path, {"devDependencies": {package: "7"}})
    assert f"npm install {server}" in caught.value.fix


def test_a_next_server_is_no_static_site(tmp_path: Path) -> None:
    lay(tmp_path, ".next/required-server-files.json", "out/index.html", ".next/BUILD_ID")
    found = settled(tmp_path, {"scripts": {"start": "next start"}, "dependencies": {"next": "1"}})
    assert found is not None
    assert found.command == ("next", "start")


def test_a_main_that_the_build_did_not_make_gives_way(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to start") as caught:
        settled(tmp_path, {"main": "dist/gone.js"})
    assert "main names dist/gone.js, which is not there" in caught.value.why
    lay(tmp_path, "index.cjs")
    found = settled(tmp_path, {"main": "dist/gone.js"})
    assert found is not None
    assert found.command == ("node", "index.cjs")
    with pytest.raises(InputError, match="BP_LAUNCHPOINT names a file that is not there"):
        settled(tmp_path, {}, BP_LAUNCHPOINT="dist/gone.js")


@pytest.mark.parametrize(
    ("entry", "made", "command"),
    [
        ("server.ts", "server.js", "server.js"),
        ("server.ts", "dist/server.js", "dist/server.js"),
        ("index.mts", "out/index.mjs", "out/index.mjs"),
        ("app.ts", "compiled/code/app.js", "compiled/code/app.js"),
        ("app.ts", "server.js", "server.js"),
        ("app.ts", "dist/other.js", "app.ts"),
    ],
)
def test_the_entry_is_looked_for_again_when_it_is_built(
    tmp_path: Path, entry: str, made: str, command: str
) -> None:
    lay(tmp_path, entry)
    (tmp_path / "tsconfig.json").write_text(
        '{\n  // "outDir": "no",\n  "outDir": "./compiled/code/", // x\n}'
    )
    project = Project(tmp_path, {})
    before = find_start(project, {}, generated=True)
    lay(tmp_path, made)
    found = outputs.choose_start(context(tmp_path), project, before, dev=False)
    assert found is not None
    assert found.command == ("node", command)
    untouched = outputs.choose_start(context(tmp_path), project, before, dev=False, built=False)
    assert untouched == before


def test_a_main_in_typescript_gives_way_to_what_the_build_made_of_it(tmp_path: Path) -> None:
    lay(tmp_path, "src/index.ts", "dist/index.js")
    found = settled(tmp_path, {"main": "src/index.ts"})
    assert found is not None
    assert (found.command, found.source) == (
        ("node", "dist/index.js"),
        "the build made dist/index.js of src/index.ts",
    )
    lay(tmp_path, "index.ts")
    gone = settled(tmp_path, {"main": "gone.js"})
    assert gone is not None
    assert gone.command == ("node", "dist/index.js")


@pytest.mark.parametrize("script", ["node dist/gone.js", "A=1 npm run real -- --x"])
def test_a_script_whose_file_the_build_did_not_make_is_told(tmp_path: Path, script: str) -> None:
    with pytest.raises(InputError, match=r"runs dist/gone\.js, which is not there after the build"):
        settled(tmp_path, {"scripts": {"start": script, "real": "node dist/gone.js"}})
    with pytest.raises(InputError, match=r"runs dist/gone\.ts, which is not there after the build"):
        settled(tmp_path, {"scripts": {"start": "bun run dist/gone.ts"}})


@pytest.mark.parametrize(
    "script",
    ["node .", "node --import x gone.js", "node /opt/x.js", "node x.js && node gone.js", "node", "node dist"],
)
def test_a_script_is_believed_where_it_says_no_plain_file(tmp_path: Path, script: str) -> None:
    (tmp_path / "dist").mkdir()
    assert settled(tmp_path, {"scripts": {"start": script}}) is not None


def test_a_program_of_the_application_is_there_and_executable(tmp_path: Path) -> None:
    manifest = {"scripts": {"start": "A=1 ./bin/www --x"}}
    with pytest.raises(InputError, match=r"runs \./bin/www, which is not there after the build"):
        settled(tmp_path, manifest)
    lay(tmp_path, "bin/www")
    with pytest.raises(InputError, match=r"runs \./bin/www, which is not executable") as raised:
        settled(tmp_path, manifest)
    assert "chmod +x ./bin/www" in raised.value.fix
    (tmp_path / "bin/www").chmod(0o755)
    assert settled(tmp_path, manifest) is not None
    assert settled(tmp_path, {"scripts": {"start": "./node_modules/.bin/serve"}}) is not None


def checked(
    app: Path, manifest: dict[str, Any], *, version: str = "26.0.0", built: bool = False, **env: str
) -> str:
    """What is warned of."""
    project = Project(app, manifest)
    found = find_start(project, {}, generated=False)
    assert found is not None
    here = context(app, **env)
    image = Engines.of(here, project, found, ())
    programs.check_start(here, Workspace(project, project), found, image, version=version, built=built)
    assert isinstance(here.log.err, io.StringIO)
    return here.log.err.getvalue()


def test_a_script_for_production_takes_the_place_of_one_whose_program_is_not_there(tmp_path: Path) -> None:
    scripts = {"start": "nest start", "start:prod": "node dist/main", "poststart:prod": "x"}
    said = checked(tmp_path, {"scripts": scripts, "devDependencies": {"@nestjs/cli": "11"}})
    assert "the start script runs nest, which is not in the image; start:prod is started instead" in said
    assert "the script poststart:prod is not run" in said


def test_a_program_of_the_devdependencies_is_told_with_the_script_for_production(tmp_path: Path) -> None:
    scripts = {"start": "nest start", "serve": "node dist/main"}
    manifest = {"scripts": scripts, "devDependencies": {"@nestjs/cli": "11"}}
    with pytest.raises(
        InputError, match="runs nest, of the devDependencies, which are not in the image"
    ) as caught:
        checked(tmp_path, manifest)
    assert caught.value.fix == (
        "move @nestjs/cli to the dependencies if it is for production, or start another script: "
        "BP_NPM_START_SCRIPT=serve"
    )
    lay(tmp_path, "node_modules/.bin/nest")
    assert checked(tmp_path, manifest) == ""


@pytest.mark.parametrize(
    ("script", "advice"),
    [
        ("tsc && node dist/a.js", "have the build run tsc: name the script that does it `build`"),
        ("tsx src/a.ts", 'have the build make JavaScript ("build": "tsc")'),
        ("ts-node-dev src/a.ts", 'have the build make JavaScript ("build": "tsc")'),
        ("nodemon src/a.ts", "move nodemon to the dependencies if it is for production"),
        ("nodemon --watch src a.js", "move nodemon to the dependencies if it is for production"),
    ],
)
def test_what_to_do_about_a_tool_of_the_devdependencies_is_told(
    tmp_path: Path, script: str, advice: str
) -> None:
    dev = dict.fromkeys(("typescript", "tsx", "ts-node-dev", "nodemon"), "1")
    with pytest.raises(InputError, match="of the devDependencies, which are not in the image") as caught:
        checked(tmp_path, {"scripts": {"start": script}, "devDependencies": dev})
    assert advice in caught.value.fix


def test_node_js_takes_the_place_of_nodemon_where_that_runs_a_plain_file(tmp_path: Path) -> None:
    lay(tmp_path, "bin/www.js")
    manifest = {"scripts": {"start": "nodemon ./bin/www --x"}, "devDependencies": {"nodemon": "3"}}
    assert 'program starts without it: "start": "node ./bin/www --x"' in checked(tmp_path, manifest)
    (tmp_path / "bin/www.js").unlink()
    with pytest.raises(InputError, match=r"runs \./bin/www, which is not there after the build"):
        checked(tmp_path, manifest)


def test_several_processes_in_one_container_are_warned_of(tmp_path: Path) -> None:
    lay(tmp_path, "node_modules/.bin/concurrently")
    said = checked(tmp_path, {"scripts": {"start": "concurrently 'node a.js' 'node b.js'"}})
    assert "concurrently runs several processes in one container" in said


def test_a_program_that_nothing_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="runs serve, which is not in the image"):
        checked(tmp_path, {"scripts": {"start": "cd x && ./setup && serve $DIR"}})


def test_a_program_that_only_the_build_image_has_is_warned_of(tmp_path: Path) -> None:
    for name in ("python3", "mkdir"):
        lay(tmp_path, f"bin/{name}")
        (tmp_path / "bin" / name).chmod(0o755)
    said = checked(tmp_path, {"scripts": {"start": "mkdir -p x && python3 a.py"}}, PATH=f"{tmp_path}/bin")
    assert said.count("warning") == 1
    assert "the start command runs python3, which no module has: the build image has it, but if" in said


def test_a_folder_of_whose_dependencies_none_is_there_is_told(tmp_path: Path) -> None:
    manifest = {"scripts": {"start": "cd server && npm start"}}
    (tmp_path / "server").mkdir()
    said = {"dependencies": {"express": "5", "serve": "14"}, "scripts": {"start": "serve x"}}
    (tmp_path / "server/package.json").write_text(json.dumps(said))
    with pytest.raises(
        InputError, match="runs in server, whose dependencies nothing has installed"
    ) as caught:
        checked(tmp_path, manifest)
    assert "server/package.json asks for express, serve" in caught.value.why
    assert "BP_NODE_PROJECT_PATH=server" in caught.value.fix
    lay(tmp_path, "server/node_modules/.bin/serve", "server/node_modules/serve/package.json")
    assert checked(tmp_path, manifest) == ""
    shutil.rmtree(tmp_path / "server/node_modules")
    lay(tmp_path, "node_modules/.bin/serve", "node_modules/serve/package.json")
    assert checked(tmp_path, manifest) == ""


def test_programs_of_packages_in_yarns_archives_are_found(tmp_path: Path) -> None:
    lay(tmp_path, ".pnp.cjs", "modules/bin/serve")
    assert checked(tmp_path, {"scripts": {"start": "serve x"}}) == ""
    with pytest.raises(InputError, match="vite"):
        checked(tmp_path, {"scripts": {"start": "vite x"}})


def test_what_restarts_and_what_is_not_run_are_warned_of(tmp_path: Path) -> None:
    said = checked(tmp_path, {"scripts": {"start": "node --watch a.js", "poststart": "node b.js"}})
    assert "node --watch is for development" in said
    assert "the script poststart is not run" in said
    assert "bun --hot is for development" in checked(tmp_path, {"scripts": {"start": "bun --hot a.ts"}})


def test_a_script_in_whose_place_bun_comes_too_late_is_told(tmp_path: Path) -> None:
    scripts = {"start": "nest start", "start:prod": "bun dist/main.js"}
    with pytest.raises(InputError, match="runs Bun, which is not in the image") as caught:
        checked(tmp_path, {"scripts": scripts})
    assert "BP_NPM_START_SCRIPT" in caught.value.fix


@pytest.mark.parametrize(
    ("version", "runs"), [("22.17.0", False), ("22.18.0", True), ("23.0.0", False), ("24.0.0", True)]
)
def test_typescript_needs_a_node_that_runs_it(tmp_path: Path, version: str, runs: bool) -> None:
    lay(tmp_path, "server.ts")
    if runs:
        assert checked(tmp_path, {}, version=version) == ""
        return
    with pytest.raises(InputError, match=r"does not run TypeScript: server\.ts"):
        checked(tmp_path, {}, version=version)
    with pytest.raises(InputError, match=r"does not run TypeScript: server\.ts"):
        checked(tmp_path, {"scripts": {"start": "node --env-file=.env server.ts $X"}}, version=version)
    assert checked(tmp_path, {"scripts": {"start": "node --import tsx server.ts"}}, version=version) == ""
    lay(tmp_path, "node_modules/.bin/tsx")
    said = checked(tmp_path, {"dependencies": {"tsx": "4"}}, version=version)
    assert said == f"  tsx runs server.ts, since Node.js {version} does not run TypeScript\n"


def test_typescript_that_is_started_though_build_scripts_ran_is_warned_of(tmp_path: Path) -> None:
    lay(tmp_path, "server.ts")
    assert "server.ts is started as it is, since the build made no JavaScript" in checked(
        tmp_path, {}, built=True
    )
    assert checked(tmp_path, {"scripts": {"start": "node server.ts"}}, built=True) == ""
