"""`packhorse build` gives the image that `pack build` gives with the same builder: layers, config, image ID.

The figures are in tests/golden/pack. Everything is real but the builder's root file system, which is made of
this machine's shell.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from fakes import tiny_root
from fakes.image_listing import listing, readable, same
from fakes.observer import Quiet
from fakes.pack_case import CASES, PackCase
from packhorse.base.digest import Digest
from packhorse.base.sandbox import Network
from packhorse.build.execute import execute
from packhorse.build.host import Host
from packhorse.build.plan import resolve
from packhorse.build.request import BuildRequest
from packhorse.host.cache_directory import METADATA
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.store.store import Store

pytestmark = pytest.mark.system

APP, BUILDER = "packhorse.local/acme/app", "packhorse.local/acme/builder"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_root.make(tmp_path_factory.mktemp("machine") / "root", programs=["mkfifo", "find"])


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir()))
def test_an_image_is_the_one_that_pack_makes(name: str, root: Path, tmp_path: Path) -> None:
    case = PackCase.load(name)
    case.place_extra(tmp_path / "extra")
    with Store.open(tmp_path / "store") as store:
        push_image(case.builder(root, tmp_path), store.place(BUILDER))
        for run_image in {case.text("run-image"), case.text("other-run-image", case.text("run-image"))}:
            push_image(case.on(run_image).run_image(), store.place(case.on(run_image).run_name))
        for number in range(1, case.builds + 1):
            _compare(case, number, store, tmp_path)


def test_a_cache_directory_is_the_one_that_pack_writes(root: Path, tmp_path: Path) -> None:
    """Each build is on another machine, which has the directory and the last image and nothing else."""
    case = PackCase.load("rebuild-changes")
    directory = tmp_path / "cache" / "build-cache"
    scratch = tmp_path / "builder"
    scratch.mkdir()
    builder, image = case.builder(root, scratch), None
    with ExitStack() as stores:
        for number in range(1, case.builds + 1):
            store = stores.enter_context(Store.open(tmp_path / f"store-{number}"))
            push_image(builder, store.place(BUILDER))
            push_image(case.run_image(), store.place(case.run_name))
            if image is not None:
                push_image(image, store.place(APP))
            image = _compare(case, number, store, tmp_path, cache_directory=directory)
            assert [path.name for path in directory.iterdir()] == ["committed"]
            files = {path.name: path for path in (directory / "committed").iterdir()}
            metadata = files.pop(METADATA).read_text()
            assert metadata == (case.path / "expected" / f"{number}.cache.json").read_text()
            assert files.keys() == {f"{digest}.tar" for digest in re.findall(r"sha256:\w+", metadata)}
            assert all(name == f"{Digest.of(path.read_bytes())}.tar" for name, path in files.items())


def _compare(
    case: PackCase, number: int, store: Store, tmp_path: Path, cache_directory: Path | None = None
) -> Image:
    app = tmp_path / f"app-{number}"
    case.place_turn(app, number)
    asked = case.turn(number)
    directories = {name: tmp_path / "extra" / name for name in asked.get("buildpack", ())}
    other = case.text("other-run-image")
    request = BuildRequest(
        name=Reference.parse(APP),
        path=app,
        builder=BUILDER,
        buildpacks=tuple(str(path) if path.exists() else name for name, path in directories.items()),
        env=asked.get("env", {}),
        default_process=asked.get("default-process", ""),
        run_image=case.on(other).run_name if other else "",
        **{key: asked[name] for key, name in _OPTIONS.items() if name in asked},
        cache_directory=cache_directory,
        network=Network.NONE,
    )
    host, observer = Host(store, Wiring(store)), Quiet()
    image = execute(resolve(request, host, observer), host, observer).exported.image
    config, layers = case.expected(number)
    tars = [b"".join(layer.tar()) for layer in image.layers]
    base = case.on(other) if other else case
    ours = listing(json.loads(image.config.raw), tars, skip=len(base.run_image().layers))
    same(f"{case.name}, build {number}: layers", layers.splitlines(), ours.splitlines())
    same(f"{case.name}, build {number}: config", readable(config), readable(image.config.raw))
    assert image.config.raw == config
    return image


_OPTIONS = {"clear_cache": "clear-cache", "exec_env": "exec-env", "created": "created"}
