"""Which Node.js is asked for, by whom, and which of the published ones serves."""

from pathlib import Path
from typing import Any

import pytest
from nodejs.project import Project
from nodejs.releases import Releases
from nodejs.request import Request
from nodejs.runtime import newest

from packhorse.errors import InputError

RELEASES = Releases.load()
PUBLISHED = [
    *("12.22.12", "16.20.1", "16.20.2", "18.20.8", "20.20.2", "22.23.3"),
    *("24.21.0", "25.9.0", "26.10.0", "27.0.0", "28.0.0-rc.1"),
]


def request(directory: Path, manifest: dict[str, Any] | None = None, **env: str) -> Request:
    return Request.of(Project(directory, manifest or {}), env, RELEASES)


def test_the_setting_wins_over_engines_over_nvmrc_over_node_version(tmp_path: Path) -> None:
    engines = {"engines": {"node": "16"}}
    (tmp_path / ".node-version").write_text("v20.1.0\n")
    assert request(tmp_path) == Request("v20.1.0", ".node-version: v20.1.0")
    (tmp_path / ".nvmrc").write_text("18\n")
    assert request(tmp_path) == Request("18", ".nvmrc: 18")
    assert request(tmp_path, engines) == Request("16", "package.json engines.node: 16")
    assert request(tmp_path, engines, BP_NODE_VERSION="22") == Request("22", "BP_NODE_VERSION: 22")


def test_the_active_lts_serves_who_does_not_ask(tmp_path: Path) -> None:
    assert request(tmp_path) == Request("26", "the active LTS; package.json has no engines.node")


@pytest.mark.parametrize(
    ("text", "range_"),
    [
        ("v22", "v22"),
        ("lts/*", "26"),
        ("lts/jod", "22"),
        ("lts/Gallium", "16"),
        ("lts/-1", "24"),
        ("node", "*"),
        ("# why\n\n 20.11.1 # pinned\n", "20.11.1"),
    ],
)
def test_nvmrc_has_versions_and_the_names_that_nvm_knows(tmp_path: Path, text: str, range_: str) -> None:
    (tmp_path / ".nvmrc").write_text(text)
    assert request(tmp_path).range == range_


@pytest.mark.parametrize("text", ["iojs", "lts/unknown", "lts/-99", "sixteen"])
def test_a_name_that_means_nothing_is_refused_with_its_source(tmp_path: Path, text: str) -> None:
    (tmp_path / ".nvmrc").write_text(text)
    with pytest.raises(InputError, match=r"\.nvmrc"):
        request(tmp_path)


@pytest.mark.parametrize(
    ("range_", "version"),
    [
        ("16", "16.20.2"),
        ("v16", "16.20.2"),
        ("16.20.1", "16.20.1"),
        (">=18 <23", "22.23.3"),
        ("20 || 22", "22.23.3"),
        ("^18.3", "18.20.8"),
        ("14 - 16", "16.20.2"),
        ("25", "25.9.0"),
        (">=99", None),
    ],
)
def test_ranges_are_npms_and_take_the_newest_match(range_: str, version: str | None) -> None:
    assert newest(PUBLISHED, range_, RELEASES) == version


def test_an_open_range_stays_with_long_term_support(tmp_path: Path) -> None:
    assert newest(PUBLISHED, ">=16", RELEASES) == "26.10.0"
    assert newest(PUBLISHED, ">26", RELEASES) == "27.0.0"


@pytest.mark.parametrize(
    ("node", "npm"),
    [
        ("12.22.12", "8.19.4"),
        ("16.20.2", "8.19.4"),
        ("18.12.0", "9.9.4"),
        ("18.20.8", "10.8.2"),
        ("22.23.3", "10.9.9"),
        ("24.21.0", "11.19.0"),
        ("26.10.0", "11.19.1"),
        ("27.0.0", "11.19.1"),
        ("10.24.1", None),
        ("12.0.0", None),
    ],
)
def test_each_version_has_an_npm_that_supports_it(node: str, npm: str | None) -> None:
    assert RELEASES.npm_for(node) == npm
