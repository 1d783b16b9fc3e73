"""What package.json and its neighbours say, and how a broken one is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from nodejs import build_scripts
from nodejs.credentials import settings_digest
from nodejs.project import Project

from packhorse.errors import InputError


def project(directory: Path, manifest: dict[str, Any], **files: str) -> Project:
    (directory / "package.json").write_text(json.dumps(manifest))
    for name, content in files.items():
        (directory / name).write_text(content)
    return Project.read(directory)


def test_a_syntax_error_is_told_with_line_column_and_the_line(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{\n  "name": "x",\n  "version": oops\n}\n')
    with pytest.raises(InputError, match=r"package\.json is not valid JSON") as caught:
        Project.read(tmp_path)
    assert caught.value.why == 'line 3, column 14: Expecting value\n  "version": oops'


def test_all_fields_of_a_wrong_type_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        project(tmp_path, {"name": 1, "scripts": {"start": ["node"]}, "dependencies": []})
    assert caught.value.issues == (
        "name must be text",
        "scripts.start must be text",
        "dependencies must be an object",
    )


def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("[]")
    with pytest.raises(InputError) as caught:
        Project.read(tmp_path)
    assert caught.value.issues == ("it must be an object",)


def test_a_byte_order_mark_is_accepted_as_npm_accepts_it(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('\ufeff{"name": "x"}')
    assert Project.read(tmp_path).name == "x"


def test_an_application_without_package_json_is_empty(tmp_path: Path) -> None:
    read = Project.read(tmp_path)
    assert (read.name, read.has_dependencies, read.inside_reason) == ("", False, "")


@pytest.mark.parametrize(
    ("inside", "vendored"),
    [("express/package.json", True), (".cache/x", False), (".package-lock.json", False)],
)
def test_modules_are_vendored_when_there_is_more_than_leftovers(
    tmp_path: Path, inside: str, vendored: bool
) -> None:
    path = tmp_path / "node_modules" / inside
    path.parent.mkdir(parents=True)
    path.touch()
    assert Project.read(tmp_path).vendored is vendored


def test_a_link_to_modules_elsewhere_is_not_vendored(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/ms").mkdir(parents=True)
    (tmp_path / "node_modules").symlink_to("elsewhere")
    assert not Project.read(tmp_path).vendored


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({"dependencies": {"express": "^4"}}, ""),
        ({"dependencies": {"mine": "file:../mine"}}, "mine comes from the application's own files"),
        ({"devDependencies": {"mine": "./mine"}}, "mine comes from the application's own files"),
        ({"dependencies": {"next": "15"}}, "package.json has next"),
        ({"scripts": {"postinstall": "patch-package"}}, "package.json has a script postinstall"),
    ],
)
def test_what_needs_a_real_node_modules_directory_is_named(
    tmp_path: Path, manifest: dict[str, Any], reason: str
) -> None:
    found = project(tmp_path, manifest).inside_reason
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_only_what_concerns_dependencies_is_in_their_digest(tmp_path: Path) -> None:
    base: dict[str, Any] = {"dependencies": {"ms": "2"}}
    digest = project(tmp_path, base).dependencies_digest
    assert (
        project(tmp_path, {**base, "version": "2.0.0", "scripts": {"start": "x"}}).dependencies_digest
        == digest
    )
    assert project(tmp_path, {**base, "overrides": {"ms": "1"}}).dependencies_digest != digest


def test_whose_install_scripts_may_run_is_in_the_digest_of_dependencies(tmp_path: Path) -> None:
    digests = {
        project(tmp_path, {"dependencies": {"ms": "2"}, **said}).dependencies_digest
        for said in ({}, {"allowScripts": {"ms": True}}, {"allowScripts": {}}, {"trustedDependencies": []})
    }
    assert len(digests) == 4


def test_credentials_in_npmrc_are_not_in_its_digest(tmp_path: Path) -> None:
    registry = "registry=https://registry.example/\n"
    token = "//registry.example/:_authToken=${NPM_TOKEN}\n"
    digest = _npmrc_digest(tmp_path, registry)
    assert _npmrc_digest(tmp_path, registry + token) == digest
    assert _npmrc_digest(tmp_path, registry + "omit=optional\n") != digest


def test_a_field_of_a_wrong_type_is_shown_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"main": 1, "engines": {"node": 22}, "dependencies": []}')
    with pytest.raises(InputError) as raised:
        Project.read(tmp_path)
    assert raised.value.fix == (
        'write "main": "server.js", "engines": {"node": "22"}, "dependencies": {"express": "^5.1.0"}'
    )
    (tmp_path / "package.json").write_text("[]")
    with pytest.raises(InputError, match="cannot be used") as raised:
        Project.read(tmp_path)
    assert raised.value.fix.startswith("write an object: {")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"version": ' + "1" * 5000 + "}", "has a number that is too long"),
        ("[" * 100_000, "has tables within tables"),
        ('{"a":' * 150 + "1" + "}" * 150, "has tables within tables"),
        ("", "is not valid JSON"),
        ("null", "cannot be used"),
    ],
)
@pytest.mark.parametrize("name", ["package.json", "project.json"])
def test_what_no_program_can_read_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    if name == "project.json" and text == "null":
        assert build_scripts.nx_targets(tmp_path) == {}
        return
    with pytest.raises(InputError, match=said):
        Project.read(tmp_path) if name == "package.json" else build_scripts.nx_targets(tmp_path)


def test_a_manifest_that_is_no_file_is_not_taken_for_none(tmp_path: Path) -> None:
    manifest = tmp_path / "package.json"
    manifest.symlink_to("nowhere.json")
    with pytest.raises(InputError, match="is a link that leads nowhere: nowhere"):
        Project.read(tmp_path)
    manifest.unlink()
    manifest.symlink_to("package.json")
    with pytest.raises(InputError, match="cannot be read"):
        Project.read(tmp_path)
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(InputError, match="is not a file"):
        Project.read(tmp_path)


def test_null_and_old_lists_of_engines_say_nothing_as_for_npm(tmp_path: Path) -> None:
    read = project(tmp_path, {"name": None, "scripts": None, "engines": ["node >= 4"], "dependencies": None})
    assert (read.name, read.scripts, read.node_range, read.has_dependencies) == ("", {}, "", False)


def _npmrc_digest(directory: Path, text: str) -> str:
    (directory / ".npmrc").write_text(text)
    return settings_digest(directory / ".npmrc")
