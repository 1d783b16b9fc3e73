"""What programs say when rename(2) tells them that they cross devices."""

from __future__ import annotations

import pytest

from packhorse.lifecycle.build import CrossDeviceDetector


def heard(*chunks: bytes) -> bool:
    words = CrossDeviceDetector()
    for chunk in chunks:
        words.feed(chunk)
    return words.found


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


def test_what_says_something_else_is_not() -> None:
    assert not heard(b"no such file or directory, rename 'a' -> 'b'")
    assert not heard(b"NOEXDEVICE")
    assert not heard()
