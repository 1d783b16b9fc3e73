"""Which packages of the last build stay where npm adds to them, and when all are installed again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nodejs.managers.npm_incremental import (
    install_changes,
    packages_for_this_system,
    read_packages,
    reusable_packages,
)

from packhorse.sdk.command import CommandFailed

A, B, C = "node_modules/a", "node_modules/@x/b", "node_modules/a/node_modules/c"
D, E = "node_modules/d", "node_modules/e"


def entry(integrity: str = "sha512-AAAA", **more: Any) -> dict[str, Any]:
    return {"version": "1.0.0", "integrity": integrity, **more}


def lock(entries: dict[str, dict[str, Any]], version: int = 3) -> bytes:
    return json.dumps({"lockfileVersion": version, "packages": {"": {}, **entries}}).encode()


def tried(
    modules: Path,
    now: bytes,
    before: bytes,
    omit: tuple[str, ...] = (),
    install: Callable[[], None] = lambda: None,
) -> bool:
    """What `amend` answers; npm writes what it makes of package.json into the file `lock` there."""
    path = modules.parent / "lock"
    path.write_bytes(now)
    return install_changes(modules, path, before, omit=omit, install=install)


def lay(modules: Path, entries: dict[str, dict[str, Any]]) -> None:
    for path in entries:
        (modules.parent / path).mkdir(parents=True, exist_ok=True)
        (modules.parent / path / "index.js").write_text(path)


def test_what_both_have_stays_described_as_it_is_now() -> None:
    before = {A: entry(), B: entry(), C: entry()}
    now = {A: entry(resolved="elsewhere"), B: entry("sha512-BBBB"), C: entry()}
    assert reusable_packages(before, now) == {A: entry(resolved="elsewhere"), C: entry()}
    assert reusable_packages({A: entry()}, {A: entry() | {"version": "1.0.1"}}) == {}


def test_what_lies_in_another_package_goes_with_it() -> None:
    before = {A: entry(), B: entry(), C: entry()}
    assert set(reusable_packages(before, {A: entry("sha512-BBBB"), B: entry(), C: entry()})) == {B}


@pytest.mark.parametrize(
    "more",
    [
        {"link": True},
        {"hasShrinkwrap": True},
        {"integrity": None},
        {"version": None},
    ],
)
def test_a_package_that_is_more_than_its_archive_has_all_installed_again(more: dict[str, Any]) -> None:
    plain = {A: entry(), B: entry()}
    assert reusable_packages(plain, plain) == plain
    assert reusable_packages(plain | {C: entry() | more}, plain) == {}
    assert reusable_packages(plain, plain | {C: entry() | more}) == {}


def test_one_for_other_systems_may_be_more_as_it_is_not_installed() -> None:
    foreign = entry(hasShrinkwrap=True, optional=True, os=["darwin"])
    within = {"node_modules/fsevents/node_modules/napi": entry(inBundle=True)}
    assert set(packages_for_this_system({A: entry(), "node_modules/fsevents": foreign, **within})) == {A}
    for here in ({"os": ["linux"]}, {"os": ["!win32"]}, {"optional": False}, {"os": []}):
        assert (
            reusable_packages({A: entry()}, packages_for_this_system({A: entry(), B: foreign | here})) == {}
        )


def test_what_only_one_for_other_systems_needs_is_not_installed_either() -> None:
    foreign = entry(optional=True, cpu=["wasm32"], dependencies={"d": "*"})
    lone = {"node_modules/d": entry(optional=True, dependencies={"e": "*"})}
    lock = {A: entry(), "node_modules/wasm": foreign, **lone, "node_modules/e": entry(optional=True)}
    assert set(packages_for_this_system(lock)) == {A}
    assert set(packages_for_this_system(lock, roots=["node_modules/e"])) == {A, "node_modules/e"}
    assert set(packages_for_this_system(lock | {A: entry(dependencies={"e": "*"})})) == {A, "node_modules/e"}


def test_packages_in_the_archive_of_another_stay_with_it_or_all_is_installed_again() -> None:
    inner = f"{A}/node_modules/d"
    before = {
        A: entry(bundleDependencies=["d"]),
        inner: entry(inBundle=True) | {"integrity": None},
        B: entry(),
    }
    assert set(reusable_packages(before, before | {C: entry()})) == {A, inner, B}
    assert set(reusable_packages(before, before | {B: entry("sha512-BBBB")})) == {A, inner}
    assert reusable_packages(before, before | {A: entry("sha512-BBBB", bundleDependencies=["d"])}) == {}
    assert reusable_packages(before, {B: entry()}) == {}
    assert reusable_packages({B: entry()}, before) == {}


def test_two_packages_with_a_program_of_one_name_stay_or_all_is_installed_again() -> None:
    one, other = entry(bin={"run": "a.js"}), entry(bin={"run": "b.js"})
    assert set(reusable_packages({A: one, B: other}, {A: one, B: other, D: entry()})) == {A, B}
    assert reusable_packages({A: one}, {A: one, B: other}) == {}
    assert reusable_packages({A: one, B: other}, {A: one}) == {}
    assert set(reusable_packages({A: one}, {A: one, C: other})) == {A}


@pytest.mark.parametrize(
    "path",
    [
        *(
            "node_modules/..",
            "node_modules/../../x",
            "/node_modules/a",
            "a",
            "node_modules/.bin",
            "node_modules/",
        ),
        *("node_modules/@x", "node_modules/@x/../..", "node_modules/a/lib", "node_modules/a/node_modules/.."),
        "node_modules/@/..",
    ],
)
def test_a_path_that_is_none_of_a_package_has_all_installed_again(path: str) -> None:
    assert reusable_packages({A: entry(), path: entry()}, {A: entry()}) == {}
    assert reusable_packages({A: entry()}, {A: entry(), path: entry()}) == {}


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[]", b"null", b"{}", b'{"lockfileVersion": 3}', b"\xff", b"[" * 100_000),
        *(
            b'{"lockfileVersion": 3, "packages": []}',
            b'{"lockfileVersion": 3, "packages": {"node_modules/a": 1}}',
        ),
        lock({A: entry()}, version=1),
        lock({A: entry()}, version=4),
    ],
)
def test_what_is_no_lock_of_a_known_form_is_none(text: bytes, tmp_path: Path) -> None:
    assert read_packages(text) is None
    assert not tried(tmp_path / "node_modules", text, lock({A: entry()}))
    assert not tried(tmp_path / "node_modules", lock({A: entry()}), text)


def test_what_is_gone_is_removed_with_its_links_and_what_was_around_it(tmp_path: Path) -> None:
    modules = tmp_path / "node_modules"
    before = {A: entry(), B: entry(bin={"b": "index.js"}), C: entry(bin={"c": "index.js"})}
    lay(modules, before)
    for place, name, target in (
        (modules, "b", "../@x/b/index.js"),
        (modules / "a/node_modules", "c", "../c/index.js"),
    ):
        (place / ".bin").mkdir()
        (place / ".bin" / name).symlink_to(target)
    (modules / ".bin/own").symlink_to("nowhere")

    def install() -> None:
        """npm has nothing to add, and says what is there."""
        told = json.loads((modules / ".package-lock.json").read_text())
        assert set(told["packages"]) == {A}

    assert tried(modules, lock({A: entry()}), lock(before), install=install)
    left = {str(path.relative_to(modules)) for path in modules.rglob("*")}
    assert left == {"a", "a/index.js", ".bin", ".bin/own", ".package-lock.json"}


@pytest.mark.parametrize(
    "stray", ["node_modules/stray", "node_modules/@x/stray", "node_modules/a/node_modules/stray"]
)
def test_a_directory_that_nobody_recorded_has_all_installed_again(tmp_path: Path, stray: str) -> None:
    before = {A: entry(), B: entry()}
    lay(tmp_path / "node_modules", before)
    assert tried(tmp_path / "node_modules", lock(before), lock(before))
    (tmp_path / stray).mkdir(parents=True)
    assert not tried(tmp_path / "node_modules", lock(before), lock(before))


def test_a_missing_package_has_all_installed_again(tmp_path: Path) -> None:
    before = {A: entry(), B: entry()}
    lay(tmp_path / "node_modules", {A: entry()})
    assert not tried(tmp_path / "node_modules", lock(before), lock(before))


def scripted(*needs: str, **more: Any) -> dict[str, Any]:
    return entry(hasInstallScript=True, dependencies=dict.fromkeys(needs, "*"), **more)


# `a` needs `@x/b`, which needs `c`, that of `a` itself; nobody needs `d`.
BEFORE = {A: scripted("@x/b", "c"), B: entry(peerDependencies={"e": "*"}), C: entry(), D: entry(), E: entry()}


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, set(BEFORE)),
        ({"node_modules/new": entry()}, set(BEFORE)),
        ({"node_modules/new": scripted("d")}, set(BEFORE)),
        ({D: entry("sha512-BBBB")}, {A, B, C, E}),
        ({D: None}, {A, B, C, E}),
        ({A: scripted("@x/b", "c", integrity="sha512-BBBB")}, set()),
        ({A: None, C: None}, set()),
        ({A: scripted("@x/b", "c", "d")}, set()),
        ({A: scripted("@x/b", "c", "gone")}, set(BEFORE)),
        ({B: entry("sha512-BBBB")}, set()),
        ({B: entry()}, set()),
        ({C: entry("sha512-BBBB")}, set()),
        ({E: entry("sha512-BBBB")}, set()),
        ({E: None}, set()),
        ({f"{B}/node_modules/e": entry()}, set()),
    ],
)
def test_what_install_scripts_made_stays_with_all_that_its_package_depends_on(
    change: dict[str, dict[str, Any] | None], kept: set[str]
) -> None:
    now = {path: one for path, one in {**BEFORE, **change}.items() if one is not None}
    assert set(reusable_packages(BEFORE, now)) == kept


def test_a_package_that_npm_compiles_counts_as_one_with_scripts(tmp_path: Path) -> None:
    before = {A: entry(dependencies={"d": "*"}), D: entry()}
    lay(tmp_path / "node_modules", before)
    now = before | {D: entry("sha512-BBBB")}
    assert set(reusable_packages(before, now)) == {A}
    assert reusable_packages(before, now, compiled=[A]) == {}
    (tmp_path / A / "binding.gyp").touch()
    assert not tried(tmp_path / "node_modules", lock(now), lock(before))
    assert tried(tmp_path / "node_modules", lock(before), lock(before))


def test_what_a_script_left_beside_the_packages_has_all_installed_again(tmp_path: Path) -> None:
    before = {A: scripted(), B: entry()}
    lay(tmp_path / "node_modules", before)
    (tmp_path / "node_modules/.generated").mkdir()
    assert not tried(tmp_path / "node_modules", lock(before), lock(before))


def test_devdependencies_are_gone_where_they_are_left_out(tmp_path: Path) -> None:
    modules = tmp_path / "node_modules"
    now = {A: entry(), B: entry(dev=True), "node_modules/d": entry(devOptional=True)}
    lay(modules, now)
    before = {path: entry() for path in now}
    assert tried(modules, lock(now), lock(before), omit=("dev",))
    assert {path.name for path in modules.iterdir()} == {"a", "d", ".package-lock.json"}


@pytest.mark.parametrize(
    ("made", "certain"),
    [
        ({A: entry(), B: entry()}, True),
        ({A: entry(), B: entry(), "node_modules/o": entry()}, True),
        ({A: entry()}, False),
        ({A: entry(), B: entry("sha512-BBBB")}, False),
        ({A: entry(), B: entry(), "node_modules/more": entry()}, False),
    ],
    ids=[
        "all",
        "one for other systems, too",
        "one is missing",
        "another archive",
        "one that the lock has not",
    ],
)
def test_what_npm_has_made_is_held_against_the_lock(
    tmp_path: Path, made: dict[str, dict[str, Any]], certain: bool
) -> None:
    modules = tmp_path / "node_modules"
    lay(modules, {A: entry()})

    def install() -> None:
        lay(modules, made)
        (modules / ".package-lock.json").write_bytes(lock(made))

    wanted = {A: entry(), B: entry(), "node_modules/o": entry(optional=True, cpu=["s390x"])}
    assert tried(modules, lock(wanted), lock({A: entry()}), install=install) is certain


@pytest.mark.parametrize("kind", ["optional", "devOptional", "peer"])
def test_an_optional_package_that_is_missing_has_all_installed_again(tmp_path: Path, kind: str) -> None:
    modules = tmp_path / "node_modules"
    lay(modules, {A: entry()})
    now = {A: entry(), B: entry(**{kind: True})}
    assert not tried(modules, lock(now), lock({A: entry()}))


@pytest.mark.parametrize(
    ("ideal", "certain"),
    [
        ({A: entry(), B: entry(dev=True)}, True),
        ({A: entry()}, True),
        ({A: entry(), B: entry(dev=True) | {"version": "2.0.0"}}, False),
        ({A: entry(), B: entry(dev=True), C: entry(dev=True)}, False),
    ],
    ids=["the lock", "less", "another version", "more"],
)
def test_what_package_json_asks_for_and_is_left_out_is_in_the_lock(
    tmp_path: Path, ideal: dict[str, dict[str, Any]], certain: bool
) -> None:
    modules = tmp_path / "node_modules"
    lay(modules, {A: entry()})

    def install() -> None:
        (tmp_path / "lock").write_bytes(lock(ideal))

    now = lock({A: entry(), B: entry(dev=True)})
    assert tried(modules, now, lock({A: entry()}), omit=("dev",), install=install) is certain


@pytest.mark.parametrize(
    "systems", [{"os": ["!linux"]}, {"os": "win32"}, {"cpu": ["s390x"]}, {"libc": ["other"]}]
)
def test_one_that_is_for_other_systems_now_goes(tmp_path: Path, systems: dict[str, Any]) -> None:
    modules = tmp_path / "node_modules"
    lay(modules, {A: entry(), B: entry()})
    now = {A: entry(), B: entry(optional=True, **systems)}
    assert tried(modules, lock(now), lock({A: entry(), B: entry(optional=True)}))
    assert {path.name for path in modules.iterdir()} == {"a", ".package-lock.json"}


def test_an_empty_scope_goes_that_npm_left_where_it_left_a_package_out(tmp_path: Path) -> None:
    modules = tmp_path / "node_modules"
    lay(modules, {A: entry()})
    (modules / "@other").mkdir()
    (modules / "a/node_modules/@other").mkdir(parents=True)
    assert tried(modules, lock({A: entry()}), lock({A: entry()}))
    assert {path.name for path in modules.rglob("*")} == {"a", "index.js", ".package-lock.json"}


def test_a_package_whose_links_are_others_is_installed_again(tmp_path: Path) -> None:
    assert reusable_packages({A: entry(bin={"a": "x.js"})}, {A: entry()}) == {}
    assert reusable_packages({A: entry(bin={"a": "x.js"})}, {A: entry(bin={"a": "y.js"})}) == {}


def test_a_package_may_be_called_like_the_directory(tmp_path: Path) -> None:
    modules = tmp_path / "node_modules"
    before = {A: entry(), "node_modules/node_modules-path": entry(bin={"path": "index.js"})}
    lay(modules, before)
    (modules / ".bin").mkdir()
    (modules / ".bin/path").symlink_to("../node_modules-path/index.js")
    assert tried(modules, lock({A: entry()}), lock(before))
    assert {path.name for path in modules.iterdir()} == {"a", ".package-lock.json"}


def test_a_link_outside_stays_whatever_the_record_calls_a_program(tmp_path: Path) -> None:
    modules = tmp_path / "node_modules"
    before = {A: entry(), B: entry(bin={"../../own": "index.js", "..": "index.js"})}
    lay(modules, before)
    (tmp_path / "own").symlink_to("nowhere")
    assert tried(modules, lock({A: entry()}), lock(before))
    assert (tmp_path / "own").is_symlink()


def test_where_npm_fails_all_is_installed_again(tmp_path: Path) -> None:
    def install() -> None:
        raise CommandFailed(["npm"], status=1, output="")

    lay(tmp_path / "node_modules", {A: entry()})
    assert not tried(tmp_path / "node_modules", lock({A: entry()}), lock({A: entry()}), install=install)
