"""What is left of pnpm's store when it installs for fewer projects than before."""

from __future__ import annotations

from pathlib import Path

from nodejs.managers.pnpm import remove_unneeded_packages
from nodejs.project import Project


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_only_what_the_projects_lead_to_stays(tmp_path: Path) -> None:
    store = tmp_path / "node_modules/.pnpm"
    places = {
        name: store / folder / "node_modules" / name
        for name, folder in {
            "kept": "kept@1.0.0",
            "@s/inner": "@s+inner@1.0.0(peer@2.0.0)",
            "peer": "peer@2.0.0",
            "top": "top@1.0.0",
            "gone": "gone@1.0.0",
            "eslint": "eslint@9.0.0",
        }.items()
    }
    for path in places.values():
        path.mkdir(parents=True)
    link(places["kept"].parent / "@s/inner", places["@s/inner"])
    link(places["@s/inner"].parents[1] / "peer", places["peer"])
    link(places["gone"].parent / "kept", places["kept"])
    link(store / "node_modules/gone", places["gone"])
    link(tmp_path / "web/node_modules/kept", places["kept"])
    link(tmp_path / "node_modules/top", places["top"])
    link(tmp_path / "node_modules/eslint", places["eslint"])
    link(tmp_path / "node_modules/lib", tmp_path / "lib")
    (store / "lock.yaml").touch()
    root = Project(tmp_path, {"dependencies": {"top": "1.0.0", "lib": "link:lib", "never-there": "1"}})
    remove_unneeded_packages(
        tmp_path, {"": root, "web": Project(tmp_path / "web", {"dependencies": {"kept": "1.0.0"}})}
    )
    left = {path.name for path in store.iterdir()}
    assert left == {
        *("kept@1.0.0", "@s+inner@1.0.0(peer@2.0.0)", "peer@2.0.0", "top@1.0.0"),
        *("lock.yaml", "node_modules"),
    }
    assert {path.name for path in (tmp_path / "node_modules").iterdir()} == {".pnpm", "top", "lib"}


def test_a_layout_without_a_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "node_modules/ms").mkdir(parents=True)
    remove_unneeded_packages(tmp_path, {"": Project(tmp_path, {})})
    assert (tmp_path / "node_modules/ms").is_dir()
