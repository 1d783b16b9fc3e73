"""Whatever text somebody types, an image name is read and written back the same, or refused as input."""

from hypothesis import example, given
from hypothesis import strategies as st

from packhorse.errors import InputError
from packhorse.oci.reference import Location, Reference

PIECES = st.sampled_from(
    [
        "a",
        "B",
        "localhost",
        "docker.io",
        "index.docker.io",
        "library",
        "reg.x",
        ":5000",
        ":",
        "/",
        "@",
        "_",
        "__",
    ]
    + [
        ".",
        "-",
        "--",
        "[::1]",
        "sha256:" + "0f" * 32,
        "0f" * 32,
        "x" * 129,
        "oci:",
        "docker://",
        "store:",
        "é",
        "\n",
    ]
)
NAMES = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=8).map("".join))


@given(NAMES)
@example("docker.io/library")
@example("index.docker.io/a/b")
def test_a_name_is_refused_or_its_full_and_short_forms_name_the_same(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InputError as error:
        assert error.why
        return
    full = Reference.parse(str(reference))
    assert full == Reference.parse(reference.familiar)
    assert (full.name, full.identifier) == (reference.name, reference.identifier)
    assert reference.repository == reference.repository.lower()


@given(NAMES)
def test_a_location_is_refused_or_written_as_it_is_read(text: str) -> None:
    try:
        location = Location.parse(text)
    except InputError as error:
        assert error.why
        return
    assert Location.parse(str(location)) == location
