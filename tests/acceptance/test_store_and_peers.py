"""The store as skopeo and full disks see it, and with the real sandbox on top."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes import tiny_root
from fakes.small_image import EPOCH, fresh_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.sandbox import Mount, Network, Root, SandboxSpec
from packhorse.base.target import Target
from packhorse.base.tree import NodeKind
from packhorse.errors import StoreError
from packhorse.host import wiring
from packhorse.linux import userns
from packhorse.linux.userns import IdMap
from packhorse.oci.layout import Layout
from packhorse.oci.mutate import add_layers, empty_config
from packhorse.oci.place import Image, Layer, push_image
from packhorse.oci.types import History, MediaType
from packhorse.store.store import Store

A, B = (tar_of({name: name.encode() * 2000}) for name in "ab")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def skopeo(*words: str) -> str:
    program = shutil.which("skopeo")
    assert program, "the package skopeo is needed"
    return subprocess.run([program, *words], check=True, capture_output=True, text=True).stdout


def test_skopeo_reads_the_whole_images_of_a_store(store: Store, tmp_path: Path) -> None:
    image = stored_image(A, B)
    push_image(image, store.place("registry.example/team/app:1.0"))
    push_image(fresh_image(A, B), store.place("tars-only"))
    location = f"oci:{store.path}:registry.example/team/app:1.0"
    assert image.manifest
    found = json.loads(skopeo("inspect", location))
    assert found["Digest"] == str(image.manifest.digest)
    assert found["Layers"] == [str(layer.digest) for layer in image.manifest.layers]
    skopeo("copy", location, f"docker-archive:{tmp_path / 'out.tar'}:app:1")
    with tarfile.open(tmp_path / "out.tar") as archive:
        [entry] = json.load(archive.extractfile("manifest.json") or io.BytesIO())
    assert entry["Config"] == f"{image.id.hex}.json"


def test_skopeo_reads_images_that_came_with_a_manifest_of_dockers(tmp_path: Path) -> None:
    image = stored_image(A, media_type=MediaType.DOCKER_MANIFEST)
    with Store.open(tmp_path / "store") as store:
        push_image(image, store.place("app"))
    with Store.open(tmp_path / "store") as store:
        assert store.gc().blobs == 0
        assert store.place("app").read().manifest == image.manifest
    location = f"oci:{tmp_path / 'store'}:app:latest"
    found = json.loads(skopeo("inspect", location))
    assert found["Layers"] == [str(layer.descriptor.digest) for layer in image.layers if layer.descriptor]
    assert json.loads(skopeo("inspect", "--config", location)) == json.loads(image.config.raw)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_is_told_and_harms_nothing(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], check=True)
    try:
        with Store.open(tmp_path / "store") as store:
            push_image(fresh_image(A), store.place("small"))
            with pytest.raises(StoreError) as caught:
                store.place("big").write_layer(Layer(lambda: iter([bytes(1 << 20)] * 4)))
            assert str(store.path) in caught.value.what
            assert "No space left" in caught.value.why
            assert "packhorse gc" in caught.value.fix
        with Store.open(tmp_path / "store") as store:
            assert [record.name.familiar for record in store.images()] == ["small:latest"]
            assert b"".join(store.place("small").read().layers[0].tar()) == A
            assert store.gc().unfinished == 0
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount something read-only")
def test_a_read_only_store_can_be_read_and_says_that_it_cannot_be_written(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        push_image(fresh_image(A), store.place("app"))
        push_image(stored_image(B), store.place("other"))
    for options in (["--bind", str(tmp_path), str(tmp_path)], ["-o", "remount,bind,ro", str(tmp_path)]):
        subprocess.run(["mount", *options], check=True)
    try:
        with Store.open(tmp_path / "store") as store:
            assert [image.name.familiar for image in store.images()] == ["app:latest", "other:latest"]
            push_image(store.place("app").read(), Layout(tmp_path.parent / "layout", "app"))
            assert b"".join(store.place("other").read().layers[0].tar()) == B
            for write in (
                lambda: store.place("app").write_layer(Layer(lambda: iter([b"new"]))),
                lambda: store.remove("app"),
                lambda: store.forget("app") or store.gc(),
                lambda: store.scratch().__enter__(),
                lambda: store.root(store.place("app").read(), userns.choose_map()),
            ):
                with pytest.raises(StoreError, match=r"is read-only|cannot be written") as caught:
                    write()
                assert "Read-only file system" in caught.value.why
                assert "make it writable" in caught.value.fix
            store.remove_leftovers()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount something")
def test_what_cannot_be_removed_is_told_hinders_nobody_and_goes_when_it_can(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with Store.open(path) as store:
        push_image(fresh_image(A), store.place("app"))
    stuck = path / "trees/map/tree/stuck"
    stuck.mkdir(parents=True)
    subprocess.run(["mount", "--bind", elsewhere, stuck], check=True)
    try:
        with Store.open(path) as store, pytest.raises(StoreError, match="trees"):
            store.gc()
        with Store.open(path) as store:
            store.remove_leftovers()
            assert store.place("app").read()
    finally:
        [mounted] = path.glob("trees/map/.*/stuck")
        subprocess.run(["umount", mounted], check=True)
    with Store.open(path) as store:
        store.remove_leftovers()
    assert list(path.glob("trees/map/.*")) == []
    assert list(path.glob("leases/*")) == []


def rootfs(directory: Path) -> bytes:
    """The tar of a small root file system, everything owned by root."""
    tree = tiny_root.make(directory / "tiny")

    def owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 1000 if info.name.startswith("./home/cnb") else 0
        return info

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(tree, ".", filter=owned)
    return out.getvalue()


@dataclass
class App:
    """Builds of one app, as `platform` makes them of store and sandbox, without the phases between them."""

    store: Store
    root: Path
    idmap: IdMap
    kept: dict[str, Digest]

    def build(self, script: str) -> dict[str, bool]:
        """Runs the script as a buildpack; answers which layers there are then, and which are untouched."""
        found: dict[str, tuple[Layer, bool]] = {}
        with userns.make_namespace(self.idmap) as namespace, self.store.scratch() as directory:
            (directory / "sandbox").mkdir()
            sandbox = wiring.make_runner(namespace, directory / "sandbox")
            overlay = self.store.open_layers("app", self.idmap, uid=1000, gid=1000, scratch=directory)
            for path, diff_id in self.kept.items():
                assert overlay.restore(path, diff_id)
            with sandbox.open(self.spec("", *overlay.mounts())) as room:
                room.tree.mkdir("/layers/bp")
                for path in self.kept:
                    room.tree.write(f"{path}.toml", b"[metadata]")
            with sandbox.open(self.spec(script, *overlay.mounts())) as room:
                output: list[bytes] = []
                assert room.run(output.append).status == 0, b"".join(output).decode()
                for node in room.tree.list("/layers/bp"):
                    if node.kind is NodeKind.DIRECTORY:
                        path = f"/layers/bp/{node.name}"
                        found[path] = overlay.capture(room.tree, path)
            with sandbox.open(self.spec("", *overlay.mounts())) as room:
                listed = [
                    node.name for node in room.tree.list("/layers/bp") if node.kind is NodeKind.DIRECTORY
                ]
            assert [f"/layers/bp/{name}" for name in listed] == list(found), "a later step sees the same"
            self.kept = {path: layer.diff_id for path, (layer, _) in found.items() if layer.diff_id}
            overlay.commit(b"", self.kept)
        return {path: untouched for path, (_, untouched) in found.items()}

    def image(self) -> Image:
        """The kept layers as an image."""
        known = [(diff_id, History()) for diff_id in self.kept.values()]
        config = add_layers(empty_config(Target()), known, created=EPOCH, keep_history=True)
        layers = tuple(Layer(lambda: iter(()), diff_id) for diff_id, _ in known)
        push_image(Image(config, layers), self.store.place("app"))
        return self.store.place("app").read()

    def spec(self, script: str, *mounts: Mount) -> SandboxSpec:
        env = {"PATH": "/bin", "HOME": "/home/cnb"}
        argv = ("sh", "-ec", script) if script else ()
        return SandboxSpec(argv, env, "/layers/bp", Root(self.root), mounts, network=Network.NONE)


def test_builds_in_the_sandbox_run_from_the_stores_root_and_keep_their_layers(
    store: Store, tmp_path: Path
) -> None:
    idmap = userns.choose_map(1000, 1000)
    push_image(fresh_image(rootfs(tmp_path), B), store.place("builder"))
    app = App(store, store.root(store.place("builder").read(), idmap), idmap, {})
    one, two = "/layers/bp/one", "/layers/bp/two"
    assert app.build("mkdir one two; echo 1 >one/f; echo 2 >two/f; chmod 555 two") == {one: False, two: False}
    first = dict(app.kept)
    assert app.build("cat one/f; ls -l two") == {one: True, two: True}
    assert app.build("chmod 755 two; rm two/f; echo 3 >two/g") == {one: True, two: False}
    assert app.kept[one] == first[one]
    assert app.kept[two] != first[two]
    again = app.build("test ! -e two/f; cat two/g; rm -rf two; mkdir two; echo 2 >two/f; chmod 555 two")
    assert again == {one: True, two: False}
    assert app.kept == first
    tree = store.root(app.image(), idmap)
    assert (tree / "layers/bp/one/f").read_text() == "1\n"
    assert (tree / "layers/bp/one/f").stat().st_nlink > 1, "linked from the kept layer, not unpacked"
    assert app.build("chmod 755 two; rm -rf /layers/bp; mkdir /layers/bp") == {}
    assert list((store.path / "scratch").glob("*/*")) == []
