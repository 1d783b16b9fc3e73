"""What a step in the real sandbox is, sees and may do; run as root, and by `test_sandbox_users` as others."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import linux
from fakes.place import ENV, RUNTIMES, Place, place
from lanes import first_in_test
from packhorse.base.installation import find_program
from packhorse.base.sandbox import Bind, Network, Overlay, Root, SandboxSpec
from packhorse.base.tree import NodeKind
from packhorse.errors import CommandNotFound, HostError, NotExecutable, SandboxError
from packhorse.linux.processes import read_proc
from packhorse.linux.userns import MapMode
from packhorse.sandbox import oci
from packhorse.sandbox.bubblewrap import Bubblewrap, find
from packhorse.sandbox.mounts import Layouts
from packhorse.sandbox.oci import OciRuntime
from packhorse.sandbox.runner import Runtime, SandboxRunner


@pytest.fixture(scope="module", params=first_in_test(RUNTIMES))
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("place"), request.param) as made:
        yield made


def test_nothing_of_this_process_can_be_read_inside(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", "hidden-from-steps")
    _, output = here.run(here.spec("cat /proc/*/environ /proc/*/cmdline; ls /proc"))
    assert "hidden-from-steps" not in output
    assert "PATH=/bin" in output
    assert [name for name in output.split() if name.isdigit() and int(name) > 9] == []


def test_the_program_of_the_sandbox_is_out_of_a_steps_reach(here: Place) -> None:
    """It is process 1 inside, and on this machine it may belong to the very user the step runs as."""
    program = own_init(here) if here.runtime != "bubblewrap" else own_bubblewrap(here)
    program.chmod(0o755)
    runtime: Runtime = Bubblewrap(here.namespace, init=find_program("init"), program=program)
    if here.runtime != "bubblewrap":
        runtime = OciRuntime(here.namespace, runtime=oci.find_runtime(here.runtime), init=program)
    script = (
        "chmod 4777 /proc/1/exe && echo changed; readlink /proc/1/exe && echo changed; echo x > /proc/1/mem"
    )
    output: list[bytes] = []
    with SandboxRunner(runtime, here.namespace, scratch=here.directory()).open(here.spec(script)) as room:
        assert room.run(output.append).status != 0
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    assert b"changed" not in b"".join(output)


def own_init(here: Place) -> Path:
    """The first process's program in a runtime's container, as the step's user's own."""
    program = Path(shutil.copy(find_program("init"), here.directory()))
    os.chown(program, *here.namespace.idmap.to_outside(1000, 1000))
    return program


def own_bubblewrap(here: Place) -> Path:
    """Bubblewrap as the step's user's own program."""
    package = find().parents[1]
    own = here.directory() / package.name
    shutil.copytree(package, own)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, own.with_name(libraries.name))
    for path in (own, *own.rglob("*")):
        os.chown(path, *here.namespace.idmap.to_outside(1000, 1000))
    return own / "_bin" / "bwrap"


def test_a_step_writes_to_its_own_places_only(here: Place) -> None:
    script = textwrap.dedent(
        """
        for directory in / /bin /etc /usr /var /home /lib /dev /proc /proc/self /proc/sys/kernel /layers \\
            /workspace /home/cnb /tmp /dev/shm; do
            if touch $directory/new 2>&1 >/dev/null; then echo yes $directory; else echo no $directory; fi
        done 2>/dev/null
        cd /proc/sys/kernel
        for file in core_pattern hostname ../../sysrq-trigger /etc/passwd; do
            (echo x > $file) 2>/dev/null && echo yes $file
        done
        """
    )
    _, output = here.run(here.spec(script, *here.mounts()))
    written = [line[4:] for line in output.splitlines() if line.startswith("yes ")]
    assert written == ["/layers", "/workspace", "/home/cnb", "/tmp", "/dev/shm"]


def test_files_are_made_with_the_usual_umask(here: Place) -> None:
    before = os.umask(0o077)
    try:
        _, output = here.run(here.spec("umask"))
    finally:
        os.umask(before)
    assert output == "0022\n"


def test_a_command_that_is_not_there_or_not_executable_is_an_error(here: Place, tmp_path: Path) -> None:
    for name, text, mode in (("plain", "x", 0o644), ("lost", "#!/no/such/interpreter\n", 0o755)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(0o755)
    spec = replace(here.spec(""), mounts=(Bind(tmp_path, "/given"),))
    with pytest.raises(CommandNotFound, match="none does not exist"):
        here.run(spec, argv=("none",))
    with pytest.raises(NotExecutable, match="/given/plain"):
        here.run(spec, argv=("/given/plain",))
    with pytest.raises(CommandNotFound, match="interpreter"):
        here.run(spec, argv=("/given/lost",))
    with pytest.raises(SandboxError, match="/nowhere"):
        here.run(spec, argv=("true",), cwd="/nowhere")


def test_a_command_can_have_another_name_than_its_file(here: Place) -> None:
    _, output = here.run(here.spec(""), argv=("web", "-c", "echo $0"), executable="/bin/sh")
    assert output == "web\n"


def test_the_tree_is_edited_before_a_step_and_read_after_it(here: Place) -> None:
    lower = here.directory()
    for name in ("kept", "removed"):
        (lower / name).write_text(name)
        os.chown(lower / name, *here.namespace.idmap.to_outside(1000, 1000))
    spec = here.spec(
        "cat /layers/before; rm /layers/removed; ln -s /etc/passwd /layers/link; echo new > /layers/new",
        here.overlay("/layers", lower),
    )
    output: list[bytes] = []
    with here.sandbox.open(spec) as room:
        room.tree.write("/layers/before", b"written outside\n")
        room.run(output.append)
        assert b"".join(output) == b"written outside\n"
        assert [node.name for node in room.tree.list("/layers")] == ["before", "kept", "link", "new"]
        assert room.tree.stat("/layers/removed") is None
        with room.tree.open("/layers/link") as file:
            assert b"cnb" in file.read()
        owners = {(node.uid, node.gid) for node in room.tree.list("/layers")}
        room.tree.remove("/layers/kept")
        assert room.tree.stat("/layers/kept") is None
    assert owners == {(1000, 1000)}
    assert sorted(path.name for path in lower.iterdir()) == ["kept", "removed"]


def test_a_directory_of_a_lower_is_moved_though_the_kernel_refuses(here: Place) -> None:
    lower = here.directory()
    (lower / "layer" / "below").mkdir(parents=True)
    (lower / "layer" / "below" / "file").write_text("x")
    for path in (lower / "layer", lower / "layer" / "below", lower / "layer" / "below" / "file"):
        os.chown(path, *here.namespace.idmap.to_outside(1000, 1000))
    (lower / "layer").chmod(0o750)
    with here.sandbox.open(replace(here.spec("", here.overlay("/layers", lower)), argv=())) as room:
        room.tree.rename("/layers/layer", "/layers/layer.ignore")
        assert room.tree.stat("/layers/layer") is None
        node = room.tree.stat("/layers/layer.ignore")
        assert node is not None and node.mode == 0o750
        with room.tree.open("/layers/layer.ignore/below/file") as file:
            assert file.read() == b"x"
    assert (lower / "layer" / "below" / "file").exists()


def first_process(below: set[int]) -> int:
    """The first process of the innermost namespace."""
    found = {}
    for pid in below:
        status = read_proc("status", pid)
        (numbers,) = (line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
        if numbers[-1] == "1":
            found[len(numbers)] = pid
    return found[max(found)]


@pytest.mark.parametrize("when", ["held", "running"])
def test_a_step_whose_first_process_is_killed_has_ended(here: Place, when: str) -> None:
    others = linux.descendants(os.getpid())
    with here.sandbox.open(here.spec("echo ready; exec sleep 300")) as room:

        def kill(chunk: bytes = b"") -> None:
            pid = first_process(linux.descendants(os.getpid()) - others)
            os.kill(pid, signal.SIGKILL)
            assert linux.gone({pid})

        if when == "held":
            kill()
        assert room.run(kill).status == 128 + signal.SIGKILL
    assert not linux.descendants(os.getpid()) - others


def test_a_step_without_a_command_shows_its_tree_and_runs_nothing(here: Place) -> None:
    with here.sandbox.open(replace(here.spec(""), argv=())) as room:
        node = room.tree.stat("/etc/passwd")
        assert node is not None and node.kind is NodeKind.FILE
        with pytest.raises(SandboxError):
            room.run(None)


def test_an_app_of_the_invoking_user_belongs_to_the_step_and_is_not_changed(
    here: Place, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "secret").write_text("mine")
    (app / "secret").chmod(0o600)
    script = "cat secret; stat -c ' %u:%g %a' secret; echo changed > secret; chmod 644 secret; cat secret"
    result, output = here.run(here.spec(script, here.overlay("/workspace", app)), cwd="/workspace")
    assert (result.status, output) == (0, "mine 1000:1000 600\nchanged\n")
    assert (app / "secret").read_text() == "mine"
    assert stat.S_IMODE((app / "secret").stat().st_mode) == 0o600


def test_a_read_only_directory_that_is_shut_to_others_can_be_read(here: Place, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "bin").write_text("#!/bin/sh\necho ran\n")
    (private / "bin").chmod(0o700)
    spec = here.spec(
        "/cnb/buildpacks/x/1/bin; touch /cnb/buildpacks/x/1/new", Bind(private, "/cnb/buildpacks/x/1")
    )
    result, output = here.run(spec)
    assert output.startswith("ran\n")
    assert result.status != 0
    assert not (private / "new").exists()


def test_many_lowers_are_seen_as_one(here: Place) -> None:
    lowers = []
    for number in range(20):
        lowers.append(here.directory())
        (lowers[-1] / f"file-{number:02}").touch()
        (lowers[-1] / "top").write_text(str(number))
    _, output = here.run(here.spec("ls /seen; cat /seen/top", Overlay(tuple(lowers), "/seen")))
    assert output.split() == [*(f"file-{number:02}" for number in range(20)), "top", "19"]


def test_paths_of_any_characters_can_be_mounted(here: Place) -> None:
    odd = here.directory() / "a:b,c\\d e\"f'g\n\udcff"
    odd.mkdir()
    lower, overlay = odd / "lower:", here.overlay("/seen")
    for path in (lower, odd / "up,per", odd / "work"):
        path.mkdir()
        os.chown(path, *here.namespace.idmap.to_outside(1000, 1000))
    (lower / "file").write_text("lower")
    mount = replace(overlay, lowers=(lower,), upper=odd / "up,per", work=odd / "work")
    _, output = here.run(
        here.spec("cat /seen/file /given/file; echo > /seen/new", mount, Bind(lower, "/given"))
    )
    assert output == "lowerlower"
    assert (odd / "up,per" / "new").exists()


def test_what_a_step_has_planted_leads_no_mount_elsewhere(here: Place, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    elsewhere = here.directory()
    planted = here.overlay("/layers")
    here.run(
        here.spec(f"ln -s {elsewhere} /layers/link; ln -s /proc/1/root{elsewhere} /layers/proc", planted)
    )
    for target in ("/layers/link/new", "/layers/proc/new", "/layers/link", "/layers/proc"):
        with pytest.raises(SandboxError):
            here.run(here.spec("true", planted, Bind(here.directory(), target)))
    assert list(elsewhere.iterdir()) == []


def test_a_mount_goes_to_where_a_link_of_the_root_leads(here: Place, tmp_path: Path) -> None:
    hosts = tmp_path / "resolv"
    hosts.write_text("nameserver 192.0.2.1\n")
    lower = here.directory()
    (lower / "resolv.conf").symlink_to("../run/resolved/stub")
    root = here.base / "linked-root"
    root.mkdir()
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"/given/{name}")
    (root / "etc").mkdir()
    (root / "etc" / "resolv.conf").symlink_to("../run/resolved/stub")
    spec = here.spec("cat /etc/resolv.conf", Bind(here.root, "/given"), Bind(hosts, "/etc/resolv.conf"))
    result, output = here.run(spec, root=Root(root))
    assert (result.status, output) == (0, "nameserver 192.0.2.1\n")


def test_what_cannot_be_mounted_is_named(here: Place) -> None:
    missing = here.base / "missing"
    with pytest.raises(SandboxError, match=f"{missing} does not exist"):
        here.run(here.spec("true", Overlay((missing, missing), "/layers")))
    with pytest.raises(SandboxError, match=r"/etc/passwd/below"):
        here.run(here.spec("true", Bind(here.root, "/etc/passwd/below")))


def test_a_user_that_the_namespace_has_not_is_an_error(here: Place) -> None:
    with pytest.raises(HostError, match="user 99999:99999"):
        here.run(here.spec("true"), uid=99999, gid=99999)


def test_root_inside_writes_the_root_and_nothing_outside(here: Place) -> None:
    if here.namespace.idmap.mode is MapMode.SINGLE:
        with pytest.raises(HostError):
            here.run(here.spec("true"), uid=0, gid=0)
        return
    overlay = here.overlay("/")
    assert overlay.upper is not None and overlay.work is not None
    root = Root(here.root, overlay.upper, overlay.work)
    script = (
        "id -u; echo added >> /etc/passwd; touch /bin/mine && stat -c %u /bin/mine; cat /proc/self/status;"
        "for file in /proc/sys/*/*; do [ ! -w $file ] || echo $file; done;"
        "echo 4000 > /proc/sys/kernel/msgmax"
    )
    result, output = here.run(here.spec(script), uid=0, gid=0, root=root)
    lines = output.splitlines()
    assert (result.status, lines[:2]) == (2, ["0", "0"])
    assert lines[-1].endswith("/proc/sys/kernel/msgmax: Read-only file system")
    assert not [line for line in lines if line.startswith("/proc")]
    sets = {
        name: int(value, 16)
        for name, _, value in (line.partition(":") for line in lines)
        if name[:3] == "Cap"
    }
    sys_admin, raw, chown = 1 << 21, 1 << 13, 1 << 0
    assert sets["CapEff"] & chown and not sets["CapEff"] & (sys_admin | raw)
    # As in docker's containers: what root has is not handed down to what gives up root's id.
    assert sets["CapEff"] == sets["CapPrm"] == sets["CapBnd"]
    assert sets["CapInh"] == sets["CapAmb"] == 0
    assert "added" not in (here.root / "etc" / "passwd").read_text()
    assert (overlay.upper / "etc" / "passwd").read_text().endswith("added\n")


def test_a_failed_step_is_repeated_by_the_line_it_gives(here: Place) -> None:
    script = 'echo "again $GREETING"; read line; cat secret; grep Seccomp: /proc/self/status; exit 7'
    spec = here.spec(script, *here.mounts())
    app = here.base / "repeated"
    app.mkdir()
    (app / "secret").write_text("app\n")
    (app / "secret").chmod(0o600)
    spec = replace(spec, mounts=(*spec.mounts[2:], here.overlay("/workspace", app)))
    result, output = here.run(spec, env={**ENV, "GREETING": "it's"}, cwd="/workspace")
    words = ["sh", "-c", f"{result.command}; exit $?"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as again:
        assert again.stdout is not None
        first = again.stdout.readline()
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in linux.descendants(again.pid)]
        rest, _ = again.communicate("go on\n")
    assert (again.returncode, first + rest) == (7, output)
    assert len(lines) > 1 and not any(b"it's" in line for line in lines)  # as every user could read them


def test_a_mount_that_the_kernel_refuses_is_told_whenever_the_network_is_made(here: Place) -> None:
    """That is made beside the mounts, and finds nobody any more when one fails meanwhile."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as work:  # on another file system than its upper
        spec = here.spec("true", replace(here.overlay("/layers"), work=Path(work)))
        for _ in range(40):
            with pytest.raises(SandboxError, match="cannot be made") as raised:
                here.run(spec, network=Network.OWN)
            assert "overlay" in str(raised.value), raised.value


def test_a_signal_reaches_the_command(here: Place) -> None:
    spec = here.spec("trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    output: list[bytes] = []
    with here.sandbox.open(spec) as room:

        def take(chunk: bytes) -> None:
            output.append(chunk)
            if chunk == b"ready\n":
                room.signal(signal.SIGTERM)

        result = room.run(take)
        room.signal(signal.SIGTERM)
    assert (result.status, b"".join(output)) == (9, b"ready\ncaught\n")


def test_a_signal_reaches_a_command_whose_name_is_no_text(here: Place) -> None:
    script = "printf '\\377' >/proc/$$/comm; trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with here.sandbox.open(here.spec(script)) as room:
        assert room.run(lambda chunk: room.signal(signal.SIGTERM)).status == 9


def test_a_command_without_a_handler_is_ended_by_a_signal(here: Place) -> None:
    with here.sandbox.open(here.spec("echo ready; exec sleep 300")) as room:
        assert room.run(lambda chunk: room.signal(signal.SIGTERM)).status == 143


def test_what_a_step_leaves_running_is_gone_when_it_is_over(here: Place) -> None:
    """So that nobody swaps a file while a phase reads what the step has made."""
    started: set[int] = set()
    script = """
        for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
            (while :; do echo x > /tmp/file$number; done) <&- >&- 2>&- &
        done
        setsid sleep 300 & sleep 300 &
        echo ready; until [ -e /tmp/go ]; do sleep 0.02; done
        """
    mount = Bind(here.directory(), "/tmp", writable=True)
    with here.sandbox.open(here.spec(script, mount)) as room:
        others = linux.descendants(os.getpid())

        def take(chunk: bytes) -> None:
            started.update(linux.descendants(os.getpid()) - others)
            room.tree.write("/tmp/go", b"")

        assert room.run(take).status == 0
        assert not started & linux.processes().keys()
    assert len(started) >= 19  # the shell and its 18 children


PARENT = """
import sys
from dataclasses import replace
from pathlib import Path
from fakes import linux
from fakes.place import place
with place(Path(sys.argv[1]), sys.argv[2]) as here:
    step = here.spec("setsid sleep 300 & echo ready; sleep 300")
    if sys.argv[4] == "root":
        step = replace(step, uid=0, gid=0)
    with here.sandbox.open(step) as room:
        if sys.argv[3] == "held":
            print("ready", flush=True)
            input()
        room.run(None)
"""


@pytest.mark.parametrize("when", ["held", "running"])
@pytest.mark.parametrize("who", ["user", "root"])
def test_the_death_of_the_parent_leaves_nothing(tmp_path: Path, here: Place, when: str, who: str) -> None:
    if not here.namespace.idmap.has(0, 0):
        who = "user"
    base = tmp_path / "base"
    base.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(base), here.runtime, when, who],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    below = linux.descendants(child.pid)
    assert len(below) >= 2
    child.kill()
    child.wait()
    assert linux.gone(below)


ATTACHED = """
import sys
from dataclasses import replace
from pathlib import Path
from fakes.place import place
with place(Path(sys.argv[1]), sys.argv[2]) as here:
    step = replace(here.spec(sys.argv[3]), attached=True)
    with here.sandbox.open(step) as room:
        sys.exit(room.run(None).status)
"""


def attached(here: Place, base: Path, script: str, **streams: object) -> subprocess.CompletedProcess[bytes]:
    """What comes of a step with the streams of a process, in a process of its own."""
    words = [sys.executable, "-c", ATTACHED, str(base), here.runtime, script]
    env = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(words, env=env, check=False, **streams)  # type: ignore[call-overload,no-any-return]


def test_a_step_exchanges_bytes_with_this_process_own_input_and_outputs(tmp_path: Path, here: Place) -> None:
    script = "cat; echo problem >&2"
    done = attached(here, tmp_path, script, input=b"typed", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"typed", b"problem\n")


def test_files_that_a_step_reads_from_or_prints_to_are_not_its_own(tmp_path: Path, here: Place) -> None:
    """It could open them through /proc, as files of the user whose id it has."""
    given, taken = here.directory() / "given", here.directory() / "taken"
    given.write_bytes(b"typed\n")
    taken.write_bytes(b"before\n")
    for path in (given, taken):
        os.chown(path, *here.namespace.idmap.to_outside(1000, 1000))
    script = "cat; (: > /proc/self/fd/0; : > /proc/self/fd/1; chmod 666 /proc/self/fd/1) 2>/dev/null; exit 3"
    with given.open("rb") as stdin, taken.open("ab") as stdout:
        done = attached(here, tmp_path, script, stdin=stdin, stdout=stdout)
    assert (done.returncode, given.read_bytes(), taken.read_bytes()) == (3, b"typed\n", b"before\ntyped\n")
    assert stat.S_IMODE(taken.stat().st_mode) == 0o644


def test_a_step_ends_when_nobody_reads_what_it_prints(tmp_path: Path, here: Place) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = attached(here, tmp_path, "while :; do echo line; done", stdin=subprocess.DEVNULL, stdout=theirs)
    os.close(theirs)
    assert done.returncode == 128 + signal.SIGPIPE


def test_a_step_need_not_read_its_input(tmp_path: Path, here: Place) -> None:
    done = attached(here, tmp_path, "exec <&-; echo done", input=bytes(1 << 20), capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_steps_run_side_by_side(here: Place) -> None:
    barrier = threading.Barrier(4, timeout=60)

    def one(number: int) -> str:
        output: list[bytes] = []
        with here.sandbox.open(here.spec(f"echo {number}")) as room:
            barrier.wait()
            room.run(output.append)
        return b"".join(output).decode()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == [f"{number}\n" for number in range(4)]


def test_no_descriptor_is_left_open(here: Place) -> None:
    here.run(here.spec("true"))
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        here.run(here.spec("true"))
    with pytest.raises(SandboxError):
        here.run(here.spec("true", Overlay((here.base / "no", here.base / "no"), "/x")))
    assert set(os.listdir("/proc/self/fd")) <= before


def test_the_name_of_the_machine_is_the_steps(here: Place) -> None:
    _, output = here.run(SandboxSpec(argv=("uname", "-n"), env=ENV, root=Root(here.root), hostname="builder"))
    assert output == "builder\n"


def test_a_network_is_made_over_a_loopback_that_is_up(here: Place) -> None:
    """Bubblewrap fails if somebody else has brought it up, as what makes the network does."""
    spec = replace(here.spec("true"), network=Network.OWN)
    runtime: Runtime = Bubblewrap(here.namespace, init=find_program("init"))
    seen: list[bool] = []

    def begun(pid: int) -> None:
        seen.append("/8 host LOCAL" in Path(f"/proc/{pid}/net/fib_trie").read_text())

    for number in range(20):
        (directory := here.directory() / str(number)).mkdir()
        runtime.start(spec, Layouts(directory, here.namespace.idmap).layout_for(spec), begun).close()
    assert seen == [True] * 20


def test_a_script_that_names_no_interpreter_is_the_shells(here: Place) -> None:
    spec = replace(here.spec("true", here.overlay("/layers")), argv=("/layers/script", "a b"), cwd="/tmp")
    output: list[bytes] = []
    with here.sandbox.open(spec) as room:
        room.tree.write("/layers/script", b'echo "$0 $1 $PWD"', mode=0o755)
        assert room.run(output.append).status == 0
    assert b"".join(output) == b"/layers/script a b /tmp\n"
