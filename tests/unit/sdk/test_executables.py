"""A whole buildpack on the SDK as a process: statuses, messages without a traceback, repeated builds."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import packhorse
from packhorse.errors import InputError
from packhorse.sdk.testing import Workbench

pytestmark = pytest.mark.system

SOURCE = Path(packhorse.__file__).parents[1]
PROGRAM = f"""\
#!{sys.executable}
import sys
sys.path.insert(0, {str(SOURCE)!r})
from packhorse import errors, sdk

def detect(context):
    if (context.app / "broken").exists():
        raise errors.InputError("it is broken", why="on line 1", fix="mend it")
    if (context.app / "forgotten").exists():
        return None
    if not (context.app / "x").exists():
        return sdk.Fail("no x")
    return sdk.Pass(sdk.BuildPlan(("x",), (sdk.Require("x"),)))

def build(context):
    if "FORGOTTEN" in context.env:
        return None
    if "DEFECT" in context.env:
        (context.app / "none").read_text()
    if "TELL" in context.env:
        context.log.detail(context.env[context.env["TELL"]])
    if "WRONG" in context.env:
        context.run("ls -la")
    if "RAISED" in context.env:
        raise errors.BuildError("no", fix="mend it")
    if "ASTRAY" in context.env:
        (context.layers / "astray").mkdir()
    layer = context.layer("x", key={{"x": (context.app / "x").read_text()}}, launch=True, cache=True)
    if not layer.kept:
        (layer.path / "made").write_text("made")
    context.run(["sh", "-c", "exit ${{STATUS:-0}}"])
    return sdk.BuildResult(sdk.Launch((sdk.Process("web", (context.plan[0].name,)),)))

sdk.main(detect=detect, build=build)
"""


@pytest.fixture
def workbench(tmp_path: Path) -> Workbench:
    for folder in ("bp/bin", "app", "scratch"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bp/buildpack.toml").write_text('[buildpack]\nid = "x"\nversion = "1.0.0"\n')
    for name in ("detect", "build"):
        (tmp_path / "bp/bin" / name).write_text(PROGRAM)
        (tmp_path / "bp/bin" / name).chmod(0o755)
    return Workbench(tmp_path / "bp", tmp_path / "app", tmp_path / "scratch")


def test_detection_ends_with_100_when_the_source_is_not_ours(workbench: Workbench) -> None:
    outcome = workbench.detect()
    assert (outcome.status, outcome.output) == (100, "  no x\n")


def test_an_error_is_told_in_three_parts_without_a_traceback(workbench: Workbench) -> None:
    (workbench.source / "broken").touch()
    outcome = workbench.detect()
    assert (outcome.status, outcome.output) == (3, "error: it is broken\n  on line 1\n  mend it\n")


def test_a_second_build_keeps_the_layer_and_a_changed_input_replaces_it(workbench: Workbench) -> None:
    (workbench.source / "x").write_text("1")
    assert workbench.detect().status == 0
    first, second = workbench.build(), workbench.build()
    assert (first.status, second.status) == (0, 0)
    assert first.output.startswith("x 1.0.0\n  layer x new\n")
    assert "layer x kept: same x" in second.output
    assert workbench.launch()["processes"] == [{"type": "web", "command": ["x"]}]
    (workbench.source / "x").write_text("2")
    assert "layer x replaced: x changed (1 → 2)" in workbench.build().output


def test_a_failing_command_ends_with_the_code_of_a_failed_buildpack(workbench: Workbench) -> None:
    (workbench.source / "x").write_text("1")
    failing = Workbench(workbench.buildpack, workbench.source, workbench.scratch, env={"STATUS": "9"})
    failing.detect()
    outcome = failing.build()
    assert outcome.status == 51
    assert outcome.output.endswith("error: `sh -c 'exit ${STATUS:-0}'` failed (exit status 9)\n")


@pytest.mark.parametrize("undo", [True, False])
def test_a_build_that_failed_leaves_what_the_last_good_one_made_if_it_is_to(
    workbench: Workbench, undo: bool
) -> None:
    (workbench.source / "x").write_text("1")
    workbench.detect()
    workbench.build()
    assert workbench.launch()
    failing = replace(workbench, env={"STATUS": "9"}, undo=undo)
    failing.detect()
    assert failing.build().status == 51
    assert bool(failing.launch()) == undo


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"])
def test_the_authorities_that_the_host_trusts_are_those_of_the_tools(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "/authorities.pem")
    (workbench.source / "x").write_text("1")
    workbench.detect()
    assert "  /authorities.pem\n" in again(workbench, TELL=variable).build().output


def again(workbench: Workbench, **env: str) -> Workbench:
    return Workbench(workbench.buildpack, workbench.source, workbench.scratch, env=env)


def test_a_forgotten_return_is_told_as_one(workbench: Workbench) -> None:
    (workbench.source / "x").write_text("1")
    workbench.detect()
    assert "error: build returned None, not BuildResult\n" in again(workbench, FORGOTTEN="1").build().output
    (workbench.source / "forgotten").touch()
    outcome = workbench.detect()
    assert outcome.status == 52
    assert outcome.output.startswith("error: detect returned None, not Pass or Fail\n")


def test_a_wrong_value_is_told_with_the_line_that_handed_it_over(workbench: Workbench) -> None:
    (workbench.source / "x").write_text("1")
    workbench.detect()
    outcome = again(workbench, WRONG="1").build()
    line = PROGRAM.splitlines().index('        context.run("ls -la")') + 1
    assert outcome.status == 52 and "Traceback" not in outcome.output
    assert outcome.output.endswith(f"\n  write ('ls', '-la') (bin/build line {line})\n")
    assert again(workbench, RAISED="1").build().output.endswith("error: no\n  mend it\n")


def test_a_directory_among_the_layers_that_is_none_is_refused(workbench: Workbench) -> None:
    (workbench.source / "x").write_text("1")
    workbench.detect()
    outcome = again(workbench, ASTRAY="1").build()
    assert outcome.status == 52
    assert f"error: {workbench.layers / 'astray'} is not a layer\n" in outcome.output
    assert 'context.layer("astray", key=…' in outcome.output


def test_an_exception_is_a_defect_of_the_buildpack_with_its_own_line(workbench: Workbench) -> None:
    (workbench.source / "x").write_text("1")
    workbench.detect()
    outcome = again(workbench, DEFECT="1").build()
    assert outcome.status == 1
    assert "Traceback (most recent call last)" in outcome.output
    line = PROGRAM.splitlines().index('        (context.app / "none").read_text()') + 1
    said = outcome.output.partition("error: the buildpack has a defect\n")[2]
    assert f"bin/build ended at bin/build line {line}: FileNotFoundError:" in said


def test_paths_may_be_relative(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workbench.scratch.parent)
    near = Workbench(Path("bp"), Path("app"), Path("scratch"))
    (near.source / "x").write_text("1")
    assert near.detect().status == 0 and near.build().status == 0


def test_a_buildpack_without_the_sdk_is_to_be_staged(workbench: Workbench) -> None:
    (workbench.buildpack / "main.py").write_text("import sys\nfrom packhorse import sdk\n")
    with pytest.raises(InputError) as caught:
        again(workbench)
    assert "packhorse buildpack stage" in caught.value.fix


def test_a_failed_detection_leaves_no_plan_of_an_earlier_one(workbench: Workbench) -> None:
    (workbench.source / "x").write_text("1")
    workbench.detect()
    assert workbench.plan()["provides"] == [{"name": "x"}]
    (workbench.source / "x").unlink()
    workbench.detect()
    assert workbench.plan() == {}


def test_a_failed_build_leaves_what_the_last_good_one_made(workbench: Workbench) -> None:
    (workbench.source / "x").write_text("1")
    workbench.detect()
    assert "layer x new" in workbench.build().output
    (workbench.source / "x").write_text("2")
    assert again(workbench, STATUS="9").build().status == 51
    assert workbench.layer("x").key == {"x": "1"}
    (workbench.source / "x").write_text("1")
    assert "layer x kept" in workbench.build().output
