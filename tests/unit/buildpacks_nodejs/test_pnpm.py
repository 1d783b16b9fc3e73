"""Which pnpm is taken, what of its lock is read, and what its failures mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodejs.managers import pnpm_failures
from nodejs.managers.choice import Choice
from nodejs.managers.pnpm import Pnpm
from nodejs.managers.pnpm_release import PnpmLock, check_node, choose_release, read_majors
from nodejs.managers.tool import Tool
from nodejs.project import Project
from nodejs.runtime import Runtime

from fakes.build_context import build_context
from packhorse import sdk
from packhorse.errors import InputError, PackhorseError

LOCK = """\
lockfileVersion: '9.0'

settings:
  autoInstallPeers: true

importers:

  .:
    devDependencies:
      turbo:
        specifier: 2.0.0
        version: 2.0.0

  'packages/a b': {}

  packages/ui:
    dependencies:
      ms:
        specifier: 2.1.3
        version: 2.1.3

packages:

  ms@2.1.3:
    resolution: {integrity: sha512-AAAA}
"""
DIRECTORY = "    resolution: {directory: packages/ui, type: directory}\n"
INJECTED = '{"dependenciesMeta": {"ui": {"injected": true}}}'


def chosen(lock: str, range_: str, node: str) -> tuple[str, int]:
    wanted = choose_release(PnpmLock(lock) if lock else None, Choice("pnpm", "said", range=range_), node)
    return wanted.range, wanted.major


def test_a_lock_names_its_version_and_its_projects() -> None:
    assert PnpmLock.parse(LOCK) == PnpmLock("9.0", (".", "packages/a b", "packages/ui"))
    assert PnpmLock.parse("lockfileVersion: 5.4\nspecifiers:\n  ms: 2.1.3\n") == PnpmLock("5.4")


@pytest.mark.parametrize("text", ["", "ms: 2.1.3\n", LOCK.replace("packages:", "=======\npackages:")])
def test_what_is_no_lock_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        PnpmLock.parse(text)


@given(st.text(alphabet=st.sampled_from("lockfileVersion:'\"9.0 \nimporters<>={}#-\t\0é")))
def test_any_text_is_a_lock_or_refused(text: str) -> None:
    try:
        assert PnpmLock.parse(text).version
    except InputError as error:
        assert "pnpm-lock.yaml" in str(error)


@pytest.mark.parametrize(
    ("lock", "range_", "node", "expected"),
    [
        ("9.0", "", "22.23.3", ("10", 10)),
        ("9.0", "", "18.20.8", ("10", 10)),
        ("6.0", "", "20.20.2", ("8", 8)),
        ("6.1", "", "16.20.2", ("8", 8)),
        ("5.4", "", "14.21.3", ("7", 7)),
        ("", "", "24.0.0", ("10", 10)),
        ("", "", "16.20.2", ("8", 8)),
        ("9.0", "9.15.9", "22.23.3", ("9.15.9", 9)),
        ("9.0", "12.0.0-rc.1", "22.23.3", ("12.0.0-rc.1", 12)),
        ("9.0", "^9.12", "22.23.3", (">=9.12.0 <10.0.0 9", 9)),
        ("9.0", ">=9", "22.23.3", (">=9.0.0 10", 10)),
        ("9.0", ">=11", "22.23.3", (">=11.0.0 11", 11)),
        ("9.0", ">=11", "20.0.0", (">=11.0.0 12", 12)),
        ("6.0", ">=7", "20.0.0", (">=7.0.0 8", 8)),
        ("9.0", "9 - 11", "22.23.3", (">=9.0.0 <12.0.0 10", 10)),
        ("9.0", "9 || 11", "22.23.3", (">=9.0.0 <10.0.0 11||>=11.0.0 <12.0.0 11", 11)),
        ("9.0", "10.5.x", "22.23.3", ("10.5.x", 10)),
        ("9.0", "*", "22.23.3", ("10", 10)),
    ],
)
def test_the_lock_and_node_js_decide_what_is_left_open(
    lock: str, range_: str, node: str, expected: tuple[str, int]
) -> None:
    assert chosen(lock, range_, node) == expected


@pytest.mark.parametrize(
    ("lock", "node"), [("9.0", "16.20.2"), ("6.0", "14.21.3"), ("19.0", "24.0.0"), ("", "10.0.0")]
)
def test_where_nothing_fits_the_reason_is_said(lock: str, node: str) -> None:
    with pytest.raises(InputError):
        chosen(lock, "", node)


def test_a_pnpm_that_does_not_run_on_the_node_js_is_refused() -> None:
    with pytest.raises(InputError, match=r"pnpm 11 does not run on Node.js 20.20.2"):
        check_node(11, "20.20.2")
    check_node(99, "20.20.2")
    assert {line.major for line in read_majors()} >= {8, 9, 10, 11, 12}


@pytest.mark.parametrize(
    ("files", "copied"),
    [
        ({"pnpm-lock.yaml": LOCK}, ""),
        ({"pnpm-lock.yaml": LOCK + "  ui@file:packages/ui:\n" + DIRECTORY}, "packages/ui"),
        ({"pnpm-lock.yaml": LOCK, "packages/web/package.json": INJECTED}, ""),
        ({"packages/web/package.json": INJECTED}, "ui"),
        ({"pnpm-workspace.yaml": "injectWorkspacePackages: true\n"}, "each member"),
        ({"packages/web/package.json": '{"dependenciesMeta": ["ui"]}'}, ""),
    ],
)
def test_members_that_are_copied_need_real_directories(
    tmp_path: Path, files: dict[str, str], copied: str
) -> None:
    for name, text in {"pnpm-workspace.yaml": "packages: [packages/*]\n", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    lock = "pnpm-lock.yaml" if "pnpm-lock.yaml" in files else ""
    runtime = Runtime("22.1.0", "10.9.0", {}, "")
    pnpm = Pnpm(build_context(tmp_path), Project.read(tmp_path), runtime, Tool("10.1.0", tmp_path), lock)
    assert pnpm.inside_reason == (f"a copy of {copied} is among the modules (injected)" if copied else "")


def meaning(output: str) -> PackhorseError:
    return pnpm_failures.pnpm_error(sdk.CommandFailed(["pnpm", "install"], status=1, output=output))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (" ERR_PNPM_FETCH_401  GET http://x/a: Unauthorized - 401\n", "refused access (E401)"),
        ("[ERR_PNPM_FETCH_403] GET http://x/a: Forbidden - 403\n", "refused access (E403)"),
        (" ERR_PNPM_FETCH_404  GET http://x/a: Not Found - 404\n", "does not have a package (E404)"),
        ("[ERR_PNPM_FETCH_500] GET http://x/a: Internal Server Error - 500\n", "answered with an error"),
        ("[ERR_PNPM_META_FETCH_FAIL] GET http://x/debug: fetch failed\n", "cannot reach"),
        (" ECONNREFUSED  request to http://x/a.tgz failed, reason: connect ECONNREFUSED\n", "cannot reach"),
        (" ERR_PNPM_TARBALL_INTEGRITY  Got unexpected checksum for\n", "(EINTEGRITY)"),
        (
            " WARN  GET http://x/a.tgz error (ERR_PNPM_TARBALL_INTEGRITY). Will retry\n"
            " ERR_PNPM_FETCH_404  GET http://x/a: Not Found - 404\n",
            "does not have a package (E404)",
        ),
        (" ERR_PNPM_NO_MATCHING_VERSION  No matching version found for ms@99\n", "(ETARGET)"),
        (
            " ERR_PNPM_LOCKFILE_CONFIG_MISMATCH  Cannot proceed\n",
            "does not match package.json",
        ),
        ("[ERR_PNPM_BROKEN_LOCKFILE] The lockfile is broken\n", "cannot be read"),
        (
            "Error: ERR_PNPM_META_FETCH_FAIL\n\n  \u00d7 installing dependencies\n"
            "  \u2570\u2500\u25b6 ERR_PNPM_RESOLVING_NPM_RESOLVER_NETWORK_ERROR: Failed to fetch metadata\n"
            "      from http://x/ms: HTTP status client error (401\n      Unauthorized)\n",
            "refused access (E401)",
        ),
        (" ERR_PNPM_UNSUPPORTED_ENGINE  Unsupported environment\n", "`pnpm install` failed (exit status 1)"),
        ("nothing that is known\n", "`pnpm install` failed (exit status 1)"),
    ],
)
def test_codes_of_every_pnpm_are_explained(output: str, expected: str) -> None:
    assert expected in str(meaning(output))


@given(st.text())
def test_any_output_has_a_meaning(output: str) -> None:
    assert str(meaning(output))


def test_scripts_that_did_not_run_are_named() -> None:
    frame = (
        "\u256d Warning \u2500\u2500\u256e\n\u2502                  \u2502\n"
        "\u2502   Ignored build scripts: esbuild@0.25.0,     \u2502\n\u2502   sharp@0.34.1.     \u2502\n"
        '\u2502   Run "pnpm approve-builds" to pick which      \u2502\n\u2570\u2500\u256f\n'
    )
    assert pnpm_failures.ignored_scripts(frame) == "esbuild@0.25.0, sharp@0.34.1"
    assert pnpm_failures.ignored_scripts("Done in 1s\n") == ""
    failed = '[ERR_PNPM_IGNORED_BUILDS] Ignored build scripts: sharp@0.34.1\n\nRun "pnpm approve-builds"'
    assert "whether to run install scripts: sharp@0.34.1" in str(meaning(failed))
