"""Builds the native programs for every architecture, with ``zig cc`` from the ziglang package.

The package's build hook calls build(), and so do the Makefile beside it and the tests. It needs only the
standard library and ziglang. What the launcher does is in src/, what each other program does in the directory
of its name; how they get into images and sandboxes is not here.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

TARGETS = {"amd64": "x86_64-linux-musl", "arm64": "aarch64-linux-musl"}

PROGRAMS = {
    "launcher": "src",
    "terminal": "terminal",
    "init": "init",
    "leash": "leash",
    "network": "network",
    "node-options": "node-options",
}
"""The programs and the directories of their sources."""

FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-static", "-Os", "-flto", "-s"),
    *("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion", "-Wvla"),
    *("-Wstrict-prototypes", "-Wmissing-prototypes"),
    *("-fstack-protector-strong", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"),
    "-Wl,--build-id=none",
)


def build(source: Path, out: Path, program: str = "launcher") -> dict[str, Path]:
    """Compiles a program of PROGRAMS into `out` and returns the binary of each architecture.

    `source` is the directory of this file, with the sources below it. Each binary is a static, stripped ELF
    file named ``<program>-linux-<arch>``; equal sources, flags and compiler make equal bytes. Nothing is
    compiled when `out` holds the binaries of these inputs already.

    Raises subprocess.CalledProcessError when the compiler refuses the source; its messages go to stderr.
    """
    binaries = {arch: out / f"{program}-linux-{arch}" for arch in TARGETS}
    stamp = out / f"{program}-inputs.sha256"
    directory = source / PROGRAMS[program]
    inputs = _digest_of_inputs(directory)
    if all(path.is_file() for path in (stamp, *binaries.values())) and stamp.read_text() == inputs:
        return binaries
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{program}-", dir=out) as scratch:
        environment = _compiler_environment(Path(scratch))
        for arch, binary in binaries.items():
            _compile(directory, TARGETS[arch], Path(scratch) / arch, environment)
            (Path(scratch) / arch).replace(binary)
    stamp.write_text(inputs)
    return binaries


def _digest_of_inputs(directory: Path) -> str:
    """The digest of all that decides on the bytes: compiler version, targets, flags, named sources."""
    digest = hashlib.sha256(repr((version("ziglang"), TARGETS, FLAGS)).encode())
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _compile(directory: Path, target: str, binary: Path, environment: dict[str, str]) -> None:
    """Runs the compiler beside the sources' directory, so that it sees relative names only."""
    names = sorted(str(path.relative_to(directory.parent)) for path in directory.glob("*.c"))
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target]
    argv = [*compiler, *FLAGS, "-o", str(binary.absolute()), *names]
    subprocess.run(argv, cwd=directory.parent, env=environment, check=True)


def _compiler_environment(scratch: Path) -> dict[str, str]:
    """The environment for zig, whose cache moves to `scratch` where the user has no place for one."""
    environment = dict(os.environ)
    if "ZIG_GLOBAL_CACHE_DIR" in environment or _has_cache_home(environment):
        return environment
    cache = str(scratch.absolute() / "zig-cache")
    return environment | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}


def _has_cache_home(environment: dict[str, str]) -> bool:
    """Whether the user's own cache directory can be written to; makes it if need be, as zig would."""
    if cache := environment.get("XDG_CACHE_HOME"):
        home = Path(cache)
    elif user := environment.get("HOME"):
        home = Path(user, ".cache")
    else:
        return False
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(home, os.W_OK)


if __name__ == "__main__":
    here = Path(__file__).parent
    for program in PROGRAMS:
        for built in build(here, here / "build", program).values():
            print(f"{built.stat().st_size:6} bytes  {built.name}")
