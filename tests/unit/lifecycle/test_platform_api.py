"""Which Platform API a build is made for."""

from __future__ import annotations

import pytest

from packhorse.errors import PlatformApiError
from packhorse.spec.api import PLATFORM_APIS, PlatformApi


def test_every_supported_version_is_read_back_as_it_is_written() -> None:
    assert [PlatformApi.parse(str(api)) for api in PLATFORM_APIS] == list(PLATFORM_APIS)


@pytest.mark.parametrize("text", ["", "0.6", "0.16", "1.0", "0.15\n", "٠.15"])
def test_any_other_is_refused(text: str) -> None:
    with pytest.raises(PlatformApiError, match="is not supported"):
        PlatformApi.parse(text)


def test_the_highest_that_both_have_is_taken() -> None:
    assert str(PlatformApi.highest(["0.3", "0.14", "0.9", "0.12"], owner="builder")) == "0.14"


@pytest.mark.parametrize(
    ("known", "fix"),
    [
        ([], "use a newer version of the builder"),
        (["0.3", "0.99", "x"], "use a newer version of the builder"),
        (["0.16", "0.17"], "use a newer packhorse"),
    ],
)
def test_without_one_in_common_the_older_side_is_told(known: list[str], fix: str) -> None:
    with pytest.raises(
        PlatformApiError, match="my/builder and packhorse have no Platform API in common"
    ) as raised:
        PlatformApi.highest(known, owner="my/builder")
    assert raised.value.fix == fix
