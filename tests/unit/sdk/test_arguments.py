"""What an author hands to the SDK wrongly is refused where it is handed over, with the wrong value named."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse import sdk
from packhorse.errors import BuildError
from packhorse.sdk import arguments

ANY: Any = sdk
"""The SDK without its types: nobody has to use a type checker."""

WEB, OTHER = (sdk.Process(type, ("a",), default=True) for type in ("web", "other"))


@pytest.fixture
def context(tmp_path: Path) -> Any:
    for folder in ("app", "layers", "platform", "buildpack"):
        (tmp_path / folder).mkdir()
    (tmp_path / "buildpack/buildpack.toml").write_text(
        '[buildpack]\nid = "x"\nversion = "1"\nsbom-formats = ["application/spdx+json"]\n'
    )
    return sdk.BuildContext(
        app=tmp_path / "app",
        buildpack=sdk.Descriptor.read(tmp_path / "buildpack"),
        platform=sdk.Platform.read(tmp_path / "platform"),
        target=sdk.Target(),
        exec_env="production",
        env={},
        log=sdk.Log(io.StringIO(), io.StringIO()),
        layers=tmp_path / "layers",
    )


def said(call: Callable[[], object]) -> str:
    with pytest.raises(BuildError) as caught:
        call()
    assert caught.value.fix, "nothing says what to do"
    return str(caught.value)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: ANY.Process("web", "python3 app.py"), "the command of process web is the str 'python3 app"),
        (lambda: ANY.Process("web", ("a",), args="--x"), "args of process web is the str '--x'"),
        (lambda: ANY.Process("web", ("a", 8080)), "an entry of the command of process web is 8080"),
        (lambda: ANY.Process("web", ()), "the command of process web is empty"),
        (lambda: ANY.Process("web", ("a",), exec_env="test"), "exec_env of process web is the str 'test'"),
        (lambda: ANY.Process("my web", ("a",)), "the type of a process cannot be 'my web'"),
        (lambda: ANY.Launch(ANY.Process("web", ("a",))), "processes is Process("),
        (lambda: ANY.Launch(("web",)), "an entry of processes is 'web', not Process"),
        (lambda: ANY.Launch(slices=("node_modules",)), "a slice is the str 'node_modules'"),
        (lambda: ANY.Launch(slices="node_modules"), "slices is the str 'node_modules'"),
        (lambda: ANY.Launch(labels={"a": 1}), "'a' in labels is 1, not a str"),
        (lambda: ANY.BuildResult(ANY.Process("web", ("a",))), "not Launch"),
        (lambda: ANY.BuildResult(unmet="python"), "unmet is the str 'python'"),
        (lambda: ANY.BuildResult(store=3), "store is 3"),
        (lambda: ANY.BuildResult(store={"a": [Path("x")]}), "an entry of 'a' in store is PosixPath('x')"),
        (lambda: ANY.Process("web", ("a",), default="yes"), "default of process web is 'yes', not True or"),
        (lambda: ANY.Launch((WEB, WEB)), "there are several processes of type web"),
        (lambda: ANY.Launch((WEB, OTHER)), "the processes web, other are all the default"),
        (lambda: ANY.Require("a", {"version": Path("1")}), "'version' in the metadata of a is PosixPath("),
        (
            lambda: ANY.Source("https://a.test/x", ANY.Checksum("sha256", "00")),
            "checksum of https://a.test/x",
        ),
        (lambda: ANY.Source("https://a.test/x", "00", size="7"), "the size of https://a.test/x is '7'"),
        (lambda: ANY.Source("", "00"), "the URL of a source is empty"),
        (lambda: ANY.BuildPlan(provides="python"), "provides is the str 'python'"),
        (lambda: ANY.BuildPlan(requires=ANY.Require("a")), "requires is Require("),
        (lambda: ANY.BuildPlan(requires=("a",)), "an entry of requires is 'a', not Require"),
        (lambda: ANY.Require(""), "the name that is required is empty"),
        (lambda: ANY.Pass("python"), "the argument of Pass is 'python', not BuildPlan"),
        (lambda: ANY.Fail(None), "the reason of Fail is None"),
        (lambda: ANY.Component("x", licence=None), "the licence of x is None, not a str"),
        (lambda: ANY.Component("x", hashes={"md6": "00"}), "in the hashes of x cannot be 'md6'"),
        (lambda: ANY.Component("x", hashes={"sha256": "zz"}), "the sha256 of x cannot be 'zz'"),
        (lambda: ANY.Component("x", kind="tool"), "the kind of x cannot be 'tool'"),
        (lambda: ANY.Component("x", depends_on="y"), "depends_on of x is the str 'y'"),
        (lambda: ANY.Bill(ANY.Component("x")), "the components of a bill is Component("),
    ],
)
def test_a_wrong_value_is_named(call: Callable[[], object], what: str) -> None:
    assert what in said(call)


def test_a_str_for_a_tuple_is_shown_as_the_tuple_that_was_meant() -> None:
    assert "write ('python3', 'my app.py')" in said(lambda: ANY.Process("web", "python3 'my app.py'"))


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ({}, "the key of layer a is empty"),
        ({"n": 3}, "'n' in the key of layer a is 3, not a str"),
        ({"n": Path("x")}, "'n' in the key of layer a is PosixPath('x')"),
        ({"n": sdk.Checksum("sha256", "00" * 32)}, "write str(…) around it"),
        ("3.11", "the key of layer a is '3.11', not a mapping"),
    ],
)
def test_a_key_that_would_never_be_the_same_is_refused(context: Any, key: object, what: str) -> None:
    assert what in said(lambda: context.layer("a", key=key, launch=True))
    assert list(context.layers.iterdir()) == []


def test_facts_are_text_too(context: Any) -> None:
    assert "'n' in the facts of layer a is 3" in said(
        lambda: context.layer("a", key={"x": "1"}, cache=True, facts={"n": 3})
    )


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (({"name": "A=B", "value": "x"}), "the name of a variable cannot be 'A=B'"),
        (({"name": "../A", "value": "x"}), "the name of a variable cannot be '../A'"),
        (({"name": "A", "value": 1}), "the value of A is 1"),
        (({"name": "A", "value": "x", "phase": "run"}), "it is one of all, build, launch"),
        (({"name": "A", "value": "x", "action": "set"}), "it is one of append, default, override, prepend"),
        (({"name": "A", "value": "x", "process": "web"}), 'write phase="launch"'),
        (({"name": "A", "value": "x", "phase": "build"}), "A would have no effect in layer a"),
        (({"name": "A", "value": "x", "action": "prepend"}), "prepend for A has no delimiter"),
        (({"name": "PATH", "value": "/x"}), "PATH would have this value only"),
        (({"name": "A", "value": "x", "process": "../..", "phase": "launch"}), "the process cannot be"),
    ],
)
def test_a_variable_that_would_have_no_effect_is_refused(
    context: Any, given: dict[str, Any], what: str
) -> None:
    layer = context.layer("a", key={"x": "1"}, launch=True)
    assert what in said(lambda: layer.set_env(**given))
    assert list(layer.path.iterdir()) == []


def test_a_program_that_cannot_run_before_a_launch_is_refused(context: Any, tmp_path: Path) -> None:
    layer = context.layer("a", key={"x": "1"}, launch=True)
    (tmp_path / "text").write_text("echo hello\n")
    assert "port cannot be run" in said(lambda: layer.write_exec_d("port", "echo hello\n"))
    assert "port cannot be run" in said(lambda: layer.add_exec_d(tmp_path / "text", name="port"))
    assert "write its lines with LF" in said(lambda: layer.write_exec_d("port", "#!/bin/sh\r\n:\r\n"))
    assert "port cannot be read" in said(lambda: layer.add_exec_d(tmp_path / "none", name="port"))
    assert "port is '/bin/true', not Path" in said(lambda: layer.add_exec_d("/bin/true", name="port"))
    assert "an exec.d program cannot be '../port'" in said(lambda: layer.write_exec_d("../port", "#!/bin/sh"))
    assert list(layer.path.iterdir()) == []


def test_a_program_before_the_launch_belongs_to_a_layer_of_the_image(context: Any) -> None:
    layer = context.layer("a", key={"x": "1"}, build=True)
    assert "take the layer with launch=True" in said(lambda: layer.write_exec_d("port", "#!/bin/sh\n"))
    assert "phase" not in said(lambda: layer.set_env("A", "1", phase="launch"))
    only_cached = context.layer("b", key={"x": "1"}, cache=True)
    assert "launch=True or build=True" in said(lambda: only_cached.set_env("A", "1"))


def test_a_layer_for_nothing_and_one_for_a_word_are_refused(context: Any) -> None:
    assert "layer a is for nothing" in said(lambda: context.layer("a", key={"x": "1"}))
    assert "launch of layer a is 'yes'" in said(lambda: context.layer("a", key={"x": "1"}, launch="yes"))
    assert list(context.layers.iterdir()) == []


def test_a_layer_that_is_asked_for_twice_is_the_same_or_refused(context: Any) -> None:
    key = {"x": "1"}
    layer = context.layer("a", key=key, launch=True, cache=True)
    assert context.layer("a", key={"x": "1"}, launch=True, cache=True) is layer and not layer.kept
    key["x"] = "2"
    assert "taken a second time" in said(lambda: context.layer("a", key=key, launch=True, cache=True))
    assert "taken a second time" in said(lambda: context.layer("a", key={"x": "1"}, launch=True))


def test_what_is_no_source_and_no_path_is_not_fetched(context: Any) -> None:
    source = sdk.Source("https://a.test/x", "00" * 32)
    assert "is 'https://a.test/x', not Source" in said(lambda: context.fetch("https://a.test/x", Path("x")))
    assert "'x', not Path\nwrite Path('x')" in said(lambda: context.fetch(source, "x"))


@pytest.mark.parametrize("part", ["runtime", "../a", None])
def test_a_bill_of_no_layer_is_refused(context: Any, part: Any) -> None:
    context.layer("a", key={"x": "1"}, launch=True)
    said(lambda: context.write_sbom(part, sdk.Bill(())))
    context.write_sbom("a", sdk.Bill(()))
    assert {path.name for path in context.layers.glob("*sbom*")} == {"a.sbom.spdx.json"}


@pytest.mark.parametrize("call", ["run", "capture"])
def test_a_command_in_one_string_is_refused(context: Any, call: str) -> None:
    run = getattr(context, call)
    assert "write ('ls', '-la')" in said(lambda: run("ls -la"))
    assert "an entry of the command is PosixPath('x')" in said(lambda: run(["ls", Path("x")]))
    assert "'A' in env of the command is 1" in said(lambda: run(["ls"], env={"A": 1}))
    assert "env of the command cannot be 'A=B'" in said(lambda: run(["ls"], env={"A=B": "1"}))
    assert "which is not a directory" in said(lambda: run(["ls"], cwd=context.app / "none"))
    assert "cwd of the command is 'web', not Path" in said(lambda: run(["ls"], cwd="web"))


@given(st.text())
def test_a_name_that_is_accepted_is_that_of_an_entry_of_its_directory(name: str) -> None:
    try:
        arguments.check_file_name("it", name)
    except BuildError as error:
        assert error.what and error.fix
    else:
        assert (Path("/a") / name).parent == Path("/a") and (Path("/a") / name).name == name
