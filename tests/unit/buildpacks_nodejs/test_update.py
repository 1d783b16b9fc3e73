"""BP_NODE_UPDATE: what it takes."""

import pytest
from nodejs import versions

from packhorse.errors import InputError


@pytest.mark.parametrize("value", ["1", "true", "yes", " TRUE "])
def test_these_ask_for_newer_versions(value: str) -> None:
    assert versions.wants_update({"BP_NODE_UPDATE": value})


@pytest.mark.parametrize("value", ["", "0", "false", "no"])
def test_these_do_not(value: str) -> None:
    assert not versions.wants_update({"BP_NODE_UPDATE": value})
    assert not versions.wants_update({})


@pytest.mark.parametrize("value", ["2", "always", "on please"])
def test_others_are_refused(value: str) -> None:
    with pytest.raises(InputError, match="is neither yes nor no") as raised:
        versions.wants_update({"BP_NODE_UPDATE": value})
    assert "BP_NODE_UPDATE=1" in raised.value.fix
