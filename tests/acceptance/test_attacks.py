"""A buildpack that tries to get out: more than a hundred things, as each kind of user, and none succeeds.

What is tried is in tests/attacker: C for the attempts, attempts.toml for what may come of them. SECURITY.md
shows the same table.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import pytest

from attacker import build, table
from attacker.victim import VISITS
from fakes import afterwards, attack, linux, users
from fakes.attack import Done, Ground
from fakes.installation import Home
from fakes.users import RANGE, SINGLE
from fakes.workers import make_once
from lanes import first_in_test
from packhorse.linux import syscalls
from packhorse.linux.processes import read_proc
from packhorse.linux.userns import SHIFTED_BASE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")

WORD = f"attacked-{os.getpid()}"
LANDLOCK = syscalls.landlock_version()
MODES = {"root": "", "range": RANGE, "single": SINGLE}
SANDBOXES = [*MODES, *(f"runc-{mode}" for mode in MODES)]
in_every_sandbox = pytest.mark.parametrize("ground", first_in_test(SANDBOXES), indirect=True)


@pytest.fixture(scope="module")
def layout(common: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attacked builder, made once for all workers."""
    path, scratch = common / "attacked-builder", tmp_path_factory.mktemp("attacker")
    return make_once(path, lambda: attack.images(path, scratch, build.attacker(scratch / "attacker")))


@pytest.fixture(scope="module")
def grounds(program: Path, common: Path, layout: Path) -> Iterator[Callable[[str], Ground]]:
    """What each kind of user has, made when it is first asked for."""
    with ExitStack() as stack:

        @cache
        def make(mode: str) -> Ground:
            name = MODES[mode.removeprefix("runc-")]
            path = common / f"attacked-{mode}-{os.getpid()}"
            home = Home(program, path, users.ensure(name)) if name else Home(program, path)
            work = common / f"attack-{mode}-{os.getpid()}"
            options = ("--sandbox", "runc") if mode.startswith("runc-") else ()
            return stack.enter_context(attack.ground(home, work, layout, options=options))

        yield make


@pytest.fixture(params=first_in_test(MODES))
def ground(request: pytest.FixtureRequest, grounds: Callable[[str], Ground]) -> Ground:
    return grounds(request.param)


@pytest.fixture
def app(ground: Ground) -> Path:
    """A source tree that is the attacker's too, made once for each kind of user."""
    if (ground.work / "hostile").exists():
        return ground.work / "hostile"
    app = ground.app("hostile")
    (app / "link").symlink_to(ground.given["HOST_CANARY"])
    (app / "above").symlink_to("../../../../../../../../etc/shadow")
    (app / "kernel").symlink_to("/proc/1/environ")
    os.mkfifo(app / "pipe")
    os.mknod(app / "zero", 0o20666, os.makedev(1, 5))
    (app / "zero").chmod(0o666)
    (app / "odd\nname\x1b]0;title\x07").touch()
    (app / os.fsdecode(b"not-utf-8-\xff")).touch()
    (app / ".wh.source").touch()
    (app / ".wh..wh..opq").touch()
    ground.own(app)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(app / "socket"))
    listening.listen()
    ground.held.append(listening)
    return app


DETECT = "attacker | sed 's/^ATTEMPT /ATTEMPT detect:/'"
BUILD = """
attacker
mkdir -p $CNB_LAYERS_DIR/layer/bin
mv /layers/setuid $CNB_LAYERS_DIR/layer/bin/setuid
mv /layers/marked $CNB_LAYERS_DIR/layer/marked
printf '[types]\\nlaunch = true\\ncache = true\\n' > $CNB_LAYERS_DIR/layer.toml
"""


@pytest.fixture
def attacked(ground: Ground, app: Path) -> Done:
    """The build with the attacker, on the machine's network: all that a step can ever have."""
    if "attacked" not in ground.done:
        buildpack = ground.buildpack("attacker", detect=DETECT, build=BUILD)
        options = ("--network", "host", "--env", f"HOST_WORD={WORD}")
        ground.done["attacked"] = ground.build("attacked", app, buildpack, options=options)
    return ground.done["attacked"]


@in_every_sandbox
def test_every_attempt_comes_to_what_is_foreseen(attacked: Done) -> None:
    assert attacked.status == 0, attacked.said
    came = attacked.attempts
    wrong = []
    for one in table.attempts():
        for phase, name in (("build", one.name), ("detect", f"detect:{one.name}")):
            outcome = came.pop(name, "nothing")
            if one.phase not in ("", phase):
                continue
            refused = outcome.startswith("E")
            if refused != (one.expected("host", LANDLOCK) == "refused") or not (
                refused or outcome.startswith("got ")
            ):
                wrong.append(f"{name}: {outcome}")
    assert not wrong, "\n".join(wrong)
    assert not came


@in_every_sandbox
def test_nothing_outside_has_changed(attacked: Done, ground: Ground, app: Path) -> None:
    assert "SECRET-" not in attacked.said.replace("got SECRET-service", "")
    assert (app / "source").read_text() == "print('hello')\n"
    assert stat.S_IMODE((app / "source").stat().st_mode) == 0o644
    for path in ("/etc/hosts", "/etc/resolv.conf"):
        assert stat.S_IMODE(Path(path).stat().st_mode) & 0o022 == 0
    pid = ground.victim.pid
    assert ground.victim.poll() is None
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    assert "Max open files            0" not in Path(f"/proc/{pid}/limits").read_text()
    names = [_comm(process) for process in linux.processes()]
    assert not [name for name in names if name == WORD[:15]]
    (program,) = ground.home.program.parents[1].rglob("bwrap")
    assert stat.S_IMODE(program.stat().st_mode) == 0o755


def _comm(pid: int) -> str:
    with suppress(OSError):
        return read_proc("comm", pid).strip()
    return ""


def test_a_setuid_file_in_a_layer_is_of_use_to_nobody(attacked: Done, ground: Ground) -> None:
    afterwards.wait(ground.home.path / "store")
    found = [path for path in ground.home.path.rglob("setuid") if path.stat().st_mode & stat.S_ISUID]
    assert len(found) == 1
    owner = found[0].stat()
    shifted = ground.home.owner.pw_uid == 0
    assert (owner.st_uid >= SHIFTED_BASE) if shifted else (owner.st_uid == ground.home.owner.pw_uid)
    with pytest.raises(PermissionError):
        subprocess.run([found[0]], user=65534, group=65534, extra_groups=[], check=False)


def test_no_mark_of_an_overlay_is_kept(attacked: Done, ground: Ground) -> None:
    afterwards.wait(ground.home.path / "store")
    (marked,) = (path for path in (ground.home.path / "store" / "kept").rglob("marked"))
    assert [name for name in os.listxattr(marked) if "overlay" in name] == []


# Users have no network of their own where /dev/net/tun is root's.
@pytest.mark.parametrize(
    ("ground", "network"),
    [*first_in_test((mode, "none") for mode in MODES), ("root", "own")],
    indirect=["ground"],
)
def test_another_network_has_nothing_of_this_machines(ground: Ground, app: Path, network: str) -> None:
    buildpack = ground.buildpack("network", build="attacker")
    options = ("--network", network) if network != "own" else ()
    visits = ground.home.path / VISITS
    before = visits.read_text() if visits.exists() else ""
    done = ground.build("networked", app, buildpack, options=(*options, "--env", f"HOST_WORD={WORD}"))
    assert done.status == 0, done.said
    assert (visits.read_text() if visits.exists() else "") == before
    found = {one.name: done.attempts[one.name] for one in table.attempts() if one.phase != "detect"}
    wrong = {
        one.name: found[one.name]
        for one in table.attempts()
        if found[one.name].startswith("E") != (one.expected(network, LANDLOCK) == "refused")
    }
    assert not wrong


def test_other_users_see_no_secret_of_a_build(ground: Ground, app: Path) -> None:
    """Neither in command lines nor in environments, of packhorse, the sandbox and the buildpack."""
    wait = "echo READY; until (: <>/dev/tcp/127.0.0.1/$HOST_GO) 2>/dev/null; do sleep 0.05; done"
    buildpack = ground.buildpack("waiting", build=f"exec 3<&1; {wait}")
    with socket.socket() as go:
        go.bind(("127.0.0.1", 0))
        options = ("--network", "host", "--env", "TOKEN", "--env", f"HOST_GO={go.getsockname()[1]}")
        seen: list[str] = []

        def look(line: str) -> None:
            if line.endswith("READY"):
                words = ["ps", "axewwo", "user,args"]
                done = subprocess.run(
                    words, user=65534, group=65534, extra_groups=[], capture_output=True, text=True
                )
                seen.append(done.stdout)
                go.listen()

        done = ground.build("waiting", app, buildpack, options=options, look=look)
    assert done.status == 0, done.said
    (text,) = seen
    assert "bin/build" in text and "bwrap" in text
    assert "SECRET-variable" not in text


NEXT = """
env | grep -a TOKEN | sed 's/^/NEXT /' || :
find /layers /workspace $HOME /tmp -name SECRET
"""
KEPT = """
layer=$CNB_LAYERS_DIR/kept
case $ACT in
make)
    mkdir -p $layer/env; echo good > $layer/data; echo gone > $layer/other; echo good > $layer/env/KEPT
    printf '[types]\\nbuild = true\\nlaunch = true\\ncache = true\\n' > $layer.toml ;;
spoil)
    echo bad > $layer/data; chmod 777 $layer/data; rm $layer/other; echo bad > $layer/env/KEPT
    mv $layer/env $layer/moved; ln -s / $layer/env; ln $layer/data $layer/again; exit 1 ;;
look)
    echo LOOK $(cat $layer/data $layer/other $layer/env/KEPT) $(stat -c %a $layer/data) $(ls $layer) ;;
other)
    echo OTHER $(ls -A $CNB_LAYERS_DIR | wc -l)
    printf '[types]\\ncache = true\\nlaunch = true\\n' > $layer.toml ;;
esac
"""


@pytest.mark.parametrize(
    ("ground", "plant"),
    [
        pytest.param(
            mode,
            plant,
            id=f"{mode}-{plant.name}",
            marks=[] if mode == "root" and plant.everywhere else [pytest.mark.torture],
        )
        for mode in MODES
        for plant in table.plants()
        if plant.everywhere or mode == "root"
    ],
    indirect=["ground"],
)
def test_what_a_buildpack_plants_is_never_followed_outside(ground: Ground, plant: table.Plant) -> None:
    tail = 'sbom-formats = ["application/vnd.cyclonedx+json"]\n'
    planter = ground.buildpack("plant", build=f"L=$CNB_LAYERS_DIR\n{plant.script}", tail=tail)
    following = ground.buildpack("next", build=NEXT)
    output = ground.work / "output"
    shutil.rmtree(output, ignore_errors=True)
    options = ("--network", "none", "--output", f"oci:{output}", *plant.options)
    for _ in range(1 + plant.twice):
        done = ground.build(plant.name, ground.app("app"), planter, following, options=options)
    assert "Traceback" not in done.said
    assert "SECRET-" not in done.said and "\x1b" not in done.said and "FORGED" not in done.said
    if plant.says:
        assert done.status != 0
        assert re.search(plant.says, done.said), done.said
        return
    assert done.status == 0, done.said
    assert "NEXT" not in done.said
    for blob in (output / "blobs" / "sha256").iterdir():
        data = blob.read_bytes()
        assert b"SECRET-" not in (zlib.decompress(data, 31) if data[:2] == b"\x1f\x8b" else data)


def test_a_kept_layer_is_not_changed_by_a_build_that_fails(ground: Ground) -> None:
    buildpack, app = ground.buildpack("kept", build=KEPT), ground.app("app")
    said = []
    for act, status in (("make", 0), ("spoil", 51), ("look", 0)):
        done = ground.build("kept", app, buildpack, options=("--network", "none", "--env", f"ACT={act}"))
        assert done.status == status, done.said
        said.append(done.said)
    assert "LOOK good gone good 644 data env other" in said[-1], said[-1]


def test_one_app_has_nothing_of_the_layers_of_another(ground: Ground) -> None:
    buildpack, app = ground.buildpack("kept", build=KEPT), ground.app("app")
    options = ("--network", "none", "--env")
    done = ground.build("poisoned", app, buildpack, options=(*options, "ACT=make"))
    assert done.status == 0, done.said
    done = ground.build("other", app, buildpack, options=(*options, "ACT=other"))
    assert "OTHER 0" in done.said
    assert "has cache = true and no contents" in done.said


@in_every_sandbox
def test_nothing_survives_the_death_of_packhorse(ground: Ground) -> None:
    buildpack = ground.buildpack(
        "survivor", build="attacker stay-behind trace-sandbox sandbox-memory; echo READY; sleep 300"
    )
    started: set[int] = set()

    def look(line: str) -> None:
        if line.endswith("READY"):
            names = {pid: _comm(pid) for pid in linux.processes()}
            started.update(pid for pid, name in names.items() if name == WORD[:15])
            assert started
            (packhorse,) = (pid for pid, name in names.items() if name == "packhorse" and _has(pid, WORD))
            os.kill(packhorse, signal.SIGKILL)

    options = ("--network", "none", "--env", f"HOST_WORD={WORD}")
    assert ground.build("survivor", ground.app("app"), buildpack, options=options, look=look).status < 0
    assert linux.gone(started)


def _has(pid: int, word: str) -> bool:
    with suppress(OSError):  # it has ended, as others of this machine do
        return word in read_proc("cmdline", pid)
    return False
