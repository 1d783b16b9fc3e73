"""A real ssh server of this user's, on a port of 127.0.0.1."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fakes.docker_registry import wait_for
from fakes.web import free_port

_PRIVILEGES = Path("/run/sshd")


@contextmanager
def sshd(directory: Path, *, environment: str) -> Iterator[tuple[str, Path]]:
    """Runs a server; gives its `ssh://` address, and a directory for PATH whose `ssh` has the key for it.

    `environment` is a `NAME=value` that commands have over there. Needs root.
    """
    _PRIVILEGES.mkdir(exist_ok=True)
    port = free_port()
    key = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    config = {
        "ListenAddress": "127.0.0.1",
        "Port": port,
        "HostKey": key,
        "AuthorizedKeysFile": f"{key}.pub",
        "StrictModes": "no",
        "PermitRootLogin": "yes",
        "PidFile": "none",
        "SetEnv": environment,
    }
    file = directory / "sshd_config"
    file.write_text("".join(f"{name} {value}\n" for name, value in config.items()))
    programs = directory / "bin"
    programs.mkdir()
    trust = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes"
    (programs / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh {trust} -i {key} "$@"\n')
    (programs / "ssh").chmod(0o755)
    with (directory / "sshd.log").open("wb") as log:
        process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(file)], stdout=log, stderr=log)
        try:
            wait_for(port, process)
            yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}", programs
        finally:
            process.terminate()
            process.wait(60)
