"""project.toml in real builds: what it leaves out is in no layer, and no buildpack sees it."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from fakes.random_source import content as content_of
from fakes.random_source import find_kept, make_source
from fakes.shell_buildpack import shell_buildpack
from fakes.tiny_builder import APP, BUILDER, TinyBuilder
from lanes import first_in_test
from packhorse.errors import BuildpackFailed, InputError, PackhorseError
from packhorse.lifecycle.stages import Exported
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Location
from packhorse.report.provenance import BuildProvenance
from packhorse.source.project_toml import Project

LOOK = 'ls -aR; echo "GREETING=${GREETING:-} NAME=${NAME:-}"; ls "$CNB_PLATFORM_DIR"'
PROJECT = """\
[_]
schema-version = "0.2"
[io.buildpacks]
exclude = ["*.pem", "/docs", "src/lib/*", "!src/lib/kept"]
[[io.buildpacks.build.env]]
name = "GREETING"
value = "hello"
[[io.buildpacks.build.env]]
name = "NAME"
value = "project"
"""
KEPT = ("main", "src/main", "src/lib/kept")
EXCLUDED = ("top.pem", "src/a.pem", "src/deep/only.pem", "docs/secret", "docs/more/secret", "src/lib/secret")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    top = tmp_path / "app"
    for name in (*KEPT, *EXCLUDED):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f"sekret of {name}")
    (top / "src").chmod(0o2750)
    (top / "project.toml").write_text(PROJECT)
    return top


@pytest.fixture
def looks(tmp_path: Path) -> Path:
    return shell_buildpack(tmp_path / "looks", "test/looks", detect=f"{LOOK}; echo > seen", build=LOOK)


def built(tiny: TinyBuilder, app: Path, *buildpacks: Path, name: str, **asked: object) -> Exported:
    time.sleep(0.06)  # an application that changed a moment ago may go on changing
    return tiny.build(app, *buildpacks, name=f"{APP}-{name}", **asked).exported


def content(image: Image) -> bytes:
    return b"".join(part for layer in image.layers for part in layer.tar())


def why(exported: Exported) -> set[str]:
    return {layer.why for layer in exported.layers if layer.owner == "app"}


@pytest.mark.parametrize(
    "mixed",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")),
    ],
)
def test_what_is_excluded_is_in_no_layer_and_seen_by_no_buildpack(
    tiny: TinyBuilder, app: Path, looks: Path, tmp_path: Path, *, mixed: bool
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(app, plain)
    shutil.rmtree(plain / "docs")
    for name in ("top.pem", "src/a.pem", "src/deep/only.pem", "src/lib/secret"):
        (plain / name).unlink()
    if mixed:  # the source is copied then
        os.chown(app / "main", 4711, 4711)
    for number, overlay in enumerate((True, True, False)):
        exported = built(tiny, app, looks, name=f"excluded-{int(mixed)}", overlay=overlay)
        said = "\n".join(tiny.lines)
        assert "kept" in said and "GREETING=hello NAME=project" in said
        assert not any(word in said for word in ("secret", ".pem", "docs"))
        assert not any(f"sekret of {name}".encode() in content(exported.image) for name in EXCLUDED)
        assert all(f"sekret of {name}".encode() in content(exported.image) for name in KEPT)
        assert exported.image.id == built(tiny, plain, looks, name="plain", clear_cache=True).image.id
        if number == 1:
            assert why(exported) == {"unchanged since it was exported"}


def test_an_excluded_file_may_change_and_a_changed_project_file_counts(
    tiny: TinyBuilder, app: Path, looks: Path
) -> None:
    first = built(tiny, app, looks, name="changes")
    (app / "docs/secret").write_text("another secret")
    again = built(tiny, app, looks, name="changes")
    assert (again.image.id, why(again)) == (first.image.id, {"unchanged since it was exported"})
    (app / "project.toml").write_text(PROJECT.replace('"/docs", ', ""))
    both = [built(tiny, app, looks, name="changes", overlay=overlay).image for overlay in (True, False)]
    assert both[0].id == both[1].id != first.image.id
    assert b"another secret" in content(both[0]) and b"sekret of top.pem" not in content(both[0])
    (app / "project.toml").write_text(PROJECT)
    assert built(tiny, app, looks, name="changes").image.id == first.image.id


def test_with_include_nothing_else_is_in_the_image(tiny: TinyBuilder, app: Path, looks: Path) -> None:
    (app / "project.toml").write_text('[build]\ninclude = ["src/main", "kept"]\n')
    images = [built(tiny, app, looks, name="include", overlay=overlay).image for overlay in (True, False)]
    assert images[0].id == images[1].id
    found = {name for name in (*KEPT, *EXCLUDED) if f"sekret of {name}".encode() in content(images[0])}
    assert found == {"src/main", "src/lib/kept"}
    assert b"project.toml" not in content(images[0])


def test_variables_of_the_command_line_go_before_those_of_the_file(
    tiny: TinyBuilder, app: Path, looks: Path
) -> None:
    exported = built(tiny, app, looks, name="env", env={"NAME": "user"})
    assert "GREETING=hello NAME=user" in "\n".join(tiny.lines)
    recorded = BuildProvenance.parse(exported.image)
    assert recorded is not None and recorded.env == ("NAME",)  # the source has the other
    (app / "project.toml").unlink()
    built(tiny, app, looks, name="env")
    assert "GREETING= NAME=\nenv" in "\n".join(line.split(": ", 1)[-1] for line in tiny.lines)


def members(image: Image, top: str) -> set[str]:
    """The paths below a directory in the layers of an image."""
    found: set[str] = set()
    for layer in image.layers:
        with tarfile.open(fileobj=io.BytesIO(b"".join(layer.tar()))) as tar:
            found |= {member.name.strip("/") for member in tar}
    return {name.removeprefix(f"{top}/") for name in found if name.startswith(f"{top}/")}


@pytest.mark.parametrize("overlay", [True, False])
@pytest.mark.parametrize("seed", first_in_test(range(1000, 1010), count=2))
def test_what_random_rules_exclude_is_in_no_layer_and_seen_by_no_buildpack(
    tiny: TinyBuilder, tmp_path: Path, seed: int, *, overlay: bool
) -> None:
    source = make_source(tmp_path / "app", seed)
    kept = find_kept(source, tmp_path / "git")
    (source.app / "project.toml").write_text(source.project_toml)
    kept |= (
        set() if "project.toml" in Project.read(source.app).excluded_paths(source.app) else {"project.toml"}
    )
    look = "grep -rh 'content of' . || true"
    copy = 'mkdir "$1/copy"; cp -r . "$1/copy"; printf "[types]\\nlaunch = true\\n" > "$1/copy.toml"'
    looks = shell_buildpack(tmp_path / "looks", "test/looks", detect=look, build=f"{look}\n{copy}")
    image = built(tiny, source.app, looks, name=f"random-{seed}", overlay=overlay).image
    assert members(image, "workspace") == members(image, "layers/test_looks/copy") == kept
    files = {path for path in source.app.rglob("*") if path.is_file() and not path.is_symlink()}
    texts = {content_of(path.relative_to(source.app)) for path in files if path.name != "project.toml"}
    seen = {text for text in texts if text in "\n".join(tiny.lines)}
    assert seen == {text for text in texts if text.encode() in content(image)}
    assert seen == texts & {content_of(path) for path in kept}


HEAD = '[_]\nschema-version = "0.2"\n[io.buildpacks]\n'


def write_project(app: Path, text: str) -> None:
    (app / "README").touch()  # the builder's own buildpack looks for it
    (app / "project.toml").write_text(HEAD + text)


def said(tiny: TinyBuilder) -> list[str]:
    """What the buildpacks printed, in order."""
    return [word for line in tiny.lines if (word := line.strip().rpartition(": ")[2]).startswith("runs ")]


def refs(exported: Exported) -> list[str]:
    metadata = json.loads(exported.image.config.labels["io.buildpacks.build.metadata"])
    return [f"{each['id']}@{each['version']}" for each in metadata["buildpacks"]]


@pytest.fixture
def parts(app: Path) -> Path:
    """Two buildpacks in the source, `tools/a` and `tools/b`, which say their names."""
    for name in "ab":
        shell_buildpack(app / "tools" / name, f"test/{name}", build=f"echo runs {name}")
    return app / "tools"


def test_the_builder_and_the_group_of_the_file_build_the_image(
    tiny: TinyBuilder, app: Path, parts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    group = f"""\
builder = "{BUILDER}"
exclude = ["*.pem", "/docs", "/tools"]
[[io.buildpacks.group]]
uri = "tools/b"
[[io.buildpacks.group]]
id = "test/script"
[io.buildpacks.group.script]
api = "0.10"
shell = "/bin/bash"
inline = '''
[[ $BASH && ! -e tools && ! -e top.pem ]]
echo "runs script with $1"
'''
[[io.buildpacks.group]]
id = "foreign/shell"
version = "2.1.0"
"""
    write_project(app, group)
    monkeypatch.chdir(tmp_path)  # a uri does not start there
    exported = built(tiny, app, name="group", builder="")
    assert said(tiny) == ["runs b", "runs script with /layers/test_script"]
    assert refs(exported) == ["test/b@1.0.0", "test/script@0.0.0", "foreign/shell@2.1.0"]
    assert b"runs b" not in content(exported.image)
    assert built(tiny, app, name="group", builder="").image.id == exported.image.id
    # The command line's buildpacks stand for the whole group.
    options = built(tiny, app, parts / "a", name="group")
    assert (said(tiny), refs(options)) == (["runs a"], ["test/a@1.0.0"])


def test_the_builder_of_the_file_may_be_in_a_layout_beside_it(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    place = tiny.host.images.place(Location.parse(f"oci:{tmp_path / 'layout'}:builder"))
    push_image(tiny.store.place(BUILDER).read(), place)
    write_project(app, 'builder = "oci:../layout:builder"\n')
    assert refs(built(tiny, app, name="layout", builder="")) == ["foreign/shell@2.1.0"]


def test_entries_before_and_after_go_around_the_builders_own_groups(
    tiny: TinyBuilder, app: Path, parts: Path
) -> None:
    around = """\
[[io.buildpacks.pre.group]]
uri = "tools/a"
[[io.buildpacks.pre.group]]
uri = "tools/b"
[[io.buildpacks.post.group]]
id = "test/last"
version = "7"
[io.buildpacks.post.group.script]
api = "0.10"
inline = "echo runs last"
"""
    write_project(app, around)
    exported = built(tiny, app, name="around")
    assert said(tiny) == ["runs b", "runs a", "runs last"], "as in pack"
    assert refs(exported) == ["test/b@1.0.0", "test/a@1.0.0", "foreign/shell@2.1.0", "test/last@7"]
    before = (str(parts / "b"),)
    options = built(tiny, app, name="around", pre_buildpacks=before, post_buildpacks=(str(parts / "a"),))
    assert refs(options) == ["test/b@1.0.0", "foreign/shell@2.1.0", "test/a@1.0.0"]
    built(tiny, app, parts / "a", name="around", pre_buildpacks=before)
    assert "--pre-buildpack has no effect: --buildpack replaces the builder's groups" in tiny.lines


def test_a_failing_script_fails_the_build_and_a_missing_interpreter_is_said(
    tiny: TinyBuilder, app: Path
) -> None:
    script = '[[io.buildpacks.group]]\nid = "test/script"\n[io.buildpacks.group.script]\napi = "0.10"\n'
    write_project(app, f'{script}inline = "exit 7"\n')
    with pytest.raises(BuildpackFailed, match=r"test/script@0\.0\.0"):
        built(tiny, app, name="fails")
    write_project(app, f'{script}inline = "true"\nshell = "/bin/nosuch"\n')
    with pytest.raises(PackhorseError, match=r"test/script@0\.0\.0") as raised:
        built(tiny, app, name="fails")
    assert "interpreter or loader that it names does not exist" in raised.value.why


def test_a_source_is_not_its_own_buildpack_however_it_is_named(
    tiny: TinyBuilder, app: Path, tmp_path: Path
) -> None:
    shutil.copytree(shell_buildpack(tmp_path / "own"), app, dirs_exist_ok=True)
    for uri in (".", "file:.", app.as_uri(), str(app)):
        write_project(app, f'[[io.buildpacks.group]]\nuri = "{uri}"\n')
        with pytest.raises(InputError, match="is the source itself"):
            built(tiny, app, name="own")


def test_an_entry_that_leads_to_no_buildpack_is_named_with_its_line(tiny: TinyBuilder, app: Path) -> None:
    for line, named in (
        ('uri = "."', "is the source itself"),
        ('uri = "docker://"', "not an image name"),
        ('uri = "from=builder"\nid = "a"', "the builder's order has no id"),
        ('uri = "./tools/none"', "there is no buildpack './tools/none'"),
        (
            'uri = "docker://127.0.0.1:1/bp"',
            "127.0.0.1:1/bp:latest is not in the store and cannot be fetched",
        ),
        ('uri = "s3://bucket/bp"', "s3://bucket/bp is no place for buildpacks"),
        ('id = "none/such"', "none/such"),
        ('id = "foreign/shell"\nversion = "9"', "foreign/shell@9"),
    ):
        write_project(app, f"[[io.buildpacks.group]]\n{line}\n")
        with pytest.raises(PackhorseError) as raised:
            built(tiny, app, name="wrong")
        error = raised.value
        assert named in error.what and "project.toml:5: io.buildpacks.group." in f"{error.what} {error.fix}"
    write_project(app, f'builder = "{APP}"\n')
    with pytest.raises(InputError, match=r"project.toml:4: .*builder: .* has the name of the image to build"):
        tiny.build(app, name=APP, builder="")
    write_project(app, 'builder = "UPPER"\n')
    with pytest.raises(
        InputError, match=r"project.toml:4: io.buildpacks.builder: not an image name: 'UPPER'"
    ):
        tiny.build(app, builder="")
