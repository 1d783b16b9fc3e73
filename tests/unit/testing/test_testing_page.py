"""docs/reference/testing.md: its examples run, and it shows everything that `packhorse.testing` has."""

from __future__ import annotations

import ast
import inspect
import random
import re
import subprocess
import sys
import urllib.request
from contextlib import suppress
from dataclasses import fields
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from packhorse import testing
from packhorse.sdk import testing as sdk_testing
from packhorse.testing import file_server

PAGE = (Path(__file__).parents[3] / "docs/reference/testing.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_with_a_registry_passes() -> None:
    [example] = [example for example in EXAMPLES if "FakeRegistry()" in example]
    names: dict[str, Any] = {}
    exec(compile(example, "testing.md", "exec"), names)
    [test] = [names[name] for name in names if name.startswith("test_")]
    test()


def test_the_example_with_a_file_server_passes() -> None:
    [example] = [example for example in EXAMPLES if "serve_files()" in example]
    data = random.Random(1).randbytes(5000)
    received = []

    def download(url: str) -> None:
        for _ in range(4):
            with suppress(OSError, HTTPException), urllib.request.urlopen(url) as response:
                received.append(response.read())

    exec(compile(example, "testing.md", "exec"), {"DATA": data, "download": download})
    assert received[-1] == data


def test_everything_public_is_on_the_page() -> None:
    words = set(re.findall(r"\w+", PAGE))
    names = {*testing.__all__, *(field.name for field in fields(testing.Fault))}
    names |= {name for name in vars(testing.FakeRegistry()) if not name.startswith("_")}
    for kind in (testing.FakeRegistry, testing.Workbench, testing.BuiltLayer, testing.Image, file_server):
        members = dict(inspect.getmembers(kind, inspect.isfunction))
        names |= {name for name, member in members.items() if member.__module__.startswith("packhorse.")}
    assert {name for name in names - words if not name.startswith("_")} == set()


def test_every_piece_of_python_on_the_page_can_be_read() -> None:
    assert len(EXAMPLES) == 4 and all(ast.parse(example) for example in EXAMPLES)


def test_the_workbench_is_the_one_of_the_sdk() -> None:
    for name in ("BuiltLayer", "Image", "Outcome", "Workbench", "build_image"):
        assert getattr(testing, name) is getattr(sdk_testing, name)


@pytest.mark.system
def test_the_command_line_does_not_import_it() -> None:
    code = "import sys, packhorse.cli.main, packhorse.cli.build; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not any(name.startswith("packhorse.testing") for name in done.stdout.split())
