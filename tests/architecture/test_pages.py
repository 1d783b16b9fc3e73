"""Pages name only what exists: links, headings, files of this repository, commands and options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from packhorse.cli.main import packhorse

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
    *sorted(DOCS.rglob("*.md")),
]
PARTS = ("tutorial", "how-to", "reference", "explanation", "decisions", "benchmarks")

_LINK = re.compile(r"\]\(([^()\s]+)\)")
_URL = re.compile(r"[a-z]+:")
_FILE = re.compile(
    r"(?<![\w./-])"
    r"((?:src/packhorse|tests|docs|samples|buildpacks|launcher|bench|\.github)/[\w./-]*[\w/-]|[A-Z]{4,}\.md)"
    r"(?![\w*<{…]|\.\w)"
)
_CODE = re.compile(r"```[\s\S]*?```|^ {4}.*$|`[^`\n]+`", re.MULTILINE)
_OTHERS = {"samples/greeting", "tests/fixtures"}
"""The id of a buildpack, and a directory of a reader's project."""
_COMMAND = re.compile(r"(?<![\w./-])packhorse ((?!is\b)[a-z][^`\n#│|]*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_this_repository_leads_somewhere(page: Path) -> None:
    broken = [target for target in _LINK.findall(_prose(page)) if not _leads_somewhere(page, target)]
    assert broken == []


def test_every_page_is_in_the_index_of_its_part() -> None:
    for part in PARTS:
        folder = DOCS / part
        index = set(_LINK.findall((folder / "README.md").read_text()))
        assert {page.name for page in folder.glob("*.md")} - {"README.md"} - index == set(), part
    front = set(_LINK.findall((DOCS / "README.md").read_text()))
    assert {f"{part}/README.md" for part in PARTS} - front == set()
    assert {path.name for path in DOCS.iterdir()} == {"README.md", *PARTS}


def test_every_file_that_a_page_or_the_source_names_exists() -> None:
    texts = {page: page.read_text() for page in PAGES if page.parent != DOCS / "decisions"}
    texts |= {
        path: path.read_text()
        for path in (ROOT / "src/packhorse").rglob("*.py")
        if "_bundled" not in path.parts
    }
    named = {(path, name) for path, text in texts.items() for name in set(_FILE.findall(text)) - _OTHERS}
    assert len(named) > 100
    assert [(str(path.relative_to(ROOT)), name) for path, name in sorted(named) if not _exists(name)] == []


def test_every_command_and_option_on_the_pages_exists() -> None:
    found = [(page, words) for page in PAGES for words in _commands(page.read_text())]
    assert len(found) > 150
    wrong = [(str(page.relative_to(ROOT)), problem) for page, words in found if (problem := _problem(words))]
    assert wrong == []


def _prose(page: Path) -> str:
    """The text of a page without blocks and pieces of code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)


def _leads_somewhere(page: Path, target: str) -> bool:
    """Whether a link is external, or names a file that exists and a heading that the file has."""
    if _URL.match(target):
        return True
    name, _, heading = target.partition("#")
    path = page.parent / name if name else page
    return path.exists() and (not heading or heading in _anchors(path))


def _anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _exists(name: str) -> bool:
    """Whether a file exists. A decision may be named by its number alone."""
    path = ROOT / name
    return path.exists() or (path.parent == DOCS / "decisions" and any(path.parent.glob(f"{path.name}-*.md")))


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each command line of packhorse in a text, as far as a shell can read them."""
    code = "\n".join(_CODE.findall(text)).replace("\\\n", " ")
    for line in _COMMAND.findall(code):
        try:
            yield shlex.split(re.split(r"\s{2,}|[;&>]|\\$", line)[0].rstrip(".,:)"))
        except ValueError:  # an apostrophe of prose
            continue


def _problem(words: list[str]) -> str:
    """What a command line has that packhorse does not have; empty if all of it exists."""
    command: click.Command = packhorse
    context = click.Context(command)
    while words and isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        if found is None:  # a group may take an image's name in place of a command, as `packhorse sbom` does
            return f"no command {words[0]}" if command is packhorse and "--" in "".join(words[1:]) else ""
        command, words = found, words[1:]
    options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {
        "--help",
        "-h",
    }
    given = [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
    return next((f"no option {name} of {command.name}" for name in given if name not in options), "")
