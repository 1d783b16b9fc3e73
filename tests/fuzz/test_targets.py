"""Each fuzz target with its seeds, the inputs that once led to a defect, and mutations of both."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from fuzz.mutation import mutated
from fuzz.targets import CORPUS, TARGETS

KEPT = [(name, data) for name, inputs in CORPUS.items() for data in inputs]


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_is_taken(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize(
    ("name", "data"), KEPT, ids=[f"{name}-{number}" for number, (name, _) in enumerate(KEPT)]
)
def test_no_defect_comes_back(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


@pytest.mark.system
@pytest.mark.parametrize("name", TARGETS)
def test_a_mutated_input_is_read_or_refused(name: str) -> None:
    inputs = mutated([*TARGETS[name].seeds, *CORPUS.get(name, ())])
    settings(max_examples=100, deadline=None)(given(inputs)(TARGETS[name].run))()
