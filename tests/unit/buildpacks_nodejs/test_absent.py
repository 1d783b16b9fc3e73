"""A package that is not there: its name, who asks for it, and what to do, whoever the manager is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from nodejs.failures import npm_error
from nodejs.managers import bun, pnpm_failures, yarn_failures

from packhorse import sdk
from packhorse.errors import NotFoundError, PackhorseError

Explain = Callable[[sdk.CommandFailed, Path | None], PackhorseError]
VERSION, PACKAGE = "no version of ms that matches ^99", "does not have the package ms"
CASES: list[tuple[Explain, str, str]] = [
    (
        npm_error,
        "npm error code ETARGET\nnpm error notarget No matching version found for ms@^99.\n"
        "npm error notarget In most cases you or one of your dependencies are requesting\n",
        VERSION,
    ),
    (
        npm_error,
        "npm error code E404\nnpm error 404 Not Found - GET http://x/ms - Not found\nnpm error 404\n"
        "npm error 404  The requested resource 'ms@^99' could not be found or you do not have permission\n",
        PACKAGE,
    ),
    (
        pnpm_failures.pnpm_error,
        " ERR_PNPM_NO_MATCHING_VERSION  No matching version found for ms@^99 while fetching it from x\n",
        VERSION,
    ),
    (
        pnpm_failures.pnpm_error,
        " ERR_PNPM_FETCH_404  GET http://x/ms: Not Found - 404\n\nms is not in the npm registry, or you have "
        "no permission to fetch it.\n",
        PACKAGE,
    ),
    (
        yarn_failures.classic_error,
        'error Couldn\'t find any versions for "ms" that matches "^99"\n',
        VERSION,
    ),
    (yarn_failures.classic_error, 'error Couldn\'t find package "ms" on the "npm" registry.\n', PACKAGE),
    (yarn_failures.berry_error, "➤ YN0082: │ ms@npm:^99: No candidates found\n", VERSION),
    (yarn_failures.berry_error, "➤ YN0035: │ ms@npm:^99: Package not found\n", PACKAGE),
    (
        bun.bun_error,
        'error: No version matching "^99" found for specifier "ms" (but package exists)\n',
        VERSION,
    ),
    (bun.bun_error, "error: GET http://x/ms - 404\n", PACKAGE),
]


@pytest.mark.parametrize(("explain", "output", "expected"), CASES)
def test_the_package_and_its_table_are_named(
    tmp_path: Path, explain: Explain, output: str, expected: str
) -> None:
    (tmp_path / "package.json").write_text(json.dumps({"dependencies": {"ms": "^99"}}))
    error = explain(sdk.CommandFailed(["x"], status=1, output=output), tmp_path)
    assert isinstance(error, NotFoundError)
    assert expected in error.what
    assert error.why.splitlines()[0] == "asked for by: package.json dependencies (^99)"
    assert ("npm view ms versions" if expected == VERSION else "correct the name") in error.fix
    assert "In most cases" not in error.why
    assert not [line for line in error.why.splitlines() if line.startswith(("notarget", "404"))]


def test_a_package_of_the_lock_alone_is_said_to_be_there(tmp_path: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        (tmp_path / name).write_text("{}")
    output = "npm error code ETARGET\nnpm error notarget No matching version found for @a/b@1.0.0.\n"
    error = npm_error(sdk.CommandFailed(["npm"], status=1, output=output), tmp_path)
    assert "no version of @a/b that matches 1.0.0" in error.what
    assert error.why.startswith("asked for by: package-lock.json, or a package in it")


def test_a_member_that_asks_is_named(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"workspaces": ["libs/*"]}')
    (tmp_path / "libs/a").mkdir(parents=True)
    (tmp_path / "libs/a/package.json").write_text('{"devDependencies": {"@a/b": "2"}}')
    output = "error: GET http://x/@a%2fb - 404\n"
    error = bun.bun_error(sdk.CommandFailed(["bun"], status=1, output=output), tmp_path)
    assert error.why.startswith("asked for by: libs/a/package.json devDependencies (2)")
