"""Version files as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packhorse.errors import InputError
from packhorse.sdk import versions
from packhorse.sdk.versions import RequestedVersion


def test_a_variable_says_a_version_without_the_newline_of_its_file() -> None:
    env = {"BP_TOOL_VERSION": " 22.1\n", "BP_NONE": "\n"}
    assert versions.read_variable(env, "BP_TOOL_VERSION") == RequestedVersion("22.1", "BP_TOOL_VERSION")
    assert versions.read_variable(env, "BP_NONE") is versions.read_variable(env, "BP_OTHER") is None


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"22.1.0", RequestedVersion("22.1.0", ".node-version line 1")),
        (
            b"\xef\xbb\xbf\r\n# new\r\n  v22  # for now\r\n20\r\n",
            RequestedVersion("v22", ".node-version line 3"),
        ),
        (b"lts/*\n", RequestedVersion("lts/*", ".node-version line 1")),
        (b"\n\n# nothing\n", None),
        (b"", None),
    ],
)
def test_a_plain_file_says_one_version(
    tmp_path: Path, content: bytes, wanted: RequestedVersion | None
) -> None:
    path = tmp_path / ".node-version"
    assert versions.read_file(path) is None
    path.write_bytes(content)
    assert versions.read_file(path) == wanted


def test_several_versions_are_all_there(tmp_path: Path) -> None:
    (tmp_path / ".python-version").write_text("3.13\n3.12\n")
    assert [wanted.version for wanted in versions.read_lines(tmp_path / ".python-version")] == [
        "3.13",
        "3.12",
    ]


def test_tools_are_found_by_any_of_their_names(tmp_path: Path) -> None:
    path = tmp_path / ".tool-versions"
    path.write_text("# tools\r\npython 3.13.1 3.12.0 system\r\nnodejs   22.1.0 # lts\ngolang\n")
    assert versions.read_tool_versions(path, "node", "nodejs") == RequestedVersion(
        "22.1.0", ".tool-versions line 3"
    )
    assert versions.read_tool_versions(path, "python") == RequestedVersion("3.13.1", ".tool-versions line 2")
    assert (
        versions.read_tool_versions(path, "golang") is None
        and versions.read_tool_versions(path, "java") is None
    )


def test_a_file_that_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / ".node-version").write_bytes("22".encode("utf-16"))
    with pytest.raises(InputError, match=r"\.node-version cannot be read"):
        versions.read_file(tmp_path / ".node-version")
    (tmp_path / ".nvmrc").mkdir()
    assert versions.read_file(tmp_path / ".nvmrc") is None


def test_the_newest_of_each_line_are_listed() -> None:
    there = ["20.9.0", "22.10.1", "22.9.9", "3.1", "22.11.0-rc1", "20.10.0", "22.10.1"]
    assert versions.newest_per_line(there) == ("22.10.1", "20.10.0", "3.1")
    assert versions.newest_per_line(there, parts=2)[:2] == ("22.10.1", "22.9.9")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / ".tool-versions"
    path.write_bytes(content)
    try:
        found = versions.read_lines(path)
        versions.read_tool_versions(path, "node")
    except InputError:
        return
    assert all(wanted.version.strip() == wanted.version != "" for wanted in found)
