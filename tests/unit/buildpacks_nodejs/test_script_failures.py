"""What the failure of an install script or of git means, whichever package manager ran it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from nodejs.failures import error_lines, npm_error
from nodejs.managers import bun, pnpm_failures, yarn_failures

from packhorse import sdk
from packhorse.errors import BuildpackFailed, NetworkError, PackhorseError

Explain = Callable[[sdk.CommandFailed, Path | None], PackhorseError]
NPM, YARN_1, YARN_4 = npm_error, yarn_failures.classic_error, yarn_failures.berry_error
PNPM, BUN = pnpm_failures.pnpm_error, bun.bun_error

DOWNLOAD = [
    "Downloading https://nowhere.invalid/prebuilt.tgz",
    "Error: getaddrinfo ENOTFOUND nowhere.invalid",
    "    at GetAddrInfoReqWrap.onlookupall [as oncomplete] (node:dns:122:26) {",
    "  errno: -3008,",
    "  code: 'ENOTFOUND',",
    "  hostname: 'nowhere.invalid'",
    "}",
]
COMPILED = [
    "make: Entering directory '/app/node_modules/tree/build'",
    "  CXX(target) Release/obj.target/tree/a.o",
    "make: Leaving directory '/app/node_modules/tree/build'",
    "gyp info it worked if it ends with ok",
    "gyp info using node@20.20.2 | linux | x64",
    'gyp info find Python using Python version 3.11.2 found at "/usr/bin/python3"',
    "gyp info spawn args [",
    *(f"gyp info spawn args '-D{number}'," for number in range(20)),
    "../a.cc:2:10: fatal error: magick/image.h: No such file or directory",
    "    2 | #include <magick/image.h>",
    "      |          ^~~~~~~~~~~~~~~~",
    "compilation terminated.",
    "make: *** [tree.target.mk:106: Release/obj.target/tree/a.o] Error 1",
    "gyp ERR! build error ",
    "gyp ERR! stack Error: `make` failed with exit code: 2",
    "gyp ERR! stack at ChildProcess.<anonymous> (/npm/node_modules/node-gyp/lib/build.js:219:23)",
    "gyp ERR! System Linux 6.1",
    'gyp ERR! command "/usr/bin/node" "/npm/node_modules/node-gyp/bin/node-gyp.js" "rebuild"',
    "gyp ERR! cwd /app/node_modules/tree",
    "gyp ERR! node -v v20.20.2",
    "gyp ERR! not ok",
]


def of_npm(lines: list[str], command: str, word: str = "error") -> str:
    said = ["code 1", "path /app/node_modules/@s/tree", "command failed", f"command sh -c {command}", *lines]
    end = "A complete log of this run can be found in: /root/.npm/_logs/x.log"
    return "".join(f"npm {word} {line}\n" for line in [*said, end])


def of_yarn_1(lines: list[str], command: str) -> str:
    program, _, arguments = command.partition(" ")
    return (
        "[4/4] Building fresh packages...\nerror /app/node_modules/@s/tree: Command failed.\nExit code: 1\n"
        f"Command: {program}\nArguments: {arguments}\nDirectory: /app/node_modules/@s/tree\nOutput:\n"
        + "".join(f"{line}\n" for line in lines)
        + "info Visit https://docs.invalid/cli/install for documentation about this command.\n"
    )


def of_yarn_4(lines: list[str], command: str) -> str:
    said = "".join(f"➤ YN0000: │ @s/tree@npm:1.0.0 STDERR {line}\n" for line in lines)
    built = "couldn't be built successfully (exit code 1, logs can be found here: /tmp/xfs-1/build.log)"
    return f"➤ YN0000: ┌ Link step\n{said}➤ YN0009: │ @s/tree@npm:1.0.0 {built}\n➤ YN0000: └ Completed\n"


def of_pnpm(lines: list[str], command: str) -> str:
    place = ".../node_modules/@s/tree install"
    said = "".join(f"{place}: {line}\n" for line in [*lines, "Failed"])
    other = ".../node_modules/other postinstall$ node x\n.../node_modules/other postinstall: Done\n"
    return f"{place}$ {command}\n{other}{said} ELIFECYCLE  Command failed with exit code 1.\n"


def of_bun(lines: list[str], command: str) -> str:
    del command  # Bun does not say it
    said = "".join(f"{line}\n" for line in lines)
    return f'bun install v1.3.14 (0d9b296a)\n{said}\nerror: install script from "@s/tree" exited with 1\n'


MANAGERS: list[tuple[Explain, Callable[[list[str], str], str]]] = [
    (NPM, of_npm),
    (YARN_1, of_yarn_1),
    (YARN_4, of_yarn_4),
    (PNPM, of_pnpm),
    (BUN, of_bun),
]


def meaning(explain: Explain, output: str, root: Path | None = None) -> PackhorseError:
    return explain(sdk.CommandFailed(["x", "install"], status=1, output=output), root)


@pytest.mark.parametrize(("explain", "printed_by"), MANAGERS)
def test_a_download_of_a_script_that_fails_is_no_failure_of_the_registry(
    explain: Explain, printed_by: Callable[[list[str], str], str]
) -> None:
    error = meaning(explain, printed_by(DOWNLOAD, "node install.js"))
    assert type(error) is BuildpackFailed
    assert error.what.startswith("an install script failed: that of @s/tree")
    assert error.why.removeprefix("it ran: node install.js\n").splitlines() == DOWNLOAD[:2]
    assert "from no package registry" in error.fix


@pytest.mark.parametrize(("explain", "printed_by"), MANAGERS)
def test_a_native_module_that_does_not_compile_shows_the_compilers_error_and_what_is_missing(
    explain: Explain, printed_by: Callable[[list[str], str], str]
) -> None:
    error = meaning(explain, printed_by(COMPILED, "node-gyp rebuild"))
    assert error.what.startswith("an install script failed: that of @s/tree")
    assert error.why.removeprefix("it ran: node-gyp rebuild\n").splitlines() == [
        "../a.cc:2:10: fatal error: magick/image.h: No such file or directory",
        "make: *** [tree.target.mk:106: Release/obj.target/tree/a.o] Error 1",
        "gyp ERR! build error",
        "gyp ERR! stack Error: `make` failed with exit code: 2",
    ]
    assert error.fix.startswith("the build image has no magick/image.h: use a builder")


@pytest.mark.parametrize(("explain", "printed_by"), MANAGERS)
@pytest.mark.parametrize(
    ("lines", "fix"),
    [
        (["sh: 1: cmake: not found"], "the build image has no cmake"),
        (["command not found: cmake"], "the build image has no cmake"),
        (["gyp ERR! stack Error: not found: make"], "the build image has no make"),
        (["gyp ERR! find Python You need to install the latest version"], "needs Python"),
        (["/usr/bin/ld: cannot find -lvips: No such file"], "the build image has no library vips"),
        (["../a.cc:9:3: error: 'Nan' was not declared", "make: *** [a] Error 1"], "may not support this"),
    ],
)
def test_what_to_do_is_said_for_each_usual_cause(
    explain: Explain, printed_by: Callable[[list[str], str], str], lines: list[str], fix: str
) -> None:
    assert fix in meaning(explain, printed_by(lines, "node-gyp rebuild")).fix


def test_both_spellings_of_npms_lines_and_of_its_command_are_read() -> None:
    error = meaning(NPM, of_npm(["oh no"], "-- node x.js", "ERR!"))
    assert error.why == "it ran: node x.js\noh no"


def test_the_applications_own_script_is_called_so() -> None:
    own = "code 1\npath /app\ncommand failed\ncommand sh -c node x\nENOTFOUND"
    error = meaning(NPM, "".join(f"npm error {line}\n" for line in own.splitlines()))
    assert error.what == "an install script failed: one of the application's own"
    error = meaning(PNPM, ". postinstall$ node x\n. postinstall: ENOTFOUND\n ELIFECYCLE  Command failed.\n")
    assert error.what == "an install script failed: one of the application's own"


def test_what_the_applications_own_script_printed_before_npms_words_says_why() -> None:
    printed = "> app@1.0.0 preinstall\n> true\n\nno error: yet\n\n> app@1.0.0 install\n> node-gyp rebuild\n\n"
    said = ["code 1", "path /app", "command failed", "command sh -c node-gyp rebuild"]
    npm = [f"npm error {line}" for line in (*said, "Log files were not written due to the config logs-max=0")]
    error = meaning(NPM, "\n".join([printed, *COMPILED, *npm, ""]))
    assert error.what == "an install script failed: one of the application's own"
    assert error.why.splitlines()[:2] == [
        "it ran: node-gyp rebuild",
        "../a.cc:2:10: fatal error: magick/image.h: No such file or directory",
    ]
    assert "Log files" not in error.why and "no error" not in error.why
    assert "the build image has no magick/image.h" in error.fix


def test_what_a_script_printed_that_did_not_fail_is_not_taken_for_pnpms_words() -> None:
    said = ".../node_modules/a install$ x\n.../node_modules/a install: ENOTFOUND, but never mind\n"
    assert type(meaning(PNPM, f"{said} ERR_PNPM_UNSUPPORTED_ENGINE  Unsupported\n")) is BuildpackFailed


@pytest.mark.parametrize(
    ("explain", "output", "kind"),
    [
        (
            NPM,
            "npm error code 128\nnpm error An unknown git error occurred\n"
            "npm error command git --no-replace-objects ls-remote https://git.invalid/x.git\n"
            "npm error fatal: unable to access 'https://git.invalid/x.git/': Could not resolve host: git",
            NetworkError,
        ),
        (
            YARN_1,
            "error Command failed.\nExit code: 128\nCommand: git\n"
            "Arguments: ls-remote --tags --heads https://git.invalid/x.git\nDirectory: /app\nOutput:\n"
            "fatal: unable to access 'https://git.invalid/x.git/': Could not resolve host: git.invalid\n",
            NetworkError,
        ),
        (
            YARN_4,
            "➤ YN0001: │ a@git+https://git.invalid/x.git: Failed listing refs\n"
            "➤ YN0001: │   Repository URL: https://git.invalid/x.git\n"
            "➤ YN0001: │   Fatal Error: unable to access 'x': Could not resolve host: git.invalid\n",
            NetworkError,
        ),
        (
            PNPM,
            " ERROR  Command failed with exit code 128: git ls-remote https://git.invalid/x.git HEAD\n"
            "fatal: unable to access 'https://git.invalid/x.git/': Could not resolve host: git.invalid\n",
            NetworkError,
        ),
        (
            PNPM,
            '[ERR_PNPM_GIT_RESOLVE_FAILED] Failed to resolve git dependency "https://git.invalid/x.git": '
            "git ls-remote failed: fatal: Authentication failed\n",
            BuildpackFailed,
        ),
        (
            BUN,
            "error: InstallFailed cloning repository for a\n"
            "error: a@https://git.invalid/x.git failed to resolve\n",
            BuildpackFailed,
        ),
    ],
)
def test_a_dependency_in_git_that_cannot_be_fetched_is_named_by_its_address(
    explain: Explain, output: str, kind: type[PackhorseError]
) -> None:
    error = meaning(explain, output)
    assert type(error) is kind
    assert error.what == "a dependency cannot be fetched with git: https://git.invalid/x.git"
    assert error.why and error.fix


@pytest.mark.parametrize(
    ("explain", "range_", "output"),
    [
        (
            NPM,
            "https://files.invalid/x.tgz",
            "npm error code ENOTFOUND\nnpm error network request to https://files.invalid/x.tgz failed\n",
        ),
        (YARN_1, "github:me/x", "error Error: getaddrinfo ENOTFOUND codeload.github.com\n"),
        (
            PNPM,
            "https://files.invalid/x.tgz",
            " ENOTFOUND  request to https://files.invalid/x.tgz failed, reason: getaddrinfo ENOTFOUND f\n",
        ),
        (BUN, "me/x", "error: FailedToOpenSocket downloading tarball away@me/x\n"),
    ],
)
def test_an_address_of_package_json_that_cannot_be_reached_is_not_the_registry(
    explain: Explain, range_: str, output: str, tmp_path: Path
) -> None:
    (tmp_path / "package.json").write_text(json.dumps({"dependencies": {"away": range_, "ms": "^2"}}))
    error = meaning(explain, output, tmp_path)
    assert type(error) is NetworkError and "cannot fetch away from " in error.what
    assert error.why.startswith(f"asked for by: package.json dependencies ({range_})\n")


def test_the_registry_is_still_named_where_it_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text(json.dumps({"dependencies": {"away": "me/x", "ms": "^2"}}))
    output = "npm error code ENOTFOUND\nnpm error network request to https://registry.invalid/ms failed\n"
    assert meaning(NPM, output, tmp_path).what == "npm cannot reach the package registry (ENOTFOUND)"


def test_of_many_errors_the_first_and_the_last_are_shown() -> None:
    lines = [f"a.cc:{number}: error: x" for number in range(40)]
    shown = error_lines([*lines, "note: in this", "make: *** [a] Error 1"])
    assert shown == [*lines[:7], "make: *** [a] Error 1"]
    assert error_lines(["one", "", "two"]) == ["one", "two"]
