"""Where credentials are found, and in which order."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.credential_helper import FakeHelper
from packhorse.errors import FormatError, HostError, InputError, NotFoundError
from packhorse.oci.auth import (
    AuthFile,
    CredentialHelper,
    Credentials,
    Keychain,
    auth_files,
    normalise_key,
    remove_entries,
    write_entry,
)

Home = Callable[..., Keychain]


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def who(found: Credentials) -> tuple[str, ...]:
    """What is there of credentials, without empty parts."""
    parts = (found.username, found.password, found.identity_token, found.registry_token)
    return tuple(part for part in parts if part)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A keychain of a user with these files below the home, and this environment."""

    def made(written: dict[str, object], timeout: float = 30, **environ: str) -> Keychain:
        for name, content in written.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        run = str(tmp_path / "run")
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        return Keychain(
            {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": run, "PATH": path, **environ}, timeout=timeout
        )

    return made


DOCKER = ".docker/config.json"


def test_nobody_has_no_credentials_and_is_told_so(home: Home) -> None:
    found = home({}).find("a.example")
    assert found.anonymous
    assert found.origin == "there are no credentials for a.example"


def test_dockers_file_is_read(home: Home) -> None:
    found = home({DOCKER: {"auths": {"a.example": auth("me", "p:w")}}}).find("a.example", "team/app")
    assert who(found) == ("me", "p:w")
    assert found.origin.endswith("config.json")
    assert "p:w" not in repr(found) + found.origin


@pytest.mark.parametrize(
    "name", [".docker/config.json", "run/containers/auth.json", ".config/containers/auth.json"]
)
def test_podmans_files_are_read_as_well(home: Home, name: str) -> None:
    assert who(home({name: {"auths": {"a.example": auth("me", "pw")}}}).find("a.example")) == ("me", "pw")


def test_the_first_file_that_knows_the_registry_counts(home: Home, tmp_path: Path) -> None:
    keychain = home(
        {
            "named": {"auths": {"a.example": auth("1", "x")}},
            "docker/config.json": {"auths": {"a.example": auth("2", "x"), "b.example": auth("2", "x")}},
            "run/containers/auth.json": {"auths": {"b.example": auth("3", "x"), "c.example": auth("3", "x")}},
            ".docker/config.json": {"auths": {"d.example": auth("4", "x")}},
        },
        REGISTRY_AUTH_FILE=str(tmp_path / "named"),
        DOCKER_CONFIG=str(tmp_path / "docker"),
    )
    assert [keychain.find(f"{name}.example").username for name in "abcd"] == ["1", "2", "3", ""]


def test_a_build_platform_has_the_first_word(home: Home) -> None:
    headers = {
        "a.example": "Basic " + auth("me", "pw")["auth"],
        "b.example": "Bearer t0ken",
        "https://index.docker.io/v1/": "X-Identity identity",
    }
    keychain = home(
        {DOCKER: {"auths": {"a.example": auth("x", "y"), "d.example": auth("z", "z")}}},
        CNB_REGISTRY_AUTH=json.dumps(headers),
    )
    assert who(keychain.find("a.example")) == ("me", "pw")
    assert who(keychain.find("b.example")) == ("t0ken",)
    assert keychain.find("b.example").registry_token == "t0ken"
    assert keychain.find("docker.io").identity_token == "identity"
    assert who(keychain.find("d.example")) == ("z", "z")


@pytest.mark.parametrize(
    "text",
    [
        "hunter2",
        "[]",
        '{"a": "hunter2"}',
        '{"a": "Basic hunter2"}',
        '{"a": 1}',
        '{"a": "Bearer "}',
        '{"a": "Basic hunter2é"}',
    ],
)
def test_a_header_of_a_build_platform_that_cannot_be_read_is_an_error_without_it(
    home: Home, text: str
) -> None:
    with pytest.raises(InputError, match="CNB_REGISTRY_AUTH") as caught:
        home({}, CNB_REGISTRY_AUTH=text).find("a")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_content_of_a_file_may_be_in_the_environment(home: Home) -> None:
    text = json.dumps({"auths": {"a.example": auth("me", "pw")}})
    assert who(home({}, DOCKER_AUTH_CONFIG=text).find("a.example")) == ("me", "pw")


def test_the_longest_part_of_a_repositorys_name_counts(home: Home) -> None:
    keychain = home(
        {
            "run/containers/auth.json": {
                "auths": {
                    "a.example": auth("all", "x"),
                    "a.example/team": auth("team", "x"),
                    "a.example/team/app": auth("app", "x"),
                    "b.example/team": auth("b", "x"),
                }
            }
        }
    )
    asked = ["", "other", "team", "team/app", "team/app/part", "team/apple", "teams/app"]
    assert [keychain.find("a.example", name).username for name in asked] == [
        *("all", "all", "team", "app", "app", "team", "all")
    ]
    assert keychain.find("b.example", "other").anonymous


@pytest.mark.parametrize(
    "key",
    [
        "https://index.docker.io/v1/",
        "index.docker.io",
        "docker.io",
        "https://registry-1.docker.io",
        "index.docker.io/v1/",
    ],
)
def test_docker_hub_is_known_by_all_its_names(home: Home, key: str) -> None:
    keychain = home({DOCKER: {"auths": {key: auth("me", "pw")}}})
    assert who(keychain.find("docker.io", "library/debian")) == ("me", "pw")
    assert keychain.find("a.example").anonymous


@pytest.mark.parametrize("key", ["https://a.example", "http://a.example/v2/", "https://a.example/team/app"])
def test_a_key_with_a_scheme_is_for_the_whole_registry(home: Home, key: str) -> None:
    assert home({DOCKER: {"auths": {key: auth("me", "pw")}}}).find("a.example", "x").username == "me"


def test_of_two_keys_for_one_registry_the_plain_one_counts(home: Home) -> None:
    auths = {"https://a.example/v1/": auth("old", "x"), "a.example": auth("new", "x")}
    assert home({DOCKER: {"auths": auths}}).find("a.example").username == "new"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"identitytoken": "id"}, ("id",)),
        ({**auth("me", ""), "identitytoken": "id"}, ("me", "id")),
        ({"registrytoken": "tok"}, ("tok",)),
        ({"username": "me", "password": "pw"}, ("me", "pw")),
        ({"auth": base64.b64encode(b"me:pw\0\0").decode()}, ("me", "pw")),
    ],
)
def test_every_form_of_an_entry_is_read(home: Home, entry: dict[str, str], expected: tuple[str, ...]) -> None:
    assert who(home({DOCKER: {"auths": {"a.example": entry}}}).find("a.example")) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"auths": {"a.example": {"auth": "hunter2!"}}}', "base64"),
        ('{"auths": {"a.example": {"auth": "aHVudGVyMg=="}}}', "base64"),
        ('{"auths": {"a.example": {"auth": "hunter2é"}}}', "base64"),
        ('{"auths": {"a.example": {"auth": 3}}}', "auths.a.example.auth"),
        ('{"auths": {"a.example": "hunter2"}}', "auths.a.example"),
        ('{"auths": ["hunter2"]}', "auths"),
        ('{"hunter2": \n!', "not JSON"),
        ("[]", "not a JSON object"),
    ],
)
def test_a_file_that_cannot_be_read_is_passed_over_and_told_of_without_its_content(
    home: Home, content: str, words: str
) -> None:
    other = {"auths": {"b.example": auth("me", "pw")}}
    keychain = home({DOCKER: content, "run/containers/auth.json": other})
    assert keychain.find("b.example").username == "me"
    found = keychain.find("a.example")
    assert found.anonymous
    assert "config.json" in found.origin and words in found.origin
    assert "hunter2" not in found.origin


@pytest.mark.system
def test_a_helper_for_one_registry_comes_before_the_one_for_all(home: Home, tmp_path: Path) -> None:
    one, other = FakeHelper(tmp_path / "bin", "one"), FakeHelper(tmp_path / "bin2", "all")
    one.keep("a.example", "me", "one")
    other.keep("a.example", "me", "all")
    other.keep("https://index.docker.io/v1/", "hub", "all")
    keychain = home(
        {DOCKER: {"credHelpers": {"a.example": "one"}, "credsStore": "all"}},
        PATH=f"{tmp_path / 'bin'}:{tmp_path / 'bin2'}",
    )
    assert keychain.find("a.example", "x").password == "one"
    assert who(keychain.find("docker.io")) == ("hub", "all")
    assert keychain.find("docker.io").origin == "the credentials are those that docker-credential-all gave"


@pytest.mark.system
def test_a_helper_is_asked_once_and_only_when_a_registry_asks(home: Home, tmp_path: Path) -> None:
    helper = FakeHelper(tmp_path / "bin")
    helper.keep("a.example", "<token>", "identity")
    keychain = home({DOCKER: {"credsStore": "fake"}})
    find = keychain.lookup("a.example")
    assert helper.asked == []
    assert [find(name).identity_token for name in ("x", "y", "")] == ["identity"] * 3
    assert helper.asked == ["get"]


@pytest.mark.system
def test_what_a_helper_does_not_have_the_file_may_have(home: Home, tmp_path: Path) -> None:
    FakeHelper(tmp_path / "bin")
    keychain = home({DOCKER: {"credsStore": "fake", "auths": {"a.example": auth("me", "pw"), "b": {}}}})
    assert keychain.find("a.example").username == "me"
    assert keychain.find("b").origin == "there are no credentials for b"


@pytest.mark.system
@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("fail", "`docker-credential-fake get` ended with status 2: the keyring is locked"),
        ("blurt", "ended with status 3: its output is not shown"),
        ("hang", "`docker-credential-fake get` did not end within 0.5 seconds"),
        ("nonsense", "gave no credentials that can be read"),
    ],
)
def test_a_helper_that_goes_wrong_is_passed_over_and_told_of(
    home: Home, tmp_path: Path, behaviour: str, words: str
) -> None:
    FakeHelper(tmp_path / "bin", behaviour=behaviour)
    timeout = 0.5 if behaviour == "hang" else 30
    found = home({DOCKER: {"credsStore": "fake"}}, timeout=timeout).find("a.example")
    assert found.anonymous
    assert words in found.origin and "config.json names it" in found.origin
    assert "hunter2" not in found.origin


@pytest.mark.system
@pytest.mark.parametrize("name", ["absent", "../evil", "a b", ""])
def test_a_helper_that_is_not_there_is_told_of(home: Home, name: str) -> None:
    found = home({DOCKER: {"credsStore": name, "auths": {"a.example": auth("me", "pw")}}}).find("b.example")
    assert found.anonymous
    assert name in found.origin
    assert ("no such program" in found.origin) == (name == "absent")


@pytest.mark.system
def test_a_helper_stores_lists_and_erases(tmp_path: Path) -> None:
    FakeHelper(tmp_path)
    helper = CredentialHelper("fake", {"PATH": f"{tmp_path}:/usr/bin"})
    helper.store("a.example", "me", 'p"w')
    assert who(helper.get("a.example")) == ("me", 'p"w')
    assert helper.list() == {"a.example": "me"}
    helper.erase("a.example")
    with pytest.raises(NotFoundError):
        helper.get("a.example")
    FakeHelper(tmp_path, behaviour="nonsense")
    with pytest.raises(FormatError):
        helper.list()


@pytest.mark.system
def test_a_helper_that_is_no_program_is_a_host_error(tmp_path: Path) -> None:
    program = tmp_path / "docker-credential-x"
    program.write_text("neither script nor program")
    program.chmod(0o755)
    with pytest.raises(HostError, match="cannot be asked"):
        CredentialHelper("x", {"PATH": str(tmp_path)}).get("a.example")


def test_nothing_is_found_without_a_home() -> None:
    assert all(path.is_absolute() for path in auth_files({"HOME": ""}))


@pytest.mark.parametrize("before", ["", "{}", '{"auths": null, "x": 1}', '{"x": 1}'])
def test_an_entry_is_added_to_a_file_that_has_none_and_taken_away_again(before: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(before)
    write_entry(file, "a.example/team", Credentials("me", "pw"))
    assert AuthFile.read(file).find("a.example", "team/app") == Credentials(
        "me", "pw", origin=f"the credentials are those for a.example/team in {file}"
    )
    assert remove_entries(file, "a.example/team")
    assert json.loads(file.read_text()) == json.loads(before or "{}") | {"auths": {}}
    assert not remove_entries(file, "a.example/team")


@given(st.text(max_size=30))
def test_any_key_has_a_spelling(key: str) -> None:
    assert not normalise_key(key).endswith("/")


@given(st.binary(max_size=60))
def test_no_file_makes_the_reader_fail_in_another_way(raw: bytes) -> None:
    try:
        found = AuthFile.parse(b'{"auths": {"a": ' + raw + b"}}", "file").find("a", "")
    except FormatError:
        return
    assert found is None or isinstance(found, Credentials)


@pytest.mark.system
def test_half_a_character_is_what_go_makes_of_it(home: Home, tmp_path: Path) -> None:
    FakeHelper(tmp_path / "bin", behaviour="half a character")
    assert home({DOCKER: {"credsStore": "fake"}}).find("a.example").password == "\ufffd"
    found = home({}, CNB_REGISTRY_AUTH='{"a.example": "X-Identity \\ud800"}').find("a.example")
    assert found.identity_token == "\ufffd"
