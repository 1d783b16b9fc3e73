"""Which application of a source is meant, and which members of its workspace it needs."""

import json
from pathlib import Path
from typing import Any

import pytest
from nodejs.workspace import Workspace

from packhorse.errors import InputError


def lay_out(directory: Path, **manifests: dict[str, Any]) -> None:
    """Writes each manifest to the folder that its keyword names, `_` for the root, `__` for a slash."""
    for name, manifest in manifests.items():
        folder = directory / ("." if name == "_" else name.replace("__", "/"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps(manifest))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    lay_out(
        tmp_path,
        _={"workspaces": ["apps/*", "packages/**", "!packages/old"]},
        apps__web={"name": "web", "dependencies": {"ui": "*", "ms": "2"}, "devDependencies": {"lint": "*"}},
        apps__api={"name": "api", "dependencies": {"db": "*"}},
        packages__ui={"name": "ui", "dependencies": {"theme": "*"}},
        packages__deep__theme={"name": "theme", "peerDependencies": {"ui": "*"}},
        packages__lint={"name": "lint"},
        packages__db={"name": "db"},
        packages__old={"name": "old"},
        packages__ui__node_modules__ms={"name": "ms"},
    )
    return tmp_path


def test_members_are_those_that_the_patterns_name(source: Path) -> None:
    workspace = Workspace.read(source, "")
    assert list(workspace.members) == [
        *("apps/api", "apps/web", "packages/db", "packages/deep/theme", "packages/lint", "packages/ui")
    ]
    assert (workspace.is_member, workspace.path) == (False, "")


@pytest.mark.parametrize(
    ("dev", "needed"),
    [
        (False, ("packages/deep/theme", "packages/ui", "apps/web")),
        (True, ("packages/deep/theme", "packages/ui", "packages/lint", "apps/web")),
    ],
)
def test_a_member_needs_what_it_depends_on_in_turn(source: Path, dev: bool, needed: tuple[str, ...]) -> None:
    workspace = Workspace.read(source, "./apps/web/")
    assert workspace.needed(dev=dev) == needed
    assert workspace.names(needed)[-1] == "web"
    assert (workspace.is_member, workspace.root.directory) == (True, source)


def test_a_folder_outside_the_workspace_is_a_project_of_its_own(source: Path) -> None:
    workspace = Workspace.read(source, "packages/old")
    assert workspace.root is workspace.app and workspace.root.directory == source / "packages/old"
    assert not workspace.members


@pytest.mark.parametrize(
    ("setting", "said"),
    [("../x", "leads out of the source"), ("/etc", "leads out"), ("apps/none", "names no folder")],
)
def test_a_path_that_leads_nowhere_is_refused(source: Path, setting: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Workspace.read(source, setting)


@pytest.mark.parametrize(
    "text",
    [
        "packages:\n  - \"apps/*\"\n  - 'packages/ui' # a comment\n\nonlyBuilt:\n  - packages/db\n",
        "# a comment\ncatalog:\n  ms: 2\npackages: # those\n- apps/*\n# and\n- packages/ui\n",
        "packages: ['apps/*', \"packages/ui\"]\n",
    ],
)
def test_pnpm_names_its_members_in_a_file_of_its_own(source: Path, text: str) -> None:
    (source / "pnpm-workspace.yaml").write_text(text)
    assert list(Workspace.read(source, "").members) == ["apps/api", "apps/web", "packages/ui"]


def test_what_is_no_list_of_folders_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, _={"workspaces": "packages/*"})
    with pytest.raises(InputError, match="not a list of folders"):
        Workspace.read(tmp_path, "")


def test_patterns_do_not_lead_out(source: Path) -> None:
    lay_out(source, _={"workspaces": ["../*", "/etc", ".", "apps/../packages/*"]})
    assert list(Workspace.read(source, "").members) == []


def test_a_member_with_commands_or_install_scripts_needs_real_directories(source: Path) -> None:
    assert Workspace.read(source, "").inside_reason == ""
    lay_out(source, packages__db={"name": "db", "bin": "db.js"})
    assert Workspace.read(source, "").inside_reason.startswith("packages/db: it has commands")
    lay_out(source, packages__db={"name": "db", "scripts": {"postinstall": "x"}})
    assert "a script postinstall" in Workspace.read(source, "").inside_reason
