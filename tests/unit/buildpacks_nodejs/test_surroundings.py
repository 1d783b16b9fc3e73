"""What beside the source replaces modules that are kept: settings of the user, and no more."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodejs import credentials

from fakes.build_context import build_context


def key(tmp_path: Path, env: Mapping[str, str], **image: str) -> dict[str, str]:
    """The key where the user set `env`, and the build image has `image` in its environment."""
    context = build_context(tmp_path, env={**image, **env}, user=env)
    return credentials.settings_key(context)


@pytest.mark.parametrize(
    "name",
    [
        *("npm_config_legacy_peer_deps", "NPM_CONFIG_BUILD_FROM_SOURCE", "npm_config_libc", "CXXFLAGS"),
        *("YARN_NODE_LINKER", "pnpm_config_shamefully_hoist", "BUN_OPTIONS", "CC", "PYTHON"),
    ],
)
def test_a_variable_that_changes_an_installation_is_in_the_key(tmp_path: Path, name: str) -> None:
    without, one, two = (key(tmp_path, env) for env in ({}, {name: "1"}, {name: "2"}))
    assert without == {"settings in the environment": ""}
    assert one["settings in the environment"].startswith("sha256:")
    assert one != two
    assert key(tmp_path, {}, **{name: "1"}) == without


@pytest.mark.parametrize(
    "name",
    [
        *("npm_config_cache", "npm_config_registry", "NPM_CONFIG_LOGLEVEL", "npm_config_https_proxy"),
        *("npm_config_//x.example/:_authToken", "YARN_NPM_AUTH_TOKEN", "BUN_CONFIG_TOKEN", "NPM_TOKEN"),
        *("YARN_CACHE_FOLDER", "YARN_ENABLE_TELEMETRY", "npm_config_userconfig", "npm_config_cafile", "PATH"),
        *("pnpm_config_store_dir", "npm_config_sharp_binary_host", "BP_NODE_VERSION"),
    ],
)
def test_access_and_places_and_what_is_said_are_not(tmp_path: Path, name: str) -> None:
    assert key(tmp_path, {name: "anything"}) == key(tmp_path, {})
    assert key(tmp_path, {"npm_config_x": "https://me:abc@x.example/"}) == key(tmp_path, {})


BINDINGS = [
    ("npmrc", ".npmrc", "legacy-peer-deps=true\n", "//x.example/:_authToken=a\n@acme:registry=b\n; c\n"),
    ("yarnrc", ".yarnrc", 'ignore-scripts "true"\n', '"//x.example/:_authToken" a\nregistry "b"\n# c\n'),
    ("yarnrc", ".yarnrc.yml", "nodeLinker: pnp\n", "npmAuthToken:\n  a\nnpmRegistryServer: b\n# c\n"),
]


@pytest.mark.parametrize(("kind", "name", "setting", "others"), BINDINGS)
def test_settings_of_a_binding_are_in_the_key_and_its_credentials_are_not(
    tmp_path: Path, kind: str, name: str, setting: str, others: str
) -> None:
    folder = tmp_path / "bindings/one"
    folder.mkdir(parents=True)
    (folder / "type").write_text(kind)
    label = f"{name} of the binding {kind}"

    def with_text(text: str) -> str:
        (folder / name).write_text(text)
        return key(tmp_path, {}, SERVICE_BINDING_ROOT=str(folder.parent))[label]

    assert with_text(others) == ""
    assert with_text(setting + others) == with_text(setting).strip() != ""


@given(text=st.text(), name=st.sampled_from([entry[:2] for entry in BINDINGS]))
def test_any_text_can_be_read(text: str, name: tuple[str, str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "bindings/one")
        folder.mkdir(parents=True)
        (folder / "type").write_text(name[0])
        (folder / name[1]).write_text(text)
        assert key(Path(scratch), {}, SERVICE_BINDING_ROOT=str(folder.parent))
