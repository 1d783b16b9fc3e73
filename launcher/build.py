"""Builds the native launcher for every architecture, with ``zig cc`` from the ziglang package.

The package's build hook calls build(), and so do the Makefile beside it and the tests. It needs only the
standard library and ziglang. What the launcher does is in src/; how it gets into images is not here.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

TARGETS = {"amd64": "x86_64-linux-musl", "arm64": "aarch64-linux-musl"}

FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-static", "-Os", "-flto", "-s"),
    *("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion", "-Wvla"),
    *("-Wstrict-prototypes", "-Wmissing-prototypes"),
    *("-fstack-protector-strong", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"),
    "-Wl,--build-id=none",
)


def build(source: Path, out: Path) -> dict[str, Path]:
    """Compiles the launcher in `source` into `out` and returns the binary of each architecture.

    `source` is the launcher's directory, with src/ in it. Each binary is a static, stripped ELF file named
    ``launcher-linux-<arch>``; equal sources, flags and compiler make equal bytes. Nothing is compiled when
    `out` holds the binaries of these inputs already.

    Raises subprocess.CalledProcessError when the compiler refuses the source; its messages go to stderr.
    """
    binaries = {arch: out / f"launcher-linux-{arch}" for arch in TARGETS}
    stamp = out / "launcher-inputs.sha256"
    inputs = _digest_of_inputs(source)
    if all(path.is_file() for path in (stamp, *binaries.values())) and stamp.read_text() == inputs:
        return binaries
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="launcher-", dir=out) as scratch:
        environment = _compiler_environment(Path(scratch))
        for arch, binary in binaries.items():
            _compile(source, TARGETS[arch], Path(scratch) / arch, environment)
            (Path(scratch) / arch).replace(binary)
    stamp.write_text(inputs)
    return binaries


def _digest_of_inputs(source: Path) -> str:
    """The digest of all that decides on the bytes: compiler version, targets, flags, named sources."""
    digest = hashlib.sha256(repr((version("ziglang"), TARGETS, FLAGS)).encode())
    for path in sorted((source / "src").iterdir()):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _compile(source: Path, target: str, binary: Path, environment: dict[str, str]) -> None:
    """Runs the compiler inside `source`, so that it sees relative names only."""
    names = sorted(str(path.relative_to(source)) for path in (source / "src").glob("*.c"))
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target]
    argv = [*compiler, *FLAGS, "-o", str(binary.absolute()), *names]
    subprocess.run(argv, cwd=source, env=environment, check=True)


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
    for built in build(here, here / "build").values():
        print(f"{built.stat().st_size:6} bytes  {built.name}")
