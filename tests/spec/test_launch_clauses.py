"""The launch clauses, on the real launcher in root file systems of its own: with a shell, and with nothing.

Each row of LAUNCHES is a launch and what comes of it, for Buildpack API 0.7 to 0.12. What every form of a
file or an option means is in tests/unit/launcher, row by row.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fakes import tiny_root
from packhorse.base import installation

pytestmark = pytest.mark.system

APIS = ("0.7", "0.8", "0.9", "0.10", "0.11", "0.12")
PLATFORM_API = "0.15"
PROBE = "/bin/probe"
FAILED = 82

Process = Mapping[str, str | bool | Sequence[str]]


def process(kind: str, *command: str, **more: str | bool | Sequence[str]) -> Process:
    """A process of the first buildpack; underscores of names stand for hyphens."""
    fields = {name.replace("_", "-"): value for name, value in more.items()}
    return {"type": kind, "command": command, "direct": True, "buildpack-id": "first/one", **fields}


@dataclass(frozen=True)
class Launch:
    """An image's processes and files (contents of `probe` are that program), and how it is started.

    `shows` are fields of what the process tells of itself, `says` what the launcher says when it fails;
    `bare` is the status in an image without a shell, where that is another.
    """

    processes: Sequence[Process] = (process("web", PROBE),)
    files: Mapping[str, str] = field(default_factory=dict)
    name: str = "/cnb/process/web"
    arguments: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    shows: Mapping[str, object] = field(default_factory=dict)
    says: str = ""
    bare: int | None = None
    api: str = PLATFORM_API
    buildpack_api: str = ""


DEFAULTS = process("web", PROBE, "always", args=["default"])
WORKER = process("worker", PROBE, "works")
TEST = process("web", PROBE, "for test", exec_env=["test"])
PRODUCTION = process("web", PROBE, "for production", exec_env=["production"])
ANY = process("web", PROBE, "for any", exec_env=["*"])
PROFILES = {
    "layers/first_one/a/profile.d/p": "ORDER=$ORDER'first a,'",
    "layers/first_one/a/profile.d/web/p": "ORDER=$ORDER'first a web,'",
    "layers/first_one/b/profile.d/p": "ORDER=$ORDER'first b,'",
    "layers/second/a/profile.d/p": "ORDER=$ORDER'second a,'",
    "layers/second/a/profile.d/worker/p": "ORDER=$ORDER'worker,'",
    "workspace/.profile": "export ORDER=$ORDER'app'",
}
SHELL = {"env ORDER": "first a,first a web,first b,second a,app", "arg": [PROBE, "a word"]}

LAUNCHES: dict[str, Launch] = {
    "P-133 the name it is called by chooses the process": Launch(
        [DEFAULTS, WORKER], name="/cnb/process/worker", shows={"arg": [PROBE, "works"]}
    ),
    "P-133 the last element of the name alone counts": Launch(
        [DEFAULTS, WORKER], name="/elsewhere/worker", shows={"arg": [PROBE, "works"]}
    ),
    "P-133 a name that is no process chooses none": Launch(
        [DEFAULTS], name="/cnb/lifecycle/launcher", status=FAILED, says="a command is required"
    ),
    "P-134 B-141 the process for the execution environment is taken": Launch(
        [TEST, PRODUCTION], env={"CNB_EXEC_ENV": "test"}, shows={"arg": [PROBE, "for test"]}
    ),
    "P-134 without one it is production's": Launch(
        [TEST, PRODUCTION], shows={"arg": [PROBE, "for production"]}
    ),
    "P-134 none eligible fails": Launch(
        [TEST, PRODUCTION],
        env={"CNB_EXEC_ENV": "other"},
        status=FAILED,
        says="process type web was not found",
    ),
    "P-135 P-183 a process that names none is for all": Launch(
        [TEST, process("web", PROBE)], env={"CNB_EXEC_ENV": "other"}, shows={"arg": [PROBE]}
    ),
    "P-135 a star is for all": Launch(
        [TEST, ANY], env={"CNB_EXEC_ENV": "other"}, shows={"arg": [PROBE, "for any"]}
    ),
    "P-136 P-143 a process starts in the app": Launch(shows={"cwd": "/workspace"}),
    "P-136 P-143 or in its own directory": Launch(
        [process("web", PROBE, working_dir="/layers")], shows={"cwd": "/layers"}
    ),
    "P-137 default arguments are there": Launch([DEFAULTS], shows={"arg": [PROBE, "always", "default"]}),
    "P-137 a user's replace them": Launch(
        [DEFAULTS], arguments=["a", "b c"], shows={"arg": [PROBE, "always", "a", "b c"]}
    ),
    "P-138 older buildpacks' arguments are added to": Launch(
        [process("web", PROBE, args=["default"])],
        arguments=["a"],
        shows={"arg": [PROBE, "default", "a"]},
        buildpack_api="0.8",
    ),
    "P-139 a user's command behind two dashes is executed": Launch(
        name="/cnb/lifecycle/launcher",
        arguments=["--", PROBE, "$x", "--"],
        shows={"arg": [PROBE, "$x", "--"]},
    ),
    "P-139 any other by a shell": Launch(
        name="/cnb/lifecycle/launcher",
        arguments=[PROBE, "$WORD", "a b"],
        env={"WORD": "from the shell"},
        shows={"arg": [PROBE, "from the shell", "a b"]},
        bare=FAILED,
    ),
    "P-140 P-147 B-099 B-117 layers set variables": Launch(
        files={
            "layers/first_one/a/env/X": "1",
            "layers/first_one/a/env.launch/X.append": "2",
            "layers/first_one/a/env.launch/web/X.append": "3",
            "layers/first_one/a/env.launch/worker/X.append": "no",
            "layers/first_one/a/env.build/X.append": "no",
            "layers/first_one/b/env/X.append": "4",
            "layers/second/a/env/X.append": "5",
        },
        shows={"env X": "12345"},
    ),
    "B-105 B-106 B-107 B-108 bin and lib of layers are in the lists": Launch(
        files={
            "layers/first_one/a/bin/x": "",
            "layers/first_one/b/bin/x": "",
            "layers/second/a/bin/x": "",
            "layers/second/a/lib/x": "",
        },
        shows={
            "env PATH": "/layers/second/a/bin:/layers/first_one/b/bin:/layers/first_one/a/bin:/usr/bin:/bin",
            "env LD_LIBRARY_PATH": "/layers/second/a/lib",
        },
    ),
    "P-141 B-100 B-154 exec.d runs by buildpacks, layers and names": Launch(
        files={
            "layers/second/a/exec.d/1": "probe",
            "layers/first_one/b/exec.d/1": "probe",
            "layers/first_one/a/exec.d/web/3": "probe",
            "layers/first_one/a/exec.d/2": "probe",
            "layers/first_one/a/exec.d/1": "probe",
            "layers/first_one/a/exec.d/worker/9": "probe",
            "execd/3": 'GIVEN = "by 3"\n',
        },
        shows={"env ORDER": "1,2,3,1,1,", "env GIVEN": "by 3"},
    ),
    "P-141 an exec.d program that fails ends the launch": Launch(
        files={"layers/first_one/a/exec.d/1": "probe"},
        env={"EXECD_STATUS": "3"},
        status=FAILED,
        says="exec.d/1: it ended with exit status 3",
    ),
    "B-154 what exec.d writes has to be strings": Launch(
        files={"layers/first_one/a/exec.d/1": "probe", "execd/1": "A = 1\n"},
        status=FAILED,
        says="exec.d/1: 'A' is of type integer",
    ),
    "P-142 a shell reads the profiles first": Launch(
        [process("web", PROBE, args=["a word"], direct=False)],
        files=PROFILES,
        shows=SHELL,
        bare=FAILED,
        buildpack_api="0.8",
    ),
    "P-142 a direct process has none": Launch(files=PROFILES, shows={"env ORDER": None}),
    "P-144 P-145 B-101 B-102 it becomes the process": Launch(shows={"pid": "its own"}),
    "P-146 the status is the process's": Launch(env={"STATUS": "7"}, status=7),
    "P-146 11 for a Platform API": Launch(api="0.99", status=11, says="0.99"),
    "P-146 12 for a Buildpack API": Launch(buildpack_api="0.99", status=12, says="first/one"),
    "P-146 82 for what cannot be launched": Launch(
        [process("web", "/no/such")], status=FAILED, says="/no/such"
    ),
    "P-169 its own variables are not the process's": Launch(
        env={"CNB_APP_DIR": "/workspace", "CNB_LAYERS_DIR": "/layers", "OTHER": "stays"},
        shows={
            "env CNB_APP_DIR": None,
            "env CNB_LAYERS_DIR": None,
            "env CNB_PROCESS_TYPE": None,
            "env CNB_PLATFORM_API": None,
            "env OTHER": "stays",
        },
    ),
    "P-170 its directories are not in PATH": Launch(shows={"env PATH": "/usr/bin:/bin"}),
}


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that tells what it was started with, static."""
    out = tmp_path_factory.mktemp("probe") / "probe"
    source = Path(__file__).parent / "launch_probe.c"
    words = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        f"{os.uname().machine}-linux-musl",
        "-static",
        "-Os",
    ]
    subprocess.run([*words, "-o", str(out), str(source)], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module", params=["with a shell", "bare"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, probe: Path) -> Path:
    """A root file system without an application: the launcher, the probe, and a shell or nothing."""
    directory = tmp_path_factory.mktemp("root") / "root"
    if request.param == "bare":
        (directory / "bin").mkdir(parents=True)
    else:
        tiny_root.make(directory)
    arch = "amd64" if os.uname().machine == "x86_64" else "arm64"
    (directory / "dev").mkdir()
    (directory / "dev" / "null").touch()  # every container has one; programs of exec.d read from it
    launcher = directory / "cnb" / "lifecycle" / "launcher"
    launcher.parent.mkdir(parents=True)
    launcher.write_bytes(
        Path(os.environ["LAUNCHER_UNDER_TEST"]).read_bytes()
        if "LAUNCHER_UNDER_TEST" in os.environ
        else installation.launcher(arch)
    )
    launcher.chmod(0o755)
    shutil.copy(probe, directory / "bin" / "probe")
    for name in ("/cnb/process/web", "/cnb/process/worker", "/elsewhere/worker"):
        link = directory / name[1:]
        link.parent.mkdir(exist_ok=True)
        link.symlink_to("/cnb/lifecycle/launcher")
    return directory


def write(root: Path, launch: Launch, api: str) -> None:
    """Puts the application in the root, in place of what was there."""
    for name in ("layers", "workspace", "execd"):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
    lines = []
    for identifier in ("first/one", "second"):
        lines += ["[[buildpacks]]", f'id = "{identifier}"', f'api = "{launch.buildpack_api or api}"']
    for each in launch.processes:
        lines += ["[[processes]]", *(f"{key} = {json.dumps(value)}" for key, value in each.items())]
    files = {"layers/config/metadata.toml": "\n".join(lines), **launch.files}
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == "probe":
            os.link(root / "bin" / "probe", path)
        else:
            path.write_text(content)


def start(root: Path, launch: Launch) -> tuple[subprocess.Popen[bytes], bytes, bytes]:
    environment = {"PATH": "/cnb/process:/cnb/lifecycle:/usr/bin:/bin", "CNB_PLATFORM_API": launch.api}
    enter = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), f"--root={root}"]
    done = subprocess.Popen(
        [*enter, launch.name, *launch.arguments],
        env=environment | dict(launch.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = done.communicate(timeout=60)
    return done, out, err


@pytest.mark.parametrize("about", LAUNCHES)
@pytest.mark.parametrize("api", APIS)
def test_p_133_to_p_147_hold_in_images_with_a_shell_and_without(about: str, api: str, root: Path) -> None:
    launch = LAUNCHES[about]
    write(root, launch, api)
    has_shell = (root / "bin" / "bash").exists()
    done, out, err = start(root, launch)
    expected = launch.status if has_shell or launch.bare is None else launch.bare
    assert done.returncode == expected, out + err
    if expected != launch.status:
        assert b"the image has no /bin/bash" in err
        return
    assert launch.says.encode() in err
    if launch.says:
        assert out == b"" and err.startswith(b"ERROR: ")
        return
    fields = [entry.partition("=") for entry in out.decode().split("\0") if entry]
    arguments = [value for kind, _, value in fields if kind == "arg"]
    variables = dict(value.split("=", 1) for kind, _, value in fields if kind == "env")
    single = {kind: value for kind, _, value in fields if kind in ("cwd", "pid")}
    for what, value in launch.shows.items():
        if what == "arg":
            assert arguments == value
        elif what == "pid":
            assert single["pid"] == str(done.pid)
        elif what == "cwd":
            assert single["cwd"] == value
        else:
            assert variables.get(what.removeprefix("env ")) == value
