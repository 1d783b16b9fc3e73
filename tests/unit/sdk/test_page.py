"""The pages on the SDK: the example is the sample that runs, and they show everything that the SDK has."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from packhorse import sdk
from packhorse.builder.distro.files import wanted_packages
from packhorse.builder.package import stage_directory
from packhorse.sdk.layer import Action, Phase
from packhorse.sdk.testing import Workbench

ROOT = Path(__file__).parents[3]
TUTORIAL = (ROOT / "docs/tutorial/first-buildpack.md").read_text()
PAGE = (ROOT / "docs/reference/sdk.md").read_text()
SAMPLE = ROOT / "samples/buildpacks/greeting"

_NOT_CALLED = {"find", "read", "table", "verify", "output", "error", "title", "read_later"}
"""Methods that the SDK and the program call, not a buildpack; `main` alone calls `Bindings.find`."""


@pytest.mark.parametrize(
    ("language", "file"), [("python", "main.py"), ("toml", "buildpack.toml"), ("sh", "bin/detect")]
)
def test_the_example_is_the_sample(language: str, file: str) -> None:
    content = (SAMPLE / file).read_text()
    assert f"```{language}\n{content}```" in TUTORIAL
    assert len(content.splitlines()) < 40


def test_both_programs_of_the_sample_are_the_same() -> None:
    assert (SAMPLE / "bin/detect").read_bytes() == (SAMPLE / "bin/build").read_bytes()


def test_everything_public_is_on_the_page() -> None:
    words = set(re.findall(r"\w+", PAGE))
    names = set(sdk.__all__)
    kinds = [getattr(sdk, name) for name in sdk.__all__]
    for kind in filter(inspect.isclass, kinds):
        members = {name for name, value in vars(kind).items() if inspect.isfunction(value)}
        names |= {name for name in members if not name.startswith("_")} - _NOT_CALLED
    names |= {"read_file", "read_lines", "read_tool_versions", "read_variable", "newest_per_line"}
    assert names - words == set()


def test_every_piece_of_python_on_the_page_can_be_read() -> None:
    pieces = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(pieces) > 6 and all(ast.parse(piece) for piece in pieces)


def test_the_page_has_every_word_that_the_sdk_takes() -> None:
    words = {*get_args(Action), *get_args(Phase)}
    assert {word for word in words if f"`{word}`" not in PAGE} == set()


def test_what_the_page_says_of_the_default_images_is_so() -> None:
    build, run = wanted_packages("build"), wanted_packages("run")
    for package in ("python3", "python3-pip", "python3-venv", "build-essential", "git", "curl", "unzip"):
        assert package in build and package not in run


@pytest.mark.system
def test_who_imports_the_sdk_pays_for_what_a_detection_needs() -> None:
    code = "import sys; before = set(sys.modules); import packhorse.sdk; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"asyncio", "email", "http", "socket", "ssl", "tempfile", "urllib.request", "uuid"}
    assert not loaded & {"decimal", "hashlib", "json", "platform", "shutil", "subprocess"}
    assert "packhorse.sdk.context" in loaded and "packhorse.sdk.sbom" not in loaded


def test_what_is_imported_later_is_there_as_the_rest_is() -> None:
    assert set(sdk.__all__) <= set(dir(sdk))
    assert sdk.Component is importlib.import_module("packhorse.sdk.sbom").Component
    with pytest.raises(AttributeError, match="has no attribute 'Componant'"):
        _ = sdk.Componant  # type: ignore[attr-defined]


@pytest.mark.system
def test_the_sample_does_what_the_page_says(tmp_path: Path) -> None:
    stage_directory(SAMPLE, tmp_path / "staged")
    for folder in ("source", "scratch"):
        (tmp_path / folder).mkdir()
    bindings = {"token": {"type": "npmrc", ".npmrc": "x"}}
    workbench = Workbench(
        tmp_path / "staged", tmp_path / "source", tmp_path / "scratch", {"BP_X": "1"}, bindings=bindings
    )
    refused = workbench.detect()
    assert (refused.status, refused.output) == (100, "  there is no greeting.txt\n")
    (workbench.source / "greeting.txt").write_text("good morning\n")
    assert workbench.detect().status == 0
    assert workbench.plan()["provides"] == [{"name": "greeting"}]
    assert "layer greeting new" in workbench.build().output
    assert "layer greeting kept: same greeting.txt, buildpack" in workbench.build().output
    made = workbench.layer("greeting")
    assert made.types == {"launch", "cache"} and "GREETING.override" in made.env("launch")
    assert (made.exec_d, made.facts, list(made.key)) == ((), {}, ["greeting.txt", "buildpack"])
    assert workbench.processes()["web"]["command"][0] == "sh" and workbench.launch()["processes"]
    assert workbench.sbom("greeting")["components"][0]["name"] == "greeting"
    assert workbench.sbom("greeting", format="spdx")["packages"][0]["name"] == "greeting"
    assert workbench.sbom("launch") == {}
    assert (workbench.scratch / "platform/bindings/token/.npmrc").read_text() == "x"
    with pytest.raises(KeyError):
        workbench.layer("other")
