"""The Procfile buildpack: which process types an image gets, and when the buildpack takes a source."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fakes.installation import REPOSITORY
from packhorse.builder.package import stage_directory
from packhorse.sdk.testing import Workbench

pytestmark = pytest.mark.system  # a workbench runs the buildpack's programs


@pytest.fixture(scope="module")
def buildpack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("staged") / "procfile"
    stage_directory(REPOSITORY / "buildpacks/procfile", target)
    return target


def workbench(buildpack: Path, root: Path, procfile: bytes | None) -> Workbench:
    source = root / "source"
    source.mkdir()
    (root / "scratch").mkdir()
    (source / "server").write_text("#!/bin/sh\n")
    if procfile is not None:
        (source / "Procfile").write_bytes(procfile)
    return Workbench(buildpack, source, root / "scratch")


def processes(bench: Workbench) -> dict[str, tuple[list[str], list[str], bool]]:
    """The command, its arguments, which a user can replace, and whether it is the default; by process."""
    assert bench.detect().status == 0
    outcome = bench.build()
    assert outcome.status == 0, outcome.output
    launch = tomllib.loads((bench.layers / "launch.toml").read_text())
    return {
        one["type"]: (one["command"], one.get("args", []), one.get("default", False))
        for one in launch["processes"]
    }


def test_each_line_is_a_process_that_bash_runs_and_web_is_the_default(
    buildpack: Path, tmp_path: Path
) -> None:
    text = b"# comment\r\n\r\nworker: ./server --queue 'a b'\r\nweb: echo old\r\nweb: PORT=1 ./server\r\n"
    bench = workbench(buildpack, tmp_path, text)
    assert processes(bench) == {
        "worker": (["bash", "-c"], ["./server --queue 'a b'"], False),
        "web": (["bash", "-c"], ["PORT=1 ./server"], True),
    }


def test_a_line_that_is_replaced_is_warned_of(buildpack: Path, tmp_path: Path) -> None:
    bench = workbench(buildpack, tmp_path, b"web: a\nweb: b\n")
    assert bench.detect().status == 0
    assert "warning: Procfile: line 2 replaces an earlier line" in bench.build().output


def test_the_only_process_is_the_default_and_of_several_without_web_none_is(
    buildpack: Path, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert processes(workbench(buildpack, tmp_path / "one", b"job: ./server\n"))["job"][2]
    several = processes(workbench(buildpack, tmp_path / "two", b"job: ./server\nclock: ./server\n"))
    assert [default for _, _, default in several.values()] == [False, False]


def test_a_source_without_procfile_is_not_taken_and_a_wrong_one_is_an_error_with_its_lines(
    buildpack: Path, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "link").mkdir()
    assert workbench(buildpack, tmp_path / "none", None).detect().status == 100
    wrong = workbench(buildpack, tmp_path / "wrong", b"web ./server\n")
    assert wrong.detect().status == 0
    outcome = wrong.build()
    assert outcome.status != 0 and "line 1 has no `type: command`: web ./server" in outcome.output
    link = workbench(buildpack, tmp_path / "link", None)
    (link.source / "Procfile").symlink_to("nowhere")
    assert link.detect().status == 0
    assert "it is a link that leads nowhere: nowhere" in link.build().output
