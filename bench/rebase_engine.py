"""An image of 250 MB in a container engine gets a new base, beside `pack rebase`; needs root, for an engine.

Once with the application's layers in packhorse's store, where what it has built lies, and once without.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.images import app_on, patched
from bench.measure import Finding, Run, environment, packhorse, peer, timed
from fakes.engine import Engine, dockerd
from fakes.small_image import tar_of
from packhorse.oci.archive import DockerArchive
from packhorse.oci.place import push_image

_MEGABYTES = 250
_BARS = {"with its layers in the store": 0.5, "without": 1.0}


def run(folder: Path, *, rounds: int) -> Iterator[Finding]:
    """Each run rebases the same image to a name of its own, which is removed before the next."""
    if os.geteuid() or not shutil.which("dockerd"):
        print("  an engine needs root and dockerd: left out", flush=True)
        return
    pack = peer("pack")
    # Plain tars, as layers are when they are built: the store knows how long each is.
    push_image(app_on("acme/run", {"acme/modules:modules": _modules()}), DockerArchive(folder / "app"))
    push_image(patched(), DockerArchive(folder / "run"))
    (folder / "engine").mkdir()
    with dockerd(folder / "engine") as engine:
        for title, bar in _BARS.items():
            home = folder / title.partition(" ")[0]
            home.mkdir()
            environ = {**environment(home), "DOCKER_HOST": engine.address}
            for name in ("app", "run"):
                _copy(f"docker-archive:{folder / name}", f"docker-daemon:acme/{name}", environ)
            if title.startswith("with "):
                _copy(f"docker-archive:{folder / 'app'}", "acme/app", environ)
            series: dict[str, list[Run]] = {"packhorse": []} | ({"pack": []} if pack else {})
            for _ in range(min(rounds, 3)):
                words = ["--previous-image", "docker-daemon:acme/app", "--pull-policy", "never"]
                command = [*packhorse(), "rebase", "docker-daemon:acme/new", *words]
                series["packhorse"].append(_once(command, environ, engine))
                if pack:
                    command = [pack, "rebase", "acme/new", "--previous-image", "acme/app", *words[2:]]
                    series["pack"].append(_once(command, environ, engine))
            yield Finding(f"{_MEGABYTES} MB, {title}", series, bar=bar)


def _once(command: list[str | Path], environ: Mapping[str, str], engine: Engine) -> Run:
    took = timed(command, environ)
    engine.docker("rmi", "acme/new")
    return took


def _copy(source: str, destination: str, environ: Mapping[str, str]) -> None:
    subprocess.run(
        [*packhorse(), "copy", source, destination], env=environ, check=True, stdout=subprocess.PIPE
    )


def _modules() -> bytes:
    """As many files as an application has, which compress to a third, as its modules do."""
    generator = random.Random(7)
    text = generator.randbytes(20_000).hex().encode()  # two digits a byte: half of it is waste
    count = _MEGABYTES * 1_000_000 // len(text)
    files = {f"layers/modules/{n // 100}/{n}.js": text[n % 999 :] + text[: n % 999] for n in range(count)}
    return tar_of(files)
