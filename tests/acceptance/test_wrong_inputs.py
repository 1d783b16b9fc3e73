"""Whatever a user gets wrong ends in one message that helps, the documented status and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fakes.cases import check_all
from fakes.installation import Home
from fakes.place import RUNTIMES
from fakes.shell_buildpack import SERVER, shell_buildpack
from fakes.tiny_builder import tiny_builder
from lanes import first_in_test
from packhorse.errors import BuildpackFailed, CommandNotFound

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")


def refused(home: Home, *arguments: str | Path, status: int, says: tuple[str, ...], **options: Any) -> str:
    """Runs packhorse, which has to fail in the way described; returns all that it said."""
    done = home.run(*arguments, **options)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr.count("\nerror: ") + done.stderr.startswith("error: ") == 1, done.stderr
    assert "Traceback" not in done.stderr and "went wrong" not in done.stderr, done.stderr
    for text in says:
        assert text in done.stderr, done.stderr
    return done.stderr


COMMAND_LINES: list[tuple[list[str], int, tuple[str, ...]]] = [
    (["build", "x", "--path", "/no/such"], 3, ("there is no /no/such",)),
    (["build", "x", "--path", "file"], 3, ("file is not a directory",)),
    (["build", "x", "--path", "empty"], 3, ("empty is empty",)),
    (["build", "x", "--frobnicate"], 2, ("no such option '--frobnicate'", "packhorse build --help")),
    (["biuld", "x"], 2, ("no such command 'biuld'", "Did you mean build?")),
    (["build"], 2, ("missing argument 'NAME'",)),
    (["build", "Bad Name"], 3, ("not an image name: 'Bad Name'",)),
    (["build", "oci:out"], 2, ("'oci:out' is a location", "write a name, and --output oci:out")),
    (["build", "oci-archive:out.tar:x"], 2, ("write a name, and --output oci-archive:out.tar:x",)),
    (["build", "docker-archive:out.tar"], 2, ("write a name, and --output docker-archive:out.tar",)),
    (["build", "docker-daemon:x:1"], 2, ("write x:1 and --daemon",)),
    (["build", "docker://host.example/x"], 2, ("write host.example/x and --publish",)),
    (
        ["build", "x", "-t", "y,docker-daemon:x"],
        2,
        ("--tag: 'docker-daemon:x'", "--output docker-daemon:x"),
    ),
    (["build", "x", "--cache-image", "docker://h.example/x"], 2, ("write h.example/x",)),
    (["build", "x", "--cache-image", "oci:x"], 2, ("name an image of a registry",)),
    (["build", "x", "--builder", "oci:y"], 4, ("there is no y",)),
    (["build", "x", "--builder", "sif:/y"], 3, ("sif: is not a place that packhorse knows",)),
    (["build", "x", "--run-image", "docker://h.example/y"], 2, ("write h.example/y",)),
    (["run", "store:nosuch", "--pull", "never"], 125, ("nosuch:latest is neither in the store",)),
    (["run", "oci:out"], 125, ("'oci:out' is a location", "packhorse copy oci:out NAME")),
    (["rebase", "x", "--run-image", "oci:y"], 2, ("'oci:y' is a location", "copy oci:y NAME")),
    (["rebase", "x", "--from", "docker://h.example/y"], 2, ("write h.example/y",)),
    (["build", "x", "--env", "=v"], 2, ("--env: the name of the variable is missing",)),
    (["build", "x", "--env-file", "nosuch"], 3, ("nosuch cannot be read", "No such file")),
    (
        ["build", "x", "--output", "tarball:x"],
        2,
        ("--output cannot write to 'tarball:x'", "oci-archive:"),
    ),
    (["build", "x", "--output", "oci:"], 3, ("after oci: comes a path",)),
    (["build", "x", "--network", "fast"], 2, ("'fast' is not one of",)),
    (["build", "x", "--exec-env", "a/b"], 2, ("--exec-env: 'a/b' is not an execution environment",)),
    (["build", "x", "--creation-time", "-1"], 2, ("--creation-time: '-1' is not a time",)),
    (["build", "x", "--creation-time", "253402300800"], 2, ("is not a time", "or now")),
    (
        ["build", "x", "--output", "oci-archive:no/x.tar"],
        6,
        ("can be written", "there is no such directory"),
    ),
    (["build", "x", "--output", "oci:file/x"], 6, ("file is not a directory",)),
    (["build", "x", "--report-output-dir", "file/x"], 3, ("no report can be written to file/x",)),
    (["build", "x", "--output", "docker://localhost:1/x"], 5, ("localhost:1",)),
    (["build", "x", "--daemon", "--docker-host", "unix:///no"], 7, ("cannot be asked",)),
    (["inspect", "store:nosuch"], 4, ("no image 'nosuch' in the store",)),
    (["inspect", "localhost:1/x"], 5, ("no image 'localhost:1/x' in the store", "could not be asked")),
    (["inspect", "--local", "--remote", "x"], 2, ("--local and --remote exclude each other",)),
    (["inspect", "x", "--output", "xml"], 2, ("'xml' is not one of",)),
    (["rmi", "nosuch"], 4, ("no image 'nosuch' in the store",)),
    (["copy", "nosuch", "oci:x"], 4, ("no image 'nosuch' in the store",)),
    (["inspect", "oci:empty"], 4, ("empty",)),
    (["run", "--frobnicate", "x"], 125, ("no such option '--frobnicate'",)),
    (["run", "x", "-p", "80:80:80:80"], 125, ("not a port to publish",)),
    (["run", "x", "-p", "٨٠"], 125, ("not a port to publish",)),
    (["run", "x", "-v", "./nosuch:/x"], 125, ("there is no ",)),
]
"""Each with its exit status, and with what it says."""


def test_every_wrong_command_line_ends_in_one_message_that_helps(home: Home, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()

    def refuse(arguments: list[str], status: int, says: tuple[str, ...]) -> None:
        said = refused(home, *arguments, status=status, says=says, cwd=tmp_path)
        assert "===>" not in said  # before anything is built

    check_all({f"packhorse {' '.join(row[0])}": partial(refuse, *row) for row in COMMAND_LINES})


def test_a_disk_too_small_for_the_default_builder_is_told_at_once(home: Home, tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=300m none "$1"; PACKHORSE_HOME="$1" exec "$2" builder default'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-e", "-c", script, "sh", tmp_path, home.program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 6, done.stderr
    assert "there is too little room for the default builder" in done.stderr
    assert f"0.3 GB are free at {tmp_path}/store, and it needs 1.2 GB" in done.stderr
    assert "apt" not in done.stderr


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A change to the sample's package.json."""

    def apply(app: Path) -> None:
        package = json.loads((app / "package.json").read_text())
        change(package)
        (app / "package.json").write_text(json.dumps(package, indent=2))

    return apply


def breaks_json(app: Path) -> None:
    (app / "package.json").write_text('{\n  "name": "x"\n  "scripts": {}\n}\n')


WRONG_APPLICATIONS: dict[str, tuple[Callable[[Path], None], int, tuple[str, ...]]] = {
    "broken JSON": (breaks_json, 51, ("package.json is not valid JSON", "line 3, column 3")),
    "no such version": (
        changed(lambda package: package.update(engines={"node": ">=99"})),
        51,
        ("no Node.js matches >=99", "the newest of each line are"),
    ),
    "lock out of sync": (
        changed(lambda package: package["dependencies"].update({"left-pad": "^1.3.0"})),
        51,
        ("package-lock.json does not match package.json", "run `npm install`"),
    ),
    "no start command": (
        changed(lambda package: package.pop("scripts")),
        51,
        ("there is nothing to start", '"scripts"'),
    ),
    "failing script": (
        changed(lambda package: package["scripts"].update(build="echo compiling; exit 3")),
        51,
        ("compiling", "the script `build` of package.json failed", "(exit status 3)"),
    ),
    "no match": (
        lambda app: (app / "package.json").unlink(),
        20,
        ("packhorse/nodejs@", "there is no package.json"),
    ),
}


def test_wrong_node_applications(home: Home, sample: Path, sample_id: str, tmp_path: Path) -> None:
    def refuse(name: str, change: Callable[[Path], None], status: int, says: tuple[str, ...]) -> None:
        app = tmp_path / name
        shutil.copytree(sample, app)
        change(app)
        # Under the sample's name, so that the layers of its build are at hand.
        refused(home, "build", "sample", "--path", app, status=status, says=says)
        assert home.image_id("sample") == sample_id

    cases = {name: partial(refuse, name, *row) for name, row in WRONG_APPLICATIONS.items()}
    check_all(cases, at_once=1)  # builds of one name wait for each other


def test_a_build_without_a_network_says_who_could_not_be_reached(
    home: Home, sample: Path, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    shutil.copytree(sample, app)
    says = ("npm cannot reach the package registry", "check the network")
    refused(home, "build", "nonet", "--path", app, "--network", "none", status=51, says=says)


def broken(directory: Path, name: str) -> Path:
    """A buildpack with the defect that `name` names."""
    buildpack = shell_buildpack(directory / "buildpack", build=SERVER)
    descriptor, program = buildpack / "buildpack.toml", buildpack / "bin" / "build"
    if name == "no descriptor":
        descriptor.unlink()
    elif name == "broken TOML":
        descriptor.write_text('api = "0.11"\n[buildpack\n')
    elif name == "no id":
        descriptor.write_text('api = "0.11"\n[buildpack]\nversion = "1"\n')
    elif name == "old API":
        descriptor.write_text(descriptor.read_text().replace("0.11", "0.6"))
    elif name == "new API":
        descriptor.write_text(descriptor.read_text().replace("0.11", "0.99"))
    elif name == "no program":
        program.unlink()
    elif name == "no interpreter":
        program.write_text("#!/no/such\n")
    elif name == "fails":
        program.write_text("#!/bin/bash\necho about to fail; exit 7\n")
    elif name == "killed":
        program.write_text("#!/bin/bash\nkill -9 $$\n")
    elif name == "broken launch.toml":
        program.write_text('#!/bin/bash\necho "[[processes" > "$CNB_LAYERS_DIR/launch.toml"\n')
    elif name == "says no":
        (buildpack / "bin" / "detect").write_text("#!/bin/bash\necho there is no foo file; exit 100\n")
    elif name == "detect crashes":
        (buildpack / "bin" / "detect").write_text("#!/bin/bash\necho oh no; exit 3\n")
    return buildpack


WRONG_BUILDPACKS: dict[str, tuple[int, tuple[str, ...]]] = {
    "no descriptor": (3, ("is not a buildpack", "buildpack.toml")),
    "broken TOML": (3, ("buildpack.toml is not valid TOML", "line 2")),
    "no id": (3, ("buildpack.toml:2: buildpack.id is missing",)),
    "old API": (12, ("buildpack test/shell@1.0.0 needs Buildpack API 0.6", "buildpack.toml:1: api", "0.7")),
    "new API": (12, ("buildpack test/shell@1.0.0 needs Buildpack API 0.99", "buildpack.toml:1: api", "0.12")),
    "no program": (3, ("there is no ", "bin/build")),
    "no interpreter": (51, ("test/shell@1.0.0 cannot be run", "interpreter")),
    "fails": (51, ("[shell] about to fail", "test/shell@1.0.0 failed (exit status 7)")),
    "killed": (51, ("test/shell@1.0.0 failed (ended by signal 9)",)),
    "broken launch.toml": (52, ("test/shell@1.0.0 made something", "launch.toml", "line 1")),
    "says no": (20, ("fail: test/shell@1.0.0: there is no foo file",)),
    "detect crashes": (21, ("error: test/shell@1.0.0 (exit status 3): oh no",)),
}


def test_wrong_buildpacks(home: Home, app: Path, tmp_path: Path) -> None:
    def refuse(defect: str, status: int, says: tuple[str, ...]) -> None:
        (folder := tmp_path / defect).mkdir()
        buildpack = broken(folder, defect)
        name = f"wrong-{defect.replace(' ', '-').lower()}"
        arguments = ("build", name, "--path", app, "--buildpack", buildpack)
        said = refused(home, *arguments, status=status, says=says)
        if status == 51 and "failed" in said:
            assert refused(home, *arguments, "--quiet", status=status, says=says[:1])

    check_all({defect: partial(refuse, defect, *row) for defect, row in WRONG_BUILDPACKS.items()})


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A source that no bundled buildpack takes."""
    path = tmp_path / "app"
    path.mkdir()
    (path / "README").write_text("hello\n")
    return path


def test_a_step_that_cannot_be_repeated_fails_with_an_error_that_is_not_its_own_cause(
    app: Path, tmp_path: Path
) -> None:
    """Whatever prints an error follows its causes to their end."""
    buildpack = broken(tmp_path, "no interpreter")
    (tmp_path / "tiny").mkdir()
    with tiny_builder(tmp_path / "tiny") as tiny, pytest.raises(BuildpackFailed) as raised:
        tiny.build(app, buildpack)
    causes: list[BaseException] = [raised.value]
    while (cause := causes[-1].__cause__) is not None:
        assert cause not in causes
        causes.append(cause)
    assert [type(cause) for cause in causes] == [BuildpackFailed, CommandNotFound]


def test_an_unknown_buildpack_is_told_what_there_is(home: Home, app: Path) -> None:
    for name in ("nosuch/id", "packhorse/nodejs@9", "./nosuch"):
        says = (f"there is no buildpack '{name}'", "packhorse/nodejs 0.")
        refused(home, "build", "x", "--path", app, "--buildpack", name, status=4, says=says)
    says = ("--buildpack: a locator is empty", "leave it out")
    refused(home, "build", "x", "--path", app, "--buildpack", "", status=3, says=says)


def test_what_is_no_builder_is_not_built_with(home: Home, app: Path) -> None:
    name = next(line.split()[0] for line in home.ok("images").splitlines() if "local/run" in line)
    tag = next(line.split()[1] for line in home.ok("images").splitlines() if "local/run" in line)
    says = ("is not a builder", "io.buildpacks.builder.metadata")
    refused(home, "build", "x", "--path", app, "--builder", f"{name}:{tag}", status=8, says=says)
    says = ("cannot be fetched", "check")
    refused(home, "build", "x", "--path", app, "--builder", "localhost:1/builder", status=5, says=says)


def test_a_process_type_that_nobody_made_is_told_those_that_are(
    home: Home, app: Path, tmp_path: Path
) -> None:
    buildpack = shell_buildpack(tmp_path / "buildpack", build=SERVER)
    arguments = ("build", "x", "--path", app, "--buildpack", buildpack, "--default-process", "nosuch")
    refused(home, *arguments, status=62, says=("there is no process type 'nosuch'", "made talk"))


@pytest.mark.parametrize("runtime", first_in_test(RUNTIMES))
def test_a_failed_step_can_be_entered_until_the_next_build(
    own_home: Home, app: Path, tmp_path: Path, runtime: str
) -> None:
    home = own_home  # builds of other tests would be the next
    fails = shell_buildpack(tmp_path / "fails", build='echo left > "$CNB_LAYERS_DIR/trace"; exit 9')
    words = ("build", "entered", "--sandbox", runtime, "--path", app, "--buildpack", fails)
    said = refused(home, *words, status=51, says=("sh ",))
    script = Path(next(word for word in said.split() if word.endswith("again.sh")))
    assert script.stat().st_mode & 0o077 == 0
    again = subprocess.run(["sh", script], capture_output=True, text=True, check=False)
    assert again.returncode == 9
    looked = subprocess.run(
        ["sh", script, "bash"], input='id -un; cat "$CNB_LAYERS_DIR/trace"', capture_output=True, text=True
    )
    assert looked.stdout.split() == ["cnb", "left"], looked.stderr
    works = shell_buildpack(tmp_path / "works", build=SERVER)
    home.ok("build", "entered", "--path", app, "--buildpack", works)
    assert not script.exists()


def test_a_home_with_the_store_in_it_is_no_application(home: Home) -> None:
    for path in (home.path, Path("/")):
        refused(
            home, "build", "x", "--path", path, status=3, says=("is not an application", "own store is in it")
        )


def test_a_home_that_cannot_hold_a_store_is_named(home: Home, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, status, text in (
        ("relative", 2, "PACKHORSE_HOME is not an absolute path"),
        (str(tmp_path / "file"), 6, "the store cannot be used"),
        ("/proc/nosuch", 6, "the store cannot be used"),
    ):
        refused(home, "images", env={"PACKHORSE_HOME": path}, status=status, says=(text,))


def test_a_full_disk_is_said_and_leaves_the_store_usable(
    new_home: Callable[[], Home], app: Path, tmp_path: Path
) -> None:
    home, small = new_home(), tmp_path / "small"
    home.ok("copy", next(iter(home.ok("images", "--quiet").split())), f"oci:{tmp_path}/image")
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        full = Home(home.program, small, home.owner)
        says = ("no space left for the store", "packhorse gc")
        refused(full, "copy", f"oci:{tmp_path}/image", "big", status=6, says=says)
        assert "big" not in full.ok("images")
        full.ok("gc")
    finally:
        subprocess.run(["umount", str(small)], check=True)
