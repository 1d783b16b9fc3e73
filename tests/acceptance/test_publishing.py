"""build --publish: what a registry has afterwards, what was sent for it, who is told no before the build."""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.installation import Home
from fakes.shell_buildpack import SERVER, shell_buildpack
from packhorse.base.digest import Digest
from packhorse.testing import FakeRegistry, Fault

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        yield server


@pytest.fixture
def words(tmp_path: Path) -> list[str | Path]:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/README").write_text("hello\n")
    buildpack = shell_buildpack(tmp_path / "buildpack", build=SERVER)
    return ["--path", tmp_path / "app", "--buildpack", buildpack, "--publish"]


def run_image(home: Home) -> str:
    """The default builder's."""
    rows = (line.split() for line in home.ok("images").splitlines())
    return next(f"{row[0]}:{row[1]}" for row in rows if row[0] == "packhorse.local/run")


def test_an_image_is_published_under_all_its_names(home: Home, server, words, tmp_path) -> None:
    name, other = f"{server.host}/team/app:1", f"{server.host}/team/app:2"
    report = tmp_path / "report"
    digest = home.ok("build", name, *words, "--tag", other, "--quiet", "--report-output-dir", report)
    assert {key for key in server.manifests if not key[1].startswith("sha256:")} == {
        ("team/app", "1"),
        ("team/app", "2"),
    }
    _, manifest = server.manifests["team/app", "1"]
    assert digest == str(Digest.of(manifest))
    image = tomllib.loads((report / "report.toml").read_text())["image"]
    assert image == {"tags": [name, other], "digest": digest, "manifest-size": len(manifest)}
    assert home.image_id(f"docker://{other}") == home.image_id(other) == home.image_id(name)
    server.requests.clear()
    assert home.ok("build", name, *words, "--quiet") == digest
    sent = [seen.path for seen in server.requests if seen.method in ("PUT", "PATCH")]
    assert [path for path in sent if "blobs" in path] == []


def test_a_base_from_the_same_registry_is_taken_over_and_named_by_its_digest(
    home: Home, server, words
) -> None:
    home.ok("copy", run_image(home), f"docker://{server.host}/base/run:1")
    base = json.loads(server.manifests["base/run", "1"][1])
    sent, start = server.sent, len(server.requests)
    home.ok("build", f"{server.host}/team/app", *words, "--run-image", f"{server.host}/base/run:1")
    assert server.sent - sent < 1_000_000 < sum(layer["size"] for layer in base["layers"])
    assert len([seen for seen in server.requests[start:] if "from=base" in seen.path]) == len(base["layers"])
    config = json.loads(
        server.blobs["team/app"][json.loads(server.manifests["team/app", "latest"][1])["config"]["digest"]]
    )
    label = json.loads(config["config"]["Labels"]["io.buildpacks.lifecycle.metadata"])
    pinned = Digest.of(server.manifests["base/run", "1"][1])
    assert label["runImage"]["reference"] == f"{server.host}/base/run@{pinned}"


def test_who_may_not_write_is_told_before_the_build(home: Home, server, words) -> None:
    server.faults.append(Fault(method="POST", path="/team/app/blobs/uploads/", status=403, times=99))
    done = home.run("build", f"{server.host}/team/app", *words)
    assert done.returncode == 5
    assert "detect" not in done.stderr
    assert "packhorse login" in done.stderr


def test_what_a_registry_refused_at_the_end_is_in_the_store_and_goes_on_by_copy(
    home: Home, server, words
) -> None:
    server.faults.append(Fault(method="PUT", path="/manifests/", status=400, times=99))
    name = f"{server.host}/team/app:9"
    done = home.run("build", name, *words)
    assert done.returncode == 5
    assert f"packhorse copy {name} docker://{name}" in done.stderr
    assert server.manifests == {}
    server.faults.clear()
    home.ok("copy", name, f"docker://{name}")
    assert ("team/app", "9") in server.manifests


def test_a_machine_that_never_built_it_goes_on_from_the_image_in_the_registry(
    home: Home, own_home: Home, server, words, tmp_path
) -> None:
    once = f"""
if [ -f "$CNB_LAYERS_DIR/tools.toml" ]; then
    echo the layer is there
    printf '[types]\\nlaunch = true\\n' > "$CNB_LAYERS_DIR/tools.toml"
    exit 0
fi
{SERVER}
"""
    buildpack = shell_buildpack(tmp_path / "once", "test/once", build=once)
    words = ["--path", words[1], "--buildpack", buildpack, "--publish"]
    name = f"{server.host}/team/once"
    first = home.ok("build", name, *words, "--quiet")
    done = own_home.run("build", name, *words)
    assert done.returncode == 0, done.stderr
    assert "[once] the layer is there" in done.stderr
    row = next(line for line in done.stderr.splitlines() if "taken from the previous image" in line)
    assert row.split()[:2] == ["tools", "test/once"]
    assert " 0 B " not in row
    assert first


def test_a_push_that_is_killed_leaves_no_tag_and_the_next_one_completes_it(home: Home, server) -> None:
    source, target = run_image(home), f"docker://{server.host}/killed:1"
    for requests in (1, 3, 4, 5, 6):
        server.requests.clear()
        process = home.start("copy", source, target)
        end = time.monotonic() + 60
        while len(server.requests) < requests and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.001)
        process.kill()
        process.communicate()
        if ("killed", "1") in server.manifests:
            assert home.image_id(target) == home.image_id(source)
    home.ok("copy", source, target)
    assert home.image_id(target) == home.image_id(source)
    again = home.ok("copy", source, target)
    assert again == str(Digest.of(server.manifests["killed", "1"][1]))


def test_a_published_image_is_verified_on_the_base_that_its_registry_has(home: Home, server, words) -> None:
    run, name = f"{server.host}/base/verified:1", f"{server.host}/team/verified"
    home.ok("copy", run_image(home), f"docker://{run}")
    home.ok("build", name, *words, "--run-image", run, "--quiet")
    words.remove("--publish")
    same = f"reproducible: the source gives the same image, {home.image_id(f'docker://{name}')}"
    assert home.ok("verify", "--quiet", f"docker://{name}", *words) == same
    # The tag of the base moves on: built is on what it was built on.
    home.ok("copy", f"docker://{name}", f"docker://{run}")
    assert home.ok("verify", "--quiet", f"docker://{name}", *words) == same
