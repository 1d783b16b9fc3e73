"""Regular expressions that are compiled late: as those of the standard library, once they are used."""

import re

import pytest

from packhorse.base.regex import regex


def test_it_does_what_a_compiled_one_does() -> None:
    late, compiled = (
        regex(r"(?P<word>[a-z]+)=", re.IGNORECASE),
        re.compile(r"(?P<word>[a-z]+)=", re.IGNORECASE),
    )
    for text in ("A=1 b=2", "", "=="):
        assert late.findall(text) == compiled.findall(text)
        assert late.sub("x", text) == compiled.sub("x", text)
        assert (late.match(text) is None) == (compiled.match(text) is None)
    assert (late.pattern, late.flags, late.groupindex) == (
        compiled.pattern,
        compiled.flags,
        compiled.groupindex,
    )


def test_it_is_compiled_when_it_is_used_and_not_before() -> None:
    broken = regex("(")
    with pytest.raises(re.error):
        broken.match("x")
    with pytest.raises(AttributeError):
        _ = regex("x").matches  # type: ignore[attr-defined]
