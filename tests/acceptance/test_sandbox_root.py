"""What only root's sandboxes have: shifted ids, paths below a shut home, a network through pasta."""

from __future__ import annotations

import http.client
import http.server
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import linux
from fakes.place import RUNTIMES, Place, place
from fakes.web import free_port
from lanes import first_in_test
from packhorse.base.sandbox import Bind, Network, Port
from packhorse.host import wiring
from packhorse.linux import userns
from packhorse.linux.processes import read_proc
from packhorse.linux.userns import SHIFTED_BASE
from packhorse.sandbox import network

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="about what root can do")


@pytest.fixture(scope="module", params=first_in_test(RUNTIMES))
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("place"), request.param) as made:
        yield made


def test_the_machines_root_is_nobody_inside(here: Place, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("x")
    result, output = here.run(
        here.spec("cat /proc/self/uid_map; stat -c %u /given/file", Bind(tmp_path, "/given"))
    )
    assert result.status == 0
    inside, outside, count, owner = output.split()
    assert (inside, count, owner) == ("0", "65536", "65534")
    assert int(outside) >= 65536


def test_no_process_of_a_step_has_an_id_of_the_machine(here: Place) -> None:
    shifted, _ = here.namespace.idmap.to_outside(1000, 1000)
    seen: list[set[int]] = []
    others = linux.descendants(os.getpid())  # such as an engine that other tests share

    def take(chunk: bytes) -> None:
        below = {os.getpid()}
        found = set()
        for directory in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            try:
                fields = dict(
                    line.split(":\t", 1) for line in read_proc("status", directory.name).splitlines()
                )
            except OSError:
                continue
            ended = fields["State"].startswith("Z")  # it was not asked how yet
            if int(fields["PPid"]) in below and int(fields["Pid"]) not in others and not ended:
                below.add(int(fields["Pid"]))
                found |= {int(number) for number in fields["Uid"].split()}
        seen.append(found)
        room.signal(signal.SIGTERM)

    with here.sandbox.open(here.spec("echo ready; exec sleep 300")) as room:
        room.run(take)
    # An OCI runtime's processes are the namespace's root, which is as little on this machine.
    root, _ = here.namespace.idmap.to_outside(0, 0)
    assert seen == [{shifted} if here.runtime == "bubblewrap" else {shifted, root}]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_everything_can_lie_below_a_shut_home(runtime: str) -> None:
    home = Path(tempfile.mkdtemp())  # 0700, and root's
    try:
        inner = home / "user"
        inner.mkdir(mode=0o700)
        os.chown(inner, 54321, 54321)
        base = inner / "base"
        base.mkdir()
        with place(base, runtime) as shut:
            app = inner / "app"
            app.mkdir(mode=0o700)
            (app / "file").write_text("of another user")
            for path in (app, app / "file"):
                os.chown(path, 54321, 54321)
            step = shut.spec("cat file; stat -c :%u file; echo x > new", shut.overlay("/workspace", app))
            result, output = shut.run(step, cwd="/workspace")
            assert (result.status, output) == (0, "of another user:1000\n")
            assert home.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(home)


def test_a_program_is_started_inside_from_a_shut_home(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nid -u; cat "$1"\n')
    program.chmod(0o755)
    (tmp_path / "data").write_text("read")
    with userns.make_namespace(userns.choose_map()) as namespace:
        child = userns.spawn(
            [str(program), str(tmp_path / "data")],
            namespace=namespace,
            paths=[tmp_path / "data"],
            stdout=subprocess.PIPE,
        )
        output, _ = child.communicate()
    assert (child.returncode, output) == (0, b"0\nread")


def test_this_interpreter_runs_inside() -> None:
    code = "import json, os; print(json.dumps([os.getresuid(), os.getgroups(), dict(os.environ)]))"
    with userns.make_namespace(userns.choose_map()) as namespace:
        child = userns.spawn([sys.executable, "-I", "-c", code], namespace=namespace, stdout=subprocess.PIPE)
        output, _ = child.communicate()
    assert output.startswith(b"[[0, 0, 0], [], {")
    assert b"HOME" not in output


@contextmanager
def listening() -> Iterator[int]:
    """A web server on this machine's loopback."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"answer")

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


FETCH = """
exec 3<>/dev/tcp/127.0.0.1/{port} || exit 8
printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3
cat <&3
"""


def test_an_own_network_reaches_only_the_chosen_ports_of_the_host(here: Place, tmp_path: Path) -> None:
    best, reason = network.find_network()
    assert best is Network.OWN, reason
    with listening() as chosen, listening() as other:
        sandbox = wiring.make_runner(here.namespace, tmp_path, runtime=here.runtime, loopback=[chosen])
        answers = []
        for port in (chosen, other):
            step = replace(here.spec(""), argv=("bash", "-c", FETCH.format(port=port)), network=Network.OWN)
            output: list[bytes] = []
            with sandbox.open(step) as room:
                answers.append((room.run(output.append).status, b"answer" in b"".join(output)))
    assert answers == [(0, True), (8, False)]


def test_an_own_network_has_the_hosts_routes_and_pastas_name_server(here: Place) -> None:
    with here.sandbox.open(
        replace(
            here.spec("cat /etc/resolv.conf; cat /proc/net/dev; cat /proc/net/route"), network=Network.OWN
        )
    ) as room:
        output: list[bytes] = []
        room.run(output.append)
    text = b"".join(output).decode()
    assert text.startswith(f"nameserver {network.NAME_SERVER}\n")
    routes = [
        line.split()[1] for line in text.splitlines() if len(line.split()) == 11 and "Iface" not in line
    ]
    assert "00000000" in routes


SERVE = """
use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 1) or die $!;
$| = 1;
print "ready\\n";
my $client = $server->accept;
while (<$client>) { last if /^\\r?$/ }
print $client "HTTP/1.0 200 OK\\r\\n\\r\\nhello";
"""


def test_a_published_port_is_reached_from_the_host(here: Place) -> None:
    port = free_port()
    answers = []

    def take(chunk: bytes) -> None:
        assert chunk == b"ready\n", chunk
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/")
        answers.append(connection.getresponse().read())
        connection.close()

    step = here.spec("", Bind(Path("/usr"), "/usr"))
    step = replace(
        step,
        argv=("/usr/bin/perl", "-e", SERVE),
        network=Network.OWN,
        ports=(Port(port, 8080, "127.0.0.1"),),
    )
    with here.sandbox.open(step) as room:
        assert room.run(take).status == 0
    assert answers == [b"hello"]


PARENT = """
import sys, time
from dataclasses import replace
from pathlib import Path
from fakes.place import place
from packhorse.base.sandbox import Network
with place(Path(sys.argv[1])) as here:
    with here.sandbox.open(replace(here.spec("sleep 300"), network=Network.OWN)) as room:
        print("ready", flush=True)
        time.sleep(300)
"""


def test_pasta_ends_when_this_process_is_killed(tmp_path: Path) -> None:
    with held_with_pasta(tmp_path) as (child, below):
        assert any(b"pasta" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below)
        child.kill()
        child.wait()
        assert linux.gone(below)


def test_pasta_is_nobody_to_this_machine_where_everybody_may_use_tun(tmp_path: Path) -> None:
    tun = tmp_path / "tun"
    os.mknod(tun, 0o20666, os.makedev(10, 200))
    tun.chmod(0o666)
    place = tmp_path / "place"
    place.mkdir()
    mount = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /dev/net/tun && exec "$@"', str(tun))
    with held_with_pasta(place, *mount) as (_, below):
        names = {pid: read_proc("comm", pid) for pid in below}
        owners = {os.stat(f"/proc/{pid}").st_uid for pid, name in names.items() if name.startswith("pas")}
    assert len(owners) == 1 and owners.pop() >= SHIFTED_BASE


def test_no_step_runs_without_the_network_that_was_asked_for(tmp_path: Path) -> None:
    """Where there is no /dev/net/tun, which is looked at while the mounts are made."""
    mount = 'mount -t tmpfs tmpfs /dev/net && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", PARENT, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert "the sandbox's network cannot be made" in done.stderr and "ready" not in done.stdout, done


@contextmanager
def held_with_pasta(base: Path, *before: str) -> Iterator[tuple[subprocess.Popen[bytes], set[int]]]:
    """A process that has a step with a network of its own, and all that it has started."""
    child = subprocess.Popen(
        [*before, sys.executable, "-c", PARENT, str(base)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        yield child, linux.descendants(child.pid)
    finally:
        child.kill()
        child.wait()
