"""The distribution project's own registry, on a free port, for as long as a test needs it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fakes.waiting import wait_until
from fakes.web import free_port


@contextmanager
def serve(
    folder: Path, *, http: dict[str, object] | None = None, auth: dict[str, object] | None = None
) -> Iterator[str]:
    """Runs a registry on a free port; gives its host and port."""
    port = free_port()
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "for this test", **(http or {})},
        **({"auth": auth} if auth else {}),
    }
    path = folder / "config.yml"
    path.write_text(json.dumps(config))  # YAML takes JSON
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(path)], stdout=log, stderr=log)
        try:
            wait_for(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns when a process that was just started accepts connections at a port."""

    def listens() -> bool:
        assert process.poll() is None, f"{process.args} ended with status {process.returncode}"
        with suppress(ConnectionRefusedError, TimeoutError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        return False

    wait_until(listens, f"{process.args} at port {port}")
