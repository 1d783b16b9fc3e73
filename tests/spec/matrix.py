"""Makes docs/reference/spec-matrix.md: each clause in our words, and the tests that hold it.

`python tests/spec/matrix.py` writes the file; test_matrix.py fails when it is not current. A test is named
after its clauses: `test_B_016_…`, or `…_b_028_to_b_032`.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLAUSES = ROOT / "tests" / "spec" / "clauses.toml"
MATRIX = ROOT / "docs" / "reference" / "spec-matrix.md"

_HEAD = """\
# The specification, clause by clause

Made by `python tests/spec/matrix.py` from `tests/spec/clauses.toml` and the names of the tests; not edited
by hand. The letter of a clause says where it is from; the numbers are ours:

| letter | specification |
|---|---|
| `B` | Buildpack API 0.12 ([buildpack.md]) |
| `P` | Platform API 0.15 ([platform.md]) |
| `X` | image extensions ([image_extension.md]) |
| `D` | buildpack distribution 0.3 ([distribution.md]) |
| `R` | buildpack registries ([buildpack-registry.md]) |
| `J` | project descriptor 0.2 ([project-descriptor.md]) |
| `O` | what the OCI distribution specification 1.1 asks of a client ([spec.md]) |

"The reference" is the lifecycle of the Cloud Native Buildpacks project. If somebody else has to keep a
clause, its row says who.

[buildpack.md]: https://github.com/buildpacks/spec/blob/buildpack/0.12/buildpack.md
[platform.md]: https://github.com/buildpacks/spec/blob/platform/0.15/platform.md
[image_extension.md]: https://github.com/buildpacks/spec/blob/buildpack/0.12/image_extension.md
[distribution.md]: https://github.com/buildpacks/spec/blob/main/distribution.md
[buildpack-registry.md]: https://github.com/buildpacks/spec/blob/main/extensions/buildpack-registry.md
[project-descriptor.md]: https://github.com/buildpacks/spec/blob/main/extensions/project-descriptor.md
[spec.md]: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
"""
_TITLES = {
    "B": "Buildpack API 0.12",
    "P": "Platform API 0.15",
    "X": "Image extensions",
    "D": "Buildpack distribution 0.3",
    "R": "Buildpack registries",
    "J": "Project descriptor 0.2",
    "O": "OCI distribution 1.1, as a client",
}
_ID = re.compile(r"(?<![A-Za-z0-9])([BDJOPRXbdjoprx])_(\d{3})(?:_to_[BDJOPRXbdjoprx]_(\d{3}))?(?![0-9])")


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause, as clauses.toml has it."""

    id: str
    says: str
    note: str = ""
    by: str = ""
    tests: tuple[str, ...] = ()


def clauses() -> dict[str, Clause]:
    """Every clause by its id."""
    tables = tomllib.loads(CLAUSES.read_text())
    return {
        name: Clause(name, table.pop("says"), tests=tuple(table.pop("tests", ())), **table)
        for name, table in tables.items()
    }


@cache
def tests() -> tuple[str, ...]:
    """Every test of the repository, as pytest spells it."""
    return tuple(
        f"{path.relative_to(ROOT)}::{node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def named(test: str) -> list[str]:
    """The clauses that a test is named after."""
    found = []
    for letter, first, last in _ID.findall(test.partition("::")[2].replace("_and_", "__")):
        found += [f"{letter.upper()}-{number:03}" for number in range(int(first), int(last or first) + 1)]
    return found


def by_clause() -> Mapping[str, list[str]]:
    """The tests of each clause, those that are named after it first."""
    found: dict[str, list[str]] = {name: [] for name in clauses()}
    for test in tests():
        for name in named(test):
            found.setdefault(name, []).append(test)
    for clause in clauses().values():
        found[clause.id] += [test for test in clause.tests if test not in found[clause.id]]
    return found


def matrix() -> str:
    """The text of docs/reference/spec-matrix.md."""
    held = by_clause()
    lines = [_HEAD]
    for letter, title in _TITLES.items():
        lines.append(f"\n## {title}\n\n| clause | says | held by |\n|---|---|---|\n")
        found = [clause for clause in clauses().values() if clause.id.startswith(letter)]
        lines += [
            f"| {clause.id} | {_text(clause.says)} | {_held(clause, held[clause.id])} |\n" for clause in found
        ]
    return "".join(lines)


def _held(clause: Clause, found: list[str]) -> str:
    links = [f"[{_sentence(test)}](../../{test.partition('::')[0]})" for test in found]
    return "<br>".join(part for part in (_text(clause.by), *links, _text(clause.note)) if part)


def _sentence(test: str) -> str:
    name = _ID.sub("", test.partition("::")[2].removeprefix("test"))
    return re.sub("_+", " ", re.sub("^_(and_|_)*|_(and_|_)*$", "", name))


def _text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


if __name__ == "__main__":
    MATRIX.write_text(matrix())
