"""What signals and the end of the allowed time do to a command, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import packhorse.cli
from packhorse.store.store import Store

pytestmark = pytest.mark.system

START = Path(packhorse.cli.__file__).parent / "start.py"
HEAD = """
import os, signal, sys, time
from packhorse.cli.signals import Cancelled, Signals
def send(number):
    os.kill(os.getpid(), number)
signals = Signals()
try:
"""
TAIL = """
    print("not cancelled")
except Cancelled:
    print(signals.error.what, signals.error.exit_code)
"""


def run(body: str, *, ignored: int = 0) -> subprocess.CompletedProcess[str]:
    def ignore() -> None:
        if ignored:
            signal.signal(ignored, signal.SIG_IGN)

    return subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.indent(textwrap.dedent(body), "    ") + TAIL],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
        preexec_fn=ignore,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SIGINT", "interrupted 130"),
        ("SIGTERM", "ended by SIGTERM 143"),
        ("SIGHUP", "ended by SIGHUP 129"),
        ("SIGQUIT", "ended by SIGQUIT 131"),
    ],
)
def test_a_signal_cancels_a_command(name: str, words: str) -> None:
    assert run(f"send(signal.{name})").stdout.strip() == words


def test_a_lease_that_a_cancelled_command_lost_is_swept_with_its_files(tmp_path: Path) -> None:
    """As it is lost when the signal comes between the call that takes it and the block that closes it."""
    path = tmp_path / "store"
    done = run(
        f"""
        from pathlib import Path
        from packhorse.store.leases import Lease
        from packhorse.store.store import Store
        path = Path({str(path)!r})
        Store.open(path).close()
        def lose():
            lease = Lease.acquire(path)
            lease.temporary_path().write_text("not finished")
            send(signal.SIGTERM)
        lose()
        """
    )
    assert done.stdout.strip() == "ended by SIGTERM 143", done.stderr
    assert [*path.glob("leases/*")] and [*path.glob("scratch/*/*")]
    with Store.open(path) as store:
        store.remove_leftovers()
    assert [*path.glob("leases/*"), *path.glob("scratch/*")] == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGALRM"])
def test_a_signal_is_heard_by_a_main_thread_that_it_did_not_wake(name: str) -> None:
    """As one does not that comes just before the main thread begins to wait."""
    done = run(
        f"""
        import threading
        waited_for = threading.Lock()
        waited_for.acquire()
        main, wait_line = sys._getframe(), 0
        def take():
            # It stands on that line, and another thread runs, only while it waits for the lock.
            while main.f_lineno != wait_line:
                time.sleep(0.001)
            signal.pthread_kill(threading.get_ident(), signal.{name})
            time.sleep(25)
        signals.limit_time(1000, "too long")
        threading.Thread(target=take, daemon=True).start()
        wait_line = main.f_lineno + 1
        waited_for.acquire()
        """
    )
    assert done.stdout.strip() == {"SIGTERM": "ended by SIGTERM 143", "SIGALRM": "too long 124"}[name]


def test_a_signal_that_was_ignored_stays_so() -> None:
    assert run("send(signal.SIGHUP)", ignored=signal.SIGHUP).stdout.strip() == "not cancelled"


def test_the_time_that_is_allowed_cancels_a_command_once() -> None:
    done = run("signals.limit_time(0.01, 'too long')\ntime.sleep(20)")
    assert done.stdout.strip() == "too long 124"
    done = run(
        """
        signals.limit_time(1000, 'too long')
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGALRM)
        """
    )
    assert done.stdout.strip() == "ended by SIGTERM 143"


def test_while_it_cleans_up_a_second_is_answered_and_a_third_ends_it() -> None:
    done = run(
        """
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGINT)
            print("goes on", flush=True)
            send(signal.SIGTERM)
        """
    )
    assert (done.returncode, done.stdout) == (130, "goes on\n")
    assert done.stderr == "cleaning up; once more ends packhorse at once\n"


def test_one_that_python_swallows_comes_again() -> None:
    done = run(
        """
        class Destroyed:
            def __del__(self):
                send(signal.SIGTERM)
        Destroyed()
        time.sleep(20)
        """
    )
    assert (done.stdout.strip(), done.stderr) == ("ended by SIGTERM 143", "")


def test_another_that_python_swallows_is_still_told() -> None:
    body = """
        class Broken:
            def __del__(self):
                raise ValueError("broken")
        Broken()
    """
    assert "ValueError: broken" in run(body).stderr


def test_when_all_is_over_a_signal_ends_the_process_with_its_status() -> None:
    done = run("signals.finish(7)\nsend(signal.SIGINT)")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


@pytest.mark.parametrize(("before", "after"), [("", "SIG_DFL"), ("trap '' INT; ", "SIG_IGN")])
def test_the_program_has_no_word_for_ctrl_c_while_it_is_loaded(
    tmp_path: Path, before: str, after: str
) -> None:
    (tmp_path / "packhorse" / "cli").mkdir(parents=True)
    stub = "import signal\ndef program():\n    print(signal.getsignal(signal.SIGINT).name)\n"
    for name, text in (("__init__.py", ""), ("cli/__init__.py", ""), ("cli/main.py", stub)):
        (tmp_path / "packhorse" / name).write_text(text)
    done = subprocess.run(
        ["sh", "-c", f'{before}exec "$0" "$1"', sys.executable, str(START)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == after, done.stderr


WRAPPED = """
import os, signal, sys, types
import click
from packhorse.cli import main as cli

@click.command()
def x():
    class Named:
        def __set_name__(self, owner, name):
            os.kill(os.getpid(), signal.SIGTERM)
    class Owner:
        named = Named()

sys.modules["fake"] = types.SimpleNamespace(x=x)
cli._COMMANDS["x"] = ("fake", "x", "")
sys.argv = ["packhorse", "x"]
cli.main()
"""


def test_one_that_python_wraps_into_an_error_is_what_it_is() -> None:
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", WRAPPED], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (143, "error: ended by SIGTERM\n")
