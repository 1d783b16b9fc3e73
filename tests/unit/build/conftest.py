"""What use cases work with in tests: adapters over an empty store, and a registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from packhorse.host.wiring import Wiring
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry


@pytest.fixture
def wiring(tmp_path: Path) -> Iterator[Wiring]:
    with Store.open(tmp_path / "store") as store:
        yield Wiring(store)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry
