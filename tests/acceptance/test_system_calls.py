"""Which system calls a step is refused, and which docker refuses a container: asked of both, on this kernel.

The engine here is older than the profile that ours follows (moby's of 2026). What the two decide differently
is listed, with the reason; anything else that differs fails.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attacker import build
from fakes.engine import Engine
from fakes.place import Place, place
from packhorse.base.sandbox import Bind

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the engine needs root")

LAST = 480
DECIDED_SINCE = {
    # The engine's list ends before these came; theirs of 2026 has them, and ours follows that.
    "cachestat": 0,
    "fchmodat2": 0,
    "futex_requeue": 0,
    "futex_wait": 0,
    "futex_wake": 0,
    "getxattrat": 0,
    "listmount": 0,
    "listxattrat": 0,
    "map_shadow_stack": 0,
    "mseal": 0,
    "removexattrat": 0,
    "setxattrat": 0,
    "statmount": 0,
    # Memory keys, as V8 uses them, and names of files, which open nothing: allowed since 2022 and 2023.
    "name_to_handle_at": 0,
    "pkey_alloc": 0,
    "pkey_free": 0,
    "pkey_mprotect": 0,
    # As ptrace(2) of processes of one's own, which both allow.
    "process_vm_readv": 0,
    "process_vm_writev": 0,
    # Refused since 2023: too many of the kernel's faults were reached through it.
    "io_uring_enter": errno.EPERM,
    "io_uring_register": errno.EPERM,
    "io_uring_setup": errno.EPERM,
}
"""What ours answers (0: lets through) where the engine's list of 2022 is overtaken by that of 2026."""

Ask = Callable[..., dict[int, int]]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(tmp_path_factory.mktemp("probe") / "seccomp", "seccomp.c")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("place")) as made:
        yield made


@pytest.fixture(scope="module")
def step(here: Place, probe: Path) -> Ask:
    """Asks the filter of a step."""

    def ask(*words: object) -> dict[int, int]:
        given = replace(here.spec("", Bind(probe, "/probe")), argv=("/probe", *map(str, words)))
        return answers(here.run(given)[1])

    return ask


@pytest.fixture(scope="module")
def container(engine: Engine, probe: Path, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Asks the filter of a container with docker's default settings."""
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(probe, "probe")
    engine.docker("import", str(archive), "probe")

    def ask(*words: object) -> dict[int, int]:
        return answers(engine.docker("run", "--rm", "--network", "none", "probe", "/probe", *map(str, words)))

    return ask


def answers(output: str) -> dict[int, int]:
    return {int(number): int(error) for number, error in (line.split() for line in output.splitlines())}


def names() -> dict[int, str]:
    """The kernel's names, as zig has them."""
    spec = importlib.util.find_spec("ziglang")
    assert spec is not None and spec.origin is not None
    directory = {"x86_64": "x86-linux-any", "aarch64": "aarch64-linux-any"}[platform.machine()]
    path = Path(spec.origin).parent / "lib/libc/include" / directory / "asm/unistd_64.h"
    found = re.findall(r"^#define __NR_(\w+)\s+(\d+)$", path.read_text(), re.MULTILINE)
    return {int(number): name for name, number in found}


def test_nothing_is_refused_without_a_filter(probe: Path) -> None:
    done = subprocess.run([probe, str(LAST)], capture_output=True, text=True, check=True)
    assert set(answers(done.stdout).values()) == {0}
    assert len(answers(done.stdout)) > 470


def test_a_step_is_refused_what_docker_refuses_and_nothing_else(step: Ask, container: Ask) -> None:
    ours, theirs, name = step(LAST), container(LAST), names()
    assert ours.keys() == theirs.keys()
    different = {
        name.get(number, str(number)): ours[number]
        for number in ours
        if bool(ours[number]) != bool(theirs[number])
    }
    assert different == DECIDED_SINCE
    # The engine calls a hole between the tables refused (EPERM); ours is a kernel's that has no such call.
    unknown = {number for number in ours if ours[number] == errno.ENOSYS}
    assert not [name[number] for number in unknown & name.keys() if number < 467 and name[number] != "clone3"]


CALLS = {
    "clone": ((0x11, 0), (0x10000011, errno.EPERM), (0x20000011, errno.EPERM), (0x02000011, errno.EPERM)),
    "personality": ((0, 0), (0x20008, 0), (0xFFFFFFFF, 0), (0x40000, errno.EPERM), (1, errno.EPERM)),
    "socket": ((1, 0), (2, 0), (10, 0), (16, 0)),
    "ptrace": ((0, 0),),
}
"""Calls by name, with a first argument and what both filters answer to it."""


def test_arguments_are_judged_alike(step: Ask, container: Ask) -> None:
    numbers = {name: number for number, name in names().items()}
    for name, cases in CALLS.items():
        for first, expected in cases:
            for ask in (step, container):
                assert ask(numbers[name], first, 0, 0) == {numbers[name]: expected}, (name, hex(first))


def test_a_step_is_refused_more_than_the_engine_refuses(step: Ask) -> None:
    numbers = {name: number for number, name in names().items()}
    seize, type_in, paste, ciphers, hypervisor = 0x4206, 0x5412, 0x541C, 38, 40
    for name, arguments in (
        ("socket", (ciphers, 5, 0)),
        ("socket", (hypervisor, 1, 0)),
        ("ioctl", (0, type_in, 0)),
        ("ioctl", (0, paste, 0)),
        ("ptrace", (seize, 1, 0)),
        ("process_vm_writev", (1, 0, 0)),
    ):
        assert step(numbers[name], *arguments) == {numbers[name]: errno.EPERM}, name
