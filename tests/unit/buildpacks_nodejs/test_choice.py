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
    assert (found.manager, found.lock, found.unread_locks) == ("npm", "", ())


def test_a_shrinkwrap_wins_over_a_lock_as_in_npm(tmp_path: Path) -> None:
    assert choice(tmp_path, "package-lock.json", "npm-shrinkwrap.json").lock == "npm-shrinkwrap.json"


@pytest.mark.parametrize(
    ("lock", "manager"), [("yarn.lock", "yarn"), ("pnpm-lock.yaml", "pnpm"), ("bun.lock", "bun")]
)
def test_a_lock_names_its_manager_and_the_others_are_told(tmp_path: Path, lock: str, manager: str) -> None:
    found = choice(tmp_path, lock, "package-lock.json")
    assert (found.manager, found.lock, found.unread_locks) == (manager, lock, ("package-lock.json",))


def test_the_field_names_manager_version_and_hash(tmp_path: Path) -> None:
    (tmp_path / "package-lock.json").touch()
    found = Choice.of(Project(tmp_path, {"packageManager": "pnpm@9.15.9+sha512.00ff"}))
    assert (found.manager, found.range, found.digest) == ("pnpm", "9.15.9", "sha512.00ff")
    assert (found.lock, found.unread_locks) == ("", ("package-lock.json",))


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


@pytest.mark.parametrize(
    ("engines", "manager"),
    [
        ({"pnpm": ">=9"}, "pnpm"),
        ({"node": "22", "yarn": "^1.22.0"}, "yarn"),
        ({"npm": "please-use-pnpm", "yarn": "please-use-pnpm", "pnpm": "9"}, "pnpm"),
        ({"bun": "1"}, "bun"),
        ({"node": ">=18", "bun": "1"}, "npm"),
        ({"npm": ">=8", "pnpm": ">=9"}, "npm"),
        ({"node": "22"}, "npm"),
    ],
)
def test_without_a_lock_the_only_manager_of_engines_is_meant(
    engines: dict[str, str], manager: str, tmp_path: Path
) -> None:
    found = Choice.of(Project(tmp_path, {"engines": engines}))
    assert found.manager == manager
    if manager != "npm":
        assert found.range == engines[manager]
        assert found.source == f"package.json engines.{manager}: {engines[manager]}"
    (tmp_path / "package-lock.json").touch()
    engines.pop("npm", "")
    assert Choice.of(Project(tmp_path, {"engines": engines})).manager == "npm"


@pytest.mark.parametrize(("file", "manager"), [("pnpm-workspace.yaml", "pnpm"), (".yarnrc.yml", "yarn")])
def test_without_a_lock_a_file_of_one_manager_names_it(tmp_path: Path, file: str, manager: str) -> None:
    found = choice(tmp_path, file)
    assert (found.manager, found.source) == (manager, f"there is {file}")
    assert choice(tmp_path, "package-lock.json").manager == "npm"


@pytest.mark.parametrize(
    ("files", "range_", "source"),
    [
        ({".bun-version": "v1.2.3\n"}, "v1.2.3", ".bun-version: v1.2.3"),
        ({".bun-version": "# ours\nbun-v1.2 # why\n"}, "v1.2", ".bun-version: v1.2"),
        ({".bun-version": "latest\n", ".tool-versions": "bun 1.1.1"}, "", ".bun-version: latest"),
        ({".tool-versions": "nodejs 22.1.0\nbun system 1.2.3\n"}, "1.2.3", ".tool-versions: 1.2.3"),
        ({".bun-version": ""}, "", "there is bun.lock"),
    ],
)
def test_the_version_of_bun_is_in_a_file(
    files: dict[str, str], range_: str, source: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = choice(tmp_path, "bun.lock")
    assert (found.manager, found.range, found.source) == ("bun", range_, source)
    assert Choice.of(Project(tmp_path, {"engines": {"bun": "1.0.0"}})).range == "1.0.0"
    member = Project(tmp_path / "member")
    assert Choice.of_bun(member, Project(tmp_path)).range == range_


def test_a_file_that_names_no_version_of_bun_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".bun-version").write_text("canary\n")
    with pytest.raises(InputError, match=r"\.bun-version is not a range of versions: canary"):
        choice(tmp_path, "bun.lock")
