"""What a build makes of kept layers is what one without any would make, whatever was done in between.

An application says in `want/` which layers its buildpacks are to make, and how they go about it; it is edited
at random and built after each edit: over kept layers as an overlay, with copies of them, and from nothing.
All three are one image, and leave the same for the next build. `PACKHORSE_TESTS_EFFORT` asks for so many
times as many examples.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fakes.effort import examples
from fakes.shell_buildpack import shell_buildpack
from fakes.tiny_builder import APP, TinyBuilder, tiny_builder
from packhorse.errors import StoreError
from packhorse.lifecycle.stages import Exported, ExportedLayer

Edit = tuple[str, str, str]

# Makes the layers of `want/<own name>`, with no more than it takes ("quiet") or in louder ways.
SYNC = r"""
my ($wanted, $how) = @ARGV;
sub kind { my @stat = lstat($_[0]); return @stat ? $stat[2] & 0170000 : 0 }
sub mode { return (lstat($_[0]))[2] & 07777 }
sub names { opendir(my $all, $_[0]) or return (); return grep { !/^\.\.?$/ } readdir($all) }
sub content { open(my $file, "<", $_[0]) or die "$_[0]: $!"; local $/; return scalar(<$file>) // "" }
sub put { open(my $file, ">", $_[0]) or die "$_[0]: $!"; print $file $_[1]; close($file) or die }
sub gone {
    my ($path) = @_;
    return unlink($path) if kind($path) != 0040000;
    chmod(0700, $path);
    gone("$path/$_") for names($path);
    rmdir($path) or die "$path: $!";
}
sub make {
    my ($from, $to) = @_;
    gone("$to/$_") for grep { kind("$from/$_") != kind("$to/$_") } names($to);
    for my $name (names($from)) {
        my ($source, $target) = ("$from/$name", "$to/$name");
        if (-l $source) {
            next if -l $target && readlink($target) eq readlink($source);
            unlink($target);
            symlink(readlink($source), $target) or die;
            next;
        } elsif (-d $source) {
            mkdir($target);
            make($source, $target);
        } elsif (!-e $target || content($target) ne content($source)) {
            put($target, content($source));
        } elsif ($how eq "loud") {
            utime(undef, undef, $target);
        }
        chmod(mode($source), $target) if $how eq "loud" || mode($target) != mode($source);
    }
}
if ($how eq "afresh") { gone($_) for names(".") }
for my $name (grep { -d } names(".")) {
    if (!-d "$wanted/$name") { gone($name); unlink("$name.toml") }
}
for my $name (grep { -d "$wanted/$_" } names($wanted)) {
    if (!-f "$wanted/$name.toml") { gone($name) if -d $name; unlink("$name.toml"); next }
    gone($name) if $how eq "replace" && -d $name;
    if ($how eq "aside" && -d $name) {
        system("mv", $name, "old") == 0 && system("cp", "-a", "old", $name) == 0 or die;
        gone("old");
    }
    mkdir($name);
    make("$wanted/$name", $name);
    put("$name.toml", content("$wanted/$name.toml"));
}
put("launch.toml", content("$wanted.slices")) if -f "$wanted.slices";
"""
BUILD = """
wanted=$PWD/want/NAME
how=$(cat how)
if [ -f src/b ]; then cp src/b src/made-by-NAME || true; fi
if [ -f src/f ]; then rm -rf src/d src/f; mkdir src/d; fi
cd "$CNB_LAYERS_DIR"
exec perl "$CNB_BUILDPACK_DIR/sync.pl" "$wanted" "$how"
"""
"""NAME stands for the buildpack's."""

HOW = st.sampled_from(["quiet", "quiet", "quiet", "loud", "replace", "aside", "afresh"])
LAYERS = st.sampled_from(["one/l", "one/l", "one/m", "two/l"])
TYPES = st.sampled_from(
    ["launch cache", "launch cache", "cache", "build cache", "launch build cache", "launch", "build", ""]
)
INNER = st.sampled_from(["a", "b", "d/c", "d/e", "d", "f"])
SOURCE = st.builds("src/{}".format, INNER)
WANTED = st.builds("want/{}/{}".format, LAYERS, INNER)
PATH = st.one_of(WANTED, WANTED, SOURCE)
TREE = st.one_of(PATH, st.builds("want/{}".format, LAYERS))
CONTENT = st.sampled_from(["", "x", "y", "x" * 5000])
EDIT: st.SearchStrategy[Edit] = st.one_of(
    st.tuples(st.just("write"), PATH, CONTENT),
    st.tuples(st.just("write"), PATH, CONTENT),
    st.tuples(st.just("remove"), TREE, st.just("")),
    st.tuples(st.just("rename"), TREE, PATH),
    st.tuples(st.just("mode"), PATH, st.sampled_from(["755", "644", "600", "700", "4755"])),
    st.tuples(st.just("symlink"), PATH, st.sampled_from(["a", "/no/such", "../b"])),
    st.tuples(st.just("touch"), TREE, st.just("")),
    st.tuples(st.just("types"), LAYERS, TYPES),
    st.tuples(st.just("metadata"), LAYERS, st.sampled_from(["1", "2"])),
    st.tuples(st.just("slices"), st.sampled_from(["one", "two"]), st.sampled_from(["", "src/*", "src/d"])),
    st.tuples(st.just("revert"), st.just(""), st.sampled_from(["0", "1"])),
)
BUILDPACKS = st.sampled_from(["one two", "one two", "one two", "one", "two", "two one"])
STEP = st.tuples(st.lists(EDIT, max_size=4), HOW, BUILDPACKS)

FIRST: list[Edit] = [
    *(
        ("write", f"{top}/{name}", top)
        for top in ("src", "want/one/l", "want/one/m", "want/two/l")
        for name in ("a", "d/c", "d/e")
    ),
    *(("types", layer, "launch cache") for layer in ("one/l", "one/m", "two/l")),
]


class Source:
    """The application, its versions, and what edits do to it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "app"
        self._versions = directory / "versions"
        (self.path / "src").mkdir(parents=True)
        self._versions.mkdir()
        self._types = dict[str, str]()
        self._metadata = dict[str, str]()

    def edit(self, edits: list[Edit], how: str) -> None:
        for verb, path, other in edits:
            with suppress(OSError, shutil.Error):
                self._edit(verb, self.path / path, path, other)
        for layer, types in self._types.items():
            rows = "".join(f"{each} = true\n" for each in types.split())
            text = f"[types]\n{rows}[metadata]\nnumber = {self._metadata.get(layer, '0')}\n"
            (self.path / "want" / layer).parent.mkdir(parents=True, exist_ok=True)
            (self.path / "want" / f"{layer}.toml").write_text(text)
        (self.path / "how").write_text(how)
        number = len(list(self._versions.iterdir()))
        shutil.copytree(self.path, self._versions / str(number), symlinks=True)

    def _edit(self, verb: str, path: Path, name: str, other: str) -> None:
        if verb == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(other)
        elif verb == "remove":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        elif verb == "rename":
            path.rename(self.path / other)
        elif verb == "mode":
            usable = 0o700 if path.is_dir() else 0  # else its own buildpack cannot read it
            path.chmod(int(other, 8) | usable, follow_symlinks=path.is_symlink() is False)
        elif verb == "symlink":
            path.symlink_to(other)
        elif verb == "touch":
            os.utime(path, (1, 1), follow_symlinks=False)
        elif verb == "types":
            self._types[name] = other
        elif verb == "metadata":
            self._metadata[name] = other
        elif verb == "slices":
            text = f'[[slices]]\npaths = ["{other}"]\n' if other else ""
            (self.path / "want" / f"{name}.slices").write_text(text)
        elif verb == "revert":
            shutil.rmtree(self.path)
            shutil.copytree(self._versions / other, self.path, symlinks=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyBuilder]:
    base = tmp_path_factory.mktemp("fast")
    with tiny_builder(base, programs=("perl",)) as opened:
        for name in ("one", "two"):
            made = shell_buildpack(base / name, f"test/{name}", build=BUILD.replace("NAME", name))
            (made / "sync.pl").write_text(SYNC)
        yield opened


NUMBERS = count(1)


@settings(
    max_examples=examples(2),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to shrink one would take many minutes
)
@given(steps=st.lists(STEP, min_size=3, max_size=3))
def test_kept_layers_and_copies_make_the_image_of_a_clean_build(
    tiny: TinyBuilder, steps: list[tuple[list[Edit], str, str]]
) -> None:
    name = f"{APP}-{next(NUMBERS)}"
    with tempfile.TemporaryDirectory(dir=tiny.store.path.parent) as temporary:
        source = Source(Path(temporary))
        for edits, how, buildpacks in [(FIRST, "quiet", "one two"), *steps]:
            source.edit(edits, how)
            chosen = [tiny.store.path.parent / each for each in buildpacks.split()]
            clean, *others = (
                tiny.build(source.path, *chosen, name=f"{name}-{way}", **asked).exported.image.config.raw
                for way, asked in WAYS.items()
            )
            assert [json.loads(each) for each in others] == [json.loads(clean)] * len(others)
            assert others == [clean] * len(others)
            left = [tiny.left(f"{name}-{way}") for way in WAYS]
            assert left == [left[0]] * len(left)


WAYS: dict[str, dict[str, bool]] = {
    "clean": {"clear_cache": True},
    "overlay": {},
    "copies": {"overlay": False},
}


WRITES = """
cat > "$CNB_LAYERS_DIR/launch.toml" <<'END'
[[slices]]
paths = ["static"]
END
cp text copied
rm -r removed
"""


def laid(source: Path, contents: dict[str, str]) -> None:
    """Writes an application of directories with a file each."""
    for directory, content in contents.items():
        (source / directory).mkdir(parents=True)
        (source / directory / "file").write_text(content)


def as_clean(tiny: TinyBuilder, source: Path, *buildpacks: Path, name: str, **asked: bool) -> Exported:
    """A build whose image is that of a clean one."""
    time.sleep(0.06)  # an application that changed a moment ago may go on changing
    built = tiny.build(source, *buildpacks, name=name, **asked).exported
    clean = tiny.build(source, *buildpacks, name=f"{name}-clean", clear_cache=True).exported
    assert built.image.config.raw == clean.image.config.raw
    return built


def test_an_application_is_read_again_when_it_or_what_is_written_over_it_has_changed(
    tiny: TinyBuilder, tmp_path: Path
) -> None:
    source, name = tmp_path / "app", f"{APP}-known"
    laid(source, {"static": "static", "removed": "removed"})
    (source / "text").write_text("text")
    writes = shell_buildpack(tmp_path / "writes", "test/writes", build=WRITES)

    def reasons(*buildpacks: Path, **asked: bool) -> set[str]:
        built = as_clean(tiny, source, *buildpacks, name=name, **asked)
        return {layer.why for layer in built.layers if layer.owner == "app"}

    known, same, new = {"unchanged since it was exported"}, {"same content"}, {""}
    assert reasons(writes) == new
    assert reasons(writes) == known
    assert reasons(writes, clear_cache=True) == same
    os.utime(source / "static" / "file")
    assert [reasons(writes), reasons(writes)] == [same, known]
    (source / "static" / "file").write_text("STATIC")
    assert [reasons(writes), reasons(writes)] == [new | same, known]
    (writes / "bin" / "build").write_text((writes / "bin" / "build").read_text() + "echo more >> copied\n")
    assert [reasons(writes), reasons(writes)] == [new | same, known]
    (source / ".git").mkdir()
    assert [reasons(writes), reasons(writes)] == [same, known]
    (source / ".git" / "HEAD").write_text("ref")
    assert reasons(writes) == known
    assert reasons(writes, overlay=False) == same


def test_an_application_is_packed_from_what_it_was_unless_the_cache_is_cleared(
    tiny: TinyBuilder, tmp_path: Path
) -> None:
    source, name = tmp_path / "app", f"{APP}-pieces"
    laid(source, {"kept": "kept" * 1000, "edited": ""})
    quiet = shell_buildpack(tmp_path / "quiet", "test/quiet", build="cp kept/file written")

    def built(text: str, **asked: bool) -> ExportedLayer:
        (source / "edited" / "file").write_text(text)
        layers = as_clean(tiny, source, quiet, name=name, **asked).layers
        return next(layer for layer in layers if layer.owner == "app")

    def damage(layer: ExportedLayer) -> None:
        """What was not edited is seen to come from it."""
        blob = tiny.store.path / "blobs" / "sha256" / layer.diff_id.hex
        blob.write_bytes(blob.read_bytes().replace(b"kept", b"KEPT"))

    built("one")
    damage(built("two"))
    with pytest.raises(StoreError, match="damaged"):
        built("three")
    damage(built("four"))
    damage(built("five", clear_cache=True))
    with pytest.raises(StoreError, match="damaged"):
        built("six")
