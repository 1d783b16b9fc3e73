"""Options that name buildpacks take several, with commas between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.cli.build_options import split_locators


def test_locators_have_commas_between_them_unless_it_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert split_locators(()) == ()
    assert split_locators(("a/x@1, from=builder,docker://h.example/bp:1", "c")) == (
        *("a/x@1", "from=builder", "docker://h.example/bp:1"),
        "c",
    )
    assert split_locators(("a,b", "a,c")) == ("a,b", "a", "c")
    assert split_locators(("",)) == ("",)  # which is refused as no buildpack
