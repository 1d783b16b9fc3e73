"""`--sandbox runc`: the same images by another sandbox, as every kind of user; words where there is none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.test_build_and_run import answer, free_port
from fakes import users
from fakes.installation import Home

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


@pytest.mark.parametrize("user", ["", users.RANGE, users.SINGLE])
def test_a_runtime_builds_the_same_image_and_runs_it(
    user: str, new_home: Callable[[str], Home], sample: Path, sample_id: str
) -> None:
    home = new_home(user)
    assert home.ok("build", "--quiet", "--sandbox", "runc", "sample", "--path", sample) == sample_id
    port = free_port()
    process = home.start("run", "--sandbox", "runc", "-e", f"PORT={port}", "-p", f"{port}:{port}", "sample")
    try:
        assert answer(port, process)["hello"] == "packhorse"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
        assert (process.returncode, "SIGTERM: finishing open requests" in out) == (0, True)
    finally:
        process.kill()
    assert home.ok("run", "--sandbox", "runc", "--user", "0", "--entrypoint", "id", "sample", "-u") == "0"
