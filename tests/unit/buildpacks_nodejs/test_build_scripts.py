"""Which scripts a build runs, and what of theirs is kept for the next build."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from nodejs import build_scripts
from nodejs.project import Project
from nodejs.workspace import Workspace

from fakes.build_context import build_context
from packhorse import sdk
from packhorse.base.log import Log
from packhorse.errors import InputError


def chosen(setting: str | None = None, **scripts: str) -> tuple[str, ...]:
    project = Project(
        Path("/nowhere"), {"scripts": {name.replace("_", "-"): text for name, text in scripts.items()}}
    )
    return build_scripts.choose_scripts(Workspace(project, project), setting)


def test_the_build_script_runs_by_itself_and_heroku_scripts_around_it() -> None:
    assert chosen(start="x") == ()
    assert chosen(build="x", test="y") == ("build",)
    assert chosen(build="x", heroku_build="y") == ("heroku-build",)
    everything = chosen(heroku_prebuild="a", build="b", heroku_postbuild="c")
    assert everything == ("heroku-prebuild", "build", "heroku-postbuild")


def test_a_script_that_builds_covers_the_build_script() -> None:
    project = Project(Path("/nowhere"), {"scripts": {"heroku-postbuild": "yarn build && x", "a": "y"}})
    workspace = Workspace(project, project)
    assert build_scripts.completed_scripts(workspace, ("heroku-postbuild",)) == ("heroku-postbuild", "build")
    assert build_scripts.completed_scripts(workspace, ("a",)) == ("a",)
    assert build_scripts.completed_scripts(workspace, ("gcp-build",)) == ("gcp-build", "build")


def test_googles_script_takes_the_place_of_the_build_script_and_an_empty_one_has_none_run() -> None:
    assert chosen(build="x", gcp_build="npm run build && y") == ("gcp-build",)
    assert chosen(gcp_build="y") == ("gcp-build",)
    assert chosen(build="x", gcp_build=" ") == ()
    assert chosen("build", build="x", gcp_build="") == ("build",)
    assert chosen(heroku_build="x", gcp_build="y", build="z") == ("heroku-build",)
    assert chosen(gcp_build="y", heroku_postbuild="npm run gcp-build && z") == ("heroku-postbuild",)
    said = io.StringIO()
    project = Project(Path("/nowhere"), {"scripts": {"build": "x", "gcp-build": ""}})
    build_scripts.log_scripts(Log(said, said), Workspace(project, project), (), None)
    assert "`build` does not run: gcp-build of package.json is empty" in said.getvalue()


@pytest.mark.parametrize(
    "text", ["npm run build", "cd a && yarn build", "pnpm run build && x", "npm run build;x"]
)
def test_a_postbuild_that_builds_is_enough(text: str) -> None:
    assert chosen(build="x", heroku_postbuild=text) == ("heroku-postbuild",)
    assert chosen(build="x", heroku_postbuild="npm run build:css") == ("build", "heroku-postbuild")


def test_a_setting_names_the_scripts_or_none_and_a_wrong_name_is_told_with_those_there_are() -> None:
    assert chosen(" a, b ,", a="x", b="y", build="z") == ("a", "b")
    assert chosen("", build="x") == ()
    with pytest.raises(InputError, match="does not have: compile") as caught:
        chosen("build,compile", build="x", lint="y")
    assert caught.value.why == "it has build, lint"


def context(tmp_path: Path) -> sdk.BuildContext:
    layers, app = tmp_path / "layers", tmp_path / "app"
    layers.mkdir(exist_ok=True)
    app.mkdir(exist_ok=True)
    return build_context(app, layers)


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_folders_of_frameworks_come_back_in_the_next_build_and_are_never_left(tmp_path: Path) -> None:
    here = context(tmp_path)
    app, layer = here.app, here.layers / "build-cache"
    first = build_scripts.framework_caches(here, app, ["web"], "22.3.0")
    first.restore()
    write(app / ".next/cache/webpack/a", app / ".next/BUILD_ID", app / "web/.turbo/b", app / "web/index.js")
    write(app / "node_modules/.cache/c", app / "node_modules/ms/index.js")
    first.save()
    left = {".next/BUILD_ID", "web/index.js", "node_modules/ms/index.js"}
    assert files(app) == left
    assert files(layer) == {".next/cache/webpack/a", "web/.turbo/b", "node_modules/.cache/c"}

    (app / ".next/BUILD_ID").unlink()
    (app / ".next").rmdir()
    again = build_scripts.framework_caches(here, app, ["web"], "22.9.0")
    again.restore()
    assert (app / ".next/cache/webpack/a").read_text() == "a"
    write(app / ".next/cache/webpack/more")
    again.save()
    assert files(app) == left - {".next/BUILD_ID"}
    assert not (app / ".next").exists()
    assert ".next/cache/webpack/more" in files(layer)


def test_another_line_of_node_begins_anew(tmp_path: Path) -> None:
    here = context(tmp_path)
    first = build_scripts.framework_caches(here, here.app, [], "22.3.0")
    write(here.app / ".angular/cache/a")
    first.save()
    second = build_scripts.framework_caches(replace(here), here.app, [], "24.0.0")
    second.restore()
    assert not (here.app / ".angular").exists()


def test_an_application_without_such_folders_has_no_layer(tmp_path: Path) -> None:
    here = context(tmp_path)
    write(here.app / "dist/index.js")
    only = build_scripts.framework_caches(here, here.app, [], "22.3.0")
    only.restore()
    only.save()
    assert files(here.layers) == set()
    assert files(here.app) == {"dist/index.js"}


def test_modules_in_a_layer_keep_the_link_so_that_the_layer_stays_as_it_is(tmp_path: Path) -> None:
    here = context(tmp_path)
    modules = here.layers / "modules-build/node_modules"
    write(modules / "ms/index.js", modules / ".cache/babel/a")
    (here.app / "node_modules").symlink_to(modules)
    build_scripts.framework_caches(here, here.app, [], "22.3.0").save()
    assert (modules / ".cache").is_symlink()
    before = modules.stat().st_mtime_ns
    again = build_scripts.framework_caches(here, here.app, [], "22.3.0")
    again.restore()
    assert (here.app / "node_modules/.cache/babel/a").read_text() == "a"
    write(here.app / "node_modules/.cache/babel/b")
    again.save()
    assert modules.stat().st_mtime_ns == before
    assert files(here.layers / "build-cache") == {
        "node_modules/.cache/babel/a",
        "node_modules/.cache/babel/b",
    }


def test_records_of_what_was_emitted_are_not_brought_back(tmp_path: Path) -> None:
    here = context(tmp_path)
    for folder in (".cache", ".tmp"):
        write(here.app / f"node_modules/{folder}/ts/app.tsbuildinfo", here.app / f"node_modules/{folder}/a")
    build_scripts.framework_caches(here, here.app, [], "22.3.0").save()
    kept = here.layers / "build-cache"
    assert files(kept) == {"node_modules/.cache/a", "node_modules/.tmp/a"}


def test_what_scripts_write_among_modules_is_found_but_not_caches_and_records(tmp_path: Path) -> None:
    modules = tmp_path / "node_modules"
    write(modules / "ms/index.js", modules / "ms/gone.js", modules / "ms/same.js")
    write(modules / "ms/shipped.tsbuildinfo", tmp_path / "web/node_modules/x.js")
    before = build_scripts.index_files(tmp_path, ["web"])
    assert build_scripts.find_changes(tmp_path, before, build_scripts.index_files(tmp_path, ["web"])) == ()
    write(modules / ".cache/a", modules / ".pnpm-workspace-state-v1.json", modules / ".x/a.tsbuildinfo")
    write(tmp_path / "web/node_modules/.vite-temp/a")
    assert build_scripts.find_changes(tmp_path, before, build_scripts.index_files(tmp_path, ["web"])) == ()
    assert not (modules / ".x/a.tsbuildinfo").exists()

    (modules / "ms/index.js").write_text("another")
    (modules / "ms/gone.js").unlink()
    (modules / "ms/shipped.tsbuildinfo").write_text("another")
    write(modules / ".prisma/client.js", tmp_path / "web/node_modules/y.js")
    assert build_scripts.find_changes(tmp_path, before, build_scripts.index_files(tmp_path, ["web"])) == (
        "node_modules/.prisma/client.js",
        "node_modules/ms/gone.js",
        "node_modules/ms/index.js",
        "node_modules/ms/shipped.tsbuildinfo",
        "web/node_modules/y.js",
    )
