"""Which package manager an application's files ask for."""

from pathlib import Path

import pytest
from nodejs.managers import Choice
from nodejs.project import Project

from packhorse.errors import InputError


def choice(directory: Path, *names: str) -> Choice:
    for name in names:
        (directory / name).touch()
    return Choice.of(Project(directory))


def said(manifest: dict[str, object]) -> Choice:
    return Choice.of(Project(Path("/nowhere"), manifest))


def test_without_a_lock_it_is_npm(tmp_path: Path) -> None:
    found = choice(tmp_path)
    assert (found.manager, found.lock, found.unread) == ("npm", "", ())


def test_a_shrinkwrap_wins_over_a_lock_as_in_npm(tmp_path: Path) -> None:
    assert choice(tmp_path, "package-lock.json", "npm-shrinkwrap.json").lock == "npm-shrinkwrap.json"


@pytest.mark.parametrize(
    ("lock", "manager"), [("yarn.lock", "yarn"), ("pnpm-lock.yaml", "pnpm"), ("bun.lock", "bun")]
)
def test_a_lock_names_its_manager_and_the_others_are_told(tmp_path: Path, lock: str, manager: str) -> None:
    found = choice(tmp_path, lock, "package-lock.json")
    assert (found.manager, found.lock, found.unread) == (manager, lock, ("package-lock.json",))


def test_the_field_names_manager_version_and_hash(tmp_path: Path) -> None:
    (tmp_path / "package-lock.json").touch()
    found = Choice.of(Project(tmp_path, {"packageManager": "pnpm@9.15.9+sha512.00ff"}))
    assert (found.manager, found.range, found.digest) == ("pnpm", "9.15.9", "sha512.00ff")
    assert (found.lock, found.unread) == ("", ("package-lock.json",))


@pytest.mark.parametrize("field", ["pnpm", "pnpm@", "pnpm@latest", "cnpm@1.0.0", "", 7, "pnpm@9.0.0+x"])
def test_a_field_that_means_nothing_is_refused(field: object) -> None:
    with pytest.raises(InputError, match="packageManager names no package manager"):
        said({"packageManager": field})


def test_engines_give_the_version_where_nothing_else_does() -> None:
    engines = {"engines": {"yarn": "^1.22.0", "pnpm": "9"}}
    assert said({**engines, "packageManager": "pnpm@9.1.0"}).range == "9.1.0"
    found = said({**engines, "devEngines": {"packageManager": {"name": "yarn"}}})
    assert (found.manager, found.range, found.source) == (
        "yarn",
        "^1.22.0",
        "package.json engines.yarn: ^1.22.0",
    )
    several = [{"name": "cnpm", "version": "1"}, {"name": "pnpm", "version": "^9.1.0"}, {"name": "npm"}]
    assert said({"devEngines": {"packageManager": several}}).range == "^9.1.0"
    with pytest.raises(InputError, match="is not a range of versions"):
        said({"engines": {"npm": "newest"}})
