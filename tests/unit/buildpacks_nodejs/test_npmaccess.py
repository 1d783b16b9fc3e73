"""What npm's settings say of registries, in the form of Yarn 2 and newer."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodejs.managers.yarn_settings import NpmAccess


def test_scopes_and_tokens_are_written_as_yarn_has_them() -> None:
    user = "//npm.example/:_authToken=old\n@acme:registry=http://10.0.0.1:4873/\n"
    project = "; a comment\n//npm.example/:_authToken=${NPM_TOKEN}\n//other.example/npm/:_auth = dTpw\n"
    access = NpmAccess.of([user, project])
    assert access.yaml() == (
        "npmScopes:\n"
        '  "acme":\n'
        '    npmRegistryServer: "http://10.0.0.1:4873"\n'
        "npmRegistries:\n"
        '  "//npm.example":\n'
        '    npmAuthToken: "${NPM_TOKEN-}"\n'
        "    npmAlwaysAuth: true\n"
        '  "//other.example/npm":\n'
        '    npmAuthIdent: "dTpw"\n'
        "    npmAlwaysAuth: true\n"
    )
    assert access.hosts == ("10.0.0.1",)


def test_a_name_and_a_password_become_one() -> None:
    password = base64.b64encode(b"secret").decode()
    said = NpmAccess.of([f"//npm.example/:username=bob\n//npm.example/:_password={password}\n"]).yaml()
    assert base64.b64encode(b"bob:secret").decode() in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "registry=https://npm.example/\n",
        "//npm.example/:username=bob\n",
        "//x/:username=a\n//x/:_password=%\n",
    ],
)
def test_what_gives_no_access_is_not_written(text: str) -> None:
    assert NpmAccess.of([text]).yaml() == ""


@pytest.mark.system
@given(st.lists(st.text()))
def test_any_settings_can_be_read(texts: list[str]) -> None:
    assert isinstance(NpmAccess.of(texts).yaml(), str)
