"""Random sources and random rules of a .gitignore, and which paths Git says the rules leave in the source.

Git is asked about one rule at a time, since with several it never brings back what is below an excluded
directory. The last rule that matches decides, as in pack.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAMES = ("a", "b", "ab", "a.b", ".a", "a b", "[a]", "build", "b.log", "#a", "!a", "a\\b", "a\nb", "b\n")
PARTS = (
    *NAMES[:5],
    *("build", "*", "?", "**", "a*", "*b", "*.log"),
    *("[ab]", "[!a]", "[a-c]*", "[[:alpha:]]b", "a[!x]b", r"\#a", r"\!a"),
)
KEPT = "always kept"
"""A file that is part of every random source, as a source without any file is refused."""


@dataclass(frozen=True)
class RandomSource:
    """A directory `app`, its rules, and whether they say what is part of the source or what is not."""

    app: Path
    rules: tuple[str, ...]
    is_include: bool

    @property
    def project_toml(self) -> str:
        """The rules as a project.toml."""
        key = "include" if self.is_include else "exclude"
        texts = ", ".join(f'"{rule}"'.replace("\\", "\\\\") for rule in self.rules)
        return f'[_]\nschema-version = "0.2"\n[io.buildpacks]\n{key} = [{texts}]\n'


def make_source(app: Path, seed: int) -> RandomSource:
    """Makes a source in the new directory `app`; the same one for the same seed. A file has its own path."""
    choose = random.Random(seed)
    app.mkdir()
    directories = [app]
    for _ in range(choose.randint(4, 25)):
        path = choose.choice(directories) / choose.choice(NAMES)
        if path.exists() or path.is_symlink():
            continue
        kind = choose.choice(("file", "file", "directory", "directory", "link"))
        if kind == "directory":
            path.mkdir()
            directories.append(path)
        elif kind == "link":
            path.symlink_to(choose.choice(NAMES))
        else:
            path.write_text(content(path.relative_to(app)))
    (app / KEPT).write_text(content(KEPT))
    is_include = choose.random() < 0.3
    rules = tuple(_make_rule(choose) for _ in range(choose.randint(1, 5)))
    return RandomSource(app, (*rules, f"/{KEPT}" if is_include else f"!/{KEPT}"), is_include)


def content(path: Path | str) -> str:
    """What is in a file of a source: words that no other file has."""
    return f"<content of {str(path).replace(chr(10), '%')}>"  # one line, as programs look for it


def _make_rule(choose: random.Random) -> str:
    path = "/".join(choose.choice(PARTS) for _ in range(choose.choice((1, 1, 1, 2, 2, 3))))
    first, last = choose.choice(("", "", "/")), choose.choice(("", "", "/"))
    return f"{choose.choice(('', '', '!'))}{first}{path}{last}"


def find_kept(source: RandomSource, repository: Path) -> set[str]:
    """The paths that are part of the source, as Git says; `repository` is a new directory for Git's files.

    A directory is part of it if the rules say so, or if something in it is.
    """
    paths = sorted(str(path.relative_to(source.app)) for path in source.app.rglob("*"))
    git = ["git", f"--git-dir={repository}", f"--work-tree={source.app}"]
    subprocess.run([*git, "init", "--quiet"], check=True, cwd=source.app)
    meant = dict.fromkeys(paths, False)
    for rule in source.rules:
        is_exception = rule.startswith("!")
        for path in _find_matches(git, rule.removeprefix("!") if is_exception else rule, paths, source.app):
            meant[path] = not is_exception
    kept = {path for path in paths if meant[path] is source.is_include}
    return kept | {str(parent) for path in kept for parent in Path(path).parents if parent != Path()}


def _find_matches(git: Sequence[str], rule: str, paths: Sequence[str], app: Path) -> list[str]:
    """The paths that match one rule, or are below one that does."""
    exclude = Path(git[1].partition("=")[2]) / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_text(f"{rule}\n")
    asked = "".join(f"{path}\0" for path in paths)
    done = subprocess.run(
        [*git, "check-ignore", "--no-index", "-z", "--stdin"],
        input=asked,
        stdout=subprocess.PIPE,
        text=True,
        cwd=app,
    )
    assert done.returncode in (0, 1)  # 1 if no path matches
    return done.stdout.split("\0")[:-1]
