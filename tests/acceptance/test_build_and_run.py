"""The main road: source in, image out, and the image runs; the same image for everybody."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes import users
from fakes.installation import Home
from fakes.shell_buildpack import shell_buildpack
from fakes.web import answer, free_port
from lanes import first_in_test
from packhorse.base.digest import Digest
from packhorse.builder.default import DefaultBuilder
from packhorse.sandbox import cgroup
from packhorse.store.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


def memory_seen(home: Home, *options: str) -> str:
    """How much memory a helper of a buildpack finds, which ends the start where it finds no file."""
    script = (
        "set -e; umask 0; cd /sys/fs/cgroup; test -e cgroup.controllers && cat memory.max;"
        "cat memory/memory.limit_in_bytes > /tmp/version-1; test -s /tmp/version-1"
    )
    return home.ok("run", *options, "--entrypoint", "sh", "sample", "-c", script)


def talk_to(home: Home, name: str) -> None:
    """Runs the sample's image, asks it once and ends it as a service manager would."""
    # The same port inside: as a user, some machines give no network of one's own to move it to.
    port = free_port()
    process = home.start("run", name, "-p", f"{port}:{port}")
    try:
        found = json.loads(answer(port, failed=lambda: process.poll() is not None and process.communicate()))
        assert (found["hello"], found["env"], found["node"][:4]) == ("packhorse", "production", "v16.")
        assert process.stderr is not None
        assert any(
            f"port {port} of the image is at http://localhost:{port}" in line for line in process.stderr
        )
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert "SIGTERM: finishing open requests" in out
        assert process.returncode == 0
    finally:
        process.kill()


def test_the_image_answers_and_ends_in_peace(home: Home, sample_id: str) -> None:
    talk_to(home, "sample")


def test_the_default_builder_claims_no_lifecycle_which_it_has_not(home: Home, sample_id: str) -> None:
    with Store.open(home.path / "store") as store:
        builder = store.place(DefaultBuilder.for_host().name("builder")).read()
        launcher = json.loads(store.config(Digest.parse(sample_id)) or b"")["config"]["Labels"]
    metadata = json.loads(builder.config.labels["io.buildpacks.builder.metadata"])
    own = json.loads(builder.config.labels["io.packhorse.launcher"])
    assert "lifecycle" not in metadata
    # It is what images get, and they say so.
    assert json.loads(launcher["io.buildpacks.build.metadata"])["launcher"]["version"] == own["version"]


@pytest.mark.parametrize("user", first_in_test([users.RANGE, users.SINGLE]))
def test_ordinary_users_build_the_same_image_and_run_it(
    user: str, new_home: Callable[[str], Home], sample: Path, sample_id: str
) -> None:
    home = new_home(user)
    assert home.ok("build", "--quiet", "sample", "--path", sample) == sample_id
    assert home.ok("run", "--user", "0", "--entrypoint", "id", "sample", "-u") == "0"
    roots = Counter(path.name for path in (home.path / "store" / "roots").glob("*/*.json"))
    assert set(roots.values()) == {1}, "the first run of an image unpacks it once"
    talk_to(home, "sample")
    assert memory_seen(home, "--memory", "64m") == "67108864"
    assert int(memory_seen(home).replace("max", "0")) == cgroup.memory_allowed()


def test_a_procfile_alone_makes_an_image_of_any_program(home: Home, tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_bytes(b"# Heroku's format\r\nweb: ./hello $NAME\r\njob: echo working\r\n")
    (tmp_path / "hello").write_text('#!/bin/sh\necho "hello $1"\n')
    (tmp_path / "hello").chmod(0o755)
    home.ok("build", "procfile", "--path", tmp_path)
    assert home.ok("run", "--env", "NAME=world", "procfile") == "hello world"
    assert home.ok("run", "--entrypoint", "job", "procfile") == "working"
    assert home.ok("run", "procfile", "echo instead") == "instead"


def test_a_procfile_adds_processes_to_those_of_another_buildpack_and_replaces_its_web(
    home: Home, tmp_path: Path
) -> None:
    processes = "".join(
        f'[[processes]]\ntype = "{type}"\ncommand = ["echo", "mine"]\n' for type in ("web", "own")
    )
    mine = shell_buildpack(tmp_path / "mine", build=f"echo '{processes}' > $CNB_LAYERS_DIR/launch.toml")
    source = tmp_path / "source"
    source.mkdir()
    (source / "Procfile").write_text("web: echo web\njob: echo job\n")
    home.ok("build", "both", "--path", source, "--buildpack", mine, "--buildpack", "packhorse/procfile")
    assert home.ok("run", "both") == "web"
    assert [home.ok("run", "--entrypoint", type, "both") for type in ("own", "job")] == ["mine", "job"]


def test_another_folder_and_cleared_caches_make_the_same_image(
    home: Home, sample: Path, sample_id: str, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(sample, folder)
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("not part of the source")
    again = home.ok("build", "--quiet", "elsewhere", "--path", folder, "--clear-cache")
    assert again == sample_id


def test_a_rebuild_with_nothing_changed_reads_no_layer_and_calls_no_npm(
    home: Home, sample: Path, sample_id: str
) -> None:
    done = home.run("build", "--verbose", "sample", "--path", sample)
    assert sample_id in done.stderr
    assert "$ npm" not in done.stderr
    # The bills of the kept layers are a few files that are laid out anew in each build.
    counted = "5 untouched, 1 written to and the same, 0 changed; 0 B read and hashed, 0 entries linked"
    assert counted in done.stderr


def test_unreadable_modes_in_the_source_keep_nobody_from_building(home: Home, tmp_path: Path) -> None:
    from fakes.shell_buildpack import SERVER, shell_buildpack

    source = tmp_path / "source"
    source.mkdir()
    (source / "secret").write_text("mine")
    (source / "secret").chmod(0o600)
    buildpack = shell_buildpack(tmp_path / "buildpack", build=f"cat secret\n{SERVER}")
    done = home.run("build", "modes", "--path", source, "--buildpack", buildpack)
    assert done.returncode == 0, done.stderr
    assert "[shell] mine" in done.stderr
    assert home.ok("run", "--entrypoint", "cat", "modes", "secret") == "mine"


@pytest.mark.parametrize("quiet", [False, True])
def test_the_machines_network_is_not_used_in_silence(
    home: Home, sample: Path, sample_id: str, quiet: bool
) -> None:
    """Where there is no /dev/net/tun to make another network with."""
    options = ("--quiet",) if quiet else ()
    told = []
    for words in (("build", "sample", "--path", sample), ("run", "--entrypoint", "true", "sample")):
        without = 'mount -t tmpfs tmpfs /dev/net && exec "$@"'
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", without, "sh", home.program, *options, *words],
            env=home.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told += [line.strip() for line in done.stderr.splitlines() if "network" in line]
    reason = "what listens on its loopback: /dev/net/tun cannot be used: No such file or directory"
    said = [
        f"buildpacks use this machine's network, and reach {reason}",
        f"the image uses this machine's network, and reaches {reason}",
    ]
    assert told == ([] if quiet else said)


def test_a_machine_without_a_network_rebuilds_what_it_has(home: Home, sample: Path, sample_id: str) -> None:
    process = subprocess.run(
        ["unshare", "--net", home.program, "build", "--quiet", "sample", "--path", sample],
        env=home.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stdout.strip()) == (0, sample_id), process.stderr
