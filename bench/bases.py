"""Base images with Node.js, as Dockerfiles begin with them, and a run image with a patch. Called by `builds`.

They stand on the run image of packhorse's default builder, so all programs build on the same distribution.
"""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nodesemver

from bench.applications import NEW, OLD
from bench.measure import packhorse
from fakes.small_image import tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.oci.archive import DockerArchive
from packhorse.oci.files import OpenFile
from packhorse.oci.mutate import add_layers, edit_config, set_variables
from packhorse.oci.place import Image, Layer, push_image
from packhorse.oci.reference import Reference
from packhorse.oci.types import History

PATCHED = "bench/patched:1"
_RELEASES = Path(__file__).parents[1] / "buildpacks/nodejs/nodejs/releases.toml"
_EPOCH = "1980-01-01T00:00:01Z"


@dataclass(frozen=True, slots=True)
class Bases:
    """Docker archives: the run image, the patched one, and with Node.js on them. `node` has each Node.js."""

    run: Path
    patched: Path
    dockerfiles: tuple[Path, ...]
    node: Mapping[str, Path]


def bases(folder: Path, registry: str, environ: Mapping[str, str]) -> Bases:
    """Makes them, with Node.js and the npm that the buildpack takes for it, from the registry."""
    folder.mkdir()
    run, patched = folder / "run.tar", folder / "patched.tar"
    default = [*packhorse(), "builder", "default"]
    said = subprocess.run(default, env=environ, check=True, capture_output=True, text=True)
    name = said.stdout.strip().replace("/builder:", "/run:")
    copy = [*packhorse(), "copy", name, f"docker-archive:{run}:{name}"]
    subprocess.run(copy, env=environ, check=True, stdout=subprocess.DEVNULL)
    patch = folder / "patch.layer"
    patch.write_bytes(tar_of({"usr/share/patch": b"new\n" * 50_000}))
    base = DockerArchive(run).read()
    newer = _on(base, patch)
    push_image(newer, DockerArchive(patched, Reference.parse(PATCHED)))
    node = {version: _node(folder, version, registry) for version in (OLD, NEW)}
    made = []
    for title, image, version in (("node", base, OLD), ("node", base, NEW), ("node-patched", newer, OLD)):
        layer = folder / f"{version}.layer"
        words = ["tar", "--create", "--file", layer, "--owner=0", "--group=0"]
        words.append("--transform=s,^./,usr/local/,S")
        subprocess.run([*words, "--directory", node[version], "./bin", "./lib"], check=True)
        path = folder / f"{title}-{version}.tar"
        reference = Reference.parse(f"bench/{title}:{version}")
        push_image(_for_dockerfiles(_on(image, layer)), DockerArchive(path, reference))
        made.append(path)
    return Bases(run, patched, tuple(made), node)


def node_package() -> str:
    """The name of the package with Node.js for this machine."""
    arch = {"amd64": "x64", "arm64": "arm64"}[Target.host().arch]
    return f"node-linux-{arch}"


def _on(base: Image, tar: Path) -> Image:
    file = OpenFile.open(tar)
    digest = Digest.of(tar.read_bytes())
    layer = Layer(file.chunks, digest, file.size)
    history = [(digest, History(created_by=tar.stem))]
    config = add_layers(base.config, history, created=_EPOCH, keep_history=True)
    return Image(config, (*base.layers, layer))


def _for_dockerfiles(image: Image) -> Image:
    env = set_variables(image.config.env, {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    return Image(edit_config(image.config, env=env, user="root"), image.layers)


def _node(folder: Path, version: str, registry: str) -> Path:
    """A directory with `bin/node` and `bin/npm`."""
    place = folder / f"node-{version}"
    npm = place / "lib/node_modules/npm"
    npm.mkdir(parents=True)
    table = tomllib.loads(_RELEASES.read_text())["npm"]
    fitting = next(
        line["version"] for line in table if nodesemver.satisfies(version, line["node"], loose=True)
    )
    for package, target in ((f"{node_package()}@{version}", place), (f"npm@{fitting}", npm)):
        words = ["npm", "pack", "--silent", f"--registry={registry}", package]
        said = subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True)
        archive = folder / said.stdout.strip().splitlines()[-1]
        strip = ["--strip-components=1", "--no-same-owner"]
        subprocess.run(["tar", "--extract", "--file", archive, "--directory", target, *strip], check=True)
    for command in ("npm", "npx"):
        (place / "bin" / command).unlink(missing_ok=True)
        (place / "bin" / command).symlink_to(f"../lib/node_modules/npm/bin/{command}-cli.js")
        (npm / f"bin/{command}-cli.js").chmod(0o755)
    return place
