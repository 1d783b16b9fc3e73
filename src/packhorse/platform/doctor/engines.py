"""The doctor's check on container engines and runtimes, which nothing needs; called by `doctor.checkup`."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from packhorse.base.dial import Connection
from packhorse.base.engine_address import Address
from packhorse.platform.doctor.diagnosis import Line, ok_line
from packhorse.platform.doctor.examination import Examination

_PATIENCE = 0.3
_RUNTIMES = ("runc", "crun", "runsc")
_LIMIT = 1 << 20


def engines(examined: Examination) -> Line:
    """Asks every engine whose socket is found for its version, and every runtime on PATH."""
    path = examined.environ.get("PATH", "")
    found = [f"{socket} {_version(socket)}" for socket in _sockets(examined.environ)]
    found += [_runtime(program) for name in _RUNTIMES if (program := shutil.which(name, path=path))]
    return ok_line("; ".join(found) or "none, and none is needed")


def _sockets(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where docker and podman listen."""
    named = environ.get("DOCKER_HOST", "")
    own = environ.get("XDG_RUNTIME_DIR", "")
    places = [
        *([Path(named.removeprefix("unix://"))] if named.startswith("unix://") else []),
        *([Path(own) / "docker.sock", Path(own) / "podman/podman.sock"] if own else []),
        Path("/run/docker.sock"),
        Path("/run/podman/podman.sock"),
    ]
    seen = set()
    for place in places:
        try:
            if place.is_socket() and place.resolve() not in seen:
                seen.add(place.resolve())
                yield place
        except OSError:
            continue


def _version(path: Path) -> str:
    """What an engine says that it is, or why it says nothing."""
    connection = Connection(Address(f"unix://{path}", ""), timeout=_PATIENCE)
    try:
        connection.request("GET", "/version")
        answer = json.loads(connection.getresponse().read(_LIMIT))
        name = answer.get("Platform", {}).get("Name") or "engine"
        return f"({name} {answer['Version']}, API {answer['ApiVersion']})"
    except OSError as error:
        return f"(does not answer: {error.strerror or 'no time'})"
    except (http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return "(its answer makes no sense)"
    finally:
        connection.close()


def _runtime(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, errors="replace", timeout=2, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return f"{program} (does not run)"
    return f"{program} ({(done.stdout.splitlines() or [f'status {done.returncode}'])[0].strip()})"
