"""docs/tutorial/first-image.md: every command and file of it works, in its order."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from fakes.installation import Home
from fakes.web import answer, free_port

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")

PAGE = (Path(__file__).parents[2] / "docs/tutorial/first-image.md").read_text()


def test_the_first_tutorial_works_as_it_is_written(own_home: Home, tmp_path: Path) -> None:
    port = free_port()
    page = PAGE.replace("8080", str(port))
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    install, check, folder, build, run, ask, change, look, remove = blocks
    assert "make setup" in install and ask == f"curl http://localhost:{port}\n"
    path = f"{own_home.program.parent}:{os.environ['PATH']}"

    def shell(commands: str, directory: Path) -> str:
        done = subprocess.run(
            ["sh", "-euc", commands],
            cwd=directory,
            env=own_home.environment({"PATH": path}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{commands}{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    shell(check + folder, tmp_path)
    source = tmp_path / "hello"
    for name, content in re.findall(r"Write the file `(\S+)`:\n\n```\w+\n(.*?)```", page, re.DOTALL):
        (source / name).write_text(content)
    assert {"package.json", "server.js"} == set(os.listdir(source))
    first = shell(build, source)
    assert "layer node new" in first and "run it: packhorse run hello -p 8080:8080" in first

    server = own_home.start(*run.split()[1:])
    try:
        assert answer(port, failed=lambda: server.poll() is not None and server.communicate()) == b"Hello!\n"
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)

    second = shell(change, source)
    assert re.search(r"^ +modules .* kept ", second, re.MULTILINE)
    assert re.search(r"^ +app .* new$", second, re.MULTILINE)
    seen = shell(look, source)
    assert "node server.js" in seen and "express" in (source / "hello.json").read_text()
    shell(remove, source)
