"""What holds for all tests, and the builder that tests of most folders build with."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from fakes.tiny_builder import TinyBuilder

pytest_plugins = ["lanes"]

# A shell ignores the first two for what it starts in the background, and nohup the last; so would all
# that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long one example takes says nothing on a machine with other work to do. The examples are the same in
# every run, so that one that fails does again; campaigns look for new ones.
settings.register_profile("packhorse", deadline=None, derandomize="PACKHORSE_TESTS_EFFORT" not in os.environ)
settings.load_profile("packhorse")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyBuilder]:
    """A builder of shell buildpacks in a store that the tests of one module share."""
    from fakes.tiny_builder import tiny_builder  # most modules do not build

    with tiny_builder(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny
