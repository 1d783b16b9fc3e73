"""Makes random buildpacks, an order and an application for one to three builds, from a seed.

Most of these builds succeed, since a buildpack keeps the rules of the specification unless the seed makes it
break one. A buildpack writes what it sees (plan, environment, restored files) to a launch layer, so the image
ID depends on all of it. `test_random_builds` compares with what the reference makes of the same seeds.

What docs/decisions/0007 says that packhorse makes otherwise is not among it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from fakes.image_case import ImageCase
from packhorse.spec.buildpack_toml import Order, Ref

PROGRAMS = ("find",)
"""What the buildpacks need besides the programs of fakes.tiny_root."""

RULE_BREAKERS = 0.08
"""The part of the seeds in which one buildpack does something that fails the build."""

_FORMATS = {"cdx": "application/vnd.cyclonedx+json", "spdx": "application/spdx+json"}
_LAYERS = ("modules", "tools", "a", "Z", "with space", "ä", "x-1", "under_score")
_FILES = (
    *(
        "file",
        "bin/tool",
        "lib/libx.so",
        "deep/er/file",
        "with space",
        "é☃",
        ".hidden",
        "-dash",
        "back\\slash",
    ),
    *("n" * 99, "n" * 100, "n" * 101, "d" * 90 + "/" + "e" * 90, "d" * 120 + "/" + "e" * 120),
    *("include/x.h", 'quo"te', "it's", "UPPER", "ü" * 60, "x.toml", "pkgconfig/x.pc", "tab\tname"),
)
_TEXTS = ("", "v", "é☃𝄞", "<>&\u2028", 'q"uote', "back\\slash", "line\nline", "x" * 300, "\t", "\x1b")
_NUMBERS = ("0", "-1", "42", "9007199254740993", "9223372036854775807", "0x1F", "0o17", "0b11", "1_000")
_FLOATS = ("1.0", "0.1", "-0.0", "1e10", "1e100", "1e-7", "3.141592653589793", "1e21", "123456789.0")
_TIMES = (
    "1979-05-27T07:32:00Z",
    "1979-05-27T00:32:00.5-07:00",
    "1979-05-27T07:32:00",
    "1979-05-27",
    "07:32:00",
)
_VARIABLES = ("FOO", "BAR", "PATH", "LD_LIBRARY_PATH", "BP_X", "CPATH", "lower", "A-B")
_SUFFIXES = (".append", ".prepend", ".override", ".default", ".delim", "")
_VALUES = ("v", "", "a:b", "x y", "é", "line\n", "$FOO", ":", "'")
_GLOBS = ("*.txt", "sub/*", "sub", "*", ".", "nothing", "[a-z]*", "sub/deep/?.js", "./data.txt", "*/*", "é*")
_UNSEEN = "CNB_BP_PLAN_PATH|HOSTNAME|PWD|OLDPWD|SHLVL|_|[A-Za-z_]*(PROXY|proxy|CERT|CA_)[A-Za-z_]*"
"""Variables that differ from one machine to another."""

_SEEN = f"""\
mkdir -p seen.new
{{
    echo "arguments $# $1 $2"; echo "path $given"; umask; id -u; id -g
    echo "== plan"; sort "$3"; echo "== environment"
    env | grep -vE '^({_UNSEEN})=' | sort
    echo "== layers"
    find . -path ./seen.new -prune -o ! -type d ! -name '*.sbom.*' -printf '%p %y %m %s %l\\n' | sort
    find . -path ./seen.new -prune -o -type d -printf '%p %m\\n' | sort
    for each in *.toml; do echo "== $each"; test ! -f "$each" || cat "$each"; done
    find . -path ./seen.new -prune -o -name '*.sbom.*' -type f -print | sort
    echo "== platform"; find "$2" -type f | sort
}} > seen.new/seen 2>&1
find "$app" -printf '%P %y %m %l\\n' | sort > seen.new/application
"""


@dataclass(frozen=True, slots=True)
class Types:
    """The types of a layer."""

    launch: bool = False
    build: bool = False
    cache: bool = False

    @property
    def toml(self) -> str:
        """The table of a `<layer>.toml`."""
        names = [name for name in ("launch", "build", "cache") if getattr(self, name)]
        return "[types]\n" + "".join(f"{name} = true\n" for name in names)

    @property
    def has_files_back(self) -> bool:
        """Whether the next build finds the directory of such a layer."""
        return self.cache

    @property
    def has_metadata_back(self) -> bool:
        """Whether the next build finds the `<layer>.toml` of such a layer."""
        return self.cache or (self.launch and not self.build)


@dataclass(slots=True)
class Buildpack:
    """One random buildpack: its descriptor, and for each build its plan, exit status and script."""

    id: str
    api: str
    toml: str
    plans: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    layers: dict[str, Types] = field(default_factory=dict)

    @property
    def is_old(self) -> bool:
        """Whether a process has a command that is a text."""
        return self.api in ("0.7", "0.8")


@dataclass(frozen=True, slots=True)
class RandomBuilds(ImageCase):
    """The builds of one seed, as a case of `fakes.image_build`; `number` is the build, from 1."""

    buildpacks: tuple[Buildpack, ...] = ()
    applications: tuple[Mapping[str, tuple[str, str, int]], ...] = ()
    operator_env: Mapping[str, str] = field(default_factory=dict)
    groups: Order = ()
    number: int = 1

    @classmethod
    def of(cls, seed: int) -> RandomBuilds:
        """The builds of a seed."""
        return _Generator(seed).builds()

    @property
    def builds(self) -> int:
        return len(self.applications)

    @property
    def order(self) -> Order:
        return self.groups

    @property
    def mirrors(self) -> tuple[str, ...]:
        return ()

    def on_build(self, number: int) -> RandomBuilds:
        """The same case for another of its builds."""
        return replace(self, number=number)

    def place_app(self, target: Path) -> None:
        target.mkdir()
        for name, (kind, text, mode) in sorted(self.applications[self.number - 1].items()):
            path = target / name
            if kind == "directory":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(text)
                continue
            else:
                path.write_text(text)
            path.chmod(mode)
        target.chmod(0o755)

    def place_buildpacks(self, target: Path) -> None:
        for each in self.buildpacks:
            ref = Ref(each.id, "1")
            top = target / ref.directory_name / "1"
            (top / "bin").mkdir(parents=True)
            (top / "buildpack.toml").write_text(each.toml)
            detect = [
                f"{n}) plan={quote(p)}; status={s};;" for n, p, s in _numbered(each.plans, each.statuses)
            ]
            _write_program(
                top / "bin" / "detect",
                ["case $(cat build) in", *detect, "esac", 'printf %s "$plan" > "$2"', "exit $status"],
            )
            builds = [f"{n})\n{script}\n;;" for n, script in _numbered(each.scripts)]
            head = ["export LC_ALL=C", "app=$PWD", 'cd "$1"', _SEEN, 'case $(cat "$app/build") in']
            tail = ["esac", "mv seen.new seen", "printf '[types]\\nlaunch = true\\n' > seen.toml"]
            _write_program(top / "bin" / "build", [*head, *builds, *tail])

    def place_build_config(self, target: Path) -> None:
        (target / "env").mkdir(parents=True)
        for name, value in self.operator_env.items():
            (target / "env" / name).write_text(value)


def order_toml(order: Order) -> str:
    """An order.toml."""
    lines = []
    for group in order:
        lines.append("[[order]]")
        for ref in group:
            lines += ["[[order.group]]", f'id = "{ref.id}"', f'version = "{ref.version}"']
            lines += ["optional = true"] if ref.optional else []
    return "\n".join(lines) + "\n"


class _Generator:
    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)
        self._count = self._random.choice((1, 2, 2, 3))
        self._breaks = self._random.random() < RULE_BREAKERS

    def builds(self) -> RandomBuilds:
        pick = self._random
        found = [self._buildpack(number) for number in range(pick.randint(1, 4))]
        self._make_plans(found)
        groups = self._order(found)
        required = {ref.id for ref in groups[-1] if not ref.optional}
        for each in found:
            may_fail = each.id not in required
            each.statuses = [pick.choice((0, 0, 100)) if may_fail else 0 for _ in range(self._count)]
        for number in range(1, self._count + 1):
            for each in found:
                each.scripts.append(self._script(each, number))
        if self._breaks:
            self._break_a_rule(pick.choice([each for each in found if each.id in required] or found))
        values: dict[str, Any] = {
            "run-image": pick.choice(("plain", "plain", "rich")),
            "platform-api": pick.choice(("0.15", "0.15", "0.15", "0.14", "0.13", "0.12")),
            "env": {
                pick.choice((*_VARIABLES[:5], "U")): pick.choice(_VALUES)
                for _ in range(pick.choice((0, 0, 1, 3)))
            },
        }
        if values["platform-api"] == "0.15" and self._chance(0.15):
            values["exec-env"] = "test"
        operator = (0, 0, 0, 2, 4)
        return RandomBuilds(
            name=f"seed {self._seed}",
            path=Path("/nowhere"),  # a case of its own has its files in a folder
            values=values,
            buildpacks=tuple(found),
            applications=tuple(self._application(number) for number in range(1, self._count + 1)),
            operator_env={
                pick.choice(_VARIABLES) + pick.choice(_SUFFIXES): pick.choice(_VALUES)
                for _ in range(pick.choice(operator))
            },
            groups=groups,
        )

    def _chance(self, part: float) -> bool:
        return self._random.random() < part

    def _buildpack(self, number: int) -> Buildpack:
        pick = self._random
        identifier = f"{pick.choice(('acme', 'o/x', 'a.b', 'A'))}/b{number}"
        api = pick.choice(("0.7", "0.8", "0.9", "0.10", "0.11", "0.12", "0.12", "0.12"))
        lines = [f'api = "{api}"', "[buildpack]", f'id = "{identifier}"', 'version = "1"']
        lines += ['homepage = "https://x.example/<>&"'] if self._chance(0.3) else []
        lines += ["clear-env = true"] if self._chance(0.25) else []
        lines += [f"sbom-formats = {json.dumps(list(_FORMATS.values()))}"]
        targets = ('[[targets]]\nos = "linux"', '[[targets]]\narch = "amd64"', '[[stacks]]\nid = "*"', "")
        return Buildpack(identifier, api, "\n".join([*lines, pick.choice(targets), ""]))

    def _make_plans(self, found: Sequence[Buildpack]) -> None:
        """Gives each build's plans, in which each entry has a provider and somebody later who requires it."""
        pick = self._random
        for number in range(1, self._count + 1):
            if number > 1 and self._chance(0.6):
                for each in found:
                    each.plans.append(each.plans[-1])
                continue
            parts: dict[str, list[str]] = {each.id: [] for each in found}
            for name in ("node", "p", "q")[: pick.randint(0, 3)]:
                provider = pick.randrange(len(found))
                parts[found[provider].id].append(f'[[provides]]\nname = "{name}"\n')
                for _ in range(pick.randint(1, 2)):
                    entry = f'[[requires]]\nname = "{name}"\n'
                    entry += f"[requires.metadata]\nk = {self._value()}\n" if self._chance(0.7) else ""
                    parts[pick.choice(found[provider:]).id].append(entry)
            for each in found:
                own = "".join(sorted(parts[each.id]))
                if own and self._chance(0.2):  # an alternative that does not hold stands before
                    own = '[[requires]]\nname = "nobody"\n' + _alternative(own)
                elif own and self._chance(0.2):
                    own += _alternative('[[provides]]\nname = "unused"\n')
                each.plans.append(own)

    def _order(self, found: Sequence[Buildpack]) -> Order:
        """Groups of which the last holds; those before have a buildpack that does not pass."""
        pick = self._random
        whole = tuple(Ref(each.id, "1", optional=self._chance(0.3) and not any(each.plans)) for each in found)
        if all(ref.optional for ref in whole):
            whole = (replace_ref(whole[0], optional=False), *whole[1:])
        groups = [whole]
        if self._chance(0.3) and len(found) > 1:
            part = tuple(pick.sample(whole, pick.randint(1, len(whole) - 1)))
            groups.insert(0, part)
        return tuple(groups)

    def _value(self, depth: int = 0) -> str:
        """A random TOML value."""
        pick = self._random
        kind = pick.randrange(8 if depth < 2 else 5)
        if kind == 0:
            return _text(pick.choice(_TEXTS))
        if kind <= 4:
            return pick.choice((_NUMBERS, _FLOATS, _TIMES, ("true", "false"))[kind - 1])
        if kind == 5:
            return "[" + ", ".join(self._value(depth + 1) for _ in range(pick.randint(0, 2))) + "]"
        if kind == 6:
            return '"""\nseveral\nlines"""'
        keys = pick.sample(("a", "b", "Z", '"é"', '"with space"', "1"), pick.randint(0, 3))
        return "{" + ", ".join(f"{key} = {self._value(depth + 1)}" for key in keys) + "}"

    def _metadata(self) -> str:
        pick = self._random
        if self._chance(0.15):
            return ""
        keys = pick.sample(("version", "k", '"dotted.key"', "Upper", '"ü"', "sha"), pick.randint(0, 3))
        text = "[metadata]\n" + "".join(f"{key} = {self._value()}\n" for key in keys)
        if self._chance(0.3):
            text += f"[metadata.sub]\nx = {self._value()}\n[[metadata.list]]\ny = {self._value()}\n"
        return text

    def _types(self) -> Types:
        return Types(*(self._chance(0.6) for _ in range(3)))

    def _script(self, buildpack: Buildpack, number: int) -> str:
        """What bin/build of a buildpack does in one build, as lines of a shell script."""
        pick = self._random
        if number == 1:
            names = pick.sample(_LAYERS, pick.randint(0, 3))
        else:
            names = [name for name in buildpack.layers if self._chance(0.9)]
            names += [name for name in pick.sample(_LAYERS, 1) if self._chance(0.3) and name not in names]
        lines, before, after = [], buildpack.layers, dict[str, Types]()
        for name in names:
            types = self._types()
            lines += self._layer(name, before.get(name), types, number)
            after[name] = types
        buildpack.layers = after
        if self._chance(0.3):
            lines.append(
                _write(f"{pick.choice(('launch', 'build'))}.sbom.cdx.json", json.dumps({"build": number}))
            )
        if self._chance(0.3):
            lines.append(_write("store.toml", self._metadata()))
        if self._chance(0.7):
            lines.append(_write("launch.toml", self._launch(buildpack)))
        edits = (
            *("echo added > added.txt", "rm -rf sub", "chmod 600 data.txt", "mv data.txt moved.txt"),
            *("ln -sfn data.txt link", "echo more >> data.txt", "mkdir -p new/x; echo 1 > new/x/y"),
            *(
                "cp -a sub sub2",
                "ln -f data.txt hard",
                "mkdir -p empty; chmod 700 empty",
                "chmod 4755 data.txt",
            ),
        )
        lines += [f'( cd "$app"; {edit} ) || :' for edit in pick.sample(edits, pick.choice((0, 0, 1, 2)))]
        return "\n".join(lines)

    def _layer(self, name: str, before: Types | None, types: Types, number: int) -> Iterable[str]:
        """Lines that make a layer, or use what came back of it."""
        pick = self._random
        fresh = [f"rm -rf -- {quote(name)}", f"mkdir -p -- {quote(name)}", *self._contents(name)]
        fresh.append(_write(f"{name}.toml", types.toml + self._metadata()))
        if self._chance(0.3) and (types.cache or not types.build):
            fresh.append(
                _write(f"{name}.sbom.{pick.choice(tuple(_FORMATS))}.json", json.dumps({"n": number}))
            )
        toml, kept = quote(f"{name}.toml"), pick.random()
        keep = [f"printf %s {quote(types.toml)} > kept.txt", f"cat {toml} >> kept.txt", f"mv kept.txt {toml}"]
        if types.build and not types.cache:  # the reference restores the SBOM files of such a layer
            keep.append(f"rm -f -- {quote(name)}.sbom.*")
        if before is not None and before.has_files_back and kept < 0.6:
            change = self._contents(name) if kept < 0.2 else []
            return [f"if test -d {quote(name)}; then :", *keep, *change, "else :", *fresh, "fi"]
        is_reused = before is not None and before.launch and before.has_metadata_back and not before.cache
        if is_reused and kept < 0.7 and types.launch and not types.cache:
            return [f"if test -f {toml}; then :", *keep, "else :", *fresh, "fi"]
        return fresh

    def _contents(self, name: str) -> Iterable[str]:
        """Lines that write files into a layer."""
        pick, lines = self._random, list[str]()
        for _ in range(pick.randint(0, 4)):
            path, top = quote(f"./{name}/{pick.choice(_FILES)}"), f"./{quote(name)}"
            text = pick.choice(("", "content", "x" * 100))
            mode = pick.choice(("755", "600", "444", "777"))
            link = pick.choice(("file", "/etc/passwd", "../..", "/no/" + "z" * 150))
            directory_mode = pick.choice(("755", "700", "1777", "555"))
            actions = (
                f"printf %s {quote(text)} > {path}",
                f"echo x > {path}; chmod {mode} {path}",
                f"ln -sfn {quote(link)} {path}",
                f"echo h > {top}/hard; ln -f {top}/hard {path}",
                f"mkdir -p {path}.d; chmod {directory_mode} {path}.d",
                f"echo y > {path}; chmod 640 {path}",
                f"head -c 200000 /dev/zero > {path}",
                f"touch -d @{pick.choice((0, 2**31, 2**33))} {path}",
                f"umask 077; echo private > {path}; umask 022",
                f"printf '#!/bin/sh\\n' > {path}; chmod 755 {path}",
            )
            lines += [f'mkdir -p -- "$(dirname_of {path})"', f"rm -rf -- {path}", pick.choice(actions)]
        directories = ("env", "env.build", "env.launch", "env.launch/web")
        for directory in pick.sample(directories, pick.choice((0, 0, 1, 2))):
            lines.append(f"mkdir -p ./{quote(name)}/{directory}")
            for _ in range(pick.randint(1, 3)):
                variable = pick.choice(_VARIABLES) + pick.choice(_SUFFIXES)
                lines.append(_write(f"./{name}/{directory}/{variable}", pick.choice(_VALUES)))
        if self._chance(0.1):
            lines += [f"mkdir -p ./{quote(name)}/exec.d", f"printf '#!/bin/sh\\n' > ./{quote(name)}/exec.d/x"]
            lines += [f"chmod 755 ./{quote(name)}/exec.d/x"]
        return [f"{line} || :" for line in lines]

    def _launch(self, buildpack: Buildpack) -> str:
        """A launch.toml."""
        pick, text, words = self._random, "", ("run", "a b", "é", "$X", "<&>", "\\", '"')
        default = self._chance(0.4)
        for kind in pick.sample(("web", "worker", "one", "t-2", "a.b"), pick.choice((0, 1, 1, 2))):
            command = ["/bin/x", *pick.sample(words, pick.randint(0, 2))]
            text += f'[[processes]]\ntype = "{kind}"\n'
            text += f"command = {json.dumps(command[0] if buildpack.is_old else command)}\n"
            text += (
                f"args = {json.dumps(pick.sample(words, pick.randint(0, 2)))}\n" if self._chance(0.5) else ""
            )
            text += "direct = true\n" if buildpack.is_old and self._chance(0.5) else ""
            text += "default = true\n" if default else ""
            default = False
            if buildpack.api != "0.7" and self._chance(0.3):
                text += f'working-dir = "{pick.choice(("/tmp", "rel", "/workspace"))}"\n'
        for key in pick.sample(("a", "io.x", "é", "a b", "K"), pick.choice((0, 0, 1, 2))):
            text += f"[[labels]]\nkey = {_text(key)}\nvalue = {_text(pick.choice(_TEXTS[:6]))}\n"
        for _ in range(pick.choice((0, 0, 1, 2))):
            text += f"[[slices]]\npaths = {json.dumps(pick.sample(_GLOBS, pick.randint(0, 3)))}\n"
        return text

    def _application(self, number: int) -> Mapping[str, tuple[str, str, int]]:
        """Files of the application, one of which has the number of the build."""
        pick = self._random
        found = {
            "data.txt": ("file", "data", 0o644),
            "sub": ("directory", "", 0o755),
            "sub/a.js": ("file", "a", 0o644),
            "sub/deep": ("directory", "", 0o755),
            "sub/deep/b.js": ("file", "b", 0o755),
            "big": ("file", "x" * 50_000, 0o600),
            "é.txt": ("file", "u", 0o644),
            ".dot": ("file", "d", 0o644),
            "empty": ("directory", "", 0o700),
            "dangling": ("link", "/nowhere", 0),
            "x" * 120: ("file", "long", 0o640),
        }
        kept = {name: each for name, each in found.items() if "sub" in name or self._chance(0.7)}
        kept["build"] = ("file", str(number), 0o644)
        if self._chance(0.3):
            kept["sub/a.js"] = ("file", f"changed in {number} {pick.random()}", 0o644)
        return kept

    def _break_a_rule(self, buildpack: Buildpack) -> None:
        """Lets one build of a buildpack fail."""
        pick, last = self._random, self._count - 1
        kind = pick.randrange(5)
        if kind == 0:
            buildpack.statuses[last] = pick.choice((100, 1))
        elif kind == 1:
            buildpack.scripts[last] += f"\nexit {pick.choice((1, 2, 100, 255))}"
        elif kind == 2:
            buildpack.scripts[last] += "\n" + _write("launch.toml", '[[processes]]\ntype = "x"\n')
        elif kind == 3:
            buildpack.scripts[last] += "\nprintf '[types]\\nlaunch = true\\n' > no-such-layer.toml"
        else:
            buildpack.scripts[last] += "\n" + _write("build.toml", '[[unmet]]\nname = "not in the plan"\n')


def replace_ref(ref: Ref, *, optional: bool) -> Ref:
    """The same reference, optional or not."""
    return Ref(ref.id, ref.version, optional=optional)


def _text(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False)


def _alternative(plan: str) -> str:
    """A plan as an alternative under `[[or]]`."""
    return "[[or]]\n" + plan.replace("[[", "[[or.").replace("[requires.m", "[or.requires.m")


def _numbered(*lists: Sequence[Any]) -> Iterable[tuple[Any, ...]]:
    return ((number, *each) for number, each in enumerate(zip(*lists, strict=True), 1))


def _write(path: str, text: str) -> str:
    return f"printf %s {quote(text)} > {quote(path)}"


def _write_program(path: Path, lines: Sequence[str]) -> None:
    head = [
        "#!/bin/bash",
        "given=$PATH; PATH=/bin",
        'dirname_of() { case $1 in */*) echo "${1%/*}";; *) echo .;; esac; }',
    ]
    path.write_text("\n".join([*head, *lines, ""]))
    path.chmod(0o755)
