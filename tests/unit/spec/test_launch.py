"""launch.toml, build.toml and store.toml."""

from __future__ import annotations

import pytest

from packhorse.errors import ExportError, InputError
from packhorse.spec.api import BuildpackApi
from packhorse.spec.buildpack_files import BuildToml, LaunchToml, Process, StoreToml
from packhorse.spec.buildpack_toml import Ref

WHOLE = """
[[labels]]
key = "k"
value = "v"
[[labels]]
key = "empty"
[[processes]]
type = "web"
command = ["node", "x"]
args = ["--port"]
default = true
working-dir = "/workspace/x"
exec-env = ["test"]
[[processes]]
type = "a.b_c-9"
command = ["sh"]
[[slices]]
paths = ["*.js", "b/"]
[[slices]]
paths = []
"""


def parse(text: str, *, minor: int = 12) -> LaunchToml:
    return LaunchToml.parse(text.encode(), "launch.toml", api=BuildpackApi(0, minor), owner=Ref("me", "1"))


def issues(text: str) -> list[str]:
    with pytest.raises(InputError) as raised:
        parse(text)
    return list(raised.value.issues)


def test_a_whole_file_is_read() -> None:
    assert parse(WHOLE) == LaunchToml(
        labels=(("k", "v"), ("empty", "")),
        processes=(
            Process("web", ("node", "x"), ("--port",), True, "/workspace/x", ("test",), "me"),
            Process("a.b_c-9", ("sh",), buildpack_id="me"),
        ),
        slices=(("*.js", "b/"), ()),
    )
    assert parse("") == LaunchToml()


def test_arguments_that_are_absent_are_told_from_none() -> None:
    absent, empty = parse(
        '[[processes]]\ntype="a"\ncommand=["x"]\n[[processes]]\ntype="b"\ncommand=["x"]\nargs=[]\n'
    ).processes
    assert (absent.args, empty.args) == (None, ())


def test_execution_environments_of_processes_are_taken_in_every_api() -> None:
    assert parse(WHOLE, minor=9).processes[0].exec_env == ("test",)
    assert parse(WHOLE, minor=12).processes[0].exec_env == ("test",)


@pytest.mark.parametrize("kind", [".", ".."])
def test_a_process_type_can_be_the_name_of_a_link(kind: str) -> None:
    with pytest.raises(ExportError) as raised:
        parse(f'[[processes]]\ntype = "{kind}"\ncommand = ["x"]\n')
    assert raised.value.why == f"launch.toml:2: process type {kind!r} cannot be the name of a file"


def test_every_issue_is_told_at_once_with_its_line() -> None:
    text = """\
[[labels]]
value = "v"
[[processes]]
type = "web"
command = "node"
direct = true
default = true
[[processes]]
type = "web"
command = ["x"]
default = true
[[processes]]
type = "a/b"
command = []
[[processes]]
command = ["x"]
[[slices]]
paths = 1
"""
    assert issues(text) == [
        "launch.toml:1: labels.key is missing",
        "launch.toml:6: direct is no key of a process from Buildpack API 0.9 on: every process is direct",
        "launch.toml:5: processes.command must be a list of strings",
        "launch.toml:3: process 'web' has no command",
        "launch.toml:12: process 'a/b' has no command",
        "launch.toml:18: slices.paths must be a list of strings",
        "launch.toml:3: more than one process has default = true",
        "launch.toml:3: process type 'web' is there twice",
        "launch.toml:13: process type 'a/b' may have letters, digits, '.', '_' and '-' only",
        "launch.toml:15: a process needs a type",
    ]


@pytest.mark.parametrize("kind", ["", "../x", "a b", "a\\nb", "web/", "é"])
def test_a_process_type_names_a_file_and_nothing_else(kind: str) -> None:
    with pytest.raises(ExportError) as raised:
        parse(f'[[processes]]\ntype = "{kind}"\ncommand = ["x"]\n')
    assert raised.value.exit_code == 62
    assert raised.value.why.startswith("launch.toml:2: ")


def test_processes_without_a_type_are_refused_each_as_the_exporter_does_it() -> None:
    with pytest.raises(ExportError) as raised:
        parse('[[processes]]\ncommand = ["x"]\n[[processes]]\ntype = ""\ncommand = ["y"]\n')
    assert raised.value.why.splitlines() == [
        "launch.toml:1: a process needs a type",
        "launch.toml:4: a process needs a type",
    ]


def test_unmet_entries_are_read_and_need_a_name() -> None:
    assert BuildToml.parse(b'unmet = [{name = "a"}, {name = "b"}]', "build.toml").unmet == ("a", "b")
    assert BuildToml.parse(b"", "build.toml").unmet == ()
    with pytest.raises(InputError, match=r"build\.toml:2: unmet\.name is missing"):
        BuildToml.parse(b"\n[[unmet]]\n", "build.toml")


def test_a_store_has_metadata_of_any_kind() -> None:
    assert StoreToml.parse(b"[metadata]\nx = [1, {y = 2}]\n", "store.toml").metadata == {"x": [1, {"y": 2}]}
    with pytest.raises(InputError, match=r"store\.toml:1: metadata must be a table"):
        StoreToml.parse(b"metadata = 1", "store.toml")


def test_a_process_that_no_launcher_starts_is_an_issue() -> None:
    head = '[[processes]]\ntype = "web"\n'
    words = "of process 'web' has a NUL byte: it could not be started"
    assert issues(f'{head}command = ["a", "b\\u0000"]\n') == [f"launch.toml:3: command {words}"]
    more = 'command = ["a"]\nargs = ["\\u0000"]\nworking-dir = "/\\u0000"\n'
    assert issues(head + more) == [f"launch.toml:4: args {words}", f"launch.toml:5: working-dir {words}"]
    assert issues(f'{head}command = [""]\n') == ["launch.toml:1: process 'web' has no command"]
