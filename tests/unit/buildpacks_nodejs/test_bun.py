"""What is read of Bun's lock, what its failures mean, and what is pruned."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodejs.managers import bun

from packhorse import sdk
from packhorse.errors import InputError

LOCK = """\
{
  "lockfileVersion": 2,
  "workspaces": {
    "": {
      "name": "mono",
    },
    "packages/a": {
      "name": "a",
    },
    "packages/b": {},
  },
  "packages": {
    "ms": ["ms@2.1.3", "", {}, "sha512-AAAA"],
    "a": ["a@workspace:packages/a"],
  }
}
"""


def test_a_lock_names_its_projects() -> None:
    assert list(bun.lock_projects(LOCK)) == ["", "packages/a", "packages/b"]


def test_conflicts_of_a_merge_are_named() -> None:
    with pytest.raises(InputError, match="the first on line 3"):
        bun.check_lock(LOCK.replace('  "workspaces"', '<<<<<<< HEAD\n  "workspaces"'))
    bun.check_lock(LOCK)


@given(st.text())
def test_any_text_can_be_read_and_any_output_has_a_meaning(text: str) -> None:
    assert all(isinstance(path, str) for path in bun.lock_projects(text))
    assert str(meaning(text))


def meaning(output: str) -> Exception:
    return bun.bun_error(sdk.CommandFailed(["bun", "install"], status=1, output=output))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            "error: lockfile had changes, but lockfile is frozen\n"
            "note: dependencies in package.json changed since bun.lock was saved: ms changed\n",
            "bun.lock does not match package.json",
        ),
        ("error: GET http://x/ms/-/ms-2.1.3.tgz - 401\n", "refused access (E401)"),
        ("error: GET http://x/ms/-/ms-2.1.3.tgz - 404\n", "does not have the package ms (E404)"),
        ("error: GET http://x/ms/-/ms-2.1.3.tgz - 503\n", "answered with an error (E503)"),
        ("error: ConnectionRefused downloading tarball ms@2.1.3\n", "cannot reach"),
        ("error: Integrity check failed for tarball: ms\n", "(EINTEGRITY)"),
        ('error: No version matching "99" found for specifier "ms"\n', "(ETARGET)"),
        ('error: install script from "x" exited with 1\n', "an install script failed: that of x"),
    ],
)
def test_what_bun_says_is_explained(output: str, expected: str) -> None:
    assert expected in str(meaning(output))


def test_pruning_keeps_what_is_common_and_what_scripts_made(tmp_path: Path) -> None:
    there, wanted = tmp_path / "there", tmp_path / "wanted"
    both = ("ms", "@scope/kept", "nodemailer", ".bun/nodemailer@6.0.0/node_modules/nodemailer")
    for name in both:
        (wanted / name).mkdir(parents=True)
    gone = ("mustache", "@types/node", "ms/node_modules/debug", ".bun/mustache@4.2.0", ".bun/node-abi@1.0.0")
    for name in (*both, *gone, ".prisma/client"):
        (there / name).mkdir(parents=True)
    bun._keep_common(there, wanted)
    left = {str(path.relative_to(there)) for path in there.rglob("*")}
    assert not left & {*gone, "@types"}
    assert left >= {*both, ".prisma/client"}
