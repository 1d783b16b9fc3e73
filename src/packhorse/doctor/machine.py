"""Checks the machine itself: kernel, limits, store, disk, network, and optional container engines.

Called by `doctor.checks`.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import shutil
import socket
import ssl
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from packhorse.base import files
from packhorse.base.installation import HELPERS, buildpacks, find_program, launcher, launcher_version
from packhorse.base.target import Target
from packhorse.builder import default
from packhorse.doctor.probe import CheckResult, HostProbe, limited_line, missing_line, ok_line
from packhorse.doctor.sandbox import install_remedy
from packhorse.errors import HostError, PackhorseError, StoreError
from packhorse.fs.rooted import RootedTree
from packhorse.host import machine
from packhorse.linux import userns
from packhorse.oci.engine_client import Address, Connection
from packhorse.sandbox import cgroup
from packhorse.store.store import Store

_TIMEOUT = 0.3
"""Seconds in which an engine or a proxy must answer."""

_RUNTIMES = ("runc", "crun", "runsc")
_LIMIT = 1 << 20
"""The most bytes of an engine's answer."""

_ENOUGH_BYTES, _ENOUGH_FILES = 2_000_000_000, 100_000
_TOO_FEW_BYTES, _TOO_FEW_FILES = 50_000_000, 1_000
_FILES = 64
"""How many files a build with a few layers has open at once."""

_WITHOUT_STORE = "no command works that needs images"
_WITHOUT_REGISTRIES = "everything works that needs no registry"


def engines(probe: HostProbe) -> CheckResult:
    """Asks every engine with a known socket, and every runtime on PATH, for its version."""
    path = probe.environ.get("PATH", "")
    found = [f"{socket} {_version(socket)}" for socket in _sockets(probe.environ)]
    found += [_runtime(program) for name in _RUNTIMES if (program := shutil.which(name, path=path))]
    return ok_line("; ".join(found) or "none, and none is needed")


def _sockets(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yields the sockets on which docker and podman listen."""
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
    """Returns an engine's name and version, or why it does not tell them."""
    connection = Connection(Address(f"unix://{path}", ""), timeout=_TIMEOUT)
    try:
        connection.request("GET", "/version")
        answer = json.loads(connection.getresponse().read(_LIMIT))
        name = answer.get("Platform", {}).get("Name") or "engine"
        return f"({name} {answer['Version']}, API {answer['ApiVersion']})"
    except OSError as error:
        return f"(does not answer: {error.strerror or 'timed out'})"
    except (http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return "(its answer cannot be understood)"
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


def kernel(probe: HostProbe) -> CheckResult:
    """Resolves a path as packhorse reads trees, and checks for idmapped mounts, which save a copy."""
    found = f"Linux {os.uname().release} on {os.uname().machine}"
    try:
        with RootedTree.open_local(probe.home) as tree:
            tree.stat("/")
    except HostError as error:
        return missing_line(f"{found}: {error.why}", "use Linux 5.15 or newer")
    made = not isinstance(probe.namespace, HostError)
    if os.geteuid() == 0 and made and not userns.supports_idmapping(probe.home):
        reason = "a mount cannot show other owners (idmapped mounts)"
        without = "builds work; packhorse copies the application into the sandbox instead of mounting it"
        return limited_line(f"{found}: {reason}", without, "use Linux 5.19 or newer, and ext4, xfs or btrfs")
    return ok_line(found)


def installation(probe: HostProbe) -> CheckResult:
    """Looks for the programs and buildpacks that packhorse's package has besides Python modules."""
    try:
        for program in HELPERS:
            find_program(program)
        launcher(Target.host().arch)
        count = len(buildpacks())
        version = launcher_version()
    except HostError as error:
        return missing_line(f"{error.what}: {error.why}", error.fix or "use another machine")
    return ok_line(f"launcher {version}, {count} buildpack{'' if count == 1 else 's'}")


def store(probe: HostProbe) -> CheckResult:
    """Opens the store, or writes where it would be made."""
    path = probe.folders.store
    move = "choose another place for it (PACKHORSE_HOME), or make that one writable"
    if os.path.lexists(path):
        try:
            with Store.open(path) as opened:
                count = len(opened.images())
        except StoreError as error:
            return missing_line(f"{error.what}: {error.why}", error.fix or move, without=_WITHOUT_STORE)
        return ok_line(f"{count} image{'' if count == 1 else 's'} at {path}")
    if isinstance(probe.scratch, OSError):
        found = f"none, and none can be made: {probe.home}: {probe.scratch.strerror}"
        return missing_line(found, move, without=_WITHOUT_STORE)
    return ok_line(f"none yet; it will be made at {path}")


def disk(probe: HostProbe) -> CheckResult:
    """Measures the free space and files where the store is."""
    room = os.statvfs(probe.home)
    free, files = room.f_bavail * room.f_frsize, room.f_favail
    # A file system without a table of inodes, such as btrfs, reports none.
    counted = room.f_files > 0
    found = f"{free / 1e9:.1f} GB" + (f" and {files} files" if counted else "") + f" free at {probe.home}"
    remedy = "free space, for example with packhorse gc, or put the store elsewhere (PACKHORSE_HOME)"
    if free < _TOO_FEW_BYTES or (counted and files < _TOO_FEW_FILES):
        return missing_line(found, remedy, without="everything works that writes nothing")
    if free < _ENOUGH_BYTES or (counted and files < _ENOUGH_FILES):
        without = "small builds work; the default builder takes about 2 GB"
        return limited_line(found, without, remedy)
    return ok_line(found)


def limits(probe: HostProbe) -> CheckResult:
    """Makes a control group, as each sandbox gets one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _FILES:
        found = f"only {soft} files may be open at once"
        return missing_line(found, "allow more: ulimit -n 1024", without="small commands work")
    without = "packhorse polls memory, and limits processes by a resource limit (docs/reference/limits.md)"
    remedy = "in a session without control groups: systemd-run --user --scope packhorse build …"
    if isinstance(probe.scratch, OSError):
        reason = "no control group can be recorded, because the store cannot be written"
        return limited_line(reason, without, "see store")
    try:
        parent = cgroup.find_parent()
        if parent is None:
            reason = "no control group (version 2) can be made that limits memory and processes"
            return limited_line(reason, without, remedy)
        counts = dict.fromkeys(cgroup.CONTROLLERS, 1 << 20)
        cgroup.Group(parent, counts, records=probe.scratch / "groups", together=True).close()
    except OSError as error:
        reason = f"no control group can be made: {error.filename}: {error.strerror}"
        return limited_line(reason, without, remedy)
    return ok_line(f"made a control group below {parent.directory}")


def certificates(probe: HostProbe) -> CheckResult:
    """Loads the CA certificates that this machine trusts."""
    path = machine.certificates(probe.environ)
    if path is None:
        return limited_line(
            "no bundle of CA certificates", _WITHOUT_REGISTRIES, *install_remedy("ca-certificates")
        )
    try:
        count = ssl.create_default_context(cafile=str(path)).cert_store_stats()["x509_ca"]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return limited_line(f"{path}: {reason}", _WITHOUT_REGISTRIES, "put PEM certificates there")
    for variable in machine.BUNDLE_VARIABLES:
        named = probe.environ.get(variable, "")
        if named and not files.exists(named):
            found = f"{variable} names {named}, which does not exist, or which this user may not read"
            remedy = f"set {variable} to a file of certificates, or unset it"
            return limited_line(found, _WITHOUT_REGISTRIES, remedy)
    return ok_line(f"{count} in {path}")


def proxy(probe: HostProbe) -> CheckResult:
    """Connects to the proxies that the environment names."""
    found = {}
    for variable in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        value = probe.environ.get(variable.lower()) or probe.environ.get(variable, "")
        if value:
            found[variable] = _address(value)
    if not found:
        return ok_line("none is set")
    for variable, address in found.items():
        reason = "not the address of a proxy" if address is None else _connection_problem(address)
        if reason:
            named = f"{variable} ({address[0]}:{address[1]})" if address else variable
            remedy = f"correct {variable}, or unset it"
            return limited_line(f"{named}: {reason}", _WITHOUT_REGISTRIES, remedy)
    answers = ", ".join(f"{key} {address[0]}:{address[1]}" for key, address in found.items() if address)
    return ok_line(f"answers: {answers}")


def _address(url: str) -> tuple[str, int] | None:
    """Returns the host and port of a proxy's URL, without the password that it may have."""
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or (443 if parts.scheme == "https" else 1080 if "socks" in parts.scheme else 80)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None


def _connection_problem(address: tuple[str, int]) -> str:
    """Says why no server answers there in a short time; "" if one does."""
    answers: Queue[str] = Queue()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=_TIMEOUT).close()
            answers.put("")
        except (OSError, UnicodeError) as error:
            answers.put(getattr(error, "strerror", None) or str(error) or type(error).__name__)

    # A name server that does not answer blocks for many seconds.
    Thread(target=connect, daemon=True).start()
    try:
        return answers.get(timeout=2 * _TIMEOUT)
    except Empty:
        return "no answer yet"


def builder(probe: HostProbe) -> CheckResult:
    """Looks for the default builder in the store, and for what prevents this machine from making it."""
    made = _stored_default_builder(probe)
    obstacles = default.obstacles(probe.environ)
    if not obstacles:
        found = f"{made} is in the store" if made else f"can be made from the packages of {machine.system()}"
        return ok_line(found)
    found = "; ".join(": ".join(part for part in (error.what, error.why) if part) for error in obstacles)
    without = f"builds use {made}, which cannot be renewed" if made else "builds work with --builder IMAGE"
    fixes = "\n".join(error.fix for error in obstacles)
    packages = " ".join(re.findall(r"^sudo apt-get install (.+)$", fixes, re.MULTILINE)).split()
    remedy, fix = install_remedy(*packages) if packages else (fixes, None)
    return limited_line(found, without, remedy, fix)


def _stored_default_builder(probe: HostProbe) -> str:
    """Returns the default builder's name if it is in the store, else ""."""
    if not os.path.isfile(probe.folders.store / "version"):  # noqa: PTH113 - may not be searched
        return ""
    try:
        with Store.open(probe.folders.store) as opened:
            return default.stored_name(opened)
    except PackhorseError:
        return ""
