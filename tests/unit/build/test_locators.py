"""Where a buildpack is found by its locator, and what each place answers when it is nowhere."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fakes import foreign_builder
from fakes.buildpackage import cnb_file, composite, package, tgz
from fakes.observer import Quiet
from fakes.shell_buildpack import shell_buildpack
from fakes.small_image import stored_image, tar_of
from packhorse.base.target import Target
from packhorse.build.buildpacks import NamedBuildpack
from packhorse.build.host import Host
from packhorse.build.locators import Locators
from packhorse.builder.image import Builder
from packhorse.errors import EngineError, FormatError, InputError, NetworkError, NotFoundError, PackhorseError
from packhorse.host.locate import PullPolicy
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry
from packhorse.testing.file_server import send_file, serve_files


class Bench:
    """A store, a registry, and what the last search said."""

    def __init__(self, path: Path, store: Store, registry: FakeRegistry) -> None:
        self.path, self.registry, self.store = path, registry, store
        self.environ = {"PACKHORSE_HOME": str(path / "home"), "PATH": os.environ["PATH"]}
        self.said: list[str] = []

    def find(self, *names: str, pull: PullPolicy = PullPolicy.ALWAYS) -> list[NamedBuildpack | None]:
        return list(self.locators(pull).find_group(names, "--buildpack"))

    def locators(self, pull: PullPolicy = PullPolicy.ALWAYS) -> Locators:
        observer = Quiet()
        self.said = observer.lines
        host = Host(self.store, Wiring(self.store, environ=self.environ), self.environ)
        builder = foreign_builder.builder_image(tar_of({}), run="run", launcher=b"")
        return Locators(Builder.read("acme/builder", builder), host, observer, pull=pull)

    def push(self, image: Image, name: str) -> str:
        reference = f"{self.registry.host}/{name}"
        push_image(image, Wiring(self.store).registry(Reference.parse(reference), Target.host()))
        return reference


@pytest.fixture
def bench(tmp_path: Path, registry: FakeRegistry) -> Iterator[Bench]:
    with Store.open(tmp_path / "store") as store:
        yield Bench(tmp_path, store, registry)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return shell_buildpack(tmp_path / "own", "test/own")


def refs(found: list[NamedBuildpack | None]) -> list[str]:
    return ["order" if each is None else str(each.ref) for each in found]


def only(found: list[NamedBuildpack | None]) -> NamedBuildpack:
    [named] = found
    assert named is not None
    return named


def test_a_name_of_the_builder_is_found_there(bench: Bench) -> None:
    names = [
        "foreign/shell",
        "foreign/shell@2.1.0",
        "urn:cnb:builder:foreign/shell",
        "from=builder:foreign/shell@2.1.0",
    ]
    assert refs(bench.find(*names)) == ["foreign/shell@", "foreign/shell@2.1.0"] * 2
    assert bench.registry.requests == []
    with pytest.raises(NotFoundError) as raised:
        bench.find("urn:cnb:builder:foreign/shell@3")
    assert raised.value.why == "the builder: acme/builder has foreign/shell 2.1.0"


@pytest.mark.parametrize("order", ["from=builder", "urn:cnb:builder"])
def test_the_builders_order_has_one_place_among_others(bench: Bench, own: Path, order: str) -> None:
    assert refs(bench.find(str(own), order, "foreign/shell")) == ["test/own@1.0.0", "order", "foreign/shell@"]
    with pytest.raises(InputError, match="names the builder's order twice"):
        bench.find(order, str(own), "from=builder")
    with pytest.raises(InputError, match="--pre-buildpack names the builder's order"):
        bench.locators().find_around([order], "--pre-buildpack")


def test_a_path_is_a_directory_an_archive_or_a_package(
    bench: Bench, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.path)
    archive, plain = tgz(own, bench.path / "own.tgz"), bench.path / "odd name.zip"
    plain.write_bytes(archive.read_bytes())  # its name says nothing
    image = package(own)
    packed = cnb_file(image, bench.path / "own.cnb")
    squeezed = cnb_file(image, bench.path / "own.cnb.gz", compressed=True)
    names = [
        *("own", "./own", str(own), own.as_uri(), f"file:{own}", "file:own"),
        *("own.tgz", plain.as_uri(), f"file://localhost{archive}"),
        *(str(packed), squeezed.as_uri(), f"oci-archive:{packed}", f"oci:{packed}.layout"),
    ]
    found = bench.find(*names)
    assert refs(found) == ["test/own@1.0.0"] * len(names)
    for name, each in zip(names, found, strict=True):
        assert each is not None and each.is_local and not each.origin
        is_package = ".cnb" in name
        assert (each.package is not None, each.directory is not None) == (is_package, not is_package)
        if each.package is not None:
            assert each.package.id == image.id
    assert bench.registry.requests == []


def test_an_archive_is_unpacked_once_with_the_modes_and_times_of_a_builder(bench: Bench, own: Path) -> None:
    (own / "link").symlink_to("/etc/passwd")
    (own / "bin" / "detect").chmod(0o600)
    (own / "data").mkdir(mode=0o700)
    archive = tgz(own, bench.path / "own.tgz")
    directory = only(bench.find(str(archive))).directory
    assert directory is not None
    assert (directory / "bin" / "detect").stat().st_mode & 0o7777 == 0o755
    assert (directory / "data").stat().st_mode & 0o7777 == 0o755
    assert (directory / "buildpack.toml").stat().st_mode & 0o7777 == 0o644
    assert (directory / "buildpack.toml").stat().st_mtime == 315532801
    assert os.readlink(directory / "link") == "/etc/passwd"
    inode = directory.stat().st_ino
    assert only(bench.find(str(archive))).directory == directory and directory.stat().st_ino == inode
    assert [each.name for each in directory.parent.iterdir()] == [directory.name]


def test_a_package_comes_from_its_registry_with_all_that_it_is_composed_of(bench: Bench, own: Path) -> None:
    other = shell_buildpack(bench.path / "other", "test/other", version="2.0.0")
    both = composite(bench.path / "both", "test/both", ("test/own", "1.0.0"), ("test/other", "2.0.0"))
    name = bench.push(package(both, own, other, flattened=True), "acme/both:1")
    for text in (name, f"docker://{name}", f"docker:/{name}"):
        found = only(bench.find(text))
        assert str(found.ref) == "test/both@1.0.0"
        assert sorted(str(each.ref) for each in found.members) == [
            *("test/both@1.0.0", "test/other@2.0.0", "test/own@1.0.0"),
        ]
        assert not found.is_local
        assert found.origin.startswith(f"docker://{bench.registry.host}/acme/both@sha256:")
    again = only(bench.find(found.origin))  # as `packhorse verify` names it
    assert (again.ref, again.origin) == (found.ref, found.origin)


def test_an_image_with_a_digest_needs_its_registry_once(bench: Bench, own: Path) -> None:
    name = bench.push(package(own), "acme/own")
    origin = only(bench.find(name)).origin
    bench.find(origin)
    bench.registry.requests.clear()
    assert refs(bench.find(origin)) == ["test/own@1.0.0"]
    assert bench.registry.requests == []


def test_a_url_is_downloaded_and_found_again_without_a_network(bench: Bench, own: Path) -> None:
    archive, packed = tgz(own, bench.path / "x.tgz"), cnb_file(package(own), bench.path / "x.cnb")
    with serve_files() as files:
        files.answers["/x.tgz"] = [send_file(archive.read_bytes())]
        files.answers["/x.cnb?token=s3cret"] = [send_file(packed.read_bytes())]
        names = (f"{files.url}/x.tgz", f"{files.url}/x.cnb?token=s3cret")
        assert refs(bench.find(*names)) == ["test/own@1.0.0"] * 2
        assert bench.said[0] == f"downloading {files.url}/x.tgz" and "s3cret" not in "".join(bench.said)
        assert len(files.requests) == 2
        assert refs(bench.find(*names, pull=PullPolicy.IF_NOT_PRESENT)) == ["test/own@1.0.0"] * 2
        assert len(files.requests) == 2
        with pytest.raises(NotFoundError, match="has no http"):
            bench.find(f"{files.url}/other.tgz")
        packed = cnb_file(stored_image(tar_of({})), bench.path / "plain.cnb")
        files.answers["/plain?s3cret"] = [send_file(packed.read_bytes())]
        with pytest.raises(FormatError) as raised:
            bench.find(f"{files.url.upper()}/plain?s3cret")
        assert "s3cret" not in str(raised.value)
    assert refs(bench.find(*names)) == ["test/own@1.0.0"] * 2
    with pytest.raises(NetworkError, match="refusing to reach"):
        bench.find("http://h.example/x.tgz")


def test_the_registry_of_buildpacks_says_which_image_has_a_version(bench: Bench, own: Path) -> None:
    name = bench.push(package(own), "acme/own")
    digest = only(bench.find(name)).origin.partition("@")[2]
    index = bench.path / "index" / "3" / "ow"
    index.mkdir(parents=True)
    entry = {"ns": "test", "name": "own", "version": "1.0.0", "yanked": False, "addr": f"{name}@{digest}"}
    lines = [entry, entry | {"version": "1.1.0"}]
    (index / "test_own").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(NotFoundError) as raised:
        bench.find("urn:cnb:registry:test/own")
    assert raised.value.why == "PACKHORSE_BUILDPACK_REGISTRY is not set"
    bench.environ["PACKHORSE_BUILDPACK_REGISTRY"] = str(bench.path / "index")
    for text in ("urn:cnb:registry:test/own@1.0.0", "test/own@1.0.0"):
        found = only(bench.find(text))
        assert str(found.ref) == "test/own@1.0.0"
        assert found.origin == f"docker://{bench.registry.host}/acme/own@{digest}"
    with pytest.raises(FormatError) as other:
        bench.find("test/own")  # the highest version has another buildpack's image
    assert other.value.what == "--buildpack: the registry's test/own@1.1.0 is another buildpack"
    with pytest.raises(NotFoundError, match="has no buildpack test/own@7"):
        bench.find("urn:cnb:registry:test/own@7")


def test_guesses_are_made_in_the_references_order(
    bench: Bench, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.path)
    assert refs(bench.find("foreign/shell")) == ["foreign/shell@"]
    shell_buildpack(bench.path / "foreign" / "shell", "test/local")
    assert refs(bench.find("foreign/shell")) == ["test/local@1.0.0"]  # a path comes before the builder
    assert refs(bench.find("urn:cnb:builder:foreign/shell")) == ["foreign/shell@"]


def test_a_locator_that_is_nowhere_has_the_answer_of_each_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.path)
    builder = "the builder: acme/builder has foreign/shell 2.1.0"
    rows: list[tuple[str, type[PackhorseError], list[str]]] = [
        (
            "./nosuch",
            NotFoundError,
            [
                f"a path: there is no {bench.path / 'nosuch'}",
                builder,
                "an image: not an image name: './nosuch'; ",
            ],
        ),
        (
            "acme/nosuch@1.0.0",
            NotFoundError,
            [
                f"a path: there is no {bench.path / 'acme/nosuch@1.0.0'}",
                builder,
                "the registry of buildpacks: there is no registry to find acme/nosuch@1.0.0 in; "
                "PACKHORSE_BUILDPACK_REGISTRY is not set",
                "an image is written docker://NAME",
            ],
        ),
        (
            f"{bench.registry.host}/acme/nosuch:1",
            NotFoundError,
            ["a path: ", builder, "an image: "],
        ),
        (
            "127.0.0.1:1/nosuch",
            NetworkError,
            ["a path: ", builder, "an image: 127.0.0.1:1/nosuch:latest is not"],
        ),
        (
            "urn:foo:bar",
            NotFoundError,
            ["a path: ", builder, "a URN: it begins with neither urn:cnb:builder: nor urn:cnb:registry:"],
        ),
    ]
    for text, kind, answers in rows:
        with pytest.raises(kind) as raised:
            bench.find(text)
        lines = (raised.value.why or "").splitlines()
        assert len(lines) == len(answers), lines
        assert all(line.startswith(answer) for line, answer in zip(lines, answers, strict=True)), lines
        assert raised.value.fix == "check --buildpack"


def test_an_engine_that_does_not_answer_is_reported_with_the_option(bench: Bench) -> None:
    bench.environ["DOCKER_HOST"] = f"unix://{bench.path}/nosuch.sock"
    with pytest.raises(EngineError) as raised:
        bench.find("docker-daemon:acme/nosuch")
    assert raised.value.what.startswith("--buildpack: ")


def test_what_is_no_buildpack_is_refused_with_the_reason(bench: Bench, own: Path) -> None:
    (bench.path / "empty").mkdir()
    (bench.path / "text").write_text("no tar")
    tgz(own, bench.path / "nested.tgz", prefix="buildpack-1.0.0")
    linked = shell_buildpack(bench.path / "linked")
    (linked / "buildpack.toml").rename(linked / "real.toml")
    (linked / "buildpack.toml").symlink_to("real.toml")
    tgz(linked, bench.path / "linked.tgz")
    programs = shell_buildpack(bench.path / "programs")
    (programs / "programs.txt").symlink_to("/etc/passwd")
    tgz(programs, bench.path / "programs.tgz")
    plain = bench.push(stored_image(tar_of({"x": b""})), "acme/plain")
    builder = bench.push(foreign_builder.builder_image(tar_of({}), run="r", launcher=b""), "acme/builder")
    rows = [
        ("", InputError, "--buildpack: a locator is empty"),
        (str(bench.path / "empty"), InputError, "is not a buildpack"),
        (str(bench.path / "text"), FormatError, "text"),
        (
            str(bench.path / "nested.tgz"),
            InputError,
            "a .cnb file has, nor buildpack.toml",
        ),
        (str(bench.path / "linked.tgz"), FormatError, "its buildpack.toml is not a regular file"),
        (str(bench.path / "programs.tgz"), FormatError, "its programs.txt is not a regular file"),
        ("/dev/null", InputError, "is not a buildpack"),
        ("s3://bucket/bp.cnb", InputError, "is no place for buildpacks"),
        ("file://elsewhere/bp", InputError, "a file of the machine 'elsewhere'"),
        ("file:///nosuch", NotFoundError, "there is no buildpack"),
        (plain, FormatError, "it has no label io.buildpacks.buildpackage.metadata"),
        (builder, FormatError, "it is a builder, which --builder takes"),
    ]
    for text, kind, words in rows:
        with pytest.raises(kind) as raised:
            bench.find(text)
        assert words in f"{raised.value.what} {raised.value.why}", text
        if kind is not InputError:  # that names the file
            assert "--buildpack" in f"{raised.value.what} {raised.value.fix}", text


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"buildpackage.metadata": '{"id":"test/own","version":"2"}'}, "is the package of test/own@2, which"),
        ({"buildpackage.metadata": '{"id":"..","version":"1"}'}, "is no id and version"),
        ({"buildpack.layers": '{"a/b":{"../../x":{}},"test/own":{"1.0.0":{}}}'}, "is no id and version"),
        ({"buildpack.layers": "[]"}, "is not a JSON object"),
        ({"buildpack.layers": "", "extension.layers": "{}"}, "image extensions, which are not supported"),
    ],
)
def test_a_package_whose_labels_are_wrong_is_refused(
    bench: Bench, own: Path, labels: dict[str, str], words: str
) -> None:
    name = bench.push(package(own, **labels), "acme/own")
    with pytest.raises(FormatError) as raised:
        bench.find(name)
    assert words in f"{raised.value.what} {raised.value.why}"


def test_a_directory_brings_the_dependencies_of_its_package_toml(bench: Bench, own: Path) -> None:
    both = composite(bench.path / "both", "test/both", ("test/own", "1.0.0"), ("test/far", "1.0.0"))
    far = bench.push(package(shell_buildpack(bench.path / "far", "test/far")), "acme/far")
    (both / "package.toml").write_text(
        f'[buildpack]\nuri = "."\n[[dependencies]]\nuri = "../own"\n[[dependencies]]\nimage = "{far}"\n'
    )
    found = only(bench.find(str(both)))
    assert [str(each.ref) for each in found.members] == [
        "test/both@1.0.0",
        "test/own@1.0.0",
        "test/far@1.0.0",
    ]

    (both / "package.toml").write_text('[[dependencies]]\nuri = "../nosuch"\n')
    with pytest.raises(NotFoundError) as raised:
        bench.find(str(both))
    assert raised.value.fix.startswith(f"check {both}/package.toml:2: ")
    (both / "package.toml").write_text("[[dependencies]]\n")
    with pytest.raises(InputError) as empty:
        bench.find(str(both))
    assert "a dependency has a uri or an image" in str(empty.value.issues)
    (both / "package.toml").write_text('[[dependencies]]\nuri = "."\n')
    with pytest.raises(InputError, match="cannot be used") as endless:
        bench.find(str(both))
    assert "name each other in a row" in (endless.value.why or "")


@pytest.mark.parametrize(
    ("kind", "name", "link"),
    [
        (tarfile.REGTYPE, "../evil", ""),
        (tarfile.REGTYPE, "bin/../../evil", ""),
        (tarfile.LNKTYPE, "evil", "../../../../etc/passwd"),
        (tarfile.LNKTYPE, "evil", "/etc/passwd"),
    ],
)
def test_an_archive_that_would_leave_its_directory_is_refused(
    bench: Bench, own: Path, kind: bytes, name: str, link: str
) -> None:
    archive = bench.path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(own, ".")
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        tar.addfile(info)
    with pytest.raises(FormatError):
        bench.find(str(archive))
    assert not list(bench.path.rglob("evil"))
    assert not list((bench.path / "home" / "cache" / "buildpacks").iterdir())


def test_a_link_out_of_an_archive_stays_a_link_and_nothing_is_written_through_it(
    bench: Bench, own: Path
) -> None:
    (bench.path / "outside").mkdir()
    archive = bench.path / "linked.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(own, ".")
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, str(bench.path / "outside")
        tar.addfile(link)
        through = tarfile.TarInfo("way/file")
        through.size = 1
        tar.addfile(through, io.BytesIO(b"x"))
    with suppress(FormatError):
        bench.find(str(archive))
    assert not list((bench.path / "outside").iterdir())
