"""An image with 430 MB of modules comes from a registry on loopback into an OCI layout, beside skopeo."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Finding, Run, environment, packhorse, peer, timed
from bench.modules import archives
from fakes.docker_registry import serve

_BAR = 1.2


def run(folder: Path, *, rounds: int) -> Iterator[Finding]:
    """Each time into a new directory."""
    first, _ = archives(folder)
    environ, target = environment(folder), folder / "layout"
    skopeo = peer("skopeo")
    ground = folder / "registry"
    ground.mkdir()
    with serve(ground) as host:
        name = f"docker://{host}/bench/app"
        command = [*packhorse(), "copy", f"docker-archive:{first}", name]
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
        commands: dict[str, list[str | Path]] = {"packhorse": [*packhorse(), "copy", name, f"oci:{target}:1"]}
        if skopeo:
            words = [skopeo, "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
            commands["skopeo"] = [*words, name, f"oci:{target}:1"]
        series: dict[str, list[Run]] = {name: [] for name in commands}
        for _ in range(rounds):
            for program, words in commands.items():
                series[program].append(timed(words, environ))
                shutil.rmtree(target)
    yield Finding("all layers", series, bar=_BAR)
