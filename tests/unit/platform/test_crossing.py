"""What programs say when rename(2) tells them that they cross devices."""

from __future__ import annotations

import pytest

from fakes.observer import Quiet
from packhorse.errors import BuildpackFailed
from packhorse.platform.crossing import Listener

FAILED = BuildpackFailed("a/b@1 failed", buildpack="a/b@1")


def heard(*chunks: bytes, source: str = "a/b") -> bool:
    listener = Listener(Quiet())
    with listener.phase("build"):
        for chunk in chunks:
            listener.output(source, chunk)
    return listener.heard(FAILED)


@pytest.mark.parametrize(
    "text",
    [
        "mv: cannot move 'a' to 'b': Invalid cross-device link",
        "rename a b: invalid cross-device link",  # Go
        "OSError: [Errno 18] Invalid cross-device link: 'a' -> 'b'",  # Python
        "Error: EXDEV: cross-device link not permitted, rename 'a' -> 'b'",  # Node.js
        "npm error code EXDEV",
        'Os { code: 18, kind: CrossesDevices, message: "Invalid cross-device link" }',  # Rust
        "Errno::EXDEV (Invalid cross-device link @ rb_file_s_rename - (a, b))",  # Ruby
        "java.nio.file.AtomicMoveNotSupportedException: a -> b: Invalid cross-device link",
        "mv: can't rename 'a': Cross-device link",  # musl
    ],
)
def test_what_programs_say_is_recognized_in_any_pieces(text: str) -> None:
    data = text.encode()
    assert heard(data)
    assert heard(*(data[number : number + 1] for number in range(len(data))))


def test_what_says_something_else_or_comes_from_another_is_not() -> None:
    assert not heard(b"no such file or directory, rename 'a' -> 'b'")
    assert not heard(b"NOEXDEVICE")
    assert not heard(b"Invalid cross-device link", source="a/c")
    assert not heard()


def test_what_was_said_in_an_earlier_phase_does_not_count() -> None:
    listener = Listener(Quiet())
    listener.output("a/b", b"cross-device link")
    with listener.phase("build"):
        assert not listener.heard(FAILED)


def test_a_failure_that_is_no_buildpacks_own_is_not_one() -> None:
    listener = Listener(Quiet())
    listener.output("a/b", b"cross-device link")
    assert not listener.heard(BuildpackFailed("a/b@1 failed", why="it met the limit"))
