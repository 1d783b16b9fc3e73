"""images, inspect, rmi, gc and copy, as somebody uses them who knows docker's."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from fakes import afterwards
from fakes.installation import Home
from fakes.shell_buildpack import SERVER, shell_buildpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")


@pytest.fixture(scope="module")
def stocked(own_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The worker's home, with the images one, two and three; two is one by another name."""
    folder = tmp_path_factory.mktemp("stock")
    (folder / "app").mkdir()
    (folder / "app" / "README").write_text("hello\n")
    big = f"{SERVER}\nhead -c 20M /dev/urandom > $CNB_LAYERS_DIR/tools/big"
    for name, build in (("one", SERVER), ("two", SERVER), ("three", big)):
        buildpack = shell_buildpack(folder / name, build=build)
        own_home.ok("build", name, "--path", folder / "app", "--buildpack", buildpack)
    return own_home


def listed(home: Home) -> dict[str, list[str]]:
    """The lines of `packhorse images` by repository, split into columns."""
    lines = home.ok("images").splitlines()
    assert lines[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "BUILT", "SIZE"]
    return {line.split()[0]: line.split() for line in lines[1:]}


def disk(home: Home) -> int:
    return int(subprocess.check_output(["du", "-s", "--block-size=1", home.path / "store"]).split()[0])


def test_images_tells_the_whole_size(stocked: Home) -> None:
    table = listed(stocked)
    bare, big = float(table["one"][-2]), float(table["three"][-2])
    assert table["one"][-1] == table["three"][-1] == "MB"
    assert 19 < big - bare < 23
    assert table["one"][2] == table["two"][2] == stocked.image_id("one").removeprefix("sha256:")[:12]


def test_inspect_speaks_to_people_and_programs_of_any_place(stocked: Home, tmp_path: Path) -> None:
    stocked.ok("copy", "one", f"docker-archive:{tmp_path}/one.tar:one")
    stocked.ok("copy", "one", f"oci:{tmp_path}/layout:one")
    fields = json.loads(stocked.ok("inspect", "--output", "json", "one"))
    assert fields["local_info"]["processes"][0]["command"] == "say"
    assert fields["processes"][0]["type"] == "talk"
    assert "process     talk  (default): say hello" in stocked.ok("inspect", "one")
    for place in (f"docker-archive:{tmp_path}/one.tar", f"oci:{tmp_path}/layout:one", fields["id"][:19]):
        elsewhere = json.loads(stocked.ok("inspect", "--output", "json", place))
        for key in ("id", "target", "env", "labels", "processes", "local_info"):
            assert elsewhere[key] == fields[key]
        assert [one["diff_id"] for one in elsewhere["layers"]] == [one["diff_id"] for one in fields["layers"]]
    owners = [(one["part"], one["owner"]) for one in fields["layers"]]
    assert owners[0][0] == "base" and ("buildpack", "test/shell") in owners and ("launcher", "") in owners
    assert tomllib.loads(stocked.ok("inspect", "--output", "toml", "one"))["id"] == fields["id"]
    assert yaml.safe_load(stocked.ok("inspect", "--output", "yaml", "one"))["labels"] == fields["labels"]
    assert json.loads(stocked.ok("inspect", "--bom", "one")) == {"remote": None, "local": None}


def test_an_image_goes_from_place_to_place_and_comes_back_the_same(stocked: Home, tmp_path: Path) -> None:
    places = [
        "three",
        f"oci:{tmp_path}/layout:a",
        f"oci-archive:{tmp_path}/oci.tar:b",
        f"docker-archive:{tmp_path}/docker.tar:c:1",
        f"oci:{tmp_path}/layout:d",
        "store:back/again:1",
    ]
    for source, target in pairwise(places):
        stocked.ok("copy", source, target)
    assert stocked.image_id("back/again:1") == stocked.image_id("three")
    assert stocked.ok("run", "back/again:1").startswith("hello from")
    stocked.ok("rmi", "back/again:1")


def test_rmi_goes_by_name_and_id_and_asks_when_it_is_not_clear(stocked: Home) -> None:
    stocked.ok("copy", "one", "first:1")
    stocked.ok("copy", "three", "second:1")
    stocked.ok("copy", "three", "second:2")
    assert stocked.ok("rmi", "first:1") == "Untagged: first:1"
    identifier = stocked.image_id("three")
    unclear = stocked.run("rmi", identifier)
    assert unclear.returncode == 3
    assert "has several names" in unclear.stderr and "second:1" in unclear.stderr
    several = stocked.run("rmi", "second:1", "nosuch", "second:2")
    assert several.returncode == 4
    assert "Untagged: second:1" in several.stdout


def test_gc_frees_what_was_removed_and_keeps_the_default_builder(own_home: Home, tmp_path: Path) -> None:
    home = own_home
    app = tmp_path / "app"
    app.mkdir()
    (app / "README").write_text("hello\n")
    build = f"{SERVER}\nhead -c 50M /dev/urandom > $CNB_LAYERS_DIR/tools/big"
    home.ok(
        "build", "big", "--path", app, "--buildpack", shell_buildpack(tmp_path / "buildpack", build=build)
    )
    home.ok("rmi", "big")
    afterwards.wait(home.path / "store")
    before = disk(home)
    said = home.ok("gc")
    assert said.startswith("freed ") and said.endswith("MB")
    assert before - disk(home) > 49_000_000
    kept = [name for name in listed(home) if name.startswith("packhorse.local/")]
    assert len(kept) == 3
    small = shell_buildpack(tmp_path / "small", build=SERVER)
    done = home.run("build", "small", "--path", app, "--buildpack", small)
    assert done.returncode == 0 and "making the default builder" not in done.stderr


def test_quiet_prints_what_programs_want_and_nothing_else(stocked: Home, tmp_path: Path) -> None:
    identifiers = stocked.ok("images", "--quiet", "--no-trunc").split()
    assert stocked.image_id("three") in identifiers
    app = tmp_path / "app"
    app.mkdir()
    (app / "README").write_text("hello\n")
    buildpack = shell_buildpack(tmp_path / "buildpack", build=f"echo noise\n{SERVER}")
    done = stocked.run("build", "--quiet", "quiet", "--path", app, "--buildpack", buildpack)
    assert (done.stdout, done.stderr) == (f"{stocked.image_id('quiet')}\n", "")
