"""Programs that build an application's image: packhorse, and what is on PATH of pack, docker and buildah.

Called by `builds`. Each has stores of its own, and on loopback the same registry of packages.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.bases import PATCHED, Bases
from bench.measure import Failed, Run, environment, packhorse, timed
from fakes.engine import Engine, dockerd

BUILDER = "PACKHORSE_BENCH_BUILDER"
"""The variable that names a docker archive (`docker save`) of the builder for pack."""

ENGINE_API = {"DOCKER_API_VERSION": "1.41"}
"""The newest version that dockerd 20.10 has. pack and the lifecycle in its builder need to know it."""
PACK_ENVIRONMENT = {"PACK_VOLUME_KEY": "bench", **ENGINE_API}
"""The variables that pack gets."""

_DOCKERFILE = """\
ARG base=bench/node
FROM ${{base}}:{version} AS modules
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN {mount}npm ci --omit=dev
FROM ${{base}}:{version}
WORKDIR /app
COPY --from=modules /app/node_modules node_modules
COPY . .
CMD ["node", "src/index.js"]
"""
_MOUNT = "--mount=type=cache,target=/root/.npm "


class Program(Protocol):
    """`build` makes an image of the source in a directory, with nothing kept from before if `fresh`."""

    name: str

    def build(self, source: Path, image: str, *, fresh: bool) -> Run: ...
    def onto_patched(self, source: Path, image: str) -> Run:
        """The image on the patched base, by what this program has for it."""

    def forget(self, image: str) -> None:
        """The image and what was kept for it go."""


@dataclass(slots=True)
class Packhorse:
    """packhorse, with the default builder."""

    environ: Mapping[str, str]
    name: str = "packhorse"

    def build(self, source: Path, image: str, *, fresh: bool) -> Run:
        """A build of a name that is new has nothing kept."""
        words = ["build", image, "--path", source, "--pull-policy", "never", "--network", "host"]
        return timed([*packhorse(), *words], self.environ)

    def onto_patched(self, source: Path, image: str) -> Run:
        """Rebased."""
        words = ["rebase", image, "--run-image", PATCHED, "--pull-policy", "never", "--force"]
        return timed([*packhorse(), *words], self.environ)

    def forget(self, image: str) -> None:
        """With what the store has besides."""
        for words in (["rmi", image], ["gc"]):
            subprocess.run(
                [*packhorse(), "--quiet", *words], env=self.environ, check=True, stdout=subprocess.DEVNULL
            )


def pack_build(source: Path, image: str, builder: str) -> list[str | Path]:
    """The words of a build by pack with a trusted builder that its engine has."""
    words = ["build", image, "--path", source, "--builder", builder, "--trust-builder"]
    return [*words, "--pull-policy", "never", "--network", "host", "--docker-host", "inherit"]


def loaded(engine: Engine, archive: str) -> str:
    """The name of the image in a docker archive, which the engine has then."""
    return engine.docker("load", "--input", archive).rpartition("Loaded image: ")[2].strip()


@dataclass(slots=True)
class Pack:
    """pack with a trusted builder, in an engine."""

    program: Path
    builder: str
    engine: Engine
    process: int
    environ: Mapping[str, str]
    name: str = "pack"

    def build(self, source: Path, image: str, *, fresh: bool) -> Run:
        """A build of a name that is new has no volumes."""
        words = pack_build(source, image, self.builder)
        return timed([self.program, *words], self.environ, engine=self.process)

    def onto_patched(self, source: Path, image: str) -> Run:
        """Rebased."""
        words = ["rebase", image, "--run-image", PATCHED, "--pull-policy", "never", "--force"]
        return timed([self.program, *words], self.environ, engine=self.process)

    def forget(self, image: str) -> None:
        """With its volumes."""
        self.engine.docker("rmi", "--force", image)
        volumes = self.engine.docker("volume", "ls", "--quiet").split()
        if volumes:
            self.engine.docker("volume", "rm", "--force", *volumes)


@dataclass(slots=True)
class Dockerfile:
    """docker build or buildah, with a Dockerfile of two stages."""

    name: str
    command: list[str | Path]
    remove: list[str | Path]
    environ: Mapping[str, str]
    folder: Path
    process: int | None = None
    mount: str = ""
    _written: dict[str, Path] = field(default_factory=dict)

    def build(self, source: Path, image: str, *, fresh: bool) -> Run:
        """`fresh` goes by the program's own switch."""
        return self._run(source, image, *(["--no-cache"] if fresh else []))

    def onto_patched(self, source: Path, image: str) -> Run:
        """Built again: a Dockerfile knows no other way."""
        return self._run(source, image, "--build-arg", "base=bench/node-patched")

    def forget(self, image: str) -> None:
        """With the steps that nothing has, and the cache mounts."""
        rest = [["rmi", "--prune", "--force"]]
        if self.name == "docker":
            rest = [["image", "prune", "--force"], ["builder", "prune", "--all", "--force"]]
        for words in (["rmi", "--force", image], *rest):
            subprocess.run([*self.remove, *words], env=self.environ, capture_output=True)

    def _run(self, source: Path, image: str, *words: str) -> Run:
        version = json.loads((source / "package.json").read_text())["engines"]["node"]
        path = self.folder / f"Dockerfile-{self.name}-{version}"
        path.write_text(_DOCKERFILE.format(version=version, mount=self.mount))
        command = [*self.command, "--network", "host", "--file", path, "--tag", image, *words, source]
        return timed(command, self.environ, engine=self.process)


@contextmanager
def programs(folder: Path, bases: Bases, environ: Mapping[str, str]) -> Iterator[list[Program]]:
    """Those there are, ready to build; of others it is said that they are not."""
    found: list[Program] = [Packhorse(environ)]
    _ok([*packhorse(), "--quiet", "copy", f"docker-archive:{bases.patched}", PATCHED], environ)
    with ExitStack() as stack:
        if os.geteuid() == 0 and shutil.which("dockerd") and shutil.which("docker"):
            (folder / "engine").mkdir()
            found += _in_engine(folder, bases, stack.enter_context(dockerd(folder / "engine")))
        else:
            print("  docker, pack: not without root, docker and dockerd", flush=True)
        if shutil.which("buildah") and os.geteuid() == 0:
            found.append(_buildah(folder, bases))
        else:
            print("  buildah: not on PATH, or no root", flush=True)
        yield found


def _in_engine(folder: Path, bases: Bases, engine: Engine) -> Iterator[Program]:
    process = int((folder / "engine/dockerd.pid").read_text())
    environ = {**environment(folder), "DOCKER_HOST": engine.address}
    for path in (bases.run, bases.patched, *bases.dockerfiles):
        engine.docker("load", "--input", str(path))
    pack, builder = shutil.which("pack"), os.environ.get(BUILDER)
    if pack and builder:
        name = loaded(engine, builder)
        yield Pack(Path(pack), name, engine, process, {**environ, **PACK_ENVIRONMENT})
    else:
        print(f"  pack: not on PATH, or no builder ({BUILDER}=ARCHIVE)", flush=True)
    yield _docker(folder, environ, process)


def _docker(folder: Path, environ: Mapping[str, str], process: int) -> Program:
    """With BuildKit, if a client on PATH has it: newer ones need a plugin for it."""
    clients = (Path(directory, "docker") for directory in os.get_exec_path())
    for client in clients:
        if client.is_file() and _has_buildkit(client, folder / "buildkit", environ):
            modern = {**environ, "DOCKER_BUILDKIT": "1"}
            return Dockerfile("docker", [client, "build"], [client], modern, folder, process, _MOUNT)
    print("  docker: without BuildKit, so without a cache mount", flush=True)
    classic = {**environ, "DOCKER_BUILDKIT": "0"}
    return Dockerfile("docker", ["docker", "build"], ["docker"], classic, folder, process)


def _has_buildkit(client: Path, folder: Path, environ: Mapping[str, str]) -> bool:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    return _answers([str(client), "build", str(folder)], {**environ, "DOCKER_BUILDKIT": "1"})


def _buildah(folder: Path, bases: Bases) -> Program:
    # Its mounts go with it, even if it is killed.
    words = ["unshare", "--mount", "--propagation", "private", "buildah"]
    words += ["--root", folder / "buildah", "--runroot", folder / "buildah-run"]
    environ = {**environment(folder), "TMPDIR": str(folder)}
    environ.pop("DOCKER_CONFIG")
    for path in bases.dockerfiles:
        _ok([*words, "pull", "--quiet", f"docker-archive:{path}"], environ)
    return Dockerfile("buildah", [*words, "build", "--layers"], words, environ, folder, mount=_MOUNT)


def _answers(command: list[str], environ: Mapping[str, str]) -> bool:
    return subprocess.run(command, env=environ, capture_output=True).returncode == 0


def _ok(command: list[str | Path], environ: Mapping[str, str]) -> None:
    done = subprocess.run(list(map(str, command)), env=environ, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{command[0]} failed: {done.stderr[-2000:]}")
