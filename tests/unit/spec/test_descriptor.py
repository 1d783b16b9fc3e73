"""buildpack.toml and order.toml as values; whatever is wrong in them is told at once."""

from __future__ import annotations

import pytest

from packhorse.base.target import Distro
from packhorse.errors import BuildpackApiError, InputError
from packhorse.spec.api import BuildpackApi
from packhorse.spec.buildpack_toml import BuildpackTarget, Descriptor, Ref, escape_id, parse_extensions

WHOLE = """
api = "0.12"
[buildpack]
id = "example/node.js"
version = "1.2.3"
name = "Node"
homepage = "https://example.test"
clear-env = true
sbom-formats = ["application/spdx+json"]
exec-env = ["production", "test"]
keywords = ["unknown", "keys", "are", "fine"]
[[targets]]
os = "linux"
arch = "arm64"
variant = "v8"
[[targets.distros]]
name = "ubuntu"
version = "24.04"
[[targets]]
os = "linux"
arch-variant = "v2"
"""


def parse(text: str) -> Descriptor:
    return Descriptor.parse(text.encode(), "buildpack.toml")


def issues(text: str) -> list[str]:
    with pytest.raises(InputError) as raised:
        parse(text)
    return list(raised.value.issues)


def test_a_component_is_read() -> None:
    assert parse(WHOLE) == Descriptor(
        api=BuildpackApi(0, 12),
        id="example/node.js",
        version="1.2.3",
        name="Node",
        homepage="https://example.test",
        clear_env=True,
        sbom_formats=("application/spdx+json",),
        exec_env=("production", "test"),
        targets=(
            BuildpackTarget("linux", "arm64", "v8", (Distro("ubuntu", "24.04"),)),
            BuildpackTarget("linux", variant="v2"),
        ),
    )


def test_a_composite_is_read() -> None:
    found = parse(
        'api = "0.10"\n[buildpack]\nid = "all"\nversion = "1"\n[[order]]\n[[order.group]]\nid = "a"\n'
        'version = "1"\noptional = true\n[[order.group]]\nid = "b"\n[[order]]\ngroup = [{id = "c"}]\n'
    )
    assert found.order == ((Ref("a", "1", True), Ref("b", "")), (Ref("c", ""),))


def test_every_issue_is_told_at_once_with_its_line() -> None:
    text = """\
api = "0.12"
[buildpack]
version = ""
name = 4
homepage = []
clear-env = "yes"
sbom-formats = "application/spdx+json"
exec-env = [1]
[[order]]
[[order.group]]
version = "1"
optional = "no"
[[order]]
[[targets]]
os = 1
distros = "ubuntu"
"""
    assert issues(text) == [
        "buildpack.toml:2: buildpack.id is missing",
        "buildpack.toml:3: buildpack.version is empty",
        "buildpack.toml:4: buildpack.name must be a string",
        "buildpack.toml:5: buildpack.homepage must be a string",
        "buildpack.toml:6: buildpack.clear-env must be true or false",
        "buildpack.toml:7: buildpack.sbom-formats must be a list of strings",
        "buildpack.toml:8: buildpack.exec-env must be a list of strings",
        "buildpack.toml:16: targets.distros must be an array of tables ([[targets.distros]])",
        "buildpack.toml:15: targets.os must be a string",
        "buildpack.toml:10: order.group.id is missing",
        "buildpack.toml:12: order.group.optional must be true or false",
        "buildpack.toml:13: an order's group names no buildpack",
        "buildpack.toml: a composite buildpack (with [[order]]) has neither [[targets]] nor [[stacks]]",
    ]


def test_an_empty_file_lacks_what_is_required() -> None:
    assert issues("") == [
        "buildpack.toml: api is missing",
        "buildpack.toml: buildpack.id is missing",
        "buildpack.toml: buildpack.version is missing",
    ]


def test_an_api_that_is_not_supported_is_told_before_anything_else() -> None:
    with pytest.raises(BuildpackApiError, match=r"buildpack a@7 needs Buildpack API 0\.13") as raised:
        parse('\napi = "0.13"\n[buildpack]\nid = "a"\nversion = "7"\nname = 4\n')
    assert raised.value.why.startswith("buildpack.toml:2: api\npackhorse ")
    with pytest.raises(BuildpackApiError, match=r"declares the Buildpack API 'new'") as raised:
        parse('api = "new"\n')
    assert raised.value.why.startswith("buildpack.toml:1: api: that is not a version")


BIONIC = BuildpackTarget("linux", "amd64", distros=(Distro("ubuntu", "18.04"),))


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ('stacks = [{id = "io.buildpacks.stacks.bionic", mixins = ["x"]}]', (BIONIC,)),
        ('stacks = [{id = "*"}]', (BuildpackTarget(),)),
        ('stacks = [{id = "*"}, {id = "io.buildpacks.stacks.bionic"}]', (BuildpackTarget(), BIONIC)),
        ('stacks = [{id = "io.buildpacks.stacks.jammy"}, {}]', ()),
        (
            'stacks = [{id = "*"}]\ntargets = [{os = "linux", arch = "arm64"}]',
            (BuildpackTarget("linux", "arm64"),),
        ),
    ],
    ids=["bionic", "any", "both", "others", "targets as well"],
)
def test_B_155_stacks_stand_for_targets_where_none_is_declared(
    tables: str, expected: tuple[BuildpackTarget, ...]
) -> None:
    descriptor = parse(f'api = "0.10"\n{tables}\n[buildpack]\nid = "a"\nversion = "1"\n')
    assert descriptor.targets == expected


@pytest.mark.parametrize(
    ("stacks", "expected"),
    [
        (["io.buildpacks.stacks.bionic"], (BIONIC,)),
        (["io.buildpacks.stacks.bionic", "io.buildpacks.stacks.jammy"], ()),
        (["io.buildpacks.stacks.bionic", "*"], (BuildpackTarget(),)),
    ],
    ids=["alone", "with another", "with any"],
)
def test_B_155_before_api_0_10_the_stack_bionic_is_a_target_if_it_is_alone(
    stacks: list[str], expected: tuple[BuildpackTarget, ...]
) -> None:
    tables = "".join(f'[[stacks]]\nid = "{stack}"\n' for stack in stacks)
    for api in ("0.7", "0.8", "0.9"):
        descriptor = parse(f'api = "{api}"\n[buildpack]\nid = "a"\nversion = "1"\n{tables}')
        assert descriptor.targets == expected


def test_mixins_of_a_stack_are_keys_of_the_file() -> None:
    warnings: list[str] = []
    text = 'api="0.9"\n[buildpack]\nid="a"\nversion="1"\n[[stacks]]\nid="x"\nmixins=["build:git"]\nother=1\n'
    Descriptor.parse(text.encode(), "buildpack.toml", warn=warnings.append)
    assert warnings == ["buildpack.toml:8: stacks.other is not a key of this file and is ignored"]


@pytest.mark.parametrize("identifier", ["app", "config", "generated", "sbom", ".", "..", "a b", "a\\nb", "é"])
def test_an_id_that_a_directory_cannot_be_named_after_is_refused(identifier: str) -> None:
    (issue,) = issues(f'api = "0.12"\n[buildpack]\nid = "{identifier}"\nversion = "1"\n')
    assert issue.startswith("buildpack.toml:3: ")
    assert issue.endswith("cannot be the id of a buildpack")


@pytest.mark.parametrize("version", ["..", ".", "1/2", "../../lifecycle", "1\\n2", "\\u0000"])
def test_a_version_that_a_directory_cannot_be_named_after_is_refused(version: str) -> None:
    (issue,) = issues(f'api = "0.12"\n[buildpack]\nid = "a"\nversion = "{version}"\n')
    assert issue.startswith("buildpack.toml:4: ")
    assert issue.endswith("cannot be the version of a buildpack")


def test_a_composite_runs_on_no_stack_of_its_own() -> None:
    text = 'api="0.10"\nstacks=[]\n[buildpack]\nid="a"\nversion="1"\n[[order]]\ngroup=[{id="b"}]\n'
    assert len(issues(text)) == 1


@pytest.mark.parametrize(
    ("api", "lines", "expected"),
    [
        ("0.12", 'exec-env = ["test"]', ("test",)),
        ("0.12", '[[buildpack.exec-env]]\nname = "test"\n[[buildpack.exec-env]]\nname = "*"', ("test", "*")),
        ("0.11", 'exec-env = ["test"]', ()),
        ("0.11", "exec-env = 4", ()),
    ],
)
def test_execution_environments_are_read_in_both_forms_from_their_api_on(
    api: str, lines: str, expected: tuple[str, ...]
) -> None:
    assert parse(f'api = "{api}"\n[buildpack]\nid = "a"\nversion = "1"\n{lines}\n').exec_env == expected


def test_an_id_names_directories_with_its_slashes_replaced() -> None:
    assert escape_id("a/b/c_d") == "a_b_c_d"
    assert Ref("a/b", "1").directory_name == "a_b"
    assert str(parse(WHOLE).ref) == "example/node.js@1.2.3"


def test_the_extensions_of_an_order_are_read_and_every_issue_in_them_reported() -> None:
    assert parse_extensions(b'[[order-extensions]]\ngroup = [{id = "a", version = "1"}]\n', "order.toml") == (
        (Ref("a", "1"),),
    )
    with pytest.raises(InputError) as raised:
        parse_extensions(
            b"[[order-extensions]]\n[[order-extensions]]\n[[order-extensions.group]]\nversion = 1\n",
            "order.toml",
        )
    assert raised.value.issues == (
        "order.toml:1: an order's group names no buildpack",
        "order.toml:3: order-extensions.group.id is missing",
        "order.toml:4: order-extensions.group.version must be a string",
    )
    assert parse_extensions(b"", "order.toml") == ()
