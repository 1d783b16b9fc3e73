"""Image names follow docker's grammar, and locations are spelled as skopeo spells them."""

import pytest

from packhorse.base.digest import Digest
from packhorse.errors import InputError
from packhorse.oci.reference import Location, LocationKind, Reference

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"

FULL_NAMES = [
    ("myapp", "docker.io/library/myapp:latest", "myapp:latest"),
    ("myapp:1", "docker.io/library/myapp:1", "myapp:1"),
    ("me/myapp", "docker.io/me/myapp:latest", "me/myapp:latest"),
    ("docker.io/myapp", "docker.io/library/myapp:latest", "myapp:latest"),
    ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
    ("index.docker.io/me/myapp", "docker.io/me/myapp:latest", "me/myapp:latest"),
    ("localhost/myapp", "localhost/myapp:latest", "localhost/myapp:latest"),
    ("localhost:5000/myapp:v1", "localhost:5000/myapp:v1", "localhost:5000/myapp:v1"),
    ("myreg:5000", "docker.io/library/myreg:5000", "myreg:5000"),
    ("reg:5000/a/b", "reg:5000/a/b:latest", "reg:5000/a/b:latest"),
    ("reg.example/a__b/c--d", "reg.example/a__b/c--d:latest", None),
    ("Upper/app", "Upper/app:latest", None),
    ("[::1]:5000/app", "[::1]:5000/app:latest", None),
    (f"reg:5000/a/b:tag@{DIGEST}", f"reg:5000/a/b:tag@{DIGEST}", None),
    (f"myapp@{DIGEST}", f"docker.io/library/myapp@{DIGEST}", f"myapp@{DIGEST}"),
]


@pytest.mark.parametrize(("text", "full", "familiar"), FULL_NAMES)
def test_a_name_is_completed_with_dockers_defaults(text: str, full: str, familiar: str | None) -> None:
    reference = Reference.parse(text)
    assert str(reference) == full
    assert reference.familiar == (familiar or full)
    assert str(Reference.parse(full)) == full


def test_defaults_are_told_apart_from_what_was_written() -> None:
    assert Reference.parse("myapp").tag is None
    assert Reference.parse("myapp:latest").tag == "latest"
    assert Reference.parse("myapp").identifier == "latest"
    assert Reference.parse(f"myapp:1@{DIGEST}").identifier == DIGEST


@pytest.mark.parametrize(
    "text", ["me:hunter2@h.example/a:1", "https://me:hunter2@h.example/a", "hunter2@h/a"]
)
def test_a_password_before_a_registry_is_an_error_without_it(text: str) -> None:
    with pytest.raises(InputError, match="not an image name") as raised:
        Reference.parse(text)
    assert "packhorse login" in str(raised.value) and "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("MyApp", "upper case"),
        ("docker.io/", "empty"),
        ("a//b", "''"),
        ("/a", "''"),
        ("a/b/", "''"),
        ("a..b", "'a..b'"),
        ("a___b", "'a___b'"),
        ("-a", "'-a'"),
        ("a:", "tag"),
        ("a:-b", "tag"),
        ("a:" + "x" * 129, "tag"),
        ("a@sha256:123", "digest"),
        ("a@", "digest"),
        ("a@md5:123", "digest"),
        ("reg_x.y/a", "registry"),
        ("reg:port/a", "registry"),
        ("-reg.example/a", "registry"),
        (HEX, "image ID"),
        ("a/" + "b" * 254, "longer"),
        ("a b", "'a b'"),
        ("a\n", "'a\\n'"),
        ("http://reg/a", "registry"),
    ],
)
def test_a_wrong_name_is_refused_with_the_part_that_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        Reference.parse(text)
    assert reason in caught.value.why
    assert "image name" in caught.value.what


def test_a_reference_can_be_pinned_and_retagged() -> None:
    reference = Reference.parse("reg:5000/a:1")
    assert str(reference.with_digest(Digest(HEX))) == f"reg:5000/a@{DIGEST}"
    assert str(reference.with_tag("2")) == "reg:5000/a:2"
    with pytest.raises(InputError):
        reference.with_tag("no good")


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("myapp", Location(LocationKind.STORE, "", "myapp")),
        ("reg:5000/a:1", Location(LocationKind.STORE, "", "reg:5000/a:1")),
        ("store:myapp:2", Location(LocationKind.STORE, "", "myapp:2")),
        (f"store:{DIGEST}", Location(LocationKind.STORE, "", DIGEST)),
        (HEX, Location(LocationKind.STORE, "", HEX)),
        ("docker://reg:5000/a:1", Location(LocationKind.REGISTRY, "", "reg:5000/a:1")),
        ("docker:1", Location(LocationKind.STORE, "", "docker:1")),
        ("docker-daemon:myapp:1", Location(LocationKind.DAEMON, "", "myapp:1")),
        ("oci:some/dir", Location(LocationKind.OCI, "some/dir", "")),
        ("oci:some/dir:v1:odd", Location(LocationKind.OCI, "some/dir", "v1:odd")),
        ("oci-archive:f.tar:v1", Location(LocationKind.OCI_ARCHIVE, "f.tar", "v1")),
        ("docker-archive:f.tar", Location(LocationKind.DOCKER_ARCHIVE, "f.tar", "")),
        ("docker-archive:f.tar:reg:5000/a:1", Location(LocationKind.DOCKER_ARCHIVE, "f.tar", "reg:5000/a:1")),
    ],
)
def test_a_location_is_spelled_as_skopeo_spells_it(text: str, location: Location) -> None:
    assert Location.parse(text) == location
    assert Location.parse(str(location)) == location


@pytest.mark.parametrize(
    "text", ["oci:", "oci-archive::x", "docker://", "store:", "docker-archive:f:UPPER", "docker:x y"]
)
def test_a_location_without_its_path_or_name_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        Location.parse(text)


@pytest.mark.parametrize(
    "text", ["containers-storage:a", "dir:/x", "docker:/x", "https://h.example/a", "sif:x"]
)
def test_a_place_that_there_is_not_is_answered_by_those_that_there_are(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Location.parse(text)
    assert caught.value.what == f"{text.partition(':')[0]}: is not a place that packhorse knows"
    assert "oci-archive:FILE[:REF]" in caught.value.why


def test_a_location_by_image_id_is_no_reference() -> None:
    with pytest.raises(InputError):
        _ = Location.parse(f"store:{DIGEST}").reference
    assert Location.parse("docker://a/b").reference == Reference("docker.io", "a/b")
