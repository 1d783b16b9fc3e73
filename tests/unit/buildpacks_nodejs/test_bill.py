"""The bill of materials of installed modules, in every layout that package managers make."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nodejs import inventory
from nodejs.workspace import Workspace

from packhorse import sdk


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return package(tmp_path / "app", "shop", "1.2.0", dependencies={"a": "1", "@s/b": "1"})


def package(directory: Path, name: str, version: str, **fields: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "package.json").write_text(json.dumps({"name": name, "version": version, **fields}))
    return directory


def read(app: Path, *, path: str = "") -> dict[str, sdk.Component]:
    layer = app.parent / "layer"
    found = inventory.list_modules(
        Workspace.read(app, path), within=(app.parent,), plugged=layer, lock="package-lock.json"
    )
    assert found.subject is not None
    return {part.ref: part for part in (found.subject, *found.components)}


def test_nested_and_scoped_modules_are_found_with_what_they_load(app: Path) -> None:
    modules = app / "node_modules"
    package(modules / "a", "a", "1.0.0", license="MIT", dependencies={"c": "2"})
    package(modules / "a/node_modules/c", "c", "2.0.0", licenses=[{"type": "MIT"}, {"type": "ISC"}])
    package(modules / "c", "c", "1.0.0", license={"type": "ISC"}, peerDependencies={"a": "*", "gone": "*"})
    package(modules / "@s/b", "@s/b", "3.0.0", optionalDependencies={"c": "1"})
    (modules / ".bin").mkdir()
    (modules / "no-package").mkdir()
    parts = read(app)
    assert sorted(parts) == [
        "pkg:npm/%40s/b@3.0.0",
        "pkg:npm/a@1.0.0",
        "pkg:npm/c@1.0.0",
        "pkg:npm/c@2.0.0",
        "shop@1.2.0",
    ]
    assert parts["pkg:npm/a@1.0.0"].depends_on == ("pkg:npm/c@2.0.0",)
    assert parts["pkg:npm/%40s/b@3.0.0"].depends_on == ("pkg:npm/c@1.0.0",)
    assert parts["pkg:npm/c@1.0.0"].depends_on == ("pkg:npm/a@1.0.0",)
    assert parts["pkg:npm/c@2.0.0"].licence == "(MIT OR ISC)"
    assert set(parts["shop@1.2.0"].depends_on) == {"pkg:npm/a@1.0.0", "pkg:npm/%40s/b@3.0.0"}
    assert parts["shop@1.2.0"].kind == "application"


def test_the_links_of_pnpm_are_followed_and_neighbours_found(app: Path) -> None:
    store = app / "node_modules/.pnpm"
    package(store / "a@1.0.0/node_modules/a", "a", "1.0.0", dependencies={"c": "1"})
    package(store / "c@1.0.0/node_modules/c", "c", "1.0.0")
    package(store / "unused@1.0.0/node_modules/unused", "unused", "1.0.0")
    (app / "node_modules/a").symlink_to(".pnpm/a@1.0.0/node_modules/a")
    (store / "a@1.0.0/node_modules/c").symlink_to("../../c@1.0.0/node_modules/c")
    parts = read(app)
    assert parts["pkg:npm/a@1.0.0"].depends_on == ("pkg:npm/c@1.0.0",)
    assert {"pkg:npm/c@1.0.0", "pkg:npm/unused@1.0.0"} <= set(parts)


def test_a_layer_beside_the_application_is_read_through_its_link(app: Path) -> None:
    package(app.parent / "layer/node_modules/a", "a", "1.0.0", dependencies={"c": "1"})
    package(app.parent / "layer/node_modules/c", "c", "1.0.0")
    (app / "node_modules").symlink_to(app.parent / "layer/node_modules")
    assert read(app)["pkg:npm/a@1.0.0"].depends_on == ("pkg:npm/c@1.0.0",)


def test_of_a_workspace_the_members_that_an_application_needs_are_there(app: Path) -> None:
    package(app, "mono", "1.0.0", workspaces=["apps/*"])
    package(app / "apps/web", "web", "1.0.0", dependencies={"ui": "1", "a": "1"})
    package(app / "apps/ui", "ui", "2.0.0")
    package(app / "apps/other", "other", "3.0.0")
    package(app / "node_modules/a", "a", "1.0.0")
    (app / "node_modules/ui").symlink_to("../apps/ui")
    parts = read(app, path="apps/web")
    assert {"web@1.0.0", "pkg:npm/ui@2.0.0", "pkg:npm/a@1.0.0"} == set(parts)
    assert set(parts["web@1.0.0"].depends_on) == {"pkg:npm/ui@2.0.0", "pkg:npm/a@1.0.0"}


def test_modules_of_plug_and_play_are_there(app: Path) -> None:
    layer = app.parent / "layer"
    (layer / "cache").mkdir(parents=True)
    with zipfile.ZipFile(layer / "cache/@s-b-npm-3.0.0-1234.zip", "w") as archive:
        manifest = {"name": "@s/b", "version": "3.0.0", "dependencies": {"a": "1"}}
        archive.writestr("node_modules/@s/b/package.json", json.dumps(manifest))
        archive.writestr("node_modules/@s/b/test/x/package.json", "{}")
    (layer / "cache/broken.zip").write_bytes(b"no archive")
    package(layer / "unplugged/a-npm-1.0.0-1234/node_modules/a", "a", "1.0.0")
    parts = read(app)
    assert parts["pkg:npm/%40s/b@3.0.0"].depends_on == ("pkg:npm/a@1.0.0",)
    assert set(parts["shop@1.2.0"].depends_on) == {"pkg:npm/%40s/b@3.0.0", "pkg:npm/a@1.0.0"}


def test_odd_and_hostile_modules_do_not_end_the_build(app: Path) -> None:
    modules = app / "node_modules"
    for name, text in {"null": "null", "list": "[]", "open": "{", "deep": "[" * 100_000}.items():
        (modules / name).mkdir(parents=True)
        (modules / name / "package.json").write_text(text)
    package(modules / "odd", "odd", "1", license=3, licenses=[3, None], dependencies=["x"])
    package(modules / "odd2", 3, None, license=["", "MIT"], dependencies={"../../..": "1"})  # type: ignore[arg-type]
    (modules / "circle").symlink_to(modules)
    (modules / "self").symlink_to("self")
    (modules / "@file").write_text("x")
    (modules / "outside").symlink_to("/usr/lib")
    parts = read(app)
    assert {"pkg:npm/odd@1", "pkg:npm/null", "pkg:npm/odd2"} <= set(parts) and len(parts) == 7


_SHA512 = "sha512-" + base64.b64encode(b"x" * 64).decode()


@pytest.mark.parametrize(
    ("lock", "text"),
    [
        (
            "package-lock.json",
            json.dumps(
                {
                    "packages": {
                        "": {"name": "shop"},
                        "node_modules/x/node_modules/@s/b": {
                            "version": "1.0.0",
                            "resolved": "https://user:secret@example.com/b.tgz",
                            "integrity": f"sha1-{base64.b64encode(bytes(20)).decode()} {_SHA512}",
                        },
                        "node_modules/alias": {"name": "a", "version": "2.0.0", "integrity": _SHA512},
                    }
                }
            ),
        ),
        (
            "pnpm-lock.yaml",
            f"packages:\n\n  '@s/b@1.0.0(x@1)':\n    resolution: {{integrity: {_SHA512}}}\n"
            f"    engines: {{node: '>=1'}}\n\n  a@2.0.0:\n    resolution: {{integrity: {_SHA512}, x: y}}\n",
        ),
        (
            "yarn.lock",
            f'"@s/b@^1.0.0", "@s/b@1":\n  version "1.0.0"\n  resolved "https://example.com/b#1"\n'
            f'  integrity {_SHA512}\n\na@2:\r\n  version "2.0.0"\r\n  integrity {_SHA512}\r\n',
        ),
    ],
)
def test_locks_give_checksums(tmp_path: Path, lock: str, text: str) -> None:
    (tmp_path / lock).write_text(text, newline="")
    found = inventory.read_hashes(tmp_path, lock)
    assert found["@s/b", "1.0.0"]["sha512"] == found["a", "2.0.0"]["sha512"] == (b"x" * 64).hex()


@settings(deadline=None)
@given(st.sampled_from(["package-lock.json", "pnpm-lock.yaml", "yarn.lock"]), st.text() | st.binary())
def test_any_lock_is_read(tmp_path_factory: pytest.TempPathFactory, lock: str, text: str | bytes) -> None:
    folder = tmp_path_factory.mktemp("lock")
    (folder / lock).write_bytes(text.encode(errors="replace") if isinstance(text, str) else text)
    inventory.read_hashes(folder, lock)


def test_only_the_lock_that_was_installed_from_gives_checksums(tmp_path: Path) -> None:
    (tmp_path / "package-lock.json").write_text(
        json.dumps({"packages": {"node_modules/a": {"version": "2.0.0", "integrity": _SHA512}}})
    )
    (tmp_path / "pnpm-lock.yaml").write_text("lockfileVersion: '9.0'\n")
    assert inventory.read_hashes(tmp_path, "package-lock.json")
    assert inventory.read_hashes(tmp_path, "pnpm-lock.yaml") == {}
    assert inventory.read_hashes(tmp_path, "") == {}
