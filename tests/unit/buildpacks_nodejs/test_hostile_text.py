"""What a source or a manager's output may hold is read in a time that grows with its length alone.

Each text is one that made a regular expression try every way to divide it. What took minutes takes
milliseconds; the bound is generous, since machines differ.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nodejs import locks, surroundings
from nodejs.managers import bun, bunlock, pnpm, pnpmfault, pnpmlock, yarnfailure, yarnrc
from nodejs.managers.yarnlock import Lock
from nodejs.npmfailure import explained

from packhorse import sdk
from packhorse.errors import InputError

_LENGTH = 50_000
_BOUND = 5.0


def failure(output: str) -> sdk.CommandFailed:
    return sdk.CommandFailed(["x"], status=1, output=output)


READERS: dict[str, Callable[[str], object]] = {
    "yarn.lock": Lock.parse,
    "pnpm-lock.yaml": pnpmlock.Lock.parse,
    "bun.lock": lambda text: [bunlock.check(text), *bunlock.projects(text)],
    "npm": lambda text: explained(failure(text)),
    "pnpm": lambda text: pnpmfault.explained(failure(text)),
    "pnpm's scripts": pnpmfault.ignored,
    "pnpm's patches": lambda text: list(pnpm.patches(text)),
    "pnpm's recursion": pnpm.is_recursive,
    "Yarn 1": lambda text: yarnfailure.of_classic(failure(text)),
    "Yarn": lambda text: yarnfailure.of_berry(failure(text)),
    "Bun": lambda text: bun.explained(failure(text)),
}
TEXTS = {
    "spaces": "  version" + " " * _LENGTH + '"x"y',
    "lines": "\n" * _LENGTH,
    "letters": "a" * _LENGTH,
    "capitals": "A" * _LENGTH + "1",
    "certificates": "A" + "_CERT" * (_LENGTH // 5) + "1",
    "escapes": '"' + '\\"' * (_LENGTH // 2),
    "quotes": '"' * _LENGTH,
    "colons": "  a:" + ": " * (_LENGTH // 2) + "x",
    "importers": "importers:\n  a" + ": " * (_LENGTH // 2) + "x",
    "calls": "pn " * (_LENGTH // 3),
    "paths": "error " + "node_modules/" * (_LENGTH // 13),
    "parse errors": "Parse error" * (_LENGTH // 11),
    "frames": "➤ YN0009: " + "│" * _LENGTH,
    "reason": "WARN" + " " * _LENGTH + "x failed, reason",
    "versions": "__metadata:\n  version: " + "9" * _LENGTH,
    "scripts": "Ignored build scripts: " * (_LENGTH // 23),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_reader_of_text_ends_soon(reader: Callable[[str], object], text: str) -> None:
    began = time.monotonic()
    try:
        reader(text)
    except InputError as error:
        assert error.fix
    assert time.monotonic() - began < _BOUND


FILES = {
    "pnpm-lock.yaml": "  a@" + "b" * _LENGTH,
    "yarn.lock": '"a@' + ":" * _LENGTH + "\n",
    ".yarnrc.yml": 'nodeLinker: "x"' + " " * _LENGTH + "y\n" + " " * _LENGTH,
    ".yarnrc": '"a"' + " " * _LENGTH,
    ".npmrc": " " * _LENGTH,
}


@pytest.mark.parametrize("name", FILES)
def test_a_reader_of_a_file_ends_soon(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    began = time.monotonic()
    assert locks.hashes(tmp_path, name) == {}
    yarnrc.Settings.read(tmp_path)
    if name.startswith("."):
        list(surroundings.lines(name, tmp_path / name))
    assert time.monotonic() - began < _BOUND


def test_settings_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / ".yarnrc.yml").write_text(
        "nodeLinker: pnp # the default\nyarnPath: \".yarn/releases/yarn-4.cjs\"\ncacheFolder: './a#b' # c\n"
        "enableScripts:\n  inner: x\nempty: ''\n# comment: x\n"
    )
    assert yarnrc.Settings.read(tmp_path).berry == {
        "nodeLinker": "pnp",
        "yarnPath": ".yarn/releases/yarn-4.cjs",
        "cacheFolder": "./a#b",
        "empty": "",
    }


def test_what_pnpm_is_asked_for_is_read_as_before() -> None:
    said = '{"a": "patches/a@1.patch", "b": "./b.diff", "c": ".patchwork", "d": "x.patches"}'
    assert list(pnpm.patches(said)) == ["patches/a@1.patch", "./b.diff"]
    assert pnpm.is_recursive("echo && pnpm --silent -r build")
    assert not pnpm.is_recursive("pnpm build && tool -r x")
