"""The rules of ARCHITECTURE.md that a program can check: who imports whom, and who touches the outside."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "packhorse"

EDGES = ("http/", "cli/", "phases/main.py", "oci/auth.py", "oci/registry/mirrors.py", "sdk/")
"""Where the environment of this process may be read."""

OUTSIDE = {
    *("fileinput", "glob", "http", "mmap", "pathlib", "shutil", "socket", "ssl", "subprocess", "tempfile"),
    *("multiprocessing", "urllib", "urllib3"),
}
"""Modules with which a phase could reach a file, a process or the network without its ports."""

BUILT_IN = {"__import__", "open"}
"""Built-in functions that do."""

MODULE = re.compile(r"`([a-z_]+(?:[./][a-z_]+)+)`")
"""What looks like the name of a module of ours."""

TEXT_ONLY = {"fsdecode", "fsencode"}
"""What of `os` only works on text."""


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def modules(folder: str = "") -> Iterator[tuple[str, ast.Module]]:
    """Every module of ours: its path below the package, and its syntax tree."""
    for path in sorted((SOURCE / folder).rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith("_bundled/"):
            yield name, syntax(path)


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of each import; the name is "" for a whole module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def attributes(tree: ast.Module, module: str) -> Iterator[str]:
    """Names used of a module: `module.name`, and `from module import name`."""
    yield from (name for source, name in imported(tree) if source == module and name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module:
            yield node.attr


def outside(tree: ast.Module) -> set[str]:
    """Everything in a module that reaches beyond its ports."""
    found = {source for source, _ in imported(tree) if source.partition(".")[0] in OUTSIDE}
    found |= {f"os.{name}" for name in attributes(tree, "os") if name not in TEXT_ONLY}
    found |= {f"io.{name}" for name in attributes(tree, "io") if name in ("FileIO", "open", "open_code")}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return found | {call.id for call in calls if isinstance(call, ast.Name) and call.id in BUILT_IN}


def environment(tree: ast.Module) -> set[str]:
    """Every way in which a module reads the environment of this process."""
    return set(attributes(tree, "os")) & {"environ", "environb", "getenv", "getenvb"}


def test_folders_import_each_other_as_the_table_says(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(str(ROOT / ".importlinter"), no_cache=True)
    assert status == 0, capsys.readouterr().out


def test_every_module_that_a_docstring_or_a_page_names_exists() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir()}
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "buildpacks").rglob("*.py")]
    # A decision record keeps the names of its time.
    pages = [page for page in pages if page.parent.name != "decisions"]
    texts = {path: path.read_text() for path in pages}
    texts |= {SOURCE / name: (SOURCE / name).read_text() for name, _ in modules()}
    named = [(path, name) for path, text in texts.items() for name in MODULE.findall(text)]
    assert len(named) > 200
    missing = [
        (str(path.relative_to(ROOT)), name)
        for path, name in named
        if name.partition("/")[0].partition(".")[0] in folders
        and not name.endswith((".toml", ".env", ".js"))
        and not _exists(name.removesuffix(".py").replace("/", "."))
    ]
    assert missing == []


def _exists(name: str) -> bool:
    """Whether there is a module or a folder of this dotted name, or one that says the rest of it."""
    place, parts = SOURCE, name.split(".")
    for number, part in enumerate(parts):
        if (place / part).is_dir():
            place /= part
            continue
        module = place / f"{part}.py"
        if not module.is_file():
            module, number = place / "__init__.py", number - 1
        rest = parts[number + 1 : number + 2]
        return module.is_file() and all(re.search(rf"\b{word}\b", module.read_text()) for word in rest)
    return True


def test_phases_reach_files_and_processes_through_their_ports_only() -> None:
    found = {name: outside(tree) for name, tree in modules("lifecycle")}
    assert {"lifecycle/detect.py", "lifecycle/export.py"} <= set(found)
    assert {name: uses for name, uses in found.items() if uses} == {}


@pytest.mark.parametrize("folder", ["spec"])
def test_the_specification_does_no_input_and_output(folder: str) -> None:
    assert {name: uses for name, tree in modules(folder) if (uses := outside(tree))} == {}


def test_the_environment_of_this_process_is_read_at_the_edges_only() -> None:
    readers = {name for name, tree in modules() if environment(tree)}
    assert {name for name in readers if not name.startswith(EDGES)} == set()
    assert "cli/main.py" in readers


def test_the_package_itself_imports_nothing() -> None:
    assert list(imported(ast.parse((SOURCE / "__init__.py").read_text()))) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os\nos.walk('/')", {"os.walk"}),
        ("from os import open, fsdecode", {"os.open"}),
        ("import os.path\nos.path.exists('x')", {"os.path"}),
        ("with open('x') as f: pass", {"open"}),
        ("from pathlib import PurePath", {"pathlib"}),
        ("import urllib.request", {"urllib.request"}),
        ("def f():\n    import subprocess", {"subprocess"}),
        ("import io\nio.open('x')\nio.BytesIO()", {"io.open"}),
        ("import os\nview.open('x')\nos.fsdecode(b'')", set()),
    ],
)
def test_what_reaches_outside_is_seen(code: str, expected: set[str]) -> None:
    assert outside(ast.parse(code)) == expected


def test_reading_the_environment_is_seen() -> None:
    assert environment(ast.parse("import os\nx = os.environ['A']")) == {"environ"}
    assert environment(ast.parse("from os import getenv")) == {"getenv"}
    assert environment(ast.parse("settings.environ['A']")) == set()


@pytest.mark.system
def test_a_build_into_the_store_imports_nothing_that_talks_to_registries() -> None:
    """Imports take a quarter of the time of an unchanged build, so most modules are imported late."""
    program = "import sys, packhorse.cli.main, packhorse.cli.build; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ}
    )
    loaded = done.stdout.split()
    assert "packhorse.build.execute" in loaded
    needless = ("packhorse.oci.registry.", "packhorse.http.", "packhorse.fleet.", "packhorse.builder.distro.")
    assert [name for name in loaded if name.startswith(needless)] == []
    assert {"email", "http", "random", "tarfile", "tempfile", "urllib3"}.isdisjoint(loaded)
