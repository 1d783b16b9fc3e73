"""User namespaces are made by bubblewrap, say why when they cannot be, and leave no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import linux
from packhorse.linux import bubblewrap, userns

SOURCE = Path(userns.__file__).parents[2]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes limits in a namespace of its own")


def python(code: str) -> list[str]:
    packages = [path for path in sys.path if path.endswith("-packages")]
    return [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(SOURCE), *packages]!r}\n{code}"]


def makers() -> set[str]:
    """The pids of all bubblewraps that make a namespace."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--userns-block-fd" in words:
            found.add(path.parent.name)
    return found


def test_a_namespace_has_the_ids_it_was_given() -> None:
    with userns.make_namespace(userns.choose_map()) as namespace:
        words = ["/bin/cat", "/proc/self/uid_map"]
        with userns.spawn(words, namespace=namespace, stdout=subprocess.PIPE) as child:
            assert child.stdout
            said = child.stdout.read().split()
    assert [int(word) for word in said] == [0, namespace.idmap.uids[0].outside, userns.SIZE]


def test_who_is_killed_while_he_makes_a_namespace_leaves_no_process() -> None:
    code = (
        "import os, signal\nfrom packhorse.linux import bubblewrap\n"
        "with bubblewrap.unmapped_process() as pid:\n"
        "    print(pid, flush=True); signal.pause()"
    )
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = process.stdout.readline().strip()
        assert pid in makers()
        process.send_signal(signal.SIGKILL)
    assert linux.gone({int(pid)})


def test_who_is_called_off_while_he_makes_a_namespace_leaves_no_process() -> None:
    # It sleeps rather than waits for ever: an alarm just before the wait would be heard only after it.
    code = (
        "import signal, time\nfrom packhorse.linux import bubblewrap\n"
        "def call_off(number, frame): raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGALRM, call_off)\n"
        "for moment in range(1, 41):\n"
        "    signal.setitimer(signal.ITIMER_REAL, moment / 4000)\n"
        "    try:\n"
        "        with bubblewrap.unmapped_process() as pid: time.sleep(0.1)\n"
        "    except KeyboardInterrupt: pass"
    )
    before = makers()
    assert subprocess.run(python(code), check=False).returncode == 0
    assert linux.gone({int(pid) for pid in makers() - before})


def test_a_namespace_that_is_made_leaves_no_process() -> None:
    with bubblewrap.unmapped_process() as pid:
        assert str(pid) in makers()
    assert linux.gone({pid})


def test_where_no_namespace_may_be_made_the_error_names_the_doctors_line() -> None:
    code = (
        "from packhorse.linux import userns\nfrom packhorse.errors import HostError\n"
        "try: userns.make_namespace(userns.choose_map(mode=userns.MapMode.SINGLE))\n"
        "except HostError as error: print(error.check, error.why)"
    )
    forbidding = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", forbidding, "sh", *python(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("user-namespaces bwrap: "), done.stdout + done.stderr
