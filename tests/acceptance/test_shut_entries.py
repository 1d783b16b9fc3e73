"""What buildpacks shut even their owner out of: for a user the images are those of root, bit for bit.

The digests here are those of root's builds; test_sandbox_users has users build the same.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.shell_buildpack import shell_buildpack
from fakes.tiny_builder import APP, TinyBuilder, tiny_builder
from packhorse.base.digest import Digest
from packhorse.fs import shut
from packhorse.linux.userns import choose_map
from packhorse.oci.place import Image
from packhorse.store.store import Store

TYPES = r"printf '[types]\nlaunch = true\ncache = true\n'"
FILL = """
fill() {
  mkdir -p "$1/none/deep" "$1/read" "$1/search"
  for i in none none/deep read search; do echo "$i" > "$1/$i/file"; ln -s file "$1/$i/link"; done
  echo hidden > "$1/none/deep/hidden"; echo secret > "$1/secret"
  chmod 0 "$1/none/deep/hidden"; chmod 0200 "$1/secret"
  chmod 0400 "$1/read"; chmod 0100 "$1/search"; chmod 0 "$1/none/deep" "$1/none"
}
"""
KEPT = f"""{FILL}
for name in whole inner; do
  if [ ! -d "$CNB_LAYERS_DIR/$name" ]; then fill "$CNB_LAYERS_DIR/$name"; fi
  {TYPES} > "$CNB_LAYERS_DIR/$name.toml"
done
chmod 0 "$CNB_LAYERS_DIR/whole"
fill made
"""
FIRST = KEPT
OPENED = """
for name in whole inner; do
  layer=$CNB_LAYERS_DIR/$name
  chmod 0700 "$layer" "$layer/none"
"""
CHANGED = f"""{KEPT}{OPENED}
  echo more > "$layer/none/more"
  chmod 0 "$layer/none"
done
chmod 0 "$CNB_LAYERS_DIR/whole"
"""
REPLACED = f"""{KEPT}{OPENED}
  chmod -R 0700 "$layer"
  rm -r "$layer"
  mkdir "$layer"
  echo new > "$layer/new"
  chmod 0 "$layer/new" "$layer"
done
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[TinyBuilder]:
    with tiny_builder(tmp_path / "tiny") as opened:
        yield opened


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "file").write_text("content")
    return tmp_path / "app"


APPLICATION = "442bac38"
BUILDS = [
    (FIRST, ["ea950961", "01710f0f", APPLICATION]),
    (KEPT, ["ea950961", "01710f0f", APPLICATION]),
    (CHANGED, ["d2901a84", "615b4d61", APPLICATION]),
    (KEPT, ["d2901a84", "615b4d61", APPLICATION]),
    (REPLACED, ["96b54954", "d0f0babc", APPLICATION]),
    (KEPT, ["96b54954", "d0f0babc", APPLICATION]),
]
"""What the builds run, one after another, and what the layers and the application become."""


@pytest.mark.parametrize("overlay", [True, False])
def test_entries_that_shut_their_owner_out_are_in_the_image_as_for_root(
    tiny: TinyBuilder, app: Path, tmp_path: Path, overlay: bool
) -> None:
    for number, (script, expected) in enumerate(BUILDS):
        buildpack = shell_buildpack(tmp_path / f"bp-{number}", "test/shut", build=script)
        image = tiny.build(app, buildpack, overlay=overlay).exported.image
        assert made_layers(image) == expected
        assert ("restored /layers/test_shut/whole" in tiny.lines) == (number > 0)


def test_a_store_with_entries_that_shut_their_owner_out_is_checked_run_and_emptied(
    app: Path, tmp_path: Path
) -> None:
    buildpack = shell_buildpack(tmp_path / "bp", "test/shut", build=FIRST)
    with tiny_builder(tmp_path / "tiny") as tiny:
        image = tiny.build(app, buildpack).exported.image
        root = tiny.store.root(image, choose_map(1000, 1000))
        assert (root / "layers/test_shut/inner/none").stat().st_mode & 0o7777 == 0
        path = tiny.store.path
    with Store.open(path) as store:
        assert not store.find_damage(lambda text: None).damaged
        assert store.caches().total > 0
    with Store.open(path) as store:
        store.remove(APP, force=True)
        store.gc()
        assert not list(path.glob("kept/*/*"))


def test_what_opens_them_goes_nowhere_else_and_opens_nothing_but_files(tmp_path: Path) -> None:
    """Nor does it do anything for root, who needs it for nothing."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").write_text("outside")
    (root / "file").write_text("content")
    (root / "file").chmod(0)
    os.mkfifo(root / "pipe")
    (root / "link").symlink_to("../outside")
    (root / "absolute").symlink_to(tmp_path / "outside")
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        for path in ("../outside", "link", "absolute", "pipe", "missing", f"{tmp_path}/outside"):
            with pytest.raises(OSError):
                shut.open_at(descriptor, path, os.O_RDONLY)
        if os.geteuid() == 0:
            with pytest.raises(PermissionError):
                shut.open_at(descriptor, "file", os.O_RDONLY)
            return
        with open(shut.open_at(descriptor, "file", os.O_RDWR), "rb") as file:
            assert file.read() == b"content"
            with pytest.raises(OSError):
                os.write(file.fileno(), b"more")
    finally:
        os.close(descriptor)


ORDINARY = """
import sys
from pathlib import Path
from fakes.shell_buildpack import shell_buildpack
from fakes.tiny_builder import tiny_builder
here = Path(sys.argv[1])
script = "mkdir $CNB_LAYERS_DIR/a made; echo > made/file; chmod 0500 made; echo > $CNB_LAYERS_DIR/a.toml"
with tiny_builder(here / "tiny") as tiny:
    for number in range(2):
        tiny.build(here / "app", shell_buildpack(here / f"bp-{number}", build=script))
print("packhorse.lifecycle.create" in sys.modules, "packhorse.fs.opener" in sys.modules)
"""


def test_builds_that_meet_no_such_entry_start_nothing_for_them(app: Path, tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", ORDINARY, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


def made_layers(image: Image) -> list[str]:
    """The beginnings of the diff IDs of what the buildpack, and of the application, has become."""
    made = []
    for layer in image.layers:
        content = b"".join(layer.tar())
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            if any(
                name.lstrip("/").startswith(("layers/test_shut", "workspace")) for name in archive.getnames()
            ):
                made.append(Digest.of(content).hex[:8])
    return made
