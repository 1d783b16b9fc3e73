"""What differs from machine to machine is removed from node_modules, and nothing that a program loads."""

from pathlib import Path

from nodejs import node_modules
from nodejs.workspace import Workspace


def test_records_caches_and_makefiles_go_and_compiled_modules_stay(tmp_path: Path) -> None:
    gone = {
        ".package-lock.json",
        ".cache/babel/x",
        "addon/build/config.gypi",
        "addon/build/Makefile",
        "addon/build/addon.target.mk",
        "addon/build/Release/.deps/x.d",
        "addon/build/Release/obj.target/x.o",
    }
    kept = {
        "addon/build/Release/addon.node",
        "site/build/Makefile",
        "site/build/index.html",
        "nested/node_modules/x/index.js",
    }
    for name in gone | kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    node_modules.clean_modules(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_a_linked_module_is_not_followed(tmp_path: Path) -> None:
    own = tmp_path / "packages/a/build"
    own.mkdir(parents=True)
    (own / "config.gypi").touch()
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "a").symlink_to("../packages/a")
    node_modules.clean_modules(modules)
    assert (own / "config.gypi").exists()


def test_a_layer_has_no_link_to_a_member_that_is_left_out(tmp_path: Path) -> None:
    source, layer = tmp_path / "source", tmp_path / "layer"
    for folder in ("", "p/a", "p/b"):
        (source / folder).mkdir(parents=True)
        (source / folder / "package.json").write_text(f'{{"name": "{folder[2:]}", "workspaces": ["p/*"]}}')
    layer.mkdir()
    workspace = Workspace.read(source, "p/a")
    node_modules.prepare_layer(workspace, layer, ())
    for name in ("a", "b"):
        (layer / "node_modules" / name).symlink_to(f"../p/{name}")
    node_modules.finish_layer(workspace, layer, (), launch=True, left_out=workspace.unneeded_members)
    assert [path.readlink() for path in (layer / "node_modules").iterdir()] == [source / "p/a"]
