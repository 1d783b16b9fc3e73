"""Which node_modules of a source are used, and which are left out of the image."""

import io
from pathlib import Path

import pytest
from nodejs import modules
from nodejs.workspace import Workspace

from fakes.build_context import build_context
from packhorse.errors import InputError


def settled(app: Path, lock: str = "", **env: str) -> tuple[bool, bool, str]:
    """Whether they are used, whether they are still there, and what is said."""
    said = io.StringIO()
    (app / "package.json").write_text('{"workspaces": ["web"]}')
    for path in ("node_modules/ms", "web/node_modules/ms"):
        (app / path).mkdir(parents=True, exist_ok=True)
    (app / "web/package.json").write_text("{}")
    used = modules.settle_vendored(build_context(app, env=env, said=said), Workspace.read(app, ""), lock)
    there = [(app / path).exists() for path in ("node_modules", "web/node_modules")]
    assert there[0] == there[1]
    return used, there[0], said.getvalue()


def test_a_lock_says_what_to_install_unless_the_setting_says_otherwise(tmp_path: Path) -> None:
    assert settled(tmp_path, "yarn.lock", BP_NODE_VENDORED="true") == (True, True, "")
    used, there, said = settled(tmp_path, "yarn.lock")
    assert (used, there) == (False, False)
    assert "yarn.lock says what to install; BP_NODE_VENDORED=1 uses it" in said


@pytest.mark.parametrize(
    ("ignored", "is_used"),
    [
        ("", True),
        ("dist\nnode_modules_old\n", True),
        ("node_modules\r\n", False),
        ("/node_modules/", False),
        ("**/node_modules", False),
    ],
)
def test_without_a_lock_they_are_used_where_they_are_part_of_the_source(
    tmp_path: Path, ignored: str, is_used: bool
) -> None:
    (tmp_path / ".gitignore").write_text(ignored)
    used, there, said = settled(tmp_path)
    assert (used, there) == (is_used, is_used)
    assert ("left out: it is not part of the source (.gitignore)" in said) is not is_used


def test_the_setting_can_be_off_and_has_to_be_possible(tmp_path: Path) -> None:
    used, there, said = settled(tmp_path, BP_NODE_VENDORED="no")
    assert (used, there, "left out: BP_NODE_VENDORED is off\n" in said) == (False, False, True)
    context = build_context(tmp_path, env={"BP_NODE_VENDORED": "1"})
    with pytest.raises(InputError, match="the source has no node_modules"):
        modules.settle_vendored(context, Workspace.read(tmp_path, ""), "")
    with pytest.raises(InputError, match="BP_NODE_VENDORED is neither yes nor no: always"):
        settled(tmp_path, BP_NODE_VENDORED="always")
