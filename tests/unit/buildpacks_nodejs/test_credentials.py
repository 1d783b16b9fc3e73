"""Which settings files have a credential in them."""

import io
from pathlib import Path

import pytest
from nodejs import credentials
from nodejs.credentials import (
    file_has_credential,
    find_settings_and_locks,
    mask_errors,
    mask_log,
    remove_credentials,
)

from fakes.build_context import build_context
from packhorse.errors import InputError


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
        (".npmrc", "//x.example/:_authToken=abc ; a comment\n", True),
        (".npmrc", "//x.example/:_authToken=${NPM_TOKEN} ; a comment\n", False),
        (".npmrc", "//x.example/:_authToken=${NPM_TOKEN?}\n", False),
        (".npmrc", '_authToken="a b"\n', True),
        (".npmrc", "'//x.example/:_authToken'=abc\n", True),
        (".npmrc", '//x.example/:key="-----BEGIN PRIVATE KEY-----\\nMII"\n', True),
        (".npmrc", "@acme:registry=https://me:abc@x.example/\n", True),
        (".npmrc", "@acme:registry=https://me:${PASSWORD}@x.example/\n", False),
        (".npmrc", "@acme:registry=https://abc123@x.example/\n", True),
        (".npmrc", "@acme:registry=https://${TOKEN}@x.example/\n", False),
        (".npmrc", "repository=ssh://me@x.example/ git+https://git@x.example/\n", False),
        (".npmrc", "@acme:registry=https://x.example/@acme/y@1\n", False),
        (".npmrc", "sharp_binary_host=https://x.example/\nkeyfile=/etc/key\n", False),
        (".npmrc", "always-auth=true\nauth-type=legacy\n", False),
        (".yarnrc", '"//x.example/:_authToken" abc\n', True),
        (".yarnrc", '"//x.example/:_password" "${PASSWORD}"\n', False),
        (".yarnrc", 'registry "https://me:abc@x.example/"\n', True),
        (".yarnrc", 'registry "https://x.example/"\n', False),
        (".yarnrc.yml", "npmScopes:\n  acme:\n    npmAuthToken: abc\n", True),
        (".yarnrc.yml", 'npmScopes:\n  acme:\n    npmAuthToken: "${NPM_TOKEN:-none}"\n', True),
        (".yarnrc.yml", 'npmAuthToken: "${NPM_TOKEN-}"\nnpmAuthIdent: ""\n', False),
        (".yarnrc.yml", 'npmRegistries: {"//x": {npmAuthToken: abc}}\n', True),
        (".yarnrc.yml", 'npmRegistries: {"//x": {npmAuthToken: "${NPM_TOKEN}"}}\n', False),
        (".yarnrc.yml", '"npmAuthToken": abc\n', True),
        (".yarnrc.yml", "npmAuthToken:\n  abc\n", True),
        (".yarnrc.yml", "npmAuthToken: |\n  abc\n", True),
        (".yarnrc.yml", "npmAuthToken: ${NPM_TOKEN}\n# npmAuthToken: abc\n", False),
        (".yarnrc.yml", 'npmRegistryServer: "https://me:abc@x.example/"\n', True),
        (".yarnrc.yml", 'npmRegistryServer: "https://x.example/@me:abc"\n', False),
        (".yarnrc.yml", "npmAuthIdent: me:secret # mine\n", True),
        (".yarnrc.yml", "nodeLinker: node-modules\n", False),
        ("bunfig.toml", '[install.scopes]\nacme = { token = "abc", url = "https://x.example/" }\n', True),
        ("bunfig.toml", '[install.scopes]\nacme = { token = "$NPM_TOKEN" }\n', False),
        ("bunfig.toml", '[install.scopes.acme]\nurl = "https://me:abc@x.example/"\n', True),
        (".yarnrc", 'registry "https://abc123@x.example/"\n', True),
        (".yarnrc.yml", 'npmRegistryServer: "HTTPS://abc123@x.example/"\n', True),
        ("bunfig.toml", '[install]\nregistry = "https://abc123@x.example/"\n', True),
        ("bunfig.toml", "[install.registry]\npassword = 'a b'\n", True),
        ("bunfig.toml", "broken = \ntoken = 'abc'\n", True),
        ("bunfig.toml", "[install]\nproduction = true\n", False),
    ],
)
def test_a_credential_is_told_from_a_variable(tmp_path: Path, name: str, text: str, has: bool) -> None:
    (tmp_path / name).write_text(text)
    assert file_has_credential(tmp_path / name) is has


@pytest.mark.parametrize("name", credentials.SETTINGS_FILES)
@pytest.mark.parametrize(
    "part",
    [
        "://a",
        "://a:b",
        "://",
        "https",
        "https://a@",
        "_auth=",
        "npmAuthToken: ",
        "token = [",
        "\n ",
        "=;",
        '"',
        "${A",
        "{",
        "# ",
    ],
)
def test_no_text_takes_more_than_its_length(name: str, part: str) -> None:
    credentials.has_credential(name, part * 50_000)


def test_all_of_the_application_is_looked_through_but_modules_and_links(tmp_path: Path) -> None:
    for folder in (".", "frontend", "node_modules/ms", "frontend/deep"):
        (tmp_path / "app" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "app" / folder / ".npmrc").write_text("_auth=abc\n")
    (tmp_path / "app/frontend/deep/.npmrc").write_text("_auth=${AUTH}\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.npmrc").write_text("_auth=abc\n")
    (tmp_path / "app/linked").symlink_to("../other")
    settings, _ = find_settings_and_locks(tmp_path / "app")
    found = [path.relative_to(tmp_path / "app").as_posix() for path in settings if file_has_credential(path)]
    assert found == [".npmrc", "frontend/.npmrc"]


@pytest.mark.parametrize(
    ("name", "with_one", "with_another", "with_more"),
    [
        (
            ".npmrc",
            "//x/:_auth=a\nomit=dev",
            "//x/:_auth=b\nomit=dev",
            "//x/:_auth=b\nsass_binary_site=y\nomit=dev",
        ),
        (".npmrc", "registry=https://a:b@x/", "registry=https://a:c@x/", "registry=https://a:c@y/"),
        (".yarnrc.yml", 'a: {npmAuthToken: "b"}', 'a: {npmAuthToken: "c"}', "b: {npmAuthToken: c}"),
        (".yarnrc", '"//x/:_auth" a', '"//x/:_auth" b', '"//x/:_auth" b\nflat true'),
    ],
)
def test_another_credential_is_no_other_setting(
    tmp_path: Path, name: str, with_one: str, with_another: str, with_more: str
) -> None:
    digests = []
    for text in (with_one, with_another, with_more):
        (tmp_path / name).write_text(text)
        digests.append(credentials.settings_digest(tmp_path / name))
    assert digests[0] == digests[1] != digests[2]
    assert credentials.settings_digest(tmp_path / "none" / name) == ""


def test_a_link_to_settings_goes_with_what_it_leads_to(tmp_path: Path) -> None:
    app, other = tmp_path / "app", tmp_path / "other"
    (app / "config").mkdir(parents=True)
    (app / "config/production").write_text("_auth=abc\n")
    other.write_text("_auth=abc\n")
    (app / ".npmrc").symlink_to("config/production")
    (app / "config/.npmrc").symlink_to(other)
    said = io.StringIO()
    context = build_context(app, said=said)
    remove_credentials(context)
    assert [path.name for path in app.rglob("*")] == ["config"]
    assert other.read_text() == "_auth=abc\n"
    assert "config/.npmrc has a credential, so it is not in the image" in said.getvalue()


def test_manifests_and_locks_are_in_the_image_without_the_credentials_in_their_urls(tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "web").mkdir(parents=True)
    (app / "node_modules/x").mkdir(parents=True)
    said = '{"a": "git+https://abc123@x.example/a.git", "b": "ssh://git@x.example/b", "c": "é"}\n'
    for path in ("package.json", "web/package-lock.json", "web/other.json", "node_modules/x/package.json"):
        (app / path).write_text(said)
    (app / "bun.lockb").write_bytes(b"\x00https://me:abc123@x.example/\xff")
    (tmp_path / "outside").write_text(said)
    (app / "yarn.lock").symlink_to(tmp_path / "outside")
    log = io.StringIO()
    remove_credentials(build_context(app, said=log))
    without = said.replace("abc123@", "")
    assert (app / "package.json").read_text() == (app / "web/package-lock.json").read_text() == without
    assert (app / "yarn.lock").read_text() == without
    assert (app / "web/other.json").read_text() == (tmp_path / "outside").read_text() == said
    assert not (app / "bun.lockb").exists()
    assert log.getvalue().count("has a credential in a URL, which is removed in the image") == 4
    assert "abc123" not in log.getvalue()


@pytest.mark.parametrize("store", [".pnpm", ".bun"])
def test_a_folder_that_is_called_by_a_credential_is_refused(tmp_path: Path, store: str) -> None:
    (tmp_path / "package.json").write_text('{"a": "https://abc123@x.example/a.tgz"}')
    (tmp_path / "modules/node_modules" / store / "a@https+++abc123@x.example+a.tgz").mkdir(parents=True)
    with pytest.raises(InputError, match="a credential in the name of a folder") as caught:
        remove_credentials(build_context(tmp_path))
    assert "abc123" not in str(caught.value)


@pytest.mark.system
def test_no_log_and_no_error_shows_a_url_as_far_as_it_gives_access(tmp_path: Path) -> None:
    said = io.StringIO()
    context = mask_log(build_context(tmp_path, said=said))
    context.log.detail("https://abc123@x.example/ and https://${TOKEN}@x.example/")
    context.run(["echo", "https://me:abc123@x.example/"], env={"PATH": "/usr/bin:/bin"})
    assert "https://***@x.example/ and https://${TOKEN}@x.example/" in said.getvalue()
    assert said.getvalue().count("https://***@x.example/") == 3
    with pytest.raises(InputError) as caught, mask_errors():
        raise InputError("https://abc123@x/", why="http://abc123@x/", fix="https://a:abc123@x/")
    assert "abc123" not in str(caught.value)
