"""`packhorse run` as `docker run`: variables, directories, input, users, ports, statuses and signals."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fakes.installation import Home
from fakes.small_image import fresh_image, tar_of
from fakes.web import answer, free_port
from packhorse.oci.layout import Layout
from packhorse.oci.place import push_image
from packhorse.sandbox import cgroup

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")


def shell(home: Home, script: str, *options: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    """Runs a shell script in the sample's image."""
    return home.run("run", "--entrypoint", "sh", *options, "sample", "-c", script, **more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def image(sample_id: str) -> str:
    return sample_id


def test_variables_come_from_options_files_and_the_caller(home: Home, tmp_path: Path) -> None:
    (tmp_path / "variables").write_bytes(b"# no\r\nFILE=1 2\r\nTAKEN\r\nBOTH=file\n")
    options = ("-e", "GIVEN=a=b", "-e", "ABSENT", "-e", "BOTH=option", "--env-file", tmp_path / "variables")
    done = shell(home, "env", *options, env={"TAKEN": "mine", "LEFT": "out"})
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert (found["FILE"], found["TAKEN"], found["GIVEN"], found["BOTH"]) == ("1 2", "mine", "a=b", "option")
    assert not {"ABSENT", "LEFT"} & set(found)


def test_directories_are_seen_read_only_or_writable(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "file").write_text("hello")
    done = shell(home, "cat /data/file; echo x > /data/new", "-v", f"{folder}:/data:ro")
    assert (done.returncode, done.stdout) == (2, "hello"), done.stderr
    assert "Read-only file system" in done.stderr
    assert shell(home, "echo x > /data/new", "-v", "./folder:/data", cwd=tmp_path).returncode == 0
    assert (folder / "new").read_text() == "x\n"


def test_the_image_is_writable_and_forgets(home: Home) -> None:
    assert shell(home, "echo x > new; cat new").stdout == "x\n"
    assert shell(home, "echo x > /etc/new && cat /etc/new", "-u", "root").stdout == "x\n"
    assert shell(home, "ls new /etc/new").returncode == 2


def test_input_is_handed_over_when_asked_for(home: Home) -> None:
    assert shell(home, "cat", input="hello").stdout == ""
    assert shell(home, "cat", "-i", input="hello").stdout == "hello"


def test_users_and_directories_are_chosen(home: Home) -> None:
    assert shell(home, "id -u; id -g; pwd").stdout.split() == ["1000", "1000", "/workspace"]
    assert shell(home, "id -u; id -un; pwd", "-u", "root", "-w", "/tmp").stdout.split() == [
        "0",
        "root",
        "/tmp",
    ]
    assert shell(home, "id -u; id -g", "-u", "1234:5").stdout.split() == ["1234", "5"]
    nobody = shell(home, "id", "-u", "nosuch")
    assert (nobody.returncode, "the image has no user 'nosuch'" in nobody.stderr) == (125, True)
    nowhere = shell(home, "pwd", "-w", "/nosuch")
    assert (nowhere.returncode, "the image has no directory /nosuch" in nowhere.stderr) == (125, True)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--entrypoint", "sh", "sample", "-c", "exit 42"], 42),
        (["--entrypoint", "sh", "sample", "-c", "kill -9 $$"], 137),
        (["--entrypoint", "sh", "sample", "-c", "kill -TERM $$"], 143),
        (["--entrypoint", "nosuch", "sample"], 127),
        (["--entrypoint", "/etc/passwd", "sample"], 126),
        (["--entrypoint", "/etc", "sample"], 126),
        (["localhost:1/nosuch"], 125),
        (["--rm", "--entrypoint", "true", "sample", "--rm"], 0),
        (["--entrypoint", "web", "sample", "--version"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_status_is_dockers(arguments: list[str], status: int | None, home: Home) -> None:
    if status is None:
        process = home.start("run", *arguments)
        assert process.stdout is not None and "listening" in process.stdout.readline()
        process.terminate()
        assert process.wait(60) == 0
        return
    done = home.run("run", *arguments)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_words_of_an_image_that_no_program_can_be_given_are_refused(home: Home, tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("entrypoint", {"entrypoint": ["/bin/\0sh"]}, "the command has a NUL character"),
        ("arguments", {"entrypoint": ["/bin/sh"], "cmd": ["\0"]}, "the command has a NUL character"),
        ("environment", {"entrypoint": ["/bin/sh"], "env": ["A=\0"]}, "the environment has a NUL"),
        ("directory", {"entrypoint": ["/bin/sh"], "working_dir": "/a\0"}, "the directory to start in has"),
        ("user", {"entrypoint": ["/bin/sh"], "user": "١٠٠٠"}, "the image has no user '١٠٠٠'"),
    ]
    for name, fields, says in cases:
        push_image(fresh_image(tar_of({"bin/sh": b"x"}), **fields), Layout(tmp_path / name, "x"))
        home.ok("copy", f"oci:{tmp_path / name}:x", f"nul-{name}")
        for runtime in ("bubblewrap", "runc"):
            done = home.run("run", "--sandbox", runtime, "--network", "none", f"nul-{name}")
            assert (done.returncode, says in done.stderr) == (125, True), done.stderr
            assert "Traceback" not in done.stderr
        home.ok("rmi", f"nul-{name}")


def test_words_behind_the_name_belong_to_the_image(home: Home) -> None:
    done = shell(home, 'echo "$0" "$@"', "-e", "A=1")
    assert done.stdout == "sh\n"
    words = ("zero", "--network", "-e", "x=1", "--", "-p")
    done = home.run("run", "--entrypoint", "sh", "sample", "-c", 'echo "$0" "$@"', *words)
    assert done.stdout.split() == list(words)
    identifier = home.image_id("sample").removeprefix("sha256:")[:8]
    assert home.ok("run", "--entrypoint", "echo", identifier, "found") == "found"


def test_two_images_run_side_by_side_with_ports_of_their_own(home: Home) -> None:
    first, second = free_port(), free_port()
    processes = [
        home.start("run", "-p", f"{first}:8080", "sample"),
        home.start("run", "sample", "-p", f"127.0.0.1:{second}:8080"),
    ]
    try:
        assert b"packhorse" in answer(first) and b"packhorse" in answer(second)
        taken = home.run("run", "sample", "-p", f"{first}:8080")
        assert taken.returncode == 125
        assert f"port {first} of this machine cannot be used" in taken.stderr
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in processes] == [0, 0]


def told_of_ports(home: Home, *words: str) -> str:
    """The line about ports that a running image is told of, on stderr."""
    process = home.start("run", *words)
    try:
        assert process.stderr is not None
        return next(line.strip() for line in process.stderr if "the image" in line or "listens" in line)
    finally:
        process.terminate()
        assert process.wait(60) in (0, 143)


def test_a_published_port_is_the_one_that_a_web_process_is_told(home: Home) -> None:
    port = free_port()
    assert told_of_ports(home, "-p", f"{port}:9000", "sample").endswith(f"http://localhost:{port}")
    assert told_of_ports(home, "-p", f"{port}:80", "-e", "PORT=80", "sample").startswith(
        "port 80 of the image"
    )
    other = told_of_ports(home, "-p", f"{port}:8080", "-e", "PORT=3000", "sample")
    assert "nothing in the image listens on the published port 8080" in other
    assert other.endswith(f"it listens on port 3000: packhorse run -p {port}:3000 … sample")
    assert "it listens on port 8080, which is not published" in told_of_ports(home, "sample")
    assert shell(home, "echo $PORT", "-p", f"{port}:8080").stdout == "\n"


def test_the_network_of_the_machine_serves_where_it_is_asked_for(home: Home) -> None:
    port = free_port()
    process = home.start("run", "--network", "host", "-e", f"PORT={port}", "sample")
    try:
        assert b"packhorse" in answer(port)
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    moved = home.run("run", "--network", "host", "-p", f"{port}:8080", "sample")
    assert (moved.returncode, "the same number outside and inside" in moved.stderr) == (125, True)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_image(number: int, home: Home) -> None:
    script = f"trap 'echo got it; exit 7' {number}; echo ready; while :; do sleep 0.1; done"
    process = home.start("run", "--entrypoint", "sh", "sample", "-c", script)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("got it\n", 7)


def test_who_does_not_listen_to_the_third_interrupt_is_killed(home: Home) -> None:
    script = "trap 'echo heard' INT; echo ready; while :; do sleep 0.1; done"
    process = home.start("run", "--entrypoint", "sh", "sample", "-c", script)
    assert process.stdout is not None
    for said in ("ready\n", "heard\n", "heard\n"):  # two that come at once are one
        assert process.stdout.readline() == said
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 137


def test_memory_processes_and_shared_memory_are_limited_as_under_docker(home: Home) -> None:
    assert shell(home, "a=aaaaaaaaaaaaaaaa; while :; do a=$a$a; done", "-m", "64m").returncode == 137
    files = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes"
    assert shell(home, files, "-m", "64m").stdout == "67108864\n67108864\n"
    assert shell(home, files, env={}).stdout.split()[0] == str(cgroup.memory_allowed() or "max")
    many = "i=0; while [ $i -lt 150 ]; do sleep 300 & i=$((i+1)); done"
    assert "Cannot fork" in shell(home, many, "--pids-limit", "100").stderr
    assert shell(home, many, "--pids-limit", "-1").returncode == 0
    assert shell(home, "df -k /dev/shm | tail -n1", "--shm-size", "1m").stdout.split()[1] == "1024"
    assert shell(home, "df -k /dev/shm | tail -n1").stdout.split()[1] == "65536"
