"""Which settings files have a credential in them."""

from pathlib import Path

import pytest
from nodejs.credentials import has_credentials


@pytest.mark.parametrize(
    ("name", "text", "has"),
    [
        (".npmrc", "@acme:registry=https://npm.acme.example/\n", False),
        (".npmrc", "//npm.acme.example/:_authToken=${NPM_TOKEN}\n", False),
        (".npmrc", "//npm.acme.example/:_authToken = abc-123\n", True),
        (".npmrc", '//npm.acme.example/:_authToken="${NPM_TOKEN}"\n', False),
        (".npmrc", "# //npm.acme.example/:_authToken=abc\n; _auth=abc\n", False),
        (".npmrc", "registry=https://x.example/\n_auth=bWU6c2VjcmV0\n", True),
        (".npmrc", "//x.example/:username=me\n//x.example/:_password=c2VjcmV0\n", True),
        (".npmrc", "//x.example/:_authToken=${A}rest\n", True),
        (".npmrc", "always-auth=true\nauth-type=legacy\n", False),
        (".yarnrc", '"//x.example/:_authToken" abc\n', True),
        (".yarnrc", 'registry "https://x.example/"\n', False),
        (".yarnrc.yml", "npmScopes:\n  acme:\n    npmAuthToken: abc\n", True),
        (".yarnrc.yml", 'npmScopes:\n  acme:\n    npmAuthToken: "${NPM_TOKEN:-none}"\n', False),
        (".yarnrc.yml", "npmAuthIdent: me:secret # mine\n", True),
        (".yarnrc.yml", "nodeLinker: node-modules\n", False),
        ("bunfig.toml", '[install.scopes]\nacme = { token = "abc", url = "https://x.example/" }\n', True),
        ("bunfig.toml", '[install.scopes]\nacme = { token = "$NPM_TOKEN" }\n', False),
        ("bunfig.toml", "[install]\nproduction = true\n", False),
    ],
)
def test_a_credential_is_told_from_a_variable(tmp_path: Path, name: str, text: str, has: bool) -> None:
    (tmp_path / name).write_text(text)
    assert has_credentials(tmp_path / name) is has
