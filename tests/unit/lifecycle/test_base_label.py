"""io.buildpacks.lifecycle.metadata as a rebase reads it and writes it back; anybody may have written it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.effort import examples
from packhorse.errors import FormatError
from packhorse.lifecycle.labels import BaseLabel, without_digest

_LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
_KEYS = ("app", "sbom", "buildpacks", "config", "launcher", "process-types", "runImage", "stack", "other")
_LABELS = st.fixed_dictionaries({}, optional=dict.fromkeys(_KEYS, _VALUES))


@pytest.mark.system
@settings(max_examples=examples(200), deadline=None)
@given(_LABELS)
def test_a_label_is_read_and_written_or_refused(value: object) -> None:
    try:
        once = BaseLabel.parse(json.dumps(value)).text()
    except FormatError:
        return
    assert BaseLabel.parse(once).text() == once


@pytest.mark.parametrize("depth", [2, 100, 400, 600, 990, 5000, 100_000])
def test_however_deep_it_is_there_is_an_answer(depth: int) -> None:
    text = f'{{"app":{"[" * depth}{"]" * depth}}}'
    try:
        assert BaseLabel.parse(text).text().startswith(text[:-1])
    except FormatError as error:
        assert depth > 400
        assert "deep" in error.why or "recursion" in error.why


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"app": NaN}',
        '{"app": 1e999}',
        '{"runImage": []}',
        '{"runImage": {"mirrors": [1]}}',
        '{"stack": {"runImage": 1}}',
        '{"buildpacks": [{"layers": {"a": {"cache": 1}}}]}',
    ],
)
def test_what_go_could_not_read_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        BaseLabel.parse(text).text()


def test_nothing_is_known_of_an_image_without_a_label() -> None:
    label = BaseLabel.parse("")
    assert label.sources == () and not label.knows("acme/run")


def test_a_name_without_mirrors_is_known_by_stack_and_run_image_alike() -> None:
    label = BaseLabel.parse(
        '{"runImage": {"image": "a/run"}, "stack": {"runImage": {"mirrors": ["b/run:1"]}}}'
    )
    assert label.sources == ("a/run",)
    assert label.knows("docker.io/a/run:latest") and label.knows("b/run:1") and not label.knows("b/run")


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("run", "docker.io/library/run:latest"),
        (f"a.example/run:1@sha256:{'0' * 64}", "a.example/run:1"),
        (f"a.example/run@sha256:{'0' * 64}", "a.example/run:latest"),
        ("No Name", "No Name"),
        ("No Name@sha256:1", "No Name"),
        ("", ""),
    ],
)
def test_names_are_compared_in_full_and_without_digests(name: str, full: str) -> None:
    assert without_digest(name) == full
