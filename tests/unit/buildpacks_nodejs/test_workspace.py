"""Which application of a source is meant, and which members of its workspace it needs."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
    assert workspace.needed_members(dev=dev) == needed
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


@pytest.mark.parametrize(
    ("patterns", "members"),
    [
        (["packages/{ui,lint}"], ["packages/lint", "packages/ui"]),
        (["{apps/{web,api},packages/d{b,x}}"], ["apps/api", "apps/web", "packages/db"]),
        (["packages/**i"], ["packages/ui"]),
        (
            ["packages\\\\ui", "/apps/web", "./apps/../packages/db"],
            ["apps/web", "packages/db", "packages/ui"],
        ),
        (["apps/*", "!!packages/ui", "!apps/[vw]*"], ["apps/api", "packages/ui"]),
        (["**/web", ".", "./"], ["apps/web"]),
        (["apps/none", "/etc"], []),
        (None, []),
        ({"packages": None}, []),
    ],
)
def test_patterns_are_those_of_npm(source: Path, patterns: Any, members: list[str]) -> None:
    lay_out(source, _={"workspaces": patterns})
    assert list(Workspace.read(source, "").members) == members


def test_all_folders_are_without_the_root_and_what_is_hidden(source: Path) -> None:
    lay_out(source, _={"workspaces": ["**"]}, **{".cache__x": {"name": "x"}})
    assert list(Workspace.read(source, "").members) == [
        *("apps/api", "apps/web", "packages/db", "packages/deep/theme"),
        *("packages/lint", "packages/old", "packages/ui"),
    ]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("../*", "leads out of the source"),
        ("*/../x", "leads out of the source"),
        ("packages/@(a|b)", "not understood"),
        ("packages/{1..3}", "not understood"),
        ("packages/{a", "not understood"),
        ("{a,b}" * 20, "not understood"),
        ("a\0b", "not understood"),
    ],
)
def test_patterns_that_are_not_followed_are_told(source: Path, pattern: str, said: str) -> None:
    lay_out(source, _={"workspaces": [pattern]})
    with pytest.raises(InputError, match=said):
        Workspace.read(source, "")


@pytest.mark.parametrize(
    "text",
    [
        'packages: [\n  "apps/*", # those\n\n  packages/ui,\n]\n',
        'packages:\n  [ "apps/*" ,\n packages/ui ]\n',
        '"packages":\n  - apps/*\n  - packages/ui # this\n',
        "packages :\n  - apps/*\n  - packages/ui\n",
        "\ufeffpackages:\n  - apps/*\n  - packages/ui\n",
        "# a\n---\npackages:\r\n- apps/*\r\n- packages/ui\r\ncatalog: {}\r\n",
    ],
)
def test_a_list_of_pnpm_has_many_forms(source: Path, text: str) -> None:
    (source / "pnpm-workspace.yaml").write_text(text)
    assert list(Workspace.read(source, "").members) == ["apps/api", "apps/web", "packages/ui"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("packages: apps/*\n", 1),
        ("packages:\n  - apps/*\n  packages/ui\n", 3),
        ("packages:\n  - !apps/*\n", 2),
        ("packages:\n  - *apps\n", 2),
        ("packages:\n  -\n    apps/*\n", 2),
        ("packages:\n  - apps: ui\n", 2),
        ('packages:\n  - "apps/\\x2a"\n', 2),
        ("packages: [apps/*\n", 1),
        ("packages: [apps/*] ui\n", 1),
        ("packages: ['apps/*' 'ui']\n", 1),
        ("packages: [[apps/*]]\n", 1),
        ("catalog: {}\npackages: &all\n  - apps/*\n", 2),
        ("{packages: [apps/*]}\n", 1),
        ("  packages:\n  - apps/*\n", 1),
        ("a: 1\n? packages\n: [apps/*]\n", 2),
        ('"pack\\x61ges":\n  - apps/*\n', 1),
    ],
)
def test_what_is_not_read_of_pnpm_is_told_with_its_line(source: Path, text: str, line: int) -> None:
    (source / "pnpm-workspace.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"not understood on line {line}\n"):
        Workspace.read(source, "")


@pytest.mark.parametrize(
    ("dependency", "needed"),
    [
        ({"shared": "workspace:lib@*"}, True),
        ({"shared": "workspace:../../packages/lib"}, True),
        ({"shared": "workspace:packages/lib"}, True),
        ({"shared": "link:../../packages/lib"}, True),
        ({"shared": "file:../../packages/lib"}, True),
        ({"shared": "portal:../../packages/lib/"}, True),
        ({"shared": "../../packages/lib"}, True),
        ({"shared": "link:../../packages/lib/dist"}, True),
        ({"shared": "npm:lib@^1"}, True),
        ({"shared": "npm:lib"}, True),
        ({"lib": "workspace:^"}, True),
        ({"lib": "1"}, True),
        ({"lib": "npm:other@1"}, False),
        ({"shared": "workspace:@lib/lib@*"}, False),
        ({"shared": "link:./lib", "a": "link:\0", "b": "file:\ud800"}, False),
        ({"shared": "1"}, False),
    ],
)
def test_a_member_is_needed_under_any_name(tmp_path: Path, dependency: dict[str, str], needed: bool) -> None:
    lay_out(
        tmp_path,
        _={"workspaces": ["apps/*", "packages/*"]},
        apps__web={"dependencies": dependency},
        packages__lib={"name": "lib"},
    )
    workspace = Workspace.read(tmp_path, "apps/web")
    assert ("packages/lib" in workspace.needed_members(dev=False)) is needed
    assert ("packages/lib" in workspace.unneeded_members) is not needed


@pytest.mark.parametrize(
    "rules",
    [
        {"resolutions": {"shared": "portal:./packages/lib"}},
        {"overrides": {"a": {"shared": "file:packages/lib"}}},
        {"pnpm": {"overrides": {"shared": "workspace:lib@*"}}},
    ],
)
def test_a_member_is_needed_where_the_root_puts_it_in_place_of_others(
    tmp_path: Path, rules: dict[str, Any]
) -> None:
    lay_out(
        tmp_path,
        _={"workspaces": ["apps/*", "packages/*"], **rules},
        apps__web={"dependencies": {"shared": "1"}},
        packages__lib={"name": "lib"},
    )
    assert "packages/lib" in Workspace.read(tmp_path, "apps/web").needed_members(dev=False)


def test_members_in_others_are_left_out_with_these(tmp_path: Path) -> None:
    lay_out(
        tmp_path,
        _={"workspaces": ["packages/*", "packages/*/plugins/*"]},
        packages__web={"dependencies": {"p": "*"}},
        packages__a={"name": "a"},
        packages__a__plugins__x={"name": "x"},
        packages__b={"name": "b"},
        packages__b__plugins__p={"name": "p"},
        packages__b__plugins__q={"name": "q"},
    )
    workspace = Workspace.read(tmp_path, "packages/web")
    assert workspace.needed_members(dev=False) == ("packages/b/plugins/p", "packages/web")
    assert workspace.unneeded_members == ("packages/a", "packages/b/plugins/q")


def test_a_member_may_be_a_link_inside_the_source(tmp_path: Path) -> None:
    lay_out(
        tmp_path,
        _={"workspaces": ["packages/*", "libs/web"]},
        libs__lib={"name": "lib"},
        libs__web={"name": "web", "dependencies": {"lib": "*"}},
        packages__old={"name": "old"},
    )
    (tmp_path / "packages/lib").symlink_to("../libs/lib")
    (tmp_path / "packages/web").symlink_to("../libs/web")
    (tmp_path / "packages/root").symlink_to("..")
    workspace = Workspace.read(tmp_path, "packages/web")
    assert list(workspace.members) == ["libs/web", "packages/lib", "packages/old"]
    assert (workspace.path, workspace.unneeded_members) == ("libs/web", ("packages/old",))
    assert workspace.needed_members(dev=False) == ("packages/lib", "libs/web")


def test_a_link_out_of_the_source_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, source={"workspaces": ["packages/*"]}, other={"name": "other"})
    (tmp_path / "source/packages").mkdir()
    (tmp_path / "source/packages/other").symlink_to("../../other")
    (tmp_path / "source/alone").symlink_to("../other")
    with pytest.raises(InputError, match="member packages/other is a link that leads out of the source"):
        Workspace.read(tmp_path / "source", "")
    (tmp_path / "source/packages/other").unlink()
    with pytest.raises(InputError, match="leads out of the source: alone"):
        Workspace.read(tmp_path / "source", "alone")


def test_an_error_in_a_member_names_its_manifest(source: Path) -> None:
    (source / "packages/ui/package.json").write_text("{")
    with pytest.raises(InputError, match=r"^packages/ui/package\.json is not valid JSON"):
        Workspace.read(source, "")


_TEXT = st.text(st.sampled_from(r"ab*/.!{},[]()?\-@:\0\ud800")) | st.sampled_from(
    ["packages/*", "**", "../x", "workspace:*", "link:../b", "npm:b@1"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=5,
)
_TABLE = st.dictionaries(_TEXT, _TEXT, max_size=3) | _JSON
_MANIFEST = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("name", "version", "workspaces"), _JSON | st.lists(_TEXT, max_size=3)),
        **dict.fromkeys(
            ("scripts", "engines", "dependencies", "resolutions", "overrides", "pnpm", "bin"), _TABLE
        ),
    },
)


@pytest.mark.system
@given(root=_MANIFEST, member=_MANIFEST, yaml=st.none() | st.text(st.sampled_from("packges:- []'\"\n,#*a")))
@settings(max_examples=150, deadline=None)
def test_no_manifest_ends_in_anything_but_words(
    root: dict[str, Any], member: dict[str, Any], yaml: str | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        lay_out(source, _=root, packages__a=member, packages__b={"name": "b"})
        if yaml is not None:
            (source / "pnpm-workspace.yaml").write_text("packages:" + yaml)
        for chosen in ("", "packages/a"):
            try:
                workspace = Workspace.read(source, chosen)
            except InputError:
                continue
            assert {*workspace.needed_members(dev=True), *workspace.unneeded_members} <= {
                "packages/a",
                "packages/b",
            }
            assert workspace.dependencies_digest and workspace.has_dependencies(dev=True) in (True, False)
            assert isinstance(workspace.inside_reason, str)


def test_a_member_with_commands_or_install_scripts_needs_real_directories(source: Path) -> None:
    assert Workspace.read(source, "").inside_reason == ""
    lay_out(source, packages__db={"name": "db", "bin": "db.js"})
    assert Workspace.read(source, "").inside_reason.startswith("packages/db: it has commands")
    lay_out(source, packages__db={"name": "db", "scripts": {"postinstall": "x"}})
    assert "a script postinstall" in Workspace.read(source, "").inside_reason


def test_another_name_of_a_member_is_another_link_to_it(source: Path) -> None:
    before = Workspace.read(source, "").dependencies_digest
    lay_out(source, packages__db={"name": "data"})
    renamed = Workspace.read(source, "").dependencies_digest
    lay_out(source, packages__db={"name": "data", "version": "2.0.0"})
    assert renamed != before
    assert Workspace.read(source, "").dependencies_digest == renamed


@pytest.mark.parametrize(
    ("root", "member", "runner"),
    [
        ({"packageManager": "bun@1.3.0", "devDependencies": {"@types/bun": "1"}}, {}, "bun"),
        ({"packageManager": "bun@1.3.0", "engines": {"bun": "1"}}, {}, "bun"),
        ({"packageManager": "bun@1.3.0", "engines": {"bun": "1"}}, {"engines": {"node": "22"}}, "node"),
        ({"packageManager": "bun@1.3.0", "engines": {"bun": "1", "node": "22"}}, {}, "node"),
        ({"packageManager": "bun@1.3.0"}, {}, "node"),
        ({"packageManager": "pnpm@10.0.0", "devDependencies": {"@types/bun": "1"}}, {}, "node"),
    ],
)
def test_a_member_of_a_workspace_of_bun_is_run_by_bun_where_the_root_asks_for_it(
    tmp_path: Path, root: dict[str, Any], member: dict[str, Any], runner: str
) -> None:
    lay_out(tmp_path, _={"workspaces": ["apps/*"], **root}, apps__api={"name": "api", **member})
    app = Workspace.read(tmp_path, "apps/api").app
    assert app.runner == runner
    if runner == "bun":
        assert app.bun_reason.startswith("the workspace's package.json ")
