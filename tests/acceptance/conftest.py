"""What several acceptance tests share: real programs of our own, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fakes.engine import Engine, dockerd


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A running docker engine; see `fakes.engine`."""
    with dockerd(tmp_path_factory.mktemp("engine")) as engine:
        yield engine
