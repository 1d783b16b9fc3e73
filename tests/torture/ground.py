"""What every torture stands on: packhorse installed, a small builder in a store, an app in several versions.

The builder is a few megabytes, so that a whole build takes half a second. What the app becomes in each
version is known from builds that nobody disturbed.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fakes import foreign_builder, tiny_root, users
from fakes.installation import Home, install
from fakes.shell_buildpack import shell_buildpack
from packhorse.base import installation
from packhorse.oci.layout import Layout
from packhorse.oci.place import push_image

RUN, BUILDER = "packhorse.local/torture/run:1", "packhorse.local/torture/builder:1"
VERSIONS = range(4)

Words = list[str | Path]

_DETECT = "test -f version"
_BUILD = """
version=$(cat version)
cd "$CNB_LAYERS_DIR"
mkdir -p partly still
if [ ! -f partly/zeros ]; then
    for number in {1..300}; do echo $number > partly/$number; done
    head -c 8M /dev/zero > partly/zeros
fi
if [ ! -f still/300 ]; then
    for number in {1..300}; do echo $number > still/$number; done
fi
echo "$version" > partly/version
rm -rf fresh
mkdir -p fresh/bin
for number in {1..50}; do echo "$version $number" > fresh/$number; done
printf '#!/bin/sh\\necho version %s\\n' "$version" > fresh/bin/say
chmod +x fresh/bin/say
for name in partly still fresh; do printf '[types]\\nlaunch = true\\ncache = true\\n' > $name.toml; done
cat > launch.toml <<'END'
[[processes]]
type = "talk"
command = ["say"]
default = true
END
"""

_READ = """
import sys
from pathlib import Path
from packhorse.store.store import Store
with Store.open(Path(sys.argv[1])) as store:
    for image in store.images():
        read = store.place(str(image.name)).read()
        assert read.id == image.id, image.name
        for layer in read.layers:
            for chunk in layer.tar():
                pass
        print(image.name)
"""


@dataclass(frozen=True)
class Ground:
    """A home to torture, and what is true of it. `expected` are the image IDs of the app's versions."""

    home: Home
    folder: Path
    expected: list[str] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.home.path / "store"

    def app(self, version: int) -> Path:
        return self.folder / f"app-{version}"

    def words(self, version: int, name: str = "app") -> Words:
        """The command line of a build."""
        return [
            *("build", "--quiet", name, "--path", self.app(version)),
            *("--builder", BUILDER, "--buildpack", self.folder / "buildpack"),
        ]

    def build(self, version: int, name: str = "app") -> None:
        """A build that nobody disturbs makes the right image."""
        found = self.home.ok(*self.words(version, name))
        assert found == self.expected[version], f"version {version} became {found}"

    def stock(self) -> None:
        """Brings the builder and its run image into the store."""
        for name in (RUN, BUILDER):
            self.home.ok("copy", f"oci:{self.folder}/builder:{name}", name)

    def forget_builder(self) -> None:
        """Removes the builder, if it is there, and what was unpacked of it."""
        self.home.run("rmi", BUILDER)
        self.home.ok("gc")

    def prepared(self, command: str, version: int) -> Words:
        """The words of a `build`, a `cold` one, a `copy` or a `gc`, which then has something to do."""
        match command:
            case "cold":
                self.forget_builder()
                self.stock()
            case "copy":
                self.forget_builder()
                return ["copy", f"oci:{self.folder}/builder:{BUILDER}", BUILDER]
            case "gc":
                self.build(version, "other")
                self.home.ok("rmi", "other")
                return ["gc"]
        return self.words(version)

    def again(self, name: str) -> Ground:
        """The same, with an empty home beside it."""
        path = self.folder.parent / name
        path.mkdir(mode=0o755)
        os.chown(path, self.home.owner.pw_uid, self.home.owner.pw_gid)
        return Ground(Home(self.home.program, path, self.home.owner), self.folder, self.expected)

    def assert_whole(self) -> None:
        """Every image that is listed can be read to its last byte, here and by skopeo and umoci."""
        python = self.home.program.with_name("python")
        listed = self._as_owner(str(python), "-c", _READ, str(self.store)).split()
        index = json.loads((self.store / "index.json").read_bytes())["manifests"]
        names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index]
        assert len(names) <= len(listed)
        for name in names:
            with tempfile.TemporaryDirectory() as target:
                os.chown(target, self.home.owner.pw_uid, -1)
                self._as_owner("skopeo", "copy", "--quiet", f"oci:{self.store}:{name}", f"dir:{target}")
        assert len(self._as_owner("umoci", "list", "--layout", str(self.store)).split()) == len(names)

    def assert_trees(self) -> None:
        """The trees that are believed are those of an undisturbed store, as far as that has them."""
        reference = self.folder.parent / f"reference-{self.folder.name.partition('-')[2]}" / "store"
        for pattern in ("trees/*/*.json", "roots/*/*.json"):
            for note in self.store.glob(pattern):
                tree, like = note.with_suffix(""), reference / note.relative_to(self.store).with_suffix("")
                if tree.exists() and like.exists():
                    done = subprocess.run(["diff", "-r", "--no-dereference", tree, like], capture_output=True)
                    assert done.returncode == 0, done.stdout + done.stderr

    def leftovers(self) -> list[str]:
        """Whatever in the store is not finished, or of a command that is over, when nobody removes it."""
        self.wait_for_children()
        found = [path for pattern in _UNFINISHED for path in self.store.glob(pattern)]
        return sorted(str(path.relative_to(self.store)) for path in found)

    def wait_for_children(self) -> None:
        """Until nobody holds a lease: what a command has started goes on when it is over or was killed, and
        on a busy machine, as nobody is to wait for it, at length.
        """
        end = time.monotonic() + 60
        for path in self.store.glob("leases/*"):
            with suppress(FileNotFoundError), path.open() as file:
                while time.monotonic() < end:
                    with suppress(BlockingIOError):
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                        break
                    time.sleep(0.01)

    def names(self) -> set[str]:
        """Every name in the store, of the trees their own names alone."""
        patterns = ("*", "blobs/sha256/*", "layers/*", "caches/*", "locks/*", *_TREES)
        found = {path.relative_to(self.store) for pattern in patterns for path in self.store.glob(pattern)}
        return {str(path) for path in found} - {"settled.json", "unsettled"}

    def _as_owner(self, *words: str) -> str:
        owner = self.home.owner
        done = subprocess.run(
            words,
            env=self.home.environment(),
            cwd="/",
            user=owner.pw_uid,
            group=owner.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


_TREES = ("trees/*/*", "roots/*/*", "kept/*/*")
_UNFINISHED = ("scratch/*", "leases/*", "**/.*~", *(f"{pattern[:-1]}.*" for pattern in _TREES))


def prepare(
    directory: Path, user: str = "", *, home: Path | None = None, program: Path | None = None
) -> Ground:
    """Makes all of it in `directory`, which every user can pass through; `user` is one of `fakes.users`.

    `home` is where the store is, otherwise in `directory` too; `program` an installed packhorse.
    """
    program = program or install(directory)
    folder = directory / f"sources-{user or 'root'}"
    folder.mkdir()
    layer = foreign_builder.base(tiny_root.make(folder / "tiny"))
    launcher = installation.launcher("amd64" if os.uname().machine == "x86_64" else "arm64")
    push_image(foreign_builder.run_image(layer), Layout(folder / "builder", RUN))
    push_image(
        foreign_builder.builder_image(layer, run=RUN, launcher=launcher),
        Layout(folder / "builder", BUILDER),
    )
    shell_buildpack(folder / "buildpack", detect=_DETECT, build=_BUILD)
    owner = users.ensure(user) if user else pwd.getpwuid(os.geteuid())
    path = home or directory / f"home-{user or 'root'}"
    path.mkdir()
    os.chown(path, owner.pw_uid, owner.pw_gid)
    ground = Ground(Home(program, path, owner), folder)
    ground.stock()
    for version in VERSIONS:
        ground.app(version).mkdir()
        (ground.app(version) / "version").write_text(f"{version}\n")
    reference = ground.again(f"reference-{user or 'root'}")
    reference.stock()
    for version in VERSIONS:
        # Each in a way of its own: from nothing, and over what the build before it has kept.
        ground.expected.append(reference.home.ok(*reference.words(version)))
        assert reference.home.ok("run", "app") == f"version {version}"
    return ground
