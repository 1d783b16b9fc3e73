"""An image with 430 MB of modules goes to a registry on loopback, new and with one small layer changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from bench.measure import Finding, Run, environment, packhorse, peer, timed
from bench.modules import archives
from fakes.docker_registry import serve
from fakes.engine import Engine, dockerd

_BARS = {"docker": 0.5, "skopeo": 1.2}
_CHANGED = 0.1

Push = Callable[[Path, str], Run]
"""Pushes the image of an archive to a host."""


def run(folder: Path, *, rounds: int) -> Iterator[Finding]:
    """Whole images go to a registry that has nothing, from a program that remembers nothing of it."""
    first, second = archives(folder)
    took: dict[str, list[Run]] = {}
    changed: list[Run] = []
    with ExitStack() as stack:
        pushes = _programs(folder, stack)
        for number in range(min(rounds, 3)):
            for name, push in pushes.items():
                ground = folder / f"{name}-{number}"
                ground.mkdir()
                with serve(ground) as host:
                    took.setdefault(name, []).append(push(first, host))
                    if name == "packhorse":
                        changed.append(push(second, host))
    for name, bar in _BARS.items():
        if name in took:
            yield Finding("all new", {"packhorse": took["packhorse"], name: took[name]}, bar=bar)
    yield Finding("one small layer", {"changed": changed, "all new": took["packhorse"]}, bar=_CHANGED)


def _programs(folder: Path, stack: ExitStack) -> dict[str, Push]:
    found: dict[str, Push] = {"packhorse": lambda archive, host: _ours(folder, archive, host)}
    skopeo = peer("skopeo")
    if skopeo:
        words = [skopeo, "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
        environ = environment(folder)
        found["skopeo"] = lambda archive, host: timed(
            [*words, f"docker-archive:{archive}", f"docker://{host}/bench/app"], environ
        )
    if peer("docker") and peer("dockerd"):
        ground = folder / "engine"
        ground.mkdir()
        engine = stack.enter_context(dockerd(ground))
        engine.docker("load", "--input", str(folder / "first.tar"))
        found["docker"] = lambda archive, host: _docker(engine, archive, host, environment(folder))
    return found


def _ours(folder: Path, archive: Path, host: str) -> Run:
    """The home is one for each registry: what was pushed there before is known, and nothing of another."""
    home = folder / f"home-{host.partition(':')[2]}"
    environ = environment(folder) | {"PACKHORSE_HOME": str(home)}
    return timed([*packhorse(), "copy", f"docker-archive:{archive}", f"docker://{host}/bench/app"], environ)


def _docker(engine: Engine, archive: Path, host: str, environ: dict[str, str]) -> Run:
    name = f"{host}/bench/app"
    engine.docker("tag", f"bench/{archive.stem}:1", name)
    return timed(["docker", "--host", engine.address, "push", "--quiet", name], environ)
