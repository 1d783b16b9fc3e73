"""Which buildpacks `--buildpack` and project.toml name, their order, and which directories have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fakes import foreign_builder
from fakes.observer import Quiet
from fakes.shell_buildpack import shell_buildpack
from packhorse.base.dataclass import replace
from packhorse.build import buildpacks
from packhorse.build.buildpacks import NamedBuildpack, NamedBuildpacks
from packhorse.build.host import Host
from packhorse.build.locators import Locators
from packhorse.builder.image import Builder
from packhorse.errors import BuildpackApiError, InputError, PackhorseError
from packhorse.host.locate import PullPolicy
from packhorse.host.wiring import Wiring
from packhorse.linux import userns
from packhorse.source.project_toml import BuildpackEntry, Script
from packhorse.spec.buildpack_toml import Descriptor, Order, Ref


@pytest.mark.parametrize(
    ("file", "counts"),
    [("main.py", True), ("bin/build", True), ("__pycache__/main.pyc", False), (".git/index", False)],
)
def test_a_file_that_is_newer_than_the_build_is_a_change(tmp_path: Path, file: str, counts: bool) -> None:
    for name in ("main.py", "bin/build", file):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1000, 1000))
    names = [str(tmp_path), "some/id"]
    assert buildpacks.find_changed(names, 1000) == ()
    os.utime(tmp_path / file, (1001, 1001))
    assert buildpacks.find_changed(names, 1000) == ((str(tmp_path),) if counts else ())


@pytest.fixture
def locators(tmp_path: Path, wiring: Wiring) -> Locators:
    image = foreign_builder.builder_image(foreign_builder.Tar().close(), run="h.example/run", launcher=b"")
    host = Host(wiring.store, wiring, {"PACKHORSE_HOME": str(tmp_path / "home")})
    builder = Builder.read("h.example/builder", image)
    return Locators(builder, host, Quiet(), pull=PullPolicy.ALWAYS)


def refs(group: tuple[Ref, ...]) -> list[str]:
    return [str(ref) for ref in group]


def test_two_buildpacks_with_one_id_and_version_are_refused(tmp_path: Path) -> None:
    first = NamedBuildpack(Ref("a", "1"), tmp_path / "first")
    again = replace(first, ref=Ref("a", "1", optional=True))
    NamedBuildpacks(pre=(first,), post=(again, replace(first, ref=Ref("a", "2")))).check_refs()
    other = replace(first, directory=tmp_path / "other")
    composite = NamedBuildpack(Ref("c", "1"), tmp_path / "composite", dependencies=(other,))
    for named in (
        NamedBuildpacks(group=(first, None, other)),
        NamedBuildpacks(pre=(first,), post=(other,)),
        NamedBuildpacks(group=(composite, first)),
        NamedBuildpacks(group=(first, composite)),
    ):
        with pytest.raises(InputError, match="two of the named buildpacks are a@1"):
            named.check_refs()


def test_a_group_is_the_order_and_others_go_around_each_group_of_the_builder() -> None:
    a, b, c = (NamedBuildpack(Ref(name, "1")) for name in "abc")
    builder: Order = ((Ref("x", "1"), Ref("y", "1", optional=True)), (Ref("z", "1"),))
    assert NamedBuildpacks().order(builder) == builder
    assert NamedBuildpacks(group=(b, a)).order(builder) == ((b.ref, a.ref),)
    named = NamedBuildpacks(pre=(a, b), post=(c, a))
    assert [refs(group) for group in named.order(builder)] == [
        ["b@1", "a@1", "x@1", "y@1", "c@1", "a@1"],
        ["b@1", "a@1", "z@1", "c@1", "a@1"],
    ]
    assert named.order(builder)[0][3].optional
    assert named.all == (a, b, c)


def test_the_builders_order_goes_between_other_buildpacks() -> None:
    a, b = (NamedBuildpack(Ref(name, "1")) for name in "ab")
    builder: Order = ((Ref("x", "1"), Ref("y", "1", optional=True)), (Ref("z", "1"),))
    named = NamedBuildpacks(group=(a, None, b))
    assert [refs(group) for group in named.order(builder)] == [
        ["a@1", "x@1", "y@1", "b@1"],
        ["a@1", "z@1", "b@1"],
    ]
    assert NamedBuildpacks(group=(None,)).order(builder) == builder
    assert named.all == (a, b)


def test_an_entry_is_a_directory_one_of_the_builder_or_a_script(tmp_path: Path, locators: Locators) -> None:
    own = shell_buildpack(tmp_path / "app" / "own", "test/own")
    file, script = tmp_path / "app" / "project.toml", Script("0.10", "make", "/bin/bash")
    entries = (
        BuildpackEntry(uri="own", descriptor=file),
        BuildpackEntry(uri="./own/", id="test/own", descriptor=file),
        BuildpackEntry(uri=str(own), descriptor=file),
        BuildpackEntry(id="foreign/shell"),
        BuildpackEntry(id="foreign/shell", version="2.1.0"),
        BuildpackEntry(uri="urn:cnb:builder:foreign/shell@2.1.0"),
        BuildpackEntry(uri="from=builder:foreign/shell"),
        BuildpackEntry(id="test/script", version="0.0.0", script=script),
    )
    found = locators.find_entries(entries, tmp_path / "app")
    named = [each for each in found if each]
    assert [str(each.ref) for each in named] == [
        *3 * ["test/own@1.0.0"],
        *("foreign/shell@", "foreign/shell@2.1.0", "foreign/shell@2.1.0", "foreign/shell@"),
        "test/script@0.0.0",
    ]
    assert [each.directory for each in named] == [own, own, own, *5 * [None]]
    assert [each.script for each in named] == [*7 * [None], script]
    assert all(each.is_of_project for each in named)
    [given] = locators.find_group([str(own)], "--buildpack")
    assert given is not None and not given.is_of_project


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (BuildpackEntry(uri="./none"), "there is no buildpack './none'"),
        (BuildpackEntry(uri="."), ". is the source itself"),
        (BuildpackEntry(uri="project.toml"), "project.toml is the source itself"),
        (BuildpackEntry(uri="own", id="test/other"), "the buildpack at own is test/own, not test/other"),
        (BuildpackEntry(uri="s3://bucket/bp.tgz"), "s3://bucket/bp.tgz is no place for buildpacks"),
        (BuildpackEntry(uri="tests"), "is not a buildpack"),
        (BuildpackEntry(id="own"), "there is no buildpack 'own'"),
        (BuildpackEntry(id="foreign/shell", version="9"), "there is no buildpack 'foreign/shell@9'"),
    ],
    ids=lambda value: str(value)[-24:],
)
def test_an_entry_that_is_no_buildpack_is_refused_with_its_place(
    tmp_path: Path, locators: Locators, entry: BuildpackEntry, words: str
) -> None:
    shell_buildpack(tmp_path / "own", "test/own")
    (tmp_path / "tests").mkdir()
    (tmp_path / "project.toml").touch()
    entry = replace(entry, descriptor=tmp_path / "project.toml", where="project.toml:7: build.buildpacks")
    with pytest.raises(PackhorseError) as raised:
        locators.find_entries((entry,), tmp_path)
    assert words in raised.value.what
    assert "project.toml:7: build.buildpacks" in f"{raised.value.what} {raised.value.fix}"


def test_a_script_becomes_a_buildpack_whose_detection_passes(tmp_path: Path, wiring: Wiring) -> None:
    script = Script("0.10", 'echo "$0 $1"', "/bin/bash")
    identity = userns.choose_map(1000, 1000)
    umask = os.umask(0o077)
    try:
        (bind,) = buildpacks.mount(
            [NamedBuildpack(Ref("a/b", "1"), script=script)], tmp_path, wiring.store, identity
        )
    finally:
        os.umask(umask)
    assert bind.target == "/cnb/buildpacks/a_b/1" and not bind.writable
    assert bind.source is not None
    descriptor = Descriptor.parse((bind.source / "buildpack.toml").read_bytes(), "buildpack.toml")
    assert (str(descriptor.ref), str(descriptor.api)) == ("a/b@1", "0.10")
    programs = {path.name: path.read_text() for path in (bind.source / "bin").iterdir()}
    assert programs == {
        "detect": "#!/bin/bash\n\nexit 0\n",
        "build": '#!/bin/bash\n\necho "$0 $1"\n',
    }
    modes = {path: path.stat().st_mode & 0o777 for path in (bind.source, *bind.source.rglob("*"))}
    assert {path.name for path, mode in modes.items() if mode == 0o644} == {"buildpack.toml"}
    assert set(modes.values()) == {0o644, 0o755}


def test_a_script_with_an_api_of_another_time_is_refused_with_its_line(locators: Locators) -> None:
    entry = BuildpackEntry(id="a", version="0.0.0", script=Script("9.9", "true", where="project.toml:3: x"))
    with pytest.raises(BuildpackApiError) as raised:
        locators.find_entries((entry,), Path("/app"))
    assert "9.9" in str(raised.value) and "project.toml:3" in str(raised.value)


@pytest.mark.parametrize(("name", "version"), [("A B", "1"), ("config", "1"), ("a", "1/2")])
def test_a_script_whose_directories_could_not_have_its_name_is_refused_with_its_line(
    locators: Locators, name: str, version: str
) -> None:
    entry = BuildpackEntry(id=name, version=version, script=Script("0.10", "true"), where="project.toml:3: x")
    with pytest.raises(InputError) as raised:
        locators.find_entries((entry,), Path("/app"))
    assert raised.value.what.startswith(f"project.toml:3: x: '{name}@{version}' cannot be the id and version")
