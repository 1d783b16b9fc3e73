"""The spine from source to image: two buildpacks, several builds of one app."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fakes.runner import Call
from fakes.workshop import APP, Workshop, files, metadata
from packhorse.errors import BuildpackFailed, DetectFailed
from packhorse.lifecycle.analyze import analyze
from packhorse.lifecycle.build import build
from packhorse.lifecycle.detect import detect
from packhorse.lifecycle.export import export
from packhorse.lifecycle.ports import SandboxPurpose
from packhorse.lifecycle.restore import choose_layers, restore
from packhorse.lifecycle.stages import Exported
from packhorse.oci.place import Image


class Shop(Workshop):
    """A runtime and an installer: the first keeps what it has, the second what still fits the app."""

    version = "20"
    installed = 0

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        runtime = self.buildpack(
            "my/runtime",
            detect=lambda call: call.plan('[[provides]]\nname = "runtime"\n'),
            build=self._runtime,
        )
        installer = self.buildpack(
            "my/install",
            detect=lambda call: call.plan('[[requires]]\nname = "runtime"\n'),
            build=self._install,
        )
        self.order((runtime, installer))

    def _runtime(self, call: Call) -> None:
        call.say(f"runtime {self.version}")
        if noted(call, "node.toml") == {"v": self.version}:
            call.layer("node", "launch", "build", "cache", metadata=f'v = "{self.version}"')
        else:
            call.tree.remove(f"{call.env['CNB_LAYERS_DIR']}/node")
            files = {"bin/node": self.version, "env/NODE_ENV.default": "production"}
            call.layer("node", "launch", "build", "cache", files=files, metadata=f'v = "{self.version}"')

    def _install(self, call: Call) -> None:
        assert call.env["PATH"].startswith("/layers/my_runtime/node/bin:")
        assert call.env["NODE_ENV"] == "production"
        lock = (call.read("/workspace/main.py") or "").strip()
        metadata = f'lock = """{lock}"""'
        if noted(call, "modules.toml") == {"lock": lock}:
            call.layer("modules", "launch", metadata=metadata)
        else:
            self.installed += 1
            call.layer("modules", "launch", files={"m.js": lock}, metadata=metadata)
        call.write("launch.toml", '[[processes]]\ntype = "web"\ncommand = ["node"]\ndefault = true\n')


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


def noted(call: Call, path: str) -> object:
    """What a restored layer's file says of it."""
    return tomllib.loads(call.read(path) or "").get("metadata")


def kept(exported: Exported) -> dict[str, str]:
    return {row.name: row.why for row in exported.layers if row.is_in_previous}


def test_the_first_build_makes_every_layer(shop: Shop) -> None:
    exported = shop.create()
    assert kept(exported) == {}
    assert [row.name for row in exported.layers] == [
        *("node", "modules", "launch.sbom", "app", "launcher", "config", "process-types"),
    ]
    assert exported.default_process == "web"
    assert shop.shelf.place(APP).read() == exported.image
    assert ("my/runtime", "runtime 20\n") in shop.notes.outputs
    assert shop.notes.phases == ["analyze", "detect", "restore", "build", "export"]


def test_the_second_build_keeps_them_all_and_is_the_same_image(shop: Shop) -> None:
    first = shop.create()
    shop.again()
    shop.shelf.brought.clear()
    second = shop.create()
    assert second.image.id == first.image.id
    assert kept(second) == {
        "node": "unchanged since it was kept",
        "modules": "taken from the previous image",
        **dict.fromkeys(("launch.sbom", "app", "launcher", "config", "process-types"), "same content"),
    }
    assert shop.installed == 1
    assert not {row.diff_id for row in second.layers[:2]} & set(shop.shelf.brought), (
        "their bytes are not read"
    )


def test_a_change_of_the_source_makes_the_layers_that_depend_on_it(shop: Shop) -> None:
    shop.create()
    shop.again()
    shop.tree.write("/workspace/main.py", b"print('other')\n")
    exported = shop.create()
    assert set(kept(exported)) == {"node", "launch.sbom", "launcher", "config", "process-types"}
    assert shop.installed == 2


def test_a_change_of_a_cached_layer_is_what_the_next_build_finds(shop: Shop) -> None:
    shop.create()
    shop.again()
    shop.version = "22"
    second = shop.create()
    assert "node" not in kept(second)
    shop.again()
    third = shop.create()
    assert third.image.id == second.image.id
    assert files(third.image, -7)["/layers/my_runtime/node/bin/node"] == "22"


def test_without_restoration_everything_is_made_and_the_image_is_the_same(shop: Shop) -> None:
    first = shop.create()
    shop.again()
    shop.set(skip_restore=True)
    second = shop.create()
    assert shop.installed == 2
    assert second.image.id == first.image.id


def test_when_the_image_is_gone_the_cache_still_serves(shop: Shop) -> None:
    shop.create()
    shop.again()
    del shop.shelf.images[APP]
    exported = shop.create()
    assert {row.name: row.why for row in exported.layers}["node"] == "unchanged since it was kept"
    assert shop.installed == 2


def test_a_failure_leaves_the_image_and_the_cache_of_before(shop: Shop) -> None:
    first = shop.create()
    cached = shop.cache.metadata
    shop.again()
    shop.runner.programs["/cnb/buildpacks/my_install/1/bin/build"] = lambda call: 1
    with pytest.raises(BuildpackFailed):
        shop.create()
    shop.order((shop.buildpack("none", detect=lambda call: 100),))
    with pytest.raises(DetectFailed):
        shop.create()
    assert shop.shelf.place(APP).read().id == first.image.id
    assert shop.cache.metadata == cached


def test_P_114_the_spine_is_the_phases_one_after_the_other(shop: Shop) -> None:
    whole = shop.create()
    shop.again()
    shop.cache.metadata = b""
    del shop.shelf.images[APP]
    inputs, runner, cache, notes = shop.inputs, shop.runner, shop.cache, shop.notes
    place = shop.shelf.place(APP)
    analyzed = analyze(shop.run_image, shop.run_image.id.hex, place)
    detected = detect(inputs, analyzed.target, runner=runner, observer=notes)
    chosen = choose_layers(inputs, analyzed, detected, cache=cache, observer=notes)
    with runner.open(SandboxPurpose.BUILD) as sandbox:
        tree = sandbox.tree
        restored = restore(inputs, analyzed, chosen, tree=tree, observer=notes)
        built = build(
            inputs, analyzed.target, detected, restored, runner=runner, sandbox=sandbox, observer=notes
        )
        parts: Image = export(
            inputs, analyzed, built, tree=tree, cache=cache, target=place, observer=notes
        ).image
    assert parts.id == whole.image.id


def test_labels_tell_of_both_buildpacks(shop: Shop) -> None:
    exported = shop.create()
    assert [record["key"] for record in metadata(exported.image)["buildpacks"]] == [
        "my/runtime",
        "my/install",
    ]
