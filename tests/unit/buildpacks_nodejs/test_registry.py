"""What npm's failures mean, by the code it prints (both spellings of its error lines)."""

import os
from pathlib import Path

import pytest
from nodejs.failures import npm_error
from nodejs.registry import Registry

from fakes.build_context import build_context
from packhorse import sdk
from packhorse.errors import (
    BuildpackFailed,
    FormatError,
    InputError,
    NetworkError,
    NotFoundError,
    PackhorseError,
)


def meaning(output: str) -> PackhorseError:
    return npm_error(sdk.CommandFailed(["npm", "ci"], status=1, output=output))


@pytest.mark.parametrize("word", ["ERR!", "error"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ENOTFOUND", NetworkError),
        ("ECONNREFUSED", NetworkError),
        ("EAI_AGAIN", NetworkError),
        ("SELF_SIGNED_CERT_IN_CHAIN", NetworkError),
        ("E401", NetworkError),
        ("EINTEGRITY", FormatError),
        ("ETARGET", NotFoundError),
        ("E404", NotFoundError),
        ("ELIFECYCLE", BuildpackFailed),
    ],
)
def test_a_code_becomes_an_error_of_its_kind(word: str, code: str, kind: type[PackhorseError]) -> None:
    error = meaning(f"npm {word} code {code}\nnpm {word} errno {code}\nnpm {word} it went wrong\n")
    assert type(error) is kind


def test_an_unreachable_registry_says_what_npm_said_and_what_to_check() -> None:
    error = meaning(
        "npm error code ENOTFOUND\nnpm error syscall getaddrinfo\nnpm error network request failed\n"
        "npm error A complete log of this run can be found in: /x\n"
    )
    assert error.what == "npm cannot reach the package registry (ENOTFOUND)"
    assert error.why == "request failed"
    assert "HTTPS_PROXY" in error.fix


def test_a_lock_out_of_sync_lists_the_first_differences_and_the_command_that_mends_it() -> None:
    missing = "".join(f"npm ERR! Missing: m{number}@1.0.0 from lock file\n" for number in range(7))
    error = meaning(f"npm ERR! code EUSAGE\nnpm ERR! ... are in sync. Please ...\n{missing}")
    assert isinstance(error, InputError)
    assert error.what == "package-lock.json does not match package.json"
    assert error.issues[0] == "Missing: m0@1.0.0 from lock file"
    assert error.issues[-1] == "and 2 more"
    assert error.fix == "run `npm install` and commit package-lock.json"


def with_npm(tmp_path: Path, script: str) -> Registry:
    """A registry whose npm is a script."""
    for folder in ("bin", "app", "platform"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin/npm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin/npm").chmod(0o755)
    context = build_context(
        tmp_path / "app", tmp_path / "layers", env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    )
    return Registry(context)


@pytest.mark.system
def test_archives_are_found_by_the_names_that_npm_prints(tmp_path: Path) -> None:
    registry = with_npm(tmp_path, "echo a-1.tgz; echo @s-b-2.tgz")
    assert registry.fetch(["a@1", "@s/b@2"], into=Path("/x")) == [Path("/x/a-1.tgz"), Path("/x/@s-b-2.tgz")]


@pytest.mark.system
def test_an_npm_that_prints_something_else_is_an_error(tmp_path: Path) -> None:
    registry = with_npm(tmp_path, "echo")
    with pytest.raises(FormatError, match="did not name the archives of a@1"):
        registry.fetch(["a@1"], into=tmp_path)


@pytest.mark.system
def test_an_application_of_another_manager_is_served_too(tmp_path: Path) -> None:
    registry = with_npm(tmp_path, "")
    (tmp_path / "bin/npm").unlink()
    app = tmp_path / "app"
    (app / "package.json").write_text('{"devEngines": {"packageManager": {"name": "pnpm"}}}')
    (app / ".npmrc").write_text("registry=http://127.0.0.1:9/\n")
    assert registry.config("registry") == {"registry": "http://127.0.0.1:9/"}


def npm_failed(output: str, root: Path | None = None) -> PackhorseError:
    return npm_error(sdk.CommandFailed(["npm", "ci"], status=1, output=output), root)


@pytest.mark.parametrize("code", ["E500", "E503", "E429"])
def test_a_registry_that_is_busy_is_no_defect_of_the_source(code: str) -> None:
    error = npm_failed(f"npm error code {code}\nnpm error {code[1:]} Sorry - GET http://x/ms\n")
    assert isinstance(error, NetworkError)
    assert f"({code})" in error.what and "GET http://x/ms" in error.why and "in a while" in error.fix


@pytest.mark.parametrize(
    ("lock", "what"),
    [
        ('{\n"packages": {\n', "package-lock.json is not valid JSON"),
        ("", "package-lock.json is not valid JSON"),
        ('{"packages": [1]}', "package-lock.json is not a lock that npm can read"),
    ],
)
def test_a_lock_that_npm_takes_for_none_is_told_with_its_line(tmp_path: Path, lock: str, what: str) -> None:
    (tmp_path / "package-lock.json").write_text(lock)
    error = npm_failed(
        "npm error code EUSAGE\n"
        "npm error The `npm ci` command can only install with an existing package-lock.json",
        tmp_path,
    )
    assert isinstance(error, InputError) and error.what == what


def test_where_in_npm_an_error_came_up_is_not_shown() -> None:
    said = (
        "npm error code ECONNREFUSED\nnpm error FetchError: refused\nnpm error     at x (/npm/index.js:1:1)\n"
    )
    assert npm_failed(said).why == "FetchError: refused"


def test_what_npm_says_is_shown_of_codes_that_nobody_knows() -> None:
    assert npm_failed("npm error code EODD\nnpm error odd: it is\n").why == "odd: it is"
