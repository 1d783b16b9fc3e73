"""What npm's failures mean, by the code it prints (both spellings of its error lines)."""

import pytest
from nodejs.registry import explained

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
    return explained(sdk.CommandFailed(["npm", "ci"], status=1, output=output))


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
    assert error.why == "network request failed"
    assert "HTTPS_PROXY" in error.fix


def test_a_lock_out_of_sync_lists_the_first_differences_and_the_command_that_mends_it() -> None:
    missing = "".join(f"npm ERR! Missing: m{number}@1.0.0 from lock file\n" for number in range(7))
    error = meaning(f"npm ERR! code EUSAGE\nnpm ERR! ... are in sync. Please ...\n{missing}")
    assert isinstance(error, InputError)
    assert error.what == "package-lock.json does not match package.json"
    assert error.issues[0] == "Missing: m0@1.0.0 from lock file"
    assert error.issues[-1] == "and 2 more"
    assert error.fix == "run `npm install` and commit package-lock.json"
