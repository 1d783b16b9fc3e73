"""Which Yarn is chosen, what its failures mean, what it is told of npm's settings, and trimmed manifests."""

import json
import os
from pathlib import Path

import pytest
from nodejs import credentials, plugnplay
from nodejs.managers import yarn_failures, yarn_settings
from nodejs.managers.choice import Choice
from nodejs.managers.manifests import without_dev
from nodejs.managers.port import Order
from nodejs.managers.tool import Tool
from nodejs.managers.yarn import Berry, Yarn, _settled_elsewhere
from nodejs.managers.yarn_release import YarnLock, _choose_range
from nodejs.managers.yarn_settings import _bypasses_proxy
from nodejs.project import Project
from nodejs.runtime import Runtime
from nodejs.workspace import Workspace

from fakes.build_context import build_context
from packhorse import sdk
from packhorse.errors import (
    BuildpackFailed,
    FormatError,
    InputError,
    NetworkError,
    NotFoundError,
    PackhorseError,
)
from packhorse.sdk.layer import Types

CLASSIC = YarnLock("classic", resolutions={"ms@2.1.3": ""})


def berry(version: int, cache_key: str = "10") -> YarnLock:
    return YarnLock("berry", version, cache_key)


@pytest.mark.parametrize(
    ("lock", "asked", "node", "range_"),
    [
        (CLASSIC, "", "22.1.0", "1.22.22"),
        (CLASSIC, ">=1", "22.1.0", "1.22.22"),
        (CLASSIC, "1.19.x", "22.1.0", "1.19.x"),
        (CLASSIC, "1.22.19", "22.1.0", "1.22.19"),
        (berry(8), "", "22.1.0", ">=4.0.0 <4.14.0"),
        (berry(10), "", "22.1.0", ">=4.15.0"),
        (berry(4, "7"), "", "14.1.0", ">=2.4.0 <3.0.0"),
        (berry(4, "8"), "", "14.1.0", ">=3.0.0 <3.1.0"),
        (berry(99), "", "22.1.0", "4"),
        (berry(8), ">=1.22", "22.1.0", ">=1.22 >=2.0.0 >=4.0.0 <4.14.0"),
        (berry(8), "^4 || ^5", "22.1.0", "^4 >=2.0.0 >=4.0.0 <4.14.0 || ^5 >=2.0.0 >=4.0.0 <4.14.0"),
        (berry(8), "4.9.1", "22.1.0", "4.9.1"),
        (YarnLock(), "", "22.1.0", "4"),
        (YarnLock(), "", "16.1.0", "3"),
        (YarnLock(), "^1.22", "22.1.0", "^1.22"),
        (YarnLock(), ">=1", "22.1.0", "1.22.22"),
        (YarnLock(), "^4", "22.1.0", "^4 >=2.0.0"),
    ],
)
def test_the_yarn_that_is_asked_for_leaves_the_lock_as_it_is(
    lock: YarnLock, asked: str, node: str, range_: str
) -> None:
    assert _choose_range(lock, Choice("yarn", "engines", range=asked), node)[0] == range_


@pytest.mark.parametrize(
    ("output", "kind", "what"),
    [
        ("➤ YN0001: │ RequestError: connect ECONNREFUSED 127.0.0.1:9", NetworkError, "ECONNREFUSED"),
        ("➤ YN0001: │ RequestError: getaddrinfo ENOTFOUND a.example", NetworkError, "ENOTFOUND"),
        ("➤ YN0001: │ RequestError: self-signed certificate in chain", NetworkError, "does not trust"),
        ("➤ YN0041: │ ms@npm:2.1.3: Invalid authentication (as an anonymous user)", NetworkError, "E401"),
        ("➤ YN0001: │ HTTPError: Response code 403 (Forbidden)", NetworkError, "E403"),
        ("➤ YN0035: │   Response Code: 404 (Not Found)", NotFoundError, "E404"),
        ("➤ YN0082: │ ms@npm:9: No candidates found", NotFoundError, "ETARGET"),
        ("➤ YN0018: │ ms@npm:2.1.3: The remote archive doesn't match the expected checksum", FormatError, ""),
        (
            "➤ YN0009: │ a@npm:1 couldn't be built successfully (exit code 1)",
            BuildpackFailed,
            "a@1",
        ),
        ("YAMLException: bad indentation (3:4)", InputError, "yarn.lock cannot be read"),
        ("Internal Error: Expected the lockfile entry to have a resolution", InputError, "cannot be read"),
        ("Usage Error: Environment variable not found (NPM_TOKEN) in a/.yarnrc.yml", InputError, "NPM_TOKEN"),
        ("Usage Error: Unrecognized settings: foo (in a/.yarnrc.yml)", InputError, "cannot use its settings"),
        (
            "\x1b[31mUsage Error\x1b[39m: This tool requires a Node version compatible with >=18 (got 16)",
            InputError,
            "does not support this Node.js",
        ),
        ("Internal Error: what", BuildpackFailed, "failed"),
    ],
)
def test_failures_of_newer_yarns_have_the_words_of_npms(
    output: str, kind: type[PackhorseError], what: str
) -> None:
    error = yarn_failures.berry_error(sdk.CommandFailed(["yarn", "install"], status=1, output=output))
    assert type(error) is kind
    assert what in error.what


@pytest.mark.parametrize(
    ("output", "kind", "what"),
    [
        ("error Error: connect ECONNREFUSED 127.0.0.1:9", NetworkError, "ECONNREFUSED"),
        ('error Error: http://a/ms.tgz: Request failed "401 Unauthorized"', NetworkError, "E401"),
        ('error Error: http://a/ms.tgz: Request failed "404 Not Found"', NotFoundError, "E404"),
        ('error Couldn\'t find any versions for "ms" that matches "999.0.0"', NotFoundError, "ETARGET"),
        ("error a.tgz: Integrity check failed for ms", FormatError, "EINTEGRITY"),
        ('error x@1: The engine "node" is incompatible with this module.', InputError, "this Node.js"),
        ("error /a/node_modules/@s/b: Command failed.\nENOTFOUND", BuildpackFailed, "that of @s/b"),
        ("error Your lockfile needs to be updated, but yarn was run with", InputError, "does not match"),
        ("error TypeError: x\n    at Lockfile.getLocked (cli.js:1:1)", InputError, "cannot be read"),
        ("a package says ENOTFOUND\nerror what", BuildpackFailed, "failed"),
    ],
)
def test_failures_of_yarn_1_have_the_words_of_npms(
    output: str, kind: type[PackhorseError], what: str
) -> None:
    error = yarn_failures.classic_error(sdk.CommandFailed(["yarn", "install"], status=1, output=output))
    assert type(error) is kind
    assert what in error.what


def test_a_lock_out_of_sync_shows_what_would_change_and_not_checksums() -> None:
    output = (
        "➤ YN0028: │ -    ms: 2.1.3\n➤ YN0028: │ +    ms: 2.0.0\n➤ YN0028: │ -  checksum: abc\n"
        "➤ YN0028: │ The lockfile would have been modified by this install, which is explicitly forbidden."
    )
    error = yarn_failures.berry_error(sdk.CommandFailed(["yarn"], status=1, output=output))
    assert error.why == "-    ms: 2.1.3\n+    ms: 2.0.0"
    assert error.fix == "run `yarn install` and commit yarn.lock"


def test_settings_are_read_without_their_lists_and_comments(tmp_path: Path) -> None:
    (tmp_path / ".yarnrc.yml").write_text(
        "# nodeLinker: x\nnodeLinker: 'node-modules'  # why\nyarnPath: .yarn/releases/yarn-4.0.0.cjs\n"
        "npmScopes:\n  a:\n    npmAuthToken: x\n"
    )
    (tmp_path / ".yarnrc").write_text('# a\nyarn-offline-mirror "./packages"\nlastUpdateCheck 1\n')
    settings = yarn_settings.YarnSettings.read(tmp_path)
    assert settings.linker == "node-modules"
    assert settings.release == ".yarn/releases/yarn-4.0.0.cjs"
    assert "npmAuthToken" not in settings.berry
    assert settings.classic["yarn-offline-mirror"] == "./packages"
    assert yarn_settings.YarnSettings.read(tmp_path / "nowhere") == yarn_settings.YarnSettings()
    assert yarn_settings.YarnSettings().linker == "pnp"


def test_a_settings_digest_is_the_same_with_another_credential(tmp_path: Path) -> None:
    path = tmp_path / ".yarnrc.yml"
    path.write_text("nodeLinker: pnp\nnpmAuthToken: one\n")
    first = credentials.settings_digest(path)
    path.write_text("nodeLinker: pnp\nnpmAuthToken: two\n")
    assert credentials.settings_digest(path) == first
    path.write_text("nodeLinker: pnpm\nnpmAuthToken: two\n")
    assert credentials.settings_digest(path) != first


@pytest.mark.parametrize(
    ("exceptions", "is_spared"),
    [
        ("", False),
        ("*", True),
        ("a.example", True),
        (".example", True),
        ("ample", False),
        ("b.a.example", False),
    ],
)
def test_no_proxy_spares_a_host_and_its_domain(exceptions: str, is_spared: bool) -> None:
    assert _bypasses_proxy("https://a.example/npm/", exceptions) == is_spared


def test_manifests_are_without_what_is_not_needed_for_a_while(tmp_path: Path) -> None:
    source, layer = tmp_path / "source", tmp_path / "layer"
    for path, manifest in {
        ".": {"name": "root", "workspaces": ["p/*"], "devDependencies": {"x": "1"}},
        "p/a": {"name": "a", "dependencies": {"ms": "2"}, "scripts": {"postinstall": "x", "build": "y"}},
        "p/b": {"name": "b", "dependencies": {"ms": "1"}},
    }.items():
        for place in (source / path, layer / path):
            place.mkdir(parents=True, exist_ok=True)
        (source / path / "package.json").write_text(json.dumps(manifest))
        (layer / path / "package.json").symlink_to(source / path / "package.json")
    before = {path: path.read_text() for path in source.rglob("package.json")}

    def read(path: str) -> dict[str, object]:
        manifest: dict[str, object] = json.loads((layer / path / "package.json").read_text())
        return manifest

    with without_dev(layer, ["a"]):
        (layer / "yarn.lock").write_text("changed")
        assert read(".") == {"name": "root", "workspaces": ["p/*"], "scripts": {}}
        assert read("p/a") == {"name": "a", "dependencies": {"ms": "2"}, "scripts": {"build": "y"}}
        assert read("p/b") == {"name": "b", "scripts": {}}
    assert not (layer / "yarn.lock").exists()
    assert {path: path.read_text() for path in source.rglob("package.json")} == before
    assert os.readlink(layer / "p/a/package.json") == str(source / "p/a/package.json")


def test_a_manifest_has_its_mode_again_which_the_image_has_too(tmp_path: Path) -> None:
    manifest = tmp_path / "package.json"
    manifest.write_text("{}")
    manifest.chmod(0o664)
    with without_dev(tmp_path, []):
        pass
    assert (manifest.read_text(), manifest.stat().st_mode & 0o777) == ("{}", 0o664)


def test_a_layer_of_plug_n_play_has_what_the_map_names(tmp_path: Path) -> None:
    application, path = tmp_path / "app", tmp_path / "modules"
    application.mkdir()
    (path / "cache").mkdir(parents=True)
    (application / ".pnp.cjs").write_text('"../modules/cache/ms-1.zip/node_modules/ms/"')
    for name in ("ms-1.zip", "dev-1.zip", ".gitignore"):
        (path / "cache" / name).touch()
    layer = sdk.Layer("modules", path, sdk.Replaced(), Types(launch=True))
    plugnplay.save_map(application, layer)
    plugnplay.write_commands(path, {"cmd": "/x y/it's.js"})
    assert [found.name for found in (path / "cache").iterdir()] == ["ms-1.zip"]
    assert not (path / ".pnp.cjs").exists(), "the packages would have a second map above them"
    assert (path / "env.launch/NODE_OPTIONS.prepend").read_text() == f"--require {application}/.pnp.cjs"
    assert (path / "bin/cmd").read_text() == "#!/bin/sh\nexec node '/x y/it'\"'\"'s.js' \"$@\"\n"
    plugnplay.remove_map(application)
    plugnplay.install_map(application, path)
    assert (application / ".pnp.cjs").is_file()


def test_a_manifest_that_cannot_be_replaced_is_told(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / ".package.json.aside").mkdir()
    with pytest.raises(InputError, match=r"package\.json cannot be replaced"), without_dev(tmp_path, []):
        pass
    assert (tmp_path / "package.json").read_text() == "{}"


def classic(source: Path) -> Yarn:
    context = build_context(source)
    runtime = Runtime("22.1.0", "10.9.0", {}, "")
    return Yarn(context, Project(source, {}), runtime, Tool("1.22.22", source), "yarn.lock")


@pytest.mark.parametrize("resolutions", [None, 1, ["ms"]])
def test_resolutions_that_are_no_table_resolve_nothing(tmp_path: Path, resolutions: object) -> None:
    manifest = {"dependencies": {"ms": "2.1.3"}, "resolutions": resolutions}
    (tmp_path / "package.json").write_text(json.dumps(manifest))
    (tmp_path / "yarn.lock").write_text("# yarn lockfile v1\n")
    with pytest.raises(InputError) as caught:
        classic(tmp_path).install(Order(tmp_path, dev=True))
    assert "Missing: ms@2.1.3" in str(caught.value)


def test_packages_of_an_offline_mirror_are_in_the_key(tmp_path: Path) -> None:
    yarn = classic(tmp_path)
    assert yarn.key["offline mirror"] == ""
    (tmp_path / ".yarnrc").write_text('yarn-offline-mirror "./packages"\n')
    (tmp_path / "packages").mkdir()
    seen = {yarn.key["offline mirror"]}
    for content in ("one", "two"):
        (tmp_path / "packages/ms-2.1.3.tgz").write_text(content)
        seen.add(yarn.key["offline mirror"])
    assert len(seen) == 3


def test_a_member_spares_no_package_that_its_name_has_in_it(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text(
        '{"workspaces": ["forms"], "resolutions": {"**/@s/b@^1": "1.0.0", "a/debug": "1", "top": "1.0.0"}}'
    )
    (tmp_path / "forms").mkdir()
    (tmp_path / "forms/package.json").write_text('{"name": "forms"}')
    assert _settled_elsewhere(Workspace.read(tmp_path, "")) == {"forms", "@s/b", "debug", "top"}


@pytest.mark.system
@pytest.mark.parametrize(
    ("version", "said", "what"),
    [
        (99, "➤ YN0028: │ The lockfile would have been modified", "yarn.lock has version 99, which no Yarn"),
        (99, "➤ YN0001: │ RequestError: connect ECONNREFUSED 127.0.0.1:9", "cannot reach"),
        (8, "➤ YN0028: │ The lockfile would have been modified", "yarn.lock does not match package.json"),
    ],
)
def test_a_yarn_that_is_named_and_older_than_the_lock_is_told(
    tmp_path: Path, version: int, said: str, what: str
) -> None:
    for folder in ("bin", "app", "platform"):
        (tmp_path / folder).mkdir()
    for name, script in {"npm": "echo", "yarn": f"echo '{said}'; exit 1"}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "app/package.json").write_text('{"packageManager": "yarn@4.5.0"}')
    (tmp_path / "app/yarn.lock").write_text(f"__metadata:\n  version: {version}\n")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    context = build_context(tmp_path / "app", tmp_path / "layers", env={"PATH": path})
    runtime = Runtime("22.0.0", "10.9.9", {"PATH": path}, "")
    tool = Tool("4.5.0", tmp_path)
    yarn = Berry(context, Project.read(context.app), runtime, tool, "yarn.lock")
    with pytest.raises(PackhorseError, match=what):
        yarn.install(Order(context.app, dev=True))


def test_patches_of_all_projects_are_found_below_the_root_and_are_in_the_key(tmp_path: Path) -> None:
    write = {
        "package.json": {"workspaces": ["p/*"], "dependencies": {"a": "patch:a@npm:1#./fix/a.patch"}},
        "p/web/package.json": {
            "dependencies": {"b": "patch:b@npm:1#./b.patch&optional!~/fix/c.patch::version=1"},
            "devDependencies": {"d": "patch:d@1#../../fix/d.patch", "e": "patch:e@1#~/.yarn/patches/e.patch"},
            "optionalDependencies": {"f": "patch:f@1#optional!builtin<compat/fsevents>", "g": "1"},
        },
    }
    for name, manifest in write.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(manifest))
    runtime = Runtime("22.1.0", "10.9.0", {}, "")
    yarn = Berry(build_context(tmp_path), Project.read(tmp_path), runtime, Tool("4.5.0", tmp_path), "")
    named = {"fix/a.patch", "p/web/b.patch", "fix/c.patch", "fix/d.patch"}
    assert named == {name for name in yarn.files if name.endswith(".patch")}
    seen = set()
    (tmp_path / "fix").mkdir()
    for content in ("one", "two"):
        (tmp_path / "fix/d.patch").write_text(content)
        seen.add(yarn.key["fix/d.patch"])
    assert len(seen) == 2


@pytest.mark.parametrize("path", ["../a.patch", "~/../a.patch", "/a.patch", "./x/../../a.patch"])
def test_a_patch_outside_of_the_source_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "package.json").write_text(json.dumps({"dependencies": {"a": f"patch:a@1#{path}"}}))
    runtime = Runtime("22.1.0", "10.9.0", {}, "")
    yarn = Berry(build_context(tmp_path), Project.read(tmp_path), runtime, Tool("4.5.0", tmp_path), "")
    with pytest.raises(InputError, match="outside of the source"):
        _ = yarn.files


def yarn_that_says_where(tmp_path: Path, settings: str, lock: str, **env: str) -> Berry:
    for folder in ("bin", "app", "cache", "platform"):
        (tmp_path / folder).mkdir()
    script = f"#!/bin/sh\nenv | sort | grep '^YARN_.*\\(FOLDER\\|GLOBAL\\)' >{tmp_path}/said\n"
    for name, text in {
        "npm": "#!/bin/sh\n",
        "yarn": f"{script}test -s yarn.lock || echo x >yarn.lock\n",
    }.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    for name, text in {"package.json": '{"name": "a"}', ".yarnrc.yml": settings, "yarn.lock": lock}.items():
        if text:
            (tmp_path / "app" / name).write_text(text)
    env["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    context = build_context(tmp_path / "app", tmp_path / "layers", env=env)
    runtime = Runtime("22.0.0", "10.9.9", {"PATH": env["PATH"]}, "")
    named = "yarn.lock" if lock else ""
    return Berry(context, Project.read(context.app), runtime, Tool("4.18.1", tmp_path), named)


@pytest.mark.system
def test_the_linker_pnpm_makes_its_hard_links_on_the_file_system_of_the_application(tmp_path: Path) -> None:
    yarn = yarn_that_says_where(tmp_path, "nodeLinker: pnpm\n", "__metadata:\n  version: 8\n")
    app = yarn.context.app
    yarn.install(Order(app, dev=True, cache=tmp_path / "cache"))
    cache, is_global, folder = (tmp_path / "said").read_text().splitlines()
    assert cache == f"YARN_CACHE_FOLDER={tmp_path / 'cache/cache'}" and is_global.endswith("GLOBAL_CACHE=0")
    assert Path(folder.partition("=")[2]).parent == app
    assert {path.name for path in app.iterdir()} == {"package.json", ".yarnrc.yml", "yarn.lock"}


@pytest.mark.system
def test_a_lock_that_yarn_makes_is_there_for_scripts(tmp_path: Path) -> None:
    yarn = yarn_that_says_where(tmp_path, "nodeLinker: node-modules\n", "")
    yarn.install(Order(yarn.context.app, dev=True, cache=tmp_path / "cache"))
    assert (yarn.context.app / "yarn.lock").read_text() == "x\n" and yarn.generated_files == ("yarn.lock",)


@pytest.mark.parametrize(("env", "linker"), [({}, "pnp"), ({"YARN_NODE_LINKER": "pnpm"}, "pnpm")])
def test_the_linker_may_be_named_by_a_variable(tmp_path: Path, env: dict[str, str], linker: str) -> None:
    yarn = yarn_that_says_where(tmp_path, "", "", **env)
    assert yarn.linker == linker and bool(yarn.inside_reason) == (linker == "pnpm")


def test_a_yarn_that_made_no_map_is_told(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    layer = sdk.Layer("modules", tmp_path / "modules", sdk.Replaced(), Types(launch=True))
    with pytest.raises(InputError, match=r"made no map of the packages \(\.pnp\.cjs\)"):
        plugnplay.save_map(tmp_path, layer)
