"""Service bindings as platforms lay them out: the specification's, Kubernetes', and the old one."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.errors import InputError
from packhorse.sdk.bindings import Bindings


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_binding_has_a_type_a_provider_and_secrets(tmp_path: Path) -> None:
    write(tmp_path, {"a/type": "npmrc\n", "a/provider": " Corp ", "a/.npmrc": "secret\n", "stray": ""})
    bindings = Bindings.read(tmp_path)
    binding = bindings.one_of_type("NpmRc")
    assert binding is not None and (binding.name, binding.provider) == ("a", "Corp")
    assert binding.file("npmrc", ".npmrc") == tmp_path / "a/.npmrc"
    assert binding.secret(".npmrc") == "secret" and binding.secret("none") is None
    assert bindings.of_type("npmrc", provider="corp") == (binding,)
    assert bindings.of_type("npmrc", provider="other") == () and bindings.one_of_type("maven") is None
    assert "secret" not in repr(bindings)


def test_links_as_kubernetes_mounts_them_are_read(tmp_path: Path) -> None:
    write(tmp_path, {"db/..2026/type": "postgresql", "db/..2026/password": "x"})
    (tmp_path / "db/..data").symlink_to("..2026")
    for name in ("type", "password"):
        (tmp_path / "db" / name).symlink_to(f"..data/{name}")
    (binding,) = Bindings.read(tmp_path).all
    assert binding.type == "postgresql" and list(binding.entries) == ["password"]


def test_the_old_layout_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"m/metadata/kind": "maven", "m/metadata/provider": "p", "m/secret/settings.xml": "x"})
    binding = Bindings.read(tmp_path).one_of_type("maven")
    assert binding is not None and list(binding.entries) == ["settings.xml"]


def test_a_directory_without_a_type_and_two_of_a_type_are_said(tmp_path: Path) -> None:
    write(tmp_path, {"a/type": "npmrc", "b/type": "npmrc"})
    with pytest.raises(InputError, match="2 bindings of type npmrc") as refused:
        Bindings.read(tmp_path).one_of_type("npmrc")
    assert "a, b" in refused.value.why
    write(tmp_path, {"c/password": "x"})
    with pytest.raises(InputError, match="the binding c has no type"):
        Bindings.read(tmp_path)


def test_a_secret_that_is_no_text_is_said_without_it(tmp_path: Path) -> None:
    write(tmp_path, {"a/type": "x"})
    (tmp_path / "a/key").write_bytes(b"\xff\xfe")
    (binding,) = Bindings.read(tmp_path).all
    with pytest.raises(InputError, match="not UTF-8"):
        binding.secret("key")


def test_the_variable_leads_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, {"platform/bindings/a/type": "a", "other/b/type": "b"})
    platform = tmp_path / "platform"

    def found(env: dict[str, str]) -> list[str]:
        return [binding.name for binding in Bindings.find(env, platform).all]

    assert found({}) == ["a"] and found({"SERVICE_BINDING_ROOT": ""}) == ["a"]
    assert found({"SERVICE_BINDING_ROOT": str(tmp_path / "other")}) == ["b"]
    assert found({"CNB_BINDINGS": str(tmp_path / "other")}) == ["b"]
    assert found({"SERVICE_BINDING_ROOT": str(tmp_path / "none")}) == []
