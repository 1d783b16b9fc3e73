"""The layer that an image's start needs beside Node.js: variables, and the program that sizes the heap."""

from pathlib import Path

import pytest
from nodejs import processes
from nodejs.project import Project
from nodejs.start import StartCommand
from nodejs.workspace import Workspace

from fakes.build_context import build_context
from packhorse.errors import BuildError, InputError


def made(
    tmp_path: Path, found: StartCommand | None = None, *, staged: bool = True, **env: str
) -> dict[str, str]:
    """The files of the layer below its directory, with what is in them."""
    app, layers, buildpack = (tmp_path / name for name in ("app", "layers", "buildpack"))
    program = buildpack / "lib/programs/node-options-linux-amd64"
    program.parent.mkdir(parents=True, exist_ok=True)
    layers.mkdir(exist_ok=True)
    if staged:
        program.write_text("#!program")
    context = build_context(app, layers, buildpack=buildpack, env=env)
    project = Project(app, {"name": "shop", "version": "1.2.3"})
    processes.provide_start_layer(context, Workspace(project, project), {"web": found} if found else {})
    layer = layers / "start"
    return {str(path.relative_to(layer)): path.read_text() for path in layer.rglob("*") if path.is_file()}


def test_variables_are_defaults_and_the_program_runs_before_each_process(tmp_path: Path) -> None:
    assert made(tmp_path) == {
        "env.launch/NODE_ENV.default": "production",
        "env.launch/npm_package_name.default": "shop",
        "env.launch/npm_package_version.default": "1.2.3",
        "env.launch/PATH.prepend": f"{tmp_path}/app/node_modules/.bin",
        "env.launch/PATH.delim": ":",
        "exec.d/node-options": "#!program",
    }


def test_what_the_user_sets_for_the_build_is_the_default_at_launch(tmp_path: Path) -> None:
    files = made(
        tmp_path,
        NODE_ENV="staging",
        BP_NODE_OPTIMIZE_MEMORY="false",
        BPL_DEBUG_ENABLED="true",
        BPL_DEBUG_PORT="5858",
    )
    assert files["env.launch/NODE_ENV.default"] == "staging"
    assert files["env.launch/BPL_NODE_OPTIMIZE_MEMORY.default"] == "false"
    assert files["env.launch/BPL_DEBUG_ENABLED.default"] == "true"
    assert files["env.launch/BPL_DEBUG_PORT.default"] == "5858"
    assert "env.launch/BPL_NODE_SOURCE_MAPS.default" not in files


def test_variables_of_the_start_script_are_those_of_its_process_alone(tmp_path: Path) -> None:
    files = made(tmp_path, StartCommand(("node", "a.js"), "x", env={"A": "1", "B": ""}))
    assert (files["env.launch/web/A.override"], files["env.launch/web/B.override"]) == ("1", "")


def test_programs_of_the_folder_that_the_script_goes_to_are_found_first(tmp_path: Path) -> None:
    web = tmp_path / "app/web"
    files = made(tmp_path, StartCommand(("sh", "-c", "cd web && exec next start"), "x", folders=(web,)))
    own = tmp_path / "app/node_modules/.bin"
    assert files["env.launch/PATH.prepend"] == f"{web}/node_modules/.bin:{own}"


def test_options_of_node_in_the_start_script_are_added_to_those_of_other_layers(tmp_path: Path) -> None:
    files = made(tmp_path, StartCommand(("node", "a.js"), "x", env={"NODE_OPTIONS": "--enable-source-maps"}))
    assert files["env.launch/web/NODE_OPTIONS.append"] == "--enable-source-maps"
    assert files["env.launch/web/NODE_OPTIONS.delim"] == " "
    assert "env.launch/web/NODE_OPTIONS.override" not in files


def test_a_switch_that_is_neither_on_nor_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="BPL_NODE_SOURCE_MAPS is neither true nor false: maybe"):
        made(tmp_path, BPL_NODE_SOURCE_MAPS="maybe")


def test_a_buildpack_that_was_not_staged_says_so(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="this copy of the buildpack has no node-options for amd64"):
        made(tmp_path, staged=False)


def test_the_config_of_package_json_is_there_at_launch_as_under_npm() -> None:
    said = {
        "port": "8123",
        "n": 1,
        "on": True,
        "no": None,
        "a": {"b": ["x", "y"]},
        "odd/name=": "1",
        "z": "\0",
        "half": "\ud800",
    }
    assert dict(processes._npm_config_variables("c", said)) == {
        "c_port": "8123",
        "c_n": "1",
        "c_on": "true",
        "c_a_b_0": "x",
        "c_a_b_1": "y",
    }
