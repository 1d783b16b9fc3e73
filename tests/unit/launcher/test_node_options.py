"""The exec.d program of the Node.js buildpack: what it makes of control groups and of the user's settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unit.launcher.conftest import SOURCE

pytestmark = pytest.mark.system

Build = Callable[[Path, Path, str], dict[str, Path]]
MIB = 1 << 20
UNLIMITED_V1 = "9223372036854771712\n"


@pytest.fixture(scope="session")
def program(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program for this machine, or the one that NODE_OPTIONS_UNDER_TEST names (one with sanitizers)."""
    built = build(SOURCE, tmp_path_factory.mktemp("node-options"), "node-options")
    binary = built[{"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]]
    return Path(os.environ.get("NODE_OPTIONS_UNDER_TEST", binary))


def run(program: Path, root: Path, **env: str) -> tuple[int, dict[str, str], str]:
    """Status, the variables it sets, and what it says, with the kernel's files below `root`."""
    argv = ["sh", "-c", 'exec "$0" "$@" 3>&1 >&2', str(program), str(root)]
    environment = {"PATH": os.environ["PATH"], **env}
    done = subprocess.run(argv, env=environment, capture_output=True, check=False)
    return done.returncode, tomllib.loads(done.stdout.decode()), done.stderr.decode()


def kernel(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def limited(root: Path, limit: int = 256 * MIB) -> Path:
    return kernel(root, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{limit}\n"})


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        pytest.param({"sys/fs/cgroup/memory.max": "max\n", "proc/self/cgroup": "0::/\n"}, None, id="none"),
        pytest.param({}, None, id="no files"),
        pytest.param({"sys/fs/cgroup/memory.max": f"{100 * MIB}\n"}, 100, id="no proc"),
        pytest.param(
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": f"{100 * MIB}\n"},
            100,
            id="below the top",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": f"{80 * MIB}\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
            },
            80,
            id="a parent's",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/memory.max": f"{100 * MIB}\n"},
            100,
            id="a path of the host",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "9:cpu:/c\n5:hugetlb,memory:/m\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
                "sys/fs/cgroup/memory/m/memory.limit_in_bytes": f"{64 * MIB}\n",
            },
            64,
            id="version 1",
        ),
        pytest.param(
            {"sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1}, None, id="version 1, none"
        ),
    ],
)
def test_the_limit_is_the_least_of_the_control_groups(
    program: Path, tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    status, variables, said = run(program, kernel(tmp_path, files))
    expected = {}
    if limit is not None:
        heap = limit * 75 // 100
        expected = {"MEMORY_AVAILABLE": str(limit), "NODE_OPTIONS": f"--max-old-space-size={heap}"}
    assert (status, variables, said) == (0, expected, "")


def test_no_more_is_taken_than_the_machine_has(program: Path, tmp_path: Path) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    _, variables, _ = run(program, limited(tmp_path, 1 << 50))
    assert variables["MEMORY_AVAILABLE"] == str(machine)


def test_options_of_the_user_stay_first_and_are_not_overruled(program: Path, tmp_path: Path) -> None:
    limited(tmp_path)
    own = '--require "./a b.js" --title=ü\\x'
    _, variables, _ = run(program, tmp_path, NODE_OPTIONS=own)
    assert variables["NODE_OPTIONS"] == f"{own} --max-old-space-size=192"
    for own in ("--max-old-space-size=99", "--trace-gc --max_old_space_size=99", "--max-heap-size=50"):
        _, variables, _ = run(program, tmp_path, NODE_OPTIONS=own)
        assert "NODE_OPTIONS" not in variables
    _, variables, _ = run(program, tmp_path, NODE_OPTIONS="--inspect-brk", BPL_DEBUG_ENABLED="true")
    assert variables["NODE_OPTIONS"] == "--inspect-brk --max-old-space-size=192"


def test_each_switch_adds_its_option(program: Path, tmp_path: Path) -> None:
    assert run(program, limited(tmp_path), BPL_NODE_OPTIMIZE_MEMORY="false")[1] == {"MEMORY_AVAILABLE": "256"}
    _, variables, _ = run(program, tmp_path / "none", BPL_DEBUG_ENABLED="true", BPL_NODE_SOURCE_MAPS="1")
    assert variables == {"NODE_OPTIONS": "--enable-source-maps --inspect=127.0.0.1:9229"}
    _, variables, _ = run(
        program,
        tmp_path / "none",
        BPL_DEBUG_ENABLED="true",
        BPL_DEBUG_PORT="5858",
        BPL_DEBUG_HOST="0.0.0.0",
    )
    assert variables == {"NODE_OPTIONS": "--inspect=0.0.0.0:5858"}


def test_memory_that_the_user_states_is_left_alone(program: Path, tmp_path: Path) -> None:
    assert "MEMORY_AVAILABLE" not in run(program, limited(tmp_path), MEMORY_AVAILABLE="1")[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BPL_DEBUG_PORT", "0"),
        ("BPL_DEBUG_PORT", "65536"),
        ("BPL_DEBUG_PORT", "99999999999999999999"),
        ("BPL_DEBUG_PORT", "80 --eval"),
        ("BPL_DEBUG_HOST", "localhost --eval=x"),
        ("BPL_NODE_SOURCE_MAPS", "maybe"),
        ("BPL_NODE_OPTIMIZE_MEMORY", "75"),
    ],
)
def test_a_setting_that_means_nothing_ends_the_start_with_its_name(
    program: Path, tmp_path: Path, name: str, value: str
) -> None:
    status, variables, said = run(program, tmp_path, **{"BPL_DEBUG_ENABLED": "true", name: value})
    assert (status, variables) == (1, {})
    assert said.startswith(f"error: {name} is n")


def test_options_longer_than_any_variable_are_refused_and_not_cut(program: Path, tmp_path: Path) -> None:
    own = "x" * (131072 - len("NODE_OPTIONS=") - 1)
    status, variables, said = run(program, limited(tmp_path), NODE_OPTIONS=own)
    assert (status, variables, said) == (1, {}, "error: NODE_OPTIONS is too long. Make it shorter.\n")


def test_the_program_for_arm64_does_the_same(build: Build, tmp_path: Path) -> None:
    """In an emulator where this machine has another processor (the package qemu-user-static)."""
    binary = build(SOURCE, tmp_path / "built", "node-options")["arm64"]
    emulated = tmp_path / "emulated"
    emulator = "" if os.uname().machine == "aarch64" else "qemu-aarch64-static "
    emulated.write_text(f'#!/bin/sh\nexec {emulator}{binary} "$@"\n')
    emulated.chmod(0o755)
    status, variables, said = run(emulated, limited(tmp_path), BPL_NODE_SOURCE_MAPS="true")
    assert (status, said) == (0, "")
    assert variables["NODE_OPTIONS"] == "--max-old-space-size=192 --enable-source-maps"


def test_building_in_another_directory_gives_the_same_bytes(build: Build, tmp_path: Path) -> None:
    shutil.copytree(SOURCE / "node-options", tmp_path / "a copy/node-options")
    first = build(SOURCE, tmp_path / "first", "node-options")
    again = build(tmp_path / "a copy", tmp_path / "again", "node-options")
    for architecture, binary in first.items():
        assert again[architecture].read_bytes() == binary.read_bytes()


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@given(own=TEXTS)
def test_what_the_user_has_in_node_options_comes_out_as_it_is(
    program: Path, tmp_path_factory: pytest.TempPathFactory, own: str
) -> None:
    nowhere = tmp_path_factory.getbasetemp() / "nowhere"
    _, variables, _ = run(program, nowhere, NODE_OPTIONS=own, BPL_NODE_SOURCE_MAPS="true")
    assert variables["NODE_OPTIONS"] == f"{own} --enable-source-maps".lstrip(" " if not own else "")


@given(
    table=st.one_of(st.binary(max_size=200), st.text(":,/\nmemory0", max_size=80).map(str.encode)),
    limit=st.one_of(st.binary(max_size=70), st.integers(0, 1 << 70).map(lambda number: b"%d\n" % number)),
)
@example(table=b"", limit=b"18446744073709551617")
def test_files_of_any_content_give_a_limit_or_none(
    program: Path, tmp_path_factory: pytest.TempPathFactory, table: bytes, limit: bytes
) -> None:
    root = kernel(tmp_path_factory.getbasetemp() / "kernel", {"proc/self/cgroup": "", "sys/fs/cgroup/x": ""})
    (root / "proc/self/cgroup").write_bytes(table)
    (root / "sys/fs/cgroup/memory.max").write_bytes(limit)
    status, variables, said = run(program, root)
    assert (status, said) == (0, "")
    number = limit.partition(b"\n")[0]
    digits = number.isdigit() and int(number) > 0
    # A path of the table may lead to the file, too, and a number may be of no limit.
    assert ("NODE_OPTIONS" in variables) == (digits and int(number) < 1 << 61)
