"""Random builds end as those of the reference do: with its exit code, or with an image of its image ID.

random_builds.json has the answers of the Go lifecycle 0.21.0; record_builds.py asks it for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.image_build import Machine, build_case, open_machine
from fuzz.random_builds import PROGRAMS, RandomBuilds
from lanes import first_in_test
from packhorse.errors import BuildError, PackhorseError
from packhorse.store.store import Store

pytestmark = pytest.mark.system

_REFUSED = {"106": 3, "116": 2, "129": 2, "140": 1, "226": 3, "269": 1, "276": 2}
"""The build of a seed that packhorse refuses: a process without a command (docs/decisions/0007).

The seeds 12 and 271 have no answers: a layer that is not restored has an SBOM file (docs/decisions/0007).
"""

ANSWERS = json.loads((Path(__file__).parent / "random_builds.json").read_text())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with open_machine(tmp_path_factory.mktemp("machine") / "root", PROGRAMS) as machine:
        yield machine


@pytest.mark.parametrize("seed", first_in_test(ANSWERS, 12))
def test_random_builds_end_as_those_of_the_reference(seed: str, machine: Machine, tmp_path: Path) -> None:
    case = RandomBuilds.of(int(seed))
    with Store.open(tmp_path / "store") as store:
        for number, answer in enumerate(ANSWERS[seed], 1):
            is_refused = _REFUSED.get(seed) == number
            expected = BuildError.exit_code if is_refused else answer
            with store.scratch() as scratch:
                try:
                    found: str | int = str(build_case(case.on_build(number), machine, store, scratch).id)
                except PackhorseError as error:
                    found = error.exit_code
            assert found == expected, f"build {number}"
            if is_refused:
                break  # the reference's next build begins with the image of this one


def test_most_random_builds_succeed() -> None:
    answers = [answer for builds in ANSWERS.values() for answer in builds]
    assert len(ANSWERS) >= 200
    assert sum(isinstance(answer, str) for answer in answers) > 0.8 * len(answers)
