"""A package manager's layer: which version, which commands, and what is refused."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from nodejs import runtime
from nodejs.managers import tool
from nodejs.managers.choice import Choice
from nodejs.managers.tool import Package
from nodejs.project import Project
from nodejs.registry import Registry
from nodejs.versions import Releases

from fakes.build_context import build_context
from packhorse import sdk
from packhorse.errors import InputError, NetworkError, NotFoundError

pytestmark = pytest.mark.system

NPM = Package("npm", {"npm": "bin/npm-cli.js", "npx": "bin/npx-cli.js"})


def context(tmp_path: Path, script: str, **env: str) -> sdk.BuildContext:
    """A build whose npm is a script."""
    for folder in ("bin", "app", "platform", "layers"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin/npm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin/npm").chmod(0o755)
    return build_context(
        tmp_path / "app", tmp_path / "layers", env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **env}
    )


def packed(tmp_path: Path, *names: str) -> str:
    """A script that packs an archive with these files."""
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(f"package/{name}"), io.BytesIO())
    # npm pack <spec> --pack-destination <folder> …
    return f'cp {tmp_path}/made.tgz "$4"/made.tgz; echo made.tgz'


def asked(range_: str) -> Choice:
    return Choice.of(Project(Path("/nowhere"), {"engines": {"npm": range_}}))


def test_commands_that_a_package_does_not_have_are_left_out(tmp_path: Path) -> None:
    build = context(tmp_path, packed(tmp_path, "bin/npm-cli.js"))
    found = tool.provide_tool(build, NPM, asked("8.0.0"), range="8.0.0")
    assert [path.name for path in (found.path / "bin").iterdir()] == ["npm"]


def test_a_manager_without_its_own_command_is_refused(tmp_path: Path) -> None:
    build = context(tmp_path, packed(tmp_path, "bin/other.js"))
    with pytest.raises(InputError) as raised:
        tool.provide_tool(build, NPM, asked("1.0.0"), range="1.0.0")
    assert raised.value.what == "npm 1.0.0 is too old for this buildpack (package.json engines.npm: 1.0.0)"
    assert raised.value.fix == "ask for a newer one: package.json engines.npm"


def test_who_asks_for_a_version_that_is_not_there_is_named(tmp_path: Path) -> None:
    build = context(tmp_path, """echo '["9.0.0", "10.0.0"]'""")
    with pytest.raises(NotFoundError) as raised:
        tool.provide_tool(build, NPM, asked("99"), range="99")
    assert raised.value.what == "no version of npm matches 99 (package.json engines.npm: 99)"
    assert raised.value.fix == "ask for another: package.json engines.npm"


def test_an_exact_version_that_is_not_there_is_told_likewise(tmp_path: Path) -> None:
    said = "npm error code ETARGET\\nnpm error notarget No matching version found for npm@10.999.0.\\n"
    build = context(tmp_path, f"printf '{said}' >&2; exit 1")
    with pytest.raises(NotFoundError) as raised:
        tool.provide_tool(build, NPM, asked("10.999.0"), range="10.999.0")
    assert raised.value.what == "no version of npm matches 10.999.0 (package.json engines.npm: 10.999.0)"
    assert raised.value.why == "No matching version found for npm@10.999.0."


@pytest.mark.parametrize("answer", ["", "{}", "[]", "[1]", "null", "<html>", "7"])
def test_a_registry_that_answers_something_else_is_an_error(tmp_path: Path, answer: str) -> None:
    registry = Registry(context(tmp_path, f"echo '{answer}'"))
    with pytest.raises(NetworkError, match="did not answer with the versions of npm"):
        registry.versions("npm")


def test_a_schedule_without_a_release_is_an_error(tmp_path: Path) -> None:
    build = context(tmp_path, """echo '["1.0.0-rc.1"]'""", BP_NODE_UPDATE="1")
    with pytest.raises(NotFoundError, match="no release of node-releases"):
        runtime.provide_releases(build, Releases.load(), ())
