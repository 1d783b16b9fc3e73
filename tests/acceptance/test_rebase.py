"""packhorse rebase as a command, with the distribution project's registry: one image, many, killed, wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes import docker_registry
from fakes.app_image import App
from fakes.command import START, Command
from fakes.engine import shared
from fakes.small_image import stored_image, tar_of
from packhorse.base.target import Target
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Location
from packhorse.oci.types import Index
from packhorse.store.store import Store

NEW = stored_image(tar_of({"etc/os-release": b"patched\n"}), labels={"io.buildpacks.base.released": "2026"})
COUNT = 16


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry.serve(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "home")


@pytest.fixture
def wiring(tmp_path: Path) -> Iterator[Wiring]:
    with Store.open(tmp_path / "store") as store:
        yield Wiring(store)


def app(
    host: str, *, run: str = "acme/run", text: str = "", labels: Mapping[str, str] = {}, **config: Any
) -> Image:
    named = App()._lifecycle()["runImage"] | {"image": f"{host}/{run}", "mirrors": []}
    tars = (tar_of({"app": text.encode()}),)
    return App(lifecycle={"runImage": named}, app=tars, labels=labels, config=config).image()


def prepared(wiring: Wiring, host: str, name: str, count: int = 1) -> list[str]:
    """A run image, and images on an older one."""
    push_image(NEW, wiring.place(Location.parse(f"docker://{host}/acme/run")))
    names = [f"{host}/{name}{number}" for number in range(count)]
    for number, each in enumerate(names):
        push_image(app(host, text=str(number)), wiring.place(Location.parse(f"docker://{each}")))
    return names


def diff_ids(host: str, name: str) -> list[str]:
    """The layers of an image as another program reads them, which wants them all to be there."""
    inspected = subprocess.run(
        ["skopeo", "inspect", "--config", "--raw", "--tls-verify=false", f"docker://{name}"],
        capture_output=True,
        check=True,
    )
    found: list[str] = json.loads(inspected.stdout)["rootfs"]["diff_ids"]
    return found


def test_another_program_reads_what_was_rebased(
    command: Command, wiring: Wiring, host: str, tmp_path: Path
) -> None:
    (name,) = prepared(wiring, host, "one/app")
    digest = command.ok("rebase", "--publish", name)
    assert diff_ids(host, name)[0] == str(NEW.config.diff_ids[0])
    subprocess.run(
        [
            "skopeo",
            "copy",
            "-q",
            "--src-tls-verify=false",
            f"docker://{name}@{digest}",
            f"oci:{tmp_path / 'out'}",
        ],
        check=True,
    )
    again = command.run("rebase", "--publish", name)
    assert again.stdout.strip() == digest and "already" in again.stderr


def several(wiring: Wiring, name: str, images: Mapping[Target, Image]) -> None:
    """Puts images for several targets under one name."""
    entries = []
    for target, image in images.items():
        push_image(image, wiring.place(Location.parse(f"docker://{name}:{target.arch}")))
        assert image.manifest
        entries.append(replace(image.manifest.descriptor, target=target))
    wiring.index_place(Location.parse(f"docker://{name}"), writes=True).set_name(Index.of(entries))


def test_the_images_of_a_name_are_rebased_together(
    command: Command, wiring: Wiring, host: str, tmp_path: Path
) -> None:
    targets = [Target("linux", arch) for arch in ("amd64", "arm64", "riscv64")]
    name, run = f"{host}/both/app", f"{host}/both/run"
    bases = {each: stored_image(tar_of({"patched": str(each).encode()}), target=each) for each in targets}
    several(wiring, run, {each: bases[each] for each in targets[:1]})
    several(wiring, name, {each: app(host, run="both/run", target=each) for each in targets})
    before = subprocess.check_output(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"])
    told = command.fails(4, "rebase", "--publish", name)
    assert "its images for linux/arm64, linux/riscv64 cannot be rebased" in told
    (line,) = command.run("rebase", "--all", f"{host}/both/app").stdout.splitlines()[:1]
    assert line.startswith("failed") and "linux/arm64: " in line and "linux/riscv64: " in line
    assert before == subprocess.check_output(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"]
    )
    several(wiring, run, bases)
    (line,) = command.ok("rebase", "--check", "--all", f"{host}/both/app").splitlines()[:1]
    assert "linux/arm64: " in line and "linux/riscv64: " in line
    digest = command.ok("rebase", "--publish", name)
    out = tmp_path / "out"
    copied = ["copy", "-q", "--all", "--src-tls-verify=false", f"docker://{name}@{digest}", f"oci:{out}:x"]
    subprocess.run(["skopeo", *copied], check=True)
    for target in targets:
        image = wiring.place(Location.parse(f"oci:{out}:x"), target=target).read()
        assert (image.config.target, image.layers[0].diff_id) == (target, bases[target].config.diff_ids[0])


def test_many_are_listed_checked_and_rebased(command: Command, wiring: Wiring, host: str) -> None:
    names = prepared(wiring, host, "many/app", 3)
    behind = command.ok("--quiet", "rebase", "--check", "--all", f"{host}/many/")
    assert behind.splitlines() == [f"docker://{name}:latest" for name in names]
    assert diff_ids(host, names[0]) == [str(each) for each in app(host, text="0").config.diff_ids]
    done = command.run("rebase", "-", f"{host}/nosuch", "--publish", given=f"# those behind\n{behind}\n")
    assert done.returncode == 73
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert lines == [
        *(["rebased", each] for each in behind.splitlines()),
        ["failed", f"docker://{host}/nosuch"],
    ]
    assert "1 of 4 images could not be rebased" in done.stderr
    assert command.ok("rebase", "--check", "--all", f"{host}/many/") == ""


def test_of_what_is_listed_only_what_has_the_labels_is_taken(
    command: Command, wiring: Wiring, host: str
) -> None:
    prepared(wiring, host, "labelled/none")
    for name, labels in {"one": {"team": "a"}, "two": {"team": "a", "stage": "live"}}.items():
        image = app(host, text=name, labels=labels)
        push_image(image, wiring.place(Location.parse(f"docker://{host}/labelled/{name}")))
    words = ("--quiet", "rebase", "--all", f"{host}/labelled/")
    one, two = (f"docker://{host}/labelled/{name}:latest" for name in ("one", "two"))
    assert command.ok(*words, "--label", "team=a", "--check").split() == [one, two]
    assert command.ok(*words, "--label", "team=b", "--check") == ""
    assert "names no label" in command.fails(2, *words, "--label", "=a")
    assert command.ok(*words, "--label", "team", "--label", "stage=live").split() == [two]
    assert command.ok(*words, "--label", "team", "--check").split() == [one]


def test_only_images_on_one_run_image_are_put_on_another(
    command: Command, wiring: Wiring, host: str, tmp_path: Path
) -> None:
    names = prepared(wiring, host, "some/app", 2)
    push_image(NEW, wiring.place(Location.parse(f"docker://{host}/acme/other")))
    lines = tmp_path / "list"
    lines.write_text("\n".join(names))
    words = ("rebase", "--publish", "--file", lines, "--to", f"{host}/acme/other", "--force")
    skipped = command.ok(*words, "--from", f"{host}/acme/nobody")
    assert [line.split()[0] for line in skipped.splitlines()] == ["skipped"] * 2
    assert [line.split()[0] for line in command.ok(*words, "--from", f"{host}/acme/run").splitlines()] == [
        "rebased"
    ] * 2


def test_what_is_killed_leaves_whole_images_and_the_next_run_does_the_rest(
    command: Command, wiring: Wiring, host: str
) -> None:
    names = prepared(wiring, host, "killed/app", COUNT)
    words = ["rebase", "--all", f"{host}/killed/", "--jobs", "1"]
    running = subprocess.Popen(
        [sys.executable, "-P", str(START), *words], env=command.environ, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    first = running.stdout.readline()
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert first.startswith("rebased")
    old, new = str(app(host).config.diff_ids[0]), str(NEW.config.diff_ids[0])
    assert {diff_ids(host, name)[0] for name in names} == {old, new}
    rows = [line.split()[0] for line in command.ok(*words).splitlines()]
    assert set(rows) == {"rebased", "current"} and len(rows) == COUNT
    assert {diff_ids(host, name)[0] for name in names} == {new}


def test_ctrl_c_ends_it_in_a_moment(command: Command, wiring: Wiring, host: str) -> None:
    prepared(wiring, host, "called/app", COUNT)
    words = ["rebase", "--all", f"{host}/called/", "--jobs", "1"]
    running = subprocess.Popen(
        [sys.executable, "-P", str(START), *words],
        env=command.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    running.stdout.readline()
    started = time.monotonic()
    os.kill(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and "interrupted" in said
    assert time.monotonic() - started < 30


def test_wrong_words_are_told_before_anything_is_done(command: Command, wiring: Wiring, host: str) -> None:
    (name,) = prepared(wiring, host, "words/app")
    assert "no image was named" in command.fails(2, "rebase")
    assert "for one image" in command.fails(2, "rebase", name, name, "--previous-image", "acme/x")
    assert "is not a list of images" in command.fails(
        3, "rebase", "-", "--publish", given=f"{name}\nNo Name\n"
    )
    assert "cannot be read" in command.fails(3, "rebase", "--file", "/nosuch")
    missing = command.fails(4, "rebase", "words/app")
    assert "no image 'words/app'" in missing and "--publish" in missing
    assert "made for something else" not in command.fails(4, "rebase", "--publish", f"{host}/nosuch")
    assert diff_ids(host, name)[0] != str(NEW.config.diff_ids[0])


def test_an_image_in_an_engine_is_rebased_there(command: Command, wiring: Wiring, tmp_path: Path) -> None:
    engine = shared("docker")
    run = App()._lifecycle()["runImage"] | {"image": "acme/run-here", "mirrors": []}
    place = Location.parse(f"docker-archive:{tmp_path / 'image'}:acme/rebased-here")
    push_image(App(lifecycle={"runImage": run}).image(), wiring.place(place))
    push_image(NEW, wiring.place(Location.parse(f"docker-archive:{tmp_path / 'run'}:acme/run-here")))
    for name in ("image", "run"):
        engine.docker("load", "--input", str(tmp_path / name))
    words = ("rebase", "docker-daemon:acme/rebased-here", "--docker-host", engine.address)
    told = command.ok(*words, "--pull-policy", "never")
    assert engine.docker("inspect", "--format", "{{.Id}}", "acme/rebased-here") == told
    layers = json.loads(engine.docker("inspect", "--format", "{{json .RootFS.Layers}}", "acme/rebased-here"))
    assert layers == [str(NEW.config.diff_ids[0]), *map(str, App().image().config.diff_ids[2:])]
    assert "already" in command.run(*words, "--pull-policy", "never").stderr
