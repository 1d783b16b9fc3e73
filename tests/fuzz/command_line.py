"""Drives the command line with random words over broken files; started by `test_command_line` as a user.

    python command_line.py PLACE EXAMPLES CODES [random]

Everything that it may write is below PLACE. Each example calls what the console script calls, in this
process. It prints the first example that does not end as it should, made small, and ends with 1; else with
0. CODES are the documented exit codes; `random` takes other examples each time.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import click
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fakes import foreign_builder, tiny_root
from fakes.shell_buildpack import SERVER, shell_buildpack
from packhorse.base import installation
from packhorse.cli import main as cli
from packhorse.oci.archive import DockerArchive, OciArchive
from packhorse.oci.layout import Layout
from packhorse.oci.mutate import edit_config
from packhorse.oci.place import Image, copy, push_image
from packhorse.oci.reference import Reference
from packhorse.store.store import Store

BUILDER, RUN = "localhost:1/builder:1", "localhost:1/run:1"
COMMANDS = [
    [name]
    for name in (
        *("build", "builder", "buildpack", "copy", "doctor", "gc", "images", "inspect", "rmi", "run"),
        *("sbom", "diff", "verify", "rebase", "login", "logout"),
    )
] + [["cache", name] for name in ("ls", "rm", "prune")]
SECRET = "sekret-0451"
"""A value that is handed in as a variable's, and that nobody is ever to print."""

METADATA, ORDER = "io.buildpacks.builder.metadata", "io.buildpacks.buildpack.order"
BROKEN_BUILDERS: tuple[dict[str, Any], ...] = (
    {"labels": {METADATA: "{"}},
    {"labels": {METADATA: "[]"}},
    {"labels": {METADATA: "{}"}},
    {"labels": {METADATA: '{"images": [{"image": "localhost:1/none"}], "lifecycle": {}}'}},
    {"labels": {METADATA: '{"images": 3, "lifecycle": "x", "stack": []}'}},
    {"labels": {METADATA: '{"images": [{"image": "A B"}], "lifecycle": {"api": {"platform": "0.12"}}}'}},
    {"labels": {ORDER: "[{}]"}},
    {"labels": {ORDER: '[{"group": [{"id": "no/such", "version": "1"}]}]'}},
    {"labels": {ORDER: '{"group": 1}'}},
    {"labels": {"io.buildpacks.buildpack.layers": "3"}},
    {"env": ["CNB_USER_ID=x", "CNB_GROUP_ID=1"]},
    {"env": ["CNB_USER_ID=0", "CNB_GROUP_ID=0", "PATH=/bin"]},
    {"env": ["CNB_USER_ID=999999999", "CNB_GROUP_ID=5", "PATH=/bin"]},
    {"env": ["CNB_USER_ID=1001", "CNB_GROUP_ID=5", "PATH", "=x", "HOME"]},
)
FAR = "far"
"""Where files are that would take hours to build from; `work` is built from when no --path is given."""

BROKEN = [f"localhost:1/broken:{number}" for number in range(len(BROKEN_BUILDERS))]
CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM)
GARBAGE = (b"", b"\0", b"{", b"\xff\xfe\0", b"[[[[[[", b'api = "0.11"\n[buildpack', b"A=b\n=\n\0=\n")
TOML = (
    "",
    'api = "0.11"',
    'api = 11\n[buildpack]\nid = "a/b"\nversion = "1"\n',
    'api = "0.11"\n[buildpack]\nid = "../../x"\nversion = "1"\n',
    'api = "0.11"\n[buildpack]\nid = "a/b"\nversion = "../1"\n',
    'api = "0.11"\n[buildpack]\nid = "a/b"\nversion = "1"\n[[order]]\ngroup = [{id = "x", version = "1"}]\n',
    'api = "0.11"\nbuildpack = 3\n',
    'api = "0.11"\n[buildpack]\nid = "a/b"\nversion = "1"\n[[targets]]\nos = "plan9"\n',
    'api = "0.11"\n' + "[a]\n" * 3,
    "x = " + "[" * 3000,
)


def prepare(place: Path) -> None:
    """Makes a store with builders, sources, buildpacks, and files that are broken in all ways."""
    work = place / "work"
    work.mkdir(parents=True)
    layer = foreign_builder.base(tiny_root.make(place / "tiny"))
    launcher = installation.launcher("amd64" if os.uname().machine == "x86_64" else "arm64")
    builder = foreign_builder.builder_image(layer, run=RUN, launcher=launcher)
    run = foreign_builder.run_image(layer)
    images = {BUILDER: builder, RUN: run, "img": run, "img:2": run}
    images |= {
        name: _broken(builder, **changes) for name, changes in zip(BROKEN, BROKEN_BUILDERS, strict=True)
    }
    with Store.open(place / "home" / "store") as store:
        for name, image in images.items():
            push_image(image, store.place(str(Reference.parse(name))))
        copy(store.place("img"), Layout(work / "layout", "a"))
        copy(store.place("img"), OciArchive(work / "oci.tar", "a"))
        copy(store.place("img"), DockerArchive(work / "docker.tar", Reference.parse("a")))
    shutil.copytree(place / "home" / "store", place / "whole", symlinks=True)
    _sources(work)
    _break_archives(work)
    _break_files(work)


def _broken(builder: Image, *, labels: Mapping[str, str] = {}, env: Sequence[str] | None = None) -> Image:
    config = builder.config
    changed = edit_config(config, labels={**config.labels, **labels}, env=config.env if env is None else env)
    return Image(changed, builder.layers)


def _sources(work: Path) -> None:
    (work / "app").mkdir()
    (work / "app" / "README").write_text("hello\n")
    odd = work / "odd-app"
    shutil.copytree(work / "app", odd)
    os.mkdir(bytes(odd) + b"/\xff")
    (odd / "loop").symlink_to("loop")
    (odd / "unreadable").touch(mode=0)
    (odd / ".git").symlink_to("/nowhere")
    (odd / ("a" * 255)).touch()
    os.mkfifo(odd / "fifo")
    shell_buildpack(work / "buildpack", build=SERVER)
    shell_buildpack(work / "fails", build="exit 9")
    shell_buildpack(work / "refuses", detect="exit 100")
    for number, text in enumerate(TOML):
        shell_buildpack(work / f"toml{number}")
        (work / f"toml{number}" / "buildpack.toml").write_text(text)


def _break_archives(work: Path) -> None:
    for name in ("oci.tar", "docker.tar"):
        whole = (work / name).read_bytes()
        for part in (100, 512, 1500, len(whole) // 2, len(whole) - 1024):
            (work / f"part{part}-{name}").write_bytes(whole[:part])
        turned = bytes(255 - byte for byte in whole[1000:5000])
        (work / f"turned-{name}").write_bytes(whole[:1000] + turned + whole[5000:])
    (work / "gone-layout").mkdir()
    for name in ("index.json", "oci-layout"):
        shutil.copy(work / "layout" / name, work / "gone-layout")
    for number, data in enumerate(GARBAGE):
        (work / f"layout{number}").mkdir()
        (work / f"layout{number}" / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
        (work / f"layout{number}" / "index.json").write_bytes(data)


def _break_files(work: Path) -> None:
    for number, data in enumerate(GARBAGE):
        (work / f"garbage{number}").write_bytes(data)
    far = work.parent / FAR
    far.mkdir()
    for directory in (far / "huge-buildpack", work / "directory-buildpack", work / "loop-buildpack"):
        shell_buildpack(directory)
        (directory / "buildpack.toml").unlink()
    for huge in (far / "huge", far / "huge-buildpack" / "buildpack.toml"):
        with huge.open("wb") as file:
            file.truncate(1 << 42)
    (work / "directory-buildpack" / "buildpack.toml").mkdir()
    (work / "loop-buildpack" / "buildpack.toml").symlink_to("buildpack.toml")
    for name, target in (("loop", "loop"), ("there", "back"), ("back", "there"), ("dangling", "nowhere")):
        (work / name).symlink_to(target)
    for name, mode in (("empty", 0o755), ("shut", 0), ("readonly", 0o555)):
        (work / name).mkdir()
        (work / name).chmod(mode)
    (work / "unreadable").touch(mode=0)
    (work / "env").write_text(f"GOOD=value\nSECRET={SECRET}\n# comment\nPATH\n")
    os.mkdir(bytes(work) + b"/\xff\xfe")


def paths(place: Path) -> st.SearchStrategy[str]:
    """What is in the work directory, and elsewhere, and nowhere."""
    there = sorted(os.listdir(place / "work"))
    huge = (f"../{FAR}/huge", f"../{FAR}/huge-buildpack")
    elsewhere = ("shut/file", "app/README", "nosuch", ".", "..", "/", "/dev/null", "/dev/full", "/dev/zero")
    more = ("/proc/self/mem", "-", "~", "~nobody-there/x", "a" * 300, "/" + "x/" * 3000, "new/sub")
    return st.sampled_from([*there, *huge, *elsewhere, *more])


def images(place: Path) -> st.SearchStrategy[str]:
    """Names in the store, and images in files that are whole, broken, or none."""
    archives = [name for name in sorted(os.listdir(place / "work")) if "layout" in name or ".tar" in name]
    kinds = ["oci:", "oci-archive:", "docker-archive:", "docker://", "docker-daemon:", "store:", "x:"]
    where = st.one_of(st.sampled_from(archives), paths(place))
    in_files = st.builds(
        "{}{}{}".format, st.sampled_from(kinds), where, st.sampled_from(["", "", ":a", ":", ":b:c"])
    )
    return st.one_of(st.sampled_from([BUILDER, RUN, "img", "img:2", "img:3", "nosuch", *BROKEN]), in_files)


def words(place: Path) -> st.SearchStrategy[str]:
    """One value of an option or an argument."""
    odd = st.sampled_from(
        [
            *(
                "",
                " ",
                "=",
                ":",
                "@",
                "--",
                "-",
                "\udcff\udcfe",
                "ü☃",
                "\x1b[31m",
                "\n",
                "0",
                "-1",
                "9" * 30,
                "9" * 5000,
            ),
            *("a" * 5000, "sha256:" + "0" * 64, "IMG", "img@sha256:00", "a/b/c:d/e", "localhost:1/x"),
            *("processes=1", "memory=" + "9" * 400, "processes=" + "9" * 5000, "memory=none", "=", "x=1"),
            *("localhost:99999/x", "80", "1:2", "::1:3:4", "127.0.0.1:0:0", "70000", "8:8/udp", "8:8/x"),
        ]
    )
    variables = st.sampled_from(
        [f"{name}{SECRET}" for name in ("SECRET=", "=", "A/B=", " =", "", "X=\n", ".=", "A" * 300 + "=")]
    )
    volumes = st.builds(
        "{}:{}".format, paths(place), st.sampled_from(["/x", "x", "/proc", "/x:ro", "/x:y", "/"])
    )
    text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
    return st.one_of(paths(place), images(place), odd, variables, volumes, text)


def command_lines(place: Path) -> st.SearchStrategy[list[str]]:
    """Words for `packhorse`: any command with any of its options, builds that get far, anything at all."""
    value = words(place)

    def of(name: str) -> st.SearchStrategy[list[str]]:
        arguments = [value for param in _command(name).params if isinstance(param, click.Argument)]
        more = st.one_of(st.just([]), st.just([]), st.lists(value, max_size=2))
        start = ["--builder", BUILDER] if name == "build" else []
        return _joined(st.just([*name.split(), *start]), _options(name, value, 4), _row(arguments), more)

    building = _joined(
        st.sampled_from([*[BUILDER] * len(BROKEN), *BROKEN]).map(
            lambda name: ["build", "x", "--builder", name]
        ),
        st.sampled_from(["app", "app", "odd-app", "layout"]).map(lambda path: ["--path", path]),
        _options("build", value, 1),
    )
    running = _joined(
        st.just(["run"]), _options("run", value, 2), st.just(["img"]), st.lists(value, max_size=2)
    )
    looks = st.sampled_from(["inspect", "sbom"])
    looking = st.tuples(looks, images(place)).map(list)
    pairs = st.sampled_from(["copy", "diff"])
    copying = st.tuples(pairs, images(place), images(place)).map(list)
    names = [
        "build",
        "builder default",
        "builder",
        "buildpack stage",
        "copy",
        "diff",
        "doctor",
        "gc",
        "images",
        "inspect",
        "login",
        "logout",
        "rebase",
        "rmi",
        "run",
        "sbom show",
        "sbom download",
        "verify",
    ]
    bare = st.one_of(value, st.sampled_from(["build", "run", "--help", "--version", "-v", "-q"]))
    known = st.one_of([of(name) for name in names])
    return st.one_of(known, known, building, building, running, looking, copying, st.lists(bare, max_size=5))


def _joined(*parts: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    return st.tuples(*parts).map(lambda lists: [word for some in lists for word in some])


def _row(values: Sequence[st.SearchStrategy[str]]) -> st.SearchStrategy[list[str]]:
    return st.tuples(*values).map(list)


def _command(name: str) -> click.Command:
    command: click.Command = cli.packhorse
    for word in name.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    return command


def _options(name: str, value: st.SearchStrategy[str], most: int) -> st.SearchStrategy[list[str]]:
    """Some of a command's options, with values where they take any."""
    options = [_option(param, value) for param in _command(name).params if isinstance(param, click.Option)]
    if not options:
        return st.just([])
    chosen = st.lists(st.one_of(options), max_size=most)
    return chosen.map(lambda lists: [word for some in lists for word in some])


def _option(option: click.Option, value: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    spelled = st.sampled_from([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return spelled.map(lambda word: [word])
    if isinstance(option.type, click.Choice):
        value = st.one_of(st.sampled_from(list(option.type.choices)), value)
    return st.tuples(spelled, value).map(list)


class Driver:
    """Runs examples, and says what is wrong with how one ended."""

    def __init__(self, place: Path, documented: frozenset[int]) -> None:
        self._place = place
        self._documented = documented
        self._signals = {number: signal.getsignal(number) for number in CAUGHT}
        self.codes: Counter[str] = Counter()

    def run(self, line: list[str]) -> str:
        """Empty when it ended as it should."""
        os.chdir(self._place / "work")
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                sys.argv[1:] = line
                cli.main()
            except SystemExit as ended:
                code = ended.code
            except BaseException:  # noqa: BLE001 - nothing may get out
                return f"an exception got out\n{traceback.format_exc()}"
        for number, handler in self._signals.items():
            signal.signal(number, handler)
        self.codes[f"{line[0] if line[:1] in COMMANDS else 'other'} {code}"] += 1
        if {"rmi", "gc", "copy", "build"} & set(line):
            self._restore()
        return self._wrong(line, code, out.getvalue() + err.getvalue(), err.getvalue())

    def _wrong(self, line: list[str], code: object, said: str, err: str) -> str:
        if code not in self._documented and "run" not in line:
            return f"ended with {code}\n{said}"
        if "went wrong" in said or "Traceback" in said:
            return said
        differ = code == 1 and bool({"diff", "verify"} & set(line))
        helps = code == 2 and err.startswith("Usage: ")  # a group of commands without a command
        if code != 0 and "error: " not in err and not {"run", "doctor"} & set(line) and not (differ or helps):
            return f"ended with {code} and did not say why\n{said}"
        before = ("-e", "--env")
        told = any(SECRET in word and line[at - 1] not in before for at, word in enumerate(line))
        return f"printed a secret\n{said}" if SECRET in said and not told else ""

    def _restore(self) -> None:
        """What was removed from the store comes back."""
        store, whole = self._place / "home" / "store", self._place / "whole"
        for name in ("images.json", "index.json"):
            shutil.copy(whole / name, store / name)
        for blob in (whole / "blobs" / "sha256").iterdir():
            if not (store / "blobs" / "sha256" / blob.name).exists():
                shutil.copy(blob, store / "blobs" / "sha256" / blob.name)


def main(arguments: list[str]) -> int:
    place, examples, codes, *other = arguments
    os.environ.clear()
    os.environ |= {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PACKHORSE_HOME": f"{place}/home",
        "HOME": place,
        "https_proxy": f"http://user:{SECRET}@127.0.0.1:1",
        "SECRET": SECRET,
    }
    prepare(Path(place))
    # Nothing is found from here on: no default builder is made, and no sudo is asked.
    os.environ["PATH"] = f"{place}/bin"
    driver = Driver(Path(place), frozenset(map(int, codes.split(","))))

    @settings(
        max_examples=int(examples),
        deadline=None,
        database=None,
        derandomize=not other,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(command_lines(Path(place)))
    def every_command_line_ends_as_documented(line: list[str]) -> None:
        wrong = driver.run(line)
        assert not wrong, f"{line}\n{wrong}"

    try:
        every_command_line_ends_as_documented()
    except AssertionError as error:
        print(error)
        return 1
    counts = ", ".join(f"{ending} {count} times" for ending, count in sorted(driver.codes.items()))
    print(f"{sum(driver.codes.values())} command lines ended with {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
