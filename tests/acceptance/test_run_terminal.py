"""`packhorse run -t` at a real terminal: what is typed, seen and signalled, and the terminal afterwards."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tarfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fakes import tiny_root
from fakes.place import RUNTIMES
from fakes.small_image import fresh_image
from lanes import first_in_test
from packhorse.base.target import Target
from packhorse.host.folders import Folders
from packhorse.oci.place import push_image
from packhorse.store.store import Store

PATIENCE = 60.0
"""Seconds until something that was to be seen counts as missing."""

COMMAND = (
    *(sys.executable, "-c", "import sys; from packhorse.cli.main import main; sys.exit(main())"),
    *("run", "--network", "none"),
)
PROMPT = r"\$ "
FOR_EVER = "while :; do sleep 0.1; done"

SCRIPTS = {
    "broken": "#!/no/interpreter\n",
    # Says when it has the terminal: keys typed before then would be the shell's.
    "job": f"#!/bin/bash\ntrap 'echo goes on' CONT\necho begins\n{FOR_EVER}\n",
}
LOCAL = 3
"""Where the local modes are in what tcgetattr answers."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of a packhorse whose store has the image `tiny`: shells and coreutils, as user 1000."""
    home = tmp_path_factory.mktemp("home")
    tree = tiny_root.make(tmp_path_factory.mktemp("image") / "tree", programs=("seq", "stty", "tty", "tail"))
    for name, script in SCRIPTS.items():
        (tree / "bin" / name).write_text(script)
        (tree / "bin" / name).chmod(0o755)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(tree, arcname=".", filter=_of_root)
    env = ("PATH=/bin", "PS1=$ ")
    image = fresh_image(packed.getvalue(), target=Target.host(), env=env, user="1000:1000")
    environ = {**os.environ, "PACKHORSE_HOME": str(home), "TERM": "xterm"}
    with Store.open(Folders.find(environ).store) as store:
        push_image(image, store.place("tiny"))
    return environ


def _of_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    return info


class User:
    """Somebody at a terminal of 30 lines of 100 characters, who has started `packhorse run`."""

    def __init__(self, environment: Mapping[str, str], words: tuple[str, ...]) -> None:
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            try:
                termios.tcsetwinsize(0, (30, 100))
                os.execve(COMMAND[0], [*COMMAND, *words], dict(environment))
            finally:
                os._exit(99)
        self.seen = b""
        self._unread = 0

    def types(self, keys: str | bytes) -> None:
        os.write(self.screen, keys.encode() if isinstance(keys, str) else keys)

    def sees(self, pattern: str) -> re.Match[bytes]:
        """What matches, in what has been shown since the last that was seen."""
        expression, end = re.compile(pattern.encode(), re.DOTALL), time.monotonic() + PATIENCE
        while (found := expression.search(self.seen, self._unread)) is None:
            assert self._look(end), f"{pattern!r} is not in {self.seen[self._unread :]!r}"
        self._unread = found.end()
        return found

    def _look(self, end: float) -> bool:
        readable, _, _ = select.select([self.screen], [], [], max(0.0, end - time.monotonic()))
        try:
            chunk = os.read(self.screen, 65536) if readable else b""
        except OSError:  # packhorse has ended
            return False
        self.seen += chunk
        return bool(chunk)

    def status(self) -> int:
        """The exit status of packhorse, with everything that it has shown until then in `seen`."""
        end = time.monotonic() + PATIENCE
        while self._look(end):
            pass
        assert time.monotonic() < end, f"it still runs; shown was {self.seen!r}"
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def leaves(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.screen)


Start = Callable[..., User]


@pytest.fixture
def user(environment: Mapping[str, str]) -> Iterator[Start]:
    """Starts `packhorse run` with these words at a terminal."""
    with ExitStack() as stack:

        def start(*words: str) -> User:
            somebody = User(environment, words)
            stack.callback(somebody.leaves)
            return somebody

        yield start


def test_a_shell_ends_with_the_status_that_it_was_told(user: Start) -> None:
    shell = user("-it", "tiny", "sh")
    shell.sees(PROMPT)
    shell.types("exit 5\n")
    assert shell.status() == 5
    assert b"Cannot set" not in shell.seen and b"no job control" not in shell.seen


@pytest.mark.parametrize("runtime", first_in_test(RUNTIMES))
def test_ctrl_c_ends_what_the_shell_runs_and_not_the_shell(user: Start, runtime: str) -> None:
    shell = user("-it", "--sandbox", runtime, "tiny", "sh")
    shell.sees(PROMPT)
    shell.types("job\n")
    shell.sees("begins")
    shell.types("\x03")
    shell.sees(PROMPT)
    shell.types("echo $?; exit\n")
    shell.sees("130")
    assert shell.status() == 0


def test_a_program_that_handles_ctrl_c_finishes_what_it_does_then(user: Start) -> None:
    handler = "trap 'echo caught; sleep 0.3; echo finished; exit 7' INT"
    program = user("-it", "tiny", "bash", "-c", f"{handler}; echo ready; {FOR_EVER}")
    program.sees("ready")
    program.types("\x03")
    program.sees("caught.*finished")
    assert program.status() == 7


@pytest.mark.parametrize("runtime", first_in_test(RUNTIMES))
@pytest.mark.parametrize("whom", ["1000", "7:7"])
def test_the_process_leads_a_session_of_its_own_terminal(user: Start, whom: str, runtime: str) -> None:
    stat = "read -r _ _ _ _ group session _ front _ </proc/self/stat"
    script = f"tty; {stat}; echo $$ $group $session $front; echo yes >/dev/tty; echo too >/dev/stdout"
    program = user("-it", "-u", whom, "--sandbox", runtime, "tiny", "bash", "-c", script)
    found = program.sees(r"/dev/pts/0\r\n(\d+) (\d+) (\d+) (\d+)\r\nyes\r\ntoo")
    assert len(set(found.groups())) == 1
    assert program.status() == 0


@pytest.mark.parametrize("runtime", first_in_test(RUNTIMES))
def test_root_hands_no_capability_down_at_a_terminal(user: Start, runtime: str) -> None:
    script = "grep -E 'Cap(Inh|Eff|Amb)' /proc/self/status"
    program = user("-it", "-u", "0", "--sandbox", runtime, "tiny", "bash", "-c", script)
    found = program.sees(r"CapInh:\s+(\w+)\r\nCapEff:\s+(\w+)\r\nCapAmb:\s+(\w+)")
    inheritable, effective, ambient = (int(number, 16) for number in found.groups())
    assert effective and not inheritable and not ambient
    assert program.status() == 0


@pytest.mark.parametrize("runtime", first_in_test(RUNTIMES))
@pytest.mark.parametrize(("reader", "status"), [("nobody", 141), ("/dev/full", 125)])
def test_a_terminal_that_nobody_looks_at_ends_with_the_status_of_a_pipe(
    environment: Mapping[str, str], runtime: str, reader: str, status: int
) -> None:
    """As in `packhorse run -t IMAGE | head -1`."""
    if reader == "nobody":
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open(reader, os.O_WRONLY)
    script = f"echo hello; {FOR_EVER}"
    done = subprocess.run(
        [*COMMAND, "-t", "--sandbox", runtime, "tiny", "bash", "-c", script],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    os.close(write)
    assert done.returncode == status, done.stderr
    assert ("the output of the image cannot be written" in done.stderr) == (reader == "/dev/full"), (
        done.stderr
    )
    assert "went wrong" not in done.stderr


@pytest.mark.parametrize("runtime", first_in_test(RUNTIMES))
def test_nothing_of_what_makes_the_terminal_is_left_to_the_process(user: Start, runtime: str) -> None:
    program = user("-it", "--sandbox", runtime, "tiny", "ls", "-x", "/proc/self/fd")
    assert program.status() == 0
    # The last is the directory that ls reads.
    assert program.seen.split() == [b"0", b"1", b"2", b"3"]


def test_jobs_are_stopped_and_go_on(user: Start) -> None:
    shell = user("-it", "tiny", "bash", "--norc", "--noediting")
    shell.sees(PROMPT)
    shell.types("job\n")
    shell.sees("begins")
    shell.types("\x1a")
    shell.sees("Stopped.*" + PROMPT)
    shell.types("jobs\n")
    shell.sees(r"\[1\]\+  Stopped +job.*" + PROMPT)
    shell.types("fg\n")
    shell.sees("goes on")
    shell.types("\x03")
    shell.sees(PROMPT)
    shell.types("exit 3\n")
    assert shell.status() == 3


def test_the_size_is_that_of_the_users_terminal_and_follows_it(user: Start) -> None:
    script = f"stty size; trap 'stty size; exit' WINCH; echo ready; {FOR_EVER}"
    program = user("-it", "tiny", "bash", "-c", script)
    program.sees(r"30 100\r\nready")
    termios.tcsetwinsize(program.screen, (41, 132))
    program.sees("41 132")
    assert program.status() == 0


def test_every_byte_goes_through_unchanged_both_ways(user: Start) -> None:
    program = user("-it", "tiny", "bash", "-c", "stty raw -echo; echo ready; head -c 256")
    program.sees("ready\n")
    program.types(bytes(range(256)))
    assert program.status() == 0
    assert program.seen.partition(b"ready\n")[2] == bytes(range(256))


def test_what_is_pasted_does_not_stop_what_is_printed(user: Start) -> None:
    """A program that prints more than fits before it reads what was typed meanwhile."""
    script = "stty raw -echo; echo ready; seq 100000; head -c 50000 | tail -c 5"
    program = user("-it", "tiny", "bash", "-c", script)
    program.sees("ready\n")
    os.set_blocking(program.screen, False)
    rest = b"x" * 49_995 + b"END!\n"
    end = time.monotonic() + PATIENCE
    while rest and time.monotonic() < end:
        readable, writable, _ = select.select([program.screen], [program.screen], [], 1.0)
        if writable:
            rest = rest[os.write(program.screen, rest[:4000]) :]
        if readable:
            program.seen += os.read(program.screen, 65536)
    assert program.status() == 0
    assert program.seen.endswith(b"\n100000\nEND!\n")


def test_what_the_process_leaves_behind_ends_with_it(user: Start) -> None:
    program = user("-it", "tiny", "bash", "-c", "setsid sleep 60 & echo started; exit 4")
    program.sees("started")
    assert program.status() == 4


class Desk:
    """A terminal whose settings stay to be looked at when packhorse has ended."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.screen, self.line = pty.openpty()

    def start(self, *words: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Starts `packhorse run` in a session whose terminal this is."""
        return subprocess.Popen(
            [*COMMAND, *words],
            env=self._environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(self.line, termios.TIOCSCTTY, 0),
            stdin=self.line,
            stdout=self.line if stdout is None else stdout,
            stderr=self.line,
        )

    def sees(self, text: bytes) -> None:
        seen, end = b"", time.monotonic() + PATIENCE
        while text not in seen:
            readable, _, _ = select.select([self.screen], [], [], max(0.0, end - time.monotonic()))
            assert readable, f"{text!r} is not in {seen!r}"
            seen += os.read(self.screen, 65536)

    def hangs_up(self) -> None:
        os.close(self.screen)
        self.screen = os.open(os.devnull, os.O_RDONLY)

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.line)


@pytest.fixture
def desk(environment: Mapping[str, str]) -> Iterator[Desk]:
    made = Desk(environment)
    yield made
    os.close(made.screen)
    os.close(made.line)


def test_the_users_terminal_is_raw_meanwhile_and_as_before_afterwards(desk: Desk) -> None:
    before = desk.settings()
    shell = desk.start("-it", "tiny", "sh")
    desk.sees(b"$ ")
    assert desk.settings() != before
    os.write(desk.screen, b"exit 6\n")
    assert shell.wait(PATIENCE) == 6
    assert desk.settings() == before


def test_sigterm_reaches_the_process_and_the_terminal_is_as_before(desk: Desk) -> None:
    before = desk.settings()
    process = desk.start("-it", "tiny", "bash", "-c", f"trap 'exit 9' TERM; echo ready; {FOR_EVER}")
    desk.sees(b"ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 9
    assert desk.settings() == before


def test_a_process_can_finish_when_the_users_terminal_is_gone(desk: Desk) -> None:
    script = f"trap 'echo unseen; exit 4' HUP; echo ready; {FOR_EVER}"
    process = desk.start("-it", "tiny", "bash", "-c", script)
    desk.sees(b"ready")
    desk.hangs_up()
    assert process.wait(PATIENCE) == 4


def test_a_command_that_cannot_be_executed_leaves_the_terminal_as_before(desk: Desk) -> None:
    before = desk.settings()
    process = desk.start("-it", "tiny", "broken")
    desk.sees(b"the interpreter or loader that it names does not exist")
    assert process.wait(PATIENCE) == 127
    assert desk.settings() == before


def test_without_i_nothing_is_read_and_ctrl_c_is_handed_on(desk: Desk) -> None:
    before = desk.settings()
    before[LOCAL] |= termios.NOFLSH  # Ctrl-C would throw away what was typed before
    termios.tcsetattr(desk.line, termios.TCSANOW, before)
    script = f"tty; trap 'echo caught; exit 8' INT; echo ready; {FOR_EVER}"
    process = desk.start("-t", "tiny", "bash", "-c", script)
    desk.sees(b"/dev/pts/0\r\r\nready")
    assert desk.settings() == before
    os.write(desk.screen, b"not for the image\n\x03")
    desk.sees(b"caught")
    assert process.wait(PATIENCE) == 8
    assert os.read(desk.line, 100) == b"not for the image\n"


def test_an_image_without_a_terminal_reads_nothing_of_what_is_typed(desk: Desk) -> None:
    """The terminal that it prints to could be read as well, if it were given that."""
    process = desk.start("tiny", "bash", "-c", 'read typed <&1; read typed <&2; echo "over: $typed"')
    os.write(desk.screen, b"a password\n")
    desk.sees(b"over: \r\n")
    assert process.wait(PATIENCE) == 0
    assert os.read(desk.line, 100) == b"a password\n"


def test_the_output_may_go_elsewhere_than_to_a_terminal(desk: Desk) -> None:
    termios.tcsetwinsize(desk.line, (12, 34))
    process = desk.start("-it", "tiny", "bash", "-c", "tty; stty size", stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=PATIENCE)
    assert output == b"/dev/pts/0\r\n12 34\r\n"


def test_all_that_was_printed_is_handed_on_when_the_process_has_ended(desk: Desk, tmp_path: Path) -> None:
    """More than a pipe that nobody reads takes, so that the rest is in the terminal when the process ends."""
    tmp_path.chmod(0o777)
    read, write = os.pipe()
    # How large a pipe is at first depends on how many the user has already.
    size = fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, os.sysconf("SC_PAGE_SIZE"))
    last = 10_000 + (size + 3900) // len("10000\r\n")  # a terminal holds 8 kB, and takes half at once
    process = desk.start(
        *("-t", "-v", f"{tmp_path}:/mnt", "tiny"),
        *("bash", "-c", f"seq 10000 {last}; echo >/mnt/done"),
        stdout=write,
    )
    os.close(write)
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "done").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    with open(read, "rb") as printed:
        assert printed.read().split() == [str(number).encode() for number in range(10_000, last + 1)]
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(("option", "status"), [("-it", 125), ("-t", 0)])
def test_input_has_to_come_from_a_terminal_only_if_it_is_handed_over(
    environment: Mapping[str, str], option: str, status: int
) -> None:
    done = subprocess.run(
        [*COMMAND, option, "tiny", "tty"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == status
    assert (b"the input device is not a TTY" in done.stderr) == (status == 125)
    assert done.stdout == (b"" if status else b"/dev/pts/0\r\n")
