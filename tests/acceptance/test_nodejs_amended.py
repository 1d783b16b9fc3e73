"""Modules of the last build that npm adds to are what it installs into an empty directory, to the bit."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.nodejs import built, contents, laid_out, staged, take_layers, write
from fakes.npm_registry import NpmRegistry, npm_registry
from lanes import first_in_test
from packhorse.sdk.testing import Workbench

VERSIONS = ("1.0.0", "1.1.0", "2.0.0")
NAMES = ("@acme/a", "@acme/b", "@acme/c", "@acme/d", "@acme/e")


@pytest.fixture(scope="module")
def registry() -> Iterator[NpmRegistry]:
    """Packages that need each other in several versions, some with a program."""
    chosen = random.Random(7)
    with npm_registry("TOKEN") as registry:
        for number, name in enumerate(NAMES):
            for version in VERSIONS:
                needs = {
                    other: f"^{chosen.choice(VERSIONS)}"
                    for other in NAMES[number + 1 :]
                    if chosen.random() < 0.6
                }
                programs = {f"run-{number}": "run.js"} if number % 2 else {}
                files = {"index.js": f"{name} {version}", "run.js": "#!/usr/bin/env node\n"}
                registry.publish(name, files, version, dependencies=needs, bin=programs)
        make = "require('fs').writeFileSync('made', require('@acme/e/package.json').version)"
        registry.publish(
            "@acme/scripted",
            {"make.js": make},
            hasInstallScript=True,
            scripts={"install": "node make.js"},
            dependencies={"@acme/e": "1"},
        )
        yield registry


@pytest.fixture(scope="module")
def buildpack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return staged(tmp_path_factory.mktemp("staged"))


@pytest.fixture(scope="module")
def first(buildpack: Path, registry: NpmRegistry, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """An application that was built once, of two packages."""
    workbench = laid_out(buildpack, tmp_path_factory.mktemp("first"))
    ask(workbench, registry, {"@acme/d": "1.0.0", "@acme/e": "1.0.0"})
    built(workbench)
    return workbench


@pytest.fixture
def workbench(buildpack: Path, first: Workbench, tmp_path: Path) -> Workbench:
    """Its next build."""
    made = laid_out(buildpack, tmp_path)
    take_layers(made, first)
    return made


def ask(workbench: Workbench, registry: NpmRegistry, needs: dict[str, str], **more: Any) -> None:
    """Writes an application that needs these versions."""
    host = registry.url.removeprefix("http:")
    settings = f"@acme:registry={registry.url}\n{host}:_authToken=TOKEN\n"
    manifest = {"name": "shop", "dependencies": needs, **more}
    write(workbench, manifest, **{".npmrc": settings, "server.js": ""})


def clean(workbench: Workbench, first: Workbench, root: Path) -> dict[str, tuple[object, ...]]:
    """The modules of the same source where none were built before."""
    root.mkdir()
    other = laid_out(workbench.buildpack, root)
    shutil.copytree(workbench.source, other.source, dirs_exist_ok=True)
    take_layers(other, first, "node*")
    said = built(other)
    assert "npm ci" in said or "modules" not in said
    return relative(other)


def relative(workbench: Workbench) -> dict[str, tuple[object, ...]]:
    """The content of the modules layer, by paths in it."""
    modules = workbench.layers / "modules"
    return {
        path.removeprefix(str(modules)): found for path, found in contents(modules / "node_modules").items()
    }


def test_after_any_change_of_dependencies_the_modules_are_those_of_a_clean_build(
    registry: NpmRegistry, first: Workbench, workbench: Workbench, tmp_path: Path
) -> None:
    chosen = random.Random(11)
    added = 0
    needs = {"@acme/d": "1.0.0", "@acme/e": "1.0.0"}
    for step in range(5):
        name = chosen.choice(NAMES)
        if name in needs and chosen.random() < 0.5 and len(needs) > 1:
            del needs[name]
        else:
            needs[name] = chosen.choice([version for version in VERSIONS if version != needs.get(name)])
        (workbench.source / "package-lock.json").unlink(missing_ok=True)
        ask(workbench, registry, needs)
        said = built(workbench)
        added += "npm install --save" in said and "npm ci" not in said
        assert relative(workbench) == clean(workbench, first, tmp_path / f"clean-{step}"), (needs, said)
    assert added >= 3


def test_what_is_moved_to_the_devdependencies_is_in_the_image_no_more(
    registry: NpmRegistry, first: Workbench, workbench: Workbench, tmp_path: Path
) -> None:
    ask(workbench, registry, {"@acme/e": "1.0.0"}, devDependencies={"@acme/d": "1.0.0"})
    assert "npm ci" not in built(workbench)
    assert relative(workbench) == clean(workbench, first, tmp_path / "clean")
    assert not (workbench.layers / "modules/node_modules/@acme/d").exists()


def test_what_an_install_script_made_stays_until_its_package_or_what_that_needs_changes(
    registry: NpmRegistry, first: Workbench, workbench: Workbench, tmp_path: Path
) -> None:
    needs = {"@acme/e": "1.0.0"}
    steps = [
        ("added", {"@acme/scripted": "1.0.0"}, "npm install --save", "1.0.0"),
        ("beside", {"@acme/d": "2.0.0"}, "npm install --save", "1.0.0"),
        ("needed", {"@acme/e": "1.1.0"}, "npm ci", "1.1.0"),
    ]
    for name, change, command, made in steps:
        needs |= change
        (workbench.source / "package-lock.json").unlink(missing_ok=True)
        ask(workbench, registry, needs)
        before = inode(workbench)
        said = built(workbench)
        assert (command in said, "npm ci" in said) == (True, command == "npm ci"), (name, said)
        assert (workbench.layers / "modules/node_modules/@acme/scripted/made").read_text() == made
        assert (inode(workbench) == before) == (name == "beside")
        assert relative(workbench) == clean(workbench, first, tmp_path / name), name


def inode(workbench: Workbench) -> int:
    """Which file the install script has made, 0 where there is none."""
    path = workbench.layers / "modules/node_modules/@acme/scripted/made"
    return path.stat().st_ino if path.exists() else 0


@pytest.mark.parametrize("table", first_in_test(["dependencies", "devDependencies", "optionalDependencies"]))
def test_a_lock_out_of_step_is_refused_as_in_a_first_build(
    registry: NpmRegistry, workbench: Workbench, table: str
) -> None:
    ask(workbench, registry, {"@acme/d": "1.0.0", "@acme/e": "1.0.0"})
    manifest = json.loads((workbench.source / "package.json").read_text())
    manifest.setdefault(table, {})["@acme/c"] = "1.0.0"
    (workbench.source / "package.json").write_text(json.dumps(manifest))
    workbench.detect()
    outcome = workbench.build()
    assert outcome.status == 3, outcome.output
    assert "package-lock.json does not match package.json" in outcome.output
    assert "Missing: @acme/c@1.0.0 from lock file" in outcome.output


def test_without_the_record_of_the_last_installation_all_is_installed_again(
    registry: NpmRegistry, workbench: Workbench
) -> None:
    shutil.rmtree(workbench.layers / "modules-record")
    ask(workbench, registry, {"@acme/e": "1.0.0"})
    said = built(workbench)
    assert "npm install" not in said
    assert not (workbench.layers / "modules/node_modules/@acme/d").exists()
