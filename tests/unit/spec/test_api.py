"""Versions of the Buildpack API: their form, which are supported, and what each brought."""

from __future__ import annotations

import pytest

from packhorse.errors import BuildpackApiError
from packhorse.spec.api import BUILDPACK_APIS, COMMAND_LIST, EXEC_ENV, BuildpackApi
from packhorse.version import __version__


def test_every_supported_version_is_read_back_as_it_is_written() -> None:
    assert [BuildpackApi.parse(str(api), owner="a", where="") for api in BUILDPACK_APIS] == list(
        BUILDPACK_APIS
    )
    assert [str(api) for api in BUILDPACK_APIS] == ["0.7", "0.8", "0.9", "0.10", "0.11", "0.12"]


@pytest.mark.parametrize("text", ["", "x", "0.", ".10", "0.10.0", "-0.10", "0,10", "0.1e1", "٠.10", "0.10\n"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(BuildpackApiError, match="not a version of the form"):
        BuildpackApi.parse(text, owner="a", where="f:1")


@pytest.mark.parametrize("text", ["0.6", "0.13", "1.0", "1", "999999999.999999999"])
def test_a_version_that_is_not_supported_is_refused_by_name(text: str) -> None:
    with pytest.raises(BuildpackApiError) as raised:
        BuildpackApi.parse(text, owner="my/buildpack@1", where="f:1")
    assert raised.value.exit_code == 12
    assert "my/buildpack@1" in raised.value.what
    assert "0.7, 0.8, 0.9, 0.10, 0.11, 0.12" in raised.value.why


def test_an_api_above_the_supported_asks_for_a_newer_packhorse_and_one_below_for_a_newer_buildpack() -> None:
    for text, fix in (("0.13", "use a newer packhorse, "), ("0.6", "use a newer version of the buildpack")):
        with pytest.raises(BuildpackApiError) as raised:
            BuildpackApi.parse(text, owner="a", where="f:1")
        assert raised.value.why.startswith(f"f:1\npackhorse {__version__} supports ")
        assert raised.value.fix.startswith(fix)


def test_a_feature_is_there_from_its_version_on() -> None:
    assert [str(api) for api in BUILDPACK_APIS if api.has(COMMAND_LIST)] == ["0.9", "0.10", "0.11", "0.12"]
    assert [str(api) for api in BUILDPACK_APIS if api.has(EXEC_ENV)] == ["0.12"]
    assert BuildpackApi(1, 0).has(EXEC_ENV)
