"""Reads facts about this machine, and about the users of an image, for builds and `run`.

Callers pass the environment; this module does not read it.

The network settings of the machine (proxies, CA certificates, name resolution) reach buildpacks, but never an
image. `build.plan` reads them. `find_account` finds the user of an image in its /etc/passwd and /etc/group.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from packhorse.base import files
from packhorse.base.dataclass import dataclass
from packhorse.base.sandbox import Bind, Network
from packhorse.base.target import Target
from packhorse.base.tree import TreeView, read
from packhorse.errors import RunError
from packhorse.fs.rooted import RootedTree
from packhorse.sandbox import network as sandbox_network


@dataclass(frozen=True, slots=True)
class Account:
    """The ids in the sandbox and the home directory, which is `/` for an unknown id, as in docker."""

    uid: int
    gid: int
    home: str = "/"


def find_account(root: Path, user: str) -> Account:
    """Finds the account for a config's User: `""`, `name` or `uid`, each with or without `:group` or `:gid`.

    See image-spec, config.md. Raises RunError for a name that the image does not have.
    """
    name, _, group = user.partition(":")
    with RootedTree.open_local(root) as tree:
        users = list(_fields(tree, "/etc/passwd", 7))
        groups = list(_fields(tree, "/etc/group", 3))
    entry = next((fields for fields in users if name in (fields[0], fields[2])), None)
    if not name:
        entry = next((fields for fields in users if fields[2] == "0"), None)
    uid = _parse_id(entry[2] if entry else name or "0")
    gid = _parse_id(entry[3] if entry else "0")
    if group:
        found = next((fields for fields in groups if group in (fields[0], fields[2])), None)
        gid = _parse_id(found[2] if found else group)
    if uid is None or gid is None:
        raise RunError(
            f"the image has no user {user!r}",
            why="/etc/passwd and /etc/group in it do not name it",
            fix="name one with --user",
        )
    home = entry[5] if entry and entry[5].startswith("/") else "/"
    return Account(uid, gid, home)


def _parse_id(text: str) -> int | None:
    number = int(text) if re.fullmatch("[0-9]{1,10}", text) else -1
    return number if 0 <= number < 1 << 32 else None


def _fields(tree: TreeView, path: str, count: int) -> Iterator[list[str]]:
    for line in (read(tree, path) or b"").decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) >= count and not line.startswith("#"):
            yield fields


BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""The bundle of CA certificates in Debian, its derivatives, and their images."""

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_BUNDLES = (BUNDLE, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
_RESOLUTION = ("/etc/resolv.conf", "/etc/hosts")
_TRUST = (
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
)


_LOOPBACK = re.compile(r"https?://(?:[^/@]*@)?(?:localhost|127(?:\.[0-9]+){3}|\[::1\]):([0-9]{1,5})(?:/|$)")


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """The files to bind and variables to set so that a step uses the network as this machine does."""

    mounts: tuple[Bind, ...]
    variables: Mapping[str, str]


def network(environ: Mapping[str, str]) -> HostNetwork:
    """Reads the machine's settings; `environ` is the caller's environment."""
    variables: dict[str, str] = {}
    for name in _PROXIES:
        value = environ.get(name) or environ.get(name.lower())
        if value:
            variables |= {name: value, name.lower(): value}
    mounts = [Bind(Path(path).resolve(), path) for path in _RESOLUTION if files.is_file(path)]
    bundle = certificates(environ)
    if bundle is not None:
        mounts.append(Bind(bundle, BUNDLE))
        variables |= dict.fromkeys(_TRUST, BUNDLE)
    return HostNetwork(tuple(mounts), variables)


def choose_network(asked: Network | None) -> tuple[Network, str]:
    """Chooses the network for steps: what the user asked for, else the best that this machine supports.

    Also returns why the choice is not a network of its own, "" if it is or the user asked. Without a default
    route (a laptop on a train) the choice is the host's network, so that local addresses still work.
    """
    if asked is not None:
        return asked, ""
    if not _has_route():
        return Network.HOST, "it has no route to anywhere"
    return sandbox_network.find_network()


def _has_route() -> bool:
    """Whether there is a default route, over IPv4 or IPv6 (proc_net(5): hexadecimal, one a line)."""
    ipv4, ipv6 = (_table(Path("/proc/net") / name) for name in ("route", "ipv6_route"))
    return any(row[1] == row[7] == "00000000" for row in ipv4) or any(
        row[0] == "0" * 32 and row[1] == "00" and row[9] != "lo" for row in ipv6
    )


def _table(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text().splitlines()]
    except OSError:  # a kernel without IPv6
        return []


def loopback_ports(variables: Mapping[str, str]) -> tuple[int, ...]:
    """The ports on this machine's loopback that the URLs in variables name (a proxy, a package registry)."""
    found = (_LOOPBACK.match(value) for value in variables.values())
    return tuple(sorted({int(match[1]) for match in found if match and 0 < int(match[1]) < 65536}))


def system() -> str:
    """The name of this machine's operating system (os-release(5))."""
    try:
        fields = platform.freedesktop_os_release()
    except OSError:
        return "an unknown system"
    return fields.get("PRETTY_NAME", "") or fields["NAME"]


def certificates(environ: Mapping[str, str]) -> Path | None:
    """The CA bundle that this machine trusts: the file that a variable names, else the distribution's."""
    named = (environ.get(name, "") for name in BUNDLE_VARIABLES)
    for path in (*(name for name in named if name), *_BUNDLES):
        if files.is_file(path):
            return Path(path).resolve()
    return None


_EMULATORS = Path("/proc/sys/fs/binfmt_misc")

_ELF_MACHINES = {
    "386": 3,
    "amd64": 62,
    "arm": 40,
    "arm64": 183,
    "loong64": 258,
    "ppc64le": 21,
    "riscv64": 243,
    "s390x": 22,
}
"""The number in an ELF header for an architecture."""

_RUNS_TOO = {"amd64": "386", "arm64": "arm"}
"""The other architecture whose programs a kernel of this one runs without an emulator."""


def can_run(arch: str, emulators: Path = _EMULATORS) -> bool:
    """Whether this machine runs programs for an architecture, itself or with an emulator (binfmt_misc).

    An emulator counts if the kernel holds it open (flag F), because a sandbox does not have its file.
    """
    own = Target.host().arch
    if arch in ("", own, _RUNS_TOO.get(own)):
        return True
    try:
        entries = [
            entry.read_text() for entry in emulators.iterdir() if entry.name not in ("register", "status")
        ]
    except OSError:  # not mounted
        return False
    return any(_is_emulator(text, _ELF_MACHINES.get(arch, -1)) for text in entries)


def _is_emulator(entry: str, machine: int) -> bool:
    """Whether an entry of binfmt_misc is enabled and is for programs of an ELF machine."""
    enabled, *lines = entry.splitlines() or [""]
    fields = dict(line.partition(" ")[::2] for line in lines)
    magic = bytes.fromhex(fields.get("magic", ""))
    order: Literal["little", "big"] = "big" if magic[5:6] == b"\2" else "little"
    found = int.from_bytes(magic[18:20], order) if magic.startswith(b"\x7fELF") else -2
    return enabled == "enabled" and "F" in fields.get("flags:", "") and found == machine
