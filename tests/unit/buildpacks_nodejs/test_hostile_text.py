"""What a source or a manager's output may hold is read in a time that grows with its length alone.

Each text is one that made a regular expression try every way to divide it. What took minutes takes
milliseconds. The bound is on processor time, so that other work on the machine does not count.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nodejs import credentials, inventory
from nodejs.failures import npm_error
from nodejs.managers import bun, pnpm, pnpm_failures, pnpm_release, yarn_failures, yarn_settings
from nodejs.managers.yarn_release import YarnLock

from packhorse import sdk
from packhorse.errors import InputError

_LENGTH = 50_000
_BOUND = 5.0


def failure(output: str) -> sdk.CommandFailed:
    return sdk.CommandFailed(["x"], status=1, output=output)


READERS: dict[str, Callable[[str], object]] = {
    "yarn.lock": YarnLock.parse,
    "pnpm-lock.yaml": pnpm_release.PnpmLock.parse,
    "bun.lock": lambda text: [bun.check_lock(text), *bun.lock_projects(text)],
    "npm": lambda text: npm_error(failure(text)),
    "pnpm": lambda text: pnpm_failures.pnpm_error(failure(text)),
    "pnpm's scripts": pnpm_failures.ignored_scripts,
    "pnpm's patches": lambda text: list(pnpm.find_patches(text)),
    "pnpm's recursion": pnpm.is_recursive,
    "Yarn 1": lambda text: yarn_failures.classic_error(failure(text)),
    "Yarn": lambda text: yarn_failures.berry_error(failure(text)),
    "Bun": lambda text: bun.bun_error(failure(text)),
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
    began = time.thread_time()
    try:
        reader(text)
    except InputError as error:
        assert error.fix
    assert time.thread_time() - began < _BOUND


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
    began = time.thread_time()
    assert inventory.read_hashes(tmp_path, name) == {}
    yarn_settings.YarnSettings.read(tmp_path)
    if name.startswith("."):
        list(credentials.relevant_lines(name, tmp_path / name))
    assert time.thread_time() - began < _BOUND


def test_settings_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / ".yarnrc.yml").write_text(
        "nodeLinker: pnp # the default\nyarnPath: \".yarn/releases/yarn-4.cjs\"\ncacheFolder: './a#b' # c\n"
        "enableScripts:\n  inner: x\nempty: ''\n# comment: x\n"
    )
    assert yarn_settings.YarnSettings.read(tmp_path).berry == {
        "nodeLinker": "pnp",
        "yarnPath": ".yarn/releases/yarn-4.cjs",
        "cacheFolder": "./a#b",
        "empty": "",
    }


def test_what_pnpm_is_asked_for_is_read_as_before() -> None:
    said = '{"a": "patches/a@1.patch", "b": "./b.diff", "c": ".patchwork", "d": "x.patches"}'
    assert list(pnpm.find_patches(said)) == ["patches/a@1.patch", "./b.diff"]
    assert pnpm.is_recursive("echo && pnpm --silent -r build")
    assert not pnpm.is_recursive("pnpm build && tool -r x")
