"""project.toml: which files are part of the source, variables for buildpacks, and what of it is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from packhorse.errors import InputError
from packhorse.source.project_toml import Project, Script

FILES = (
    *(
        "README.md",
        "project.toml",
        ".env",
        "src/app.py",
        "src/notes.md",
        "src/lib/deep/x.py",
        "src/lib/x.log",
    ),
    *(
        "secret/key.pem",
        "secret/public/cert.pem",
        "build/out.o",
        "a.log",
        "docs/build",
        "empty/",
        ".git/config",
    ),
)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    return tmp_path


def kept(app: Path, project: Project) -> set[str]:
    left_out = project.excluded_paths(app)
    found = set()
    for path in app.rglob("*"):
        name = str(path.relative_to(app))
        if not any(f"{name}/".startswith(f"{out}/") for out in left_out):
            found.add(f"{name}/" if path.is_dir() and not path.is_symlink() else name)
    return found


ALL = {
    *("README.md", "project.toml", ".env", "src/", "src/app.py", "src/notes.md", "src/lib/", "src/lib/deep/"),
    *("src/lib/deep/x.py", "src/lib/x.log", "secret/", "secret/key.pem", "secret/public/", "build/", "a.log"),
    *("secret/public/cert.pem", "build/out.o", "docs/", "docs/build", "empty/"),
}
SECRET = {"secret/", "secret/key.pem", "secret/public/", "secret/public/cert.pem"}
EXCLUDED = {
    "secret": SECRET,
    "secret/": SECRET,
    "/secret/**": SECRET - {"secret/"},
    "/src/**/": {"src/lib/", "src/lib/deep/", "src/lib/deep/x.py", "src/lib/x.log"},
    "*/": {name for name in ALL if "/" in name},
    "*.pem": {"secret/key.pem", "secret/public/cert.pem"},
    "build/": {"build/", "build/out.o"},
    "build": {"build/", "build/out.o", "docs/build"},
    "/*.log": {"a.log"},
    "**/lib": {"src/lib/", "src/lib/deep/", "src/lib/deep/x.py", "src/lib/x.log"},
    "src/*.py": {"src/app.py"},
    "src/**/*.py": {"src/app.py", "src/lib/deep/x.py"},
    "[ab].log": {"a.log"},
    "?.log": {"a.log", "src/lib/x.log"},
    "# secret": set[str](),
    "none": set[str](),
}


@pytest.mark.parametrize(("pattern", "out"), EXCLUDED.items(), ids=EXCLUDED)
def test_an_excluded_path_is_left_out_with_all_below_it(app: Path, pattern: str, out: set[str]) -> None:
    assert kept(app, Project(exclude=(pattern,))) == ALL - out


INCLUDED = {
    ("src",): {name for name in ALL if name.startswith("src/")},
    ("*.py",): {"src/", "src/app.py", "src/lib/", "src/lib/deep/", "src/lib/deep/x.py"},
    ("/*.md", "empty/"): {"README.md", "empty/"},
    ("src", "!*.md"): {name for name in ALL if name.startswith("src/")} - {"src/notes.md"},
    ("src", "!src/lib"): {"src/", "src/app.py", "src/notes.md"},
    (".git", "a.log"): {"a.log"},
}


@pytest.mark.parametrize(("patterns", "names"), INCLUDED.items(), ids=map(str, INCLUDED))
def test_with_include_nothing_else_is_part_of_the_source(
    app: Path, patterns: tuple[str, ...], names: set[str]
) -> None:
    assert kept(app, Project(include=patterns)) == names


def test_a_later_pattern_brings_back_what_is_below_an_excluded_directory(app: Path) -> None:
    project = Project(exclude=("secret", "!secret/public/*.pem", "src/**", "!src/lib/x.log", "*.log"))
    # `src/**` matches what is in src, and not src itself.
    left = {name for name in ALL if not name.startswith("src/")} | {"src/"}
    left -= {"secret/key.pem", "a.log"}
    assert kept(app, project) == left


def test_without_patterns_only_the_history_is_left_out(app: Path) -> None:
    assert Project().excluded_paths(app) == (".git",)
    (app / ".git" / "config").unlink()
    (app / ".git").rmdir()
    assert Project().excluded_paths(app) == ()
    (app / ".git").symlink_to("/nowhere")
    assert Project().excluded_paths(app) == (".git",)


def test_a_link_is_matched_and_not_followed(app: Path) -> None:
    (app / "link").symlink_to("secret")
    assert "link" in kept(app, Project(exclude=("link/", "secret")))
    assert "link" not in kept(app, Project(exclude=("link",)))


def test_a_name_that_is_no_text_is_matched(app: Path) -> None:
    (app / "\udcff.pem").touch()
    assert "\udcff.pem" in Project(exclude=("*.pem",)).excluded_paths(app)


def parse(text: str) -> tuple[Project, list[str]]:
    found: list[str] = []
    return Project.parse(text.encode(), "project.toml", warn=found.append), found


def test_both_schemas_are_read() -> None:
    old = '[build]\nexclude = ["a", "b"]\n[[build.env]]\nname = "A"\nvalue = "1"\n'
    head = '[_]\nschema-version = "0.2"\n'
    new = f'{head}[io.buildpacks]\ninclude = ["c"]\n[[io.buildpacks.build.env]]\nname = "B"\n'
    older = f'{head}[[io.buildpacks.env.build]]\nname = "C"\nvalue = "3"\n'
    assert parse(old) == (Project(exclude=("a", "b"), env={"A": "1"}), [])
    assert parse(new) == (Project(include=("c",), env={"B": ""}), [])
    assert parse(older) == (Project(env={"C": "3"}), [])


def test_metadata_and_the_tables_of_other_tools_pass() -> None:
    text = """\
[_]
schema-version = "0.2"
id = "x"
name = "x"
version = "1"
authors = []
licenses = [{type = "MIT"}]
[_.metadata]
cleaned = true
[com.heroku.buildpacks.nodejs]
actions = {}
[io.other]
x = 1
[project]
x = 1
[build]
script = "make"
"""
    assert parse(text) == (Project(), [])
    assert parse('[project]\nid = "x"\nname = "x"\n[metadata]\na = 1\n[_]\nx = 1\n[tool]\n') == (
        Project(),
        [],
    )


BUILDPACKS = """\
[_]
schema-version = "0.2"
[io.buildpacks]
builder = "acme/builder"
[[io.buildpacks.group]]
id = "a"
version = "1"
[[io.buildpacks.group]]
uri = "tools/b"
[[io.buildpacks.group]]
id = "c"
[io.buildpacks.group.script]
api = "0.10"
inline = "make"
shell = "/bin/bash"
[[io.buildpacks.pre.group]]
uri = "urn:cnb:builder:d@2"
[[io.buildpacks.post.group]]
id = "e"
[io.buildpacks.post.group.script]
api = "0.10"
inline = "true"
"""


def test_builder_and_buildpacks_are_read_with_their_lines() -> None:
    project, warnings = parse(BUILDPACKS)
    assert project.builder == "acme/builder" and warnings == []
    _, warnings = parse('[_]\nschema-version = "0.2"\n[io.buildpack]\nbuilder = "x"\n[io.tool]\na = 1\n')
    assert len(warnings) == 1 and "project.toml:3" in warnings[0] and "buildpack" in warnings[0]
    assert [entry.name for entry in project.group] == ["a@1", "tools/b", "c@0.0.0"]
    assert [entry.where for entry in project.group] == [
        "project.toml:6: io.buildpacks.group.id",
        "project.toml:9: io.buildpacks.group.uri",
        "project.toml:11: io.buildpacks.group.id",
    ]
    assert project.group[2].script == Script("0.10", "make", "/bin/bash")
    assert project.group[2].script.where == "project.toml:13: io.buildpacks.group.script.api"
    assert [entry.name for entry in project.pre] == ["urn:cnb:builder:d@2"]
    assert [entry.script for entry in project.post] == [Script("0.10", "true", "/bin/sh")]
    old, warnings = parse('[build]\nbuilder = "x"\n[[build.buildpacks]]\nid = "a"\n')
    assert (old.builder, [entry.id for entry in old.group], warnings) == ("x", ["a"], [])


def test_a_uri_starts_at_the_directory_of_the_file() -> None:
    text = BUILDPACKS.replace("tools/b", "../b").encode()
    project = Project.parse(text, "project.toml", path=Path("/src/app/project.toml"))
    assert project.group[1].name == "/src/app/../b"


SCRIPT = '[[build.buildpacks]]\nid = "a"\n'


@pytest.mark.parametrize(
    ("text", "issue"),
    [
        ("[build]\ninclude = []\nexclude = []\n", "2: build.include and exclude cannot both be there"),
        ('[build]\nexclude = [\n"!"]\n', "2: build.exclude: '!' is not a pattern of a .gitignore"),
        (
            '[build]\nexclude = ["[z-a]"]\n',
            "2: build.exclude: '[z-a]' is not a pattern of a .gitignore: bad character range z-a",
        ),
        (
            '[build]\nexclude = ["[[:punct:]]"]\n',
            "2: build.exclude: '[[:punct:]]' is not a pattern of a .gitignore",
        ),
        ("[build]\nexclude = 1\n", "2: build.exclude must be a list of strings"),
        ('[_]\nschema-version = "9"\n', "2: _.schema-version is '9', not one of 0.1, 0.2, 0.3"),
        ('[[build.env]]\nname = "a=b"\n', "2: build.env.name: 'a=b' cannot be the name of a variable"),
        ('[[build.env]]\nname = "../a"\n', "2: build.env.name: '../a' cannot be the name of a variable"),
        (
            f'[[build.env]]\nname = "{"a" * 256}"\n',
            f"2: build.env.name: '{'a' * 256}' cannot be the name of a variable",
        ),
        ('[[build.env]]\nvalue = "a"\n', "1: build.env.name is missing"),
        ('[[build.buildpacks]]\nversion = "1"\n', "1: build.buildpacks.id is missing"),
        (
            '[[build.buildpacks]]\nuri = "a"\nversion = "1"\n',
            "2: build.buildpacks.uri and version cannot both be there",
        ),
        (
            f"{SCRIPT}uri = 'a'\nscript = {{api = '0.10', inline = 'a'}}\n",
            "3: build.buildpacks.uri and script",
        ),
        (f"{SCRIPT}script = {{inline = 'a'}}\n", "3: build.buildpacks.script.api is missing"),
        (f"{SCRIPT}script = {{api = '0.10'}}\n", "3: build.buildpacks.script.inline is missing"),
        (
            f"{SCRIPT}script = {{api = '0.10', inline = 'a', shell = 'sh'}}\n",
            "3: build.buildpacks.script.shell is 'sh', not the absolute path of a program",
        ),
        (
            2 * f"{SCRIPT}script = {{api = '0.10', inline = 'a'}}\n",
            "5: build.buildpacks.id: two inline buildpacks are a@0.0.0: give each an id of its own",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(text: str, issue: str) -> None:
    with pytest.raises(InputError) as raised:
        parse(text)
    assert any(found.startswith(f"project.toml:{issue}") for found in raised.value.issues)


HEAD = '[_]\nschema-version = "0.2"\n'
GROUP = "[[io.buildpacks.group]]\n"


@pytest.mark.parametrize(
    ("text", "issue"),
    [
        ('_ = "0.2"\n', "1: _ must be a table"),
        ("[_]\nschema-version = 0.2\n[io.buildpacks]\nexclude = 1\n", "2: _.schema-version must be a string"),
        (
            '[_]\nschema-version = "1"\n[build]\nexclude = 1\n',
            "2: _.schema-version is '1', not one of 0.1, 0.2, 0.3",
        ),
        (f"{HEAD}[io]\nbuildpacks = 1\n", "4: io.buildpacks must be a table"),
        (f"{HEAD}[io.buildpacks]\nbuilder = ['a']\n", "4: io.buildpacks.builder must be a string"),
        (f"{HEAD}[io.buildpacks]\nbuilder = ''\n", "4: io.buildpacks.builder is empty"),
        (
            f"{HEAD}[io.buildpacks]\ninclude = ['a', 1]\n",
            "4: io.buildpacks.include must be a list of strings",
        ),
        (
            f"{HEAD}[io.buildpacks]\ninclude = ['a']\nexclude = ['b']\n",
            "4: io.buildpacks.include and exclude cannot both be there: leave one out",
        ),
        (
            f"{HEAD}[io.buildpacks.group]\nid = 'a'\n",
            "3: io.buildpacks.group must be an array of tables ([[io.buildpacks.group]])",
        ),
        (f"{HEAD}[[io.buildpacks.pre]]\nid = 'a'\n", "3: io.buildpacks.pre must be a table"),
        (
            f"{HEAD}[io.buildpacks.build]\nenv = {{A = 'a'}}\n",
            "4: io.buildpacks.build.env must be an array of tables ([[io.buildpacks.build.env]])",
        ),
        (
            f"{HEAD}[[io.buildpacks.build.env]]\nname = 'A'\nvalue = 1\n",
            "5: io.buildpacks.build.env.value must be a string",
        ),
        (
            f'{HEAD}[[io.buildpacks.build.env]]\nname = "A"\nvalue = "\\u0000"\n',
            "5: io.buildpacks.build.env.value has a NUL character, which no variable can have",
        ),
        (f"{HEAD}{GROUP}id = 1\n", "4: io.buildpacks.group.id must be a string"),
        (f"{HEAD}{GROUP}id = ''\n", "4: io.buildpacks.group.id is empty"),
        (f"{HEAD}{GROUP}uri = 1\n", "4: io.buildpacks.group.uri must be a string"),
        (f"{HEAD}{GROUP}uri = ''\n", "4: io.buildpacks.group.uri is empty"),
        (f"{HEAD}{GROUP}id = 'a'\nversion = 1\n", "5: io.buildpacks.group.version must be a string"),
        (
            f"{HEAD}{GROUP}uri = 'a'\nversion = '1'\n",
            "4: io.buildpacks.group.uri and version cannot both be there: leave one out",
        ),
        (f"{HEAD}{GROUP}", "3: io.buildpacks.group.id is missing: an entry has an id, or a uri"),
        (f"{HEAD}{GROUP}id = 'a'\nscript = 'make'\n", "5: io.buildpacks.group.script must be a table"),
        (
            f"{HEAD}{GROUP}script = {{api = '0.10', inline = 'a'}}\n",
            "3: io.buildpacks.group.id is missing: a script needs an id",
        ),
        (
            f"{HEAD}{GROUP}id = 'a'\nscript = {{api = 0.10, inline = 'a'}}\n",
            "5: io.buildpacks.group.script.api must be a string",
        ),
    ],
)
def test_one_mistake_is_one_message(text: str, issue: str) -> None:
    said: list[str] = []
    with pytest.raises(InputError) as raised:
        Project.parse(text.encode(), "project.toml", warn=said.append)
    assert (list(raised.value.issues), said) == ([f"project.toml:{issue}"], [])


def test_what_another_tool_has_at_build_is_not_judged() -> None:
    for text in (f"build = 1\n{HEAD}", f"{HEAD}[[build]]\na = 1\n"):
        assert parse(text) == (Project(), [])


def test_a_variable_that_is_there_twice_is_said() -> None:
    entry = "[[build.env]]\nname = 'A'\nvalue = '{}'\n"
    project, said = parse(entry.format(1) + entry.format(2))
    assert project.env == {"A": "2"}
    assert said == ["project.toml:5: build.env.name: A is there twice, and the last value counts"]


def test_what_is_ignored_is_said_with_its_line() -> None:
    assert parse('[io.buildpacks]\nexclude = ["a"]\n')[1] == [
        "project.toml:1: io.buildpacks is ignored: it belongs to another schema version: "
        'write schema-version = "0.2" in [_]'
    ]
    assert parse('[_]\nschema-version = "0.2"\n[build]\nexclude = ["a"]\n')[1] == [
        "project.toml:3: build is ignored: it belongs to another schema version: "
        'write schema-version = "0.1" in [_]'
    ]
    text = '[_]\nschema-version = "0.3"\n[io.buildpacks]\nexcludes = []\n'
    assert parse(f'{text}[[io.buildpacks.build.env]]\nname = "A"\nexec-env = ["test"]\n')[1] == [
        "project.toml:4: io.buildpacks.excludes is not a key of this file and is ignored",
        "project.toml:7: io.buildpacks.build.env.exec-env is not a key of this file and is ignored",
    ]


def test_a_source_without_the_file_has_no_settings(tmp_path: Path) -> None:
    assert Project.read(tmp_path) == Project()
    (tmp_path / "project.toml").write_text('[build]\nexclude = ["a"]\n')
    assert Project.read(tmp_path) == Project(exclude=("a",))


@pytest.mark.parametrize("kind", ["directory", "pipe", "link to nowhere"])
def test_a_project_file_that_is_no_file_is_not_passed_over(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "project.toml"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    with pytest.raises(InputError, match=r"project\.toml cannot be read"):
        Project.read(tmp_path)


IGNORED = {
    ".packhorseignore": (
        "# comment\n*.log\n\nsrc/lib\n!src/lib/x.log\n",
        {"a.log", "src/lib/deep/", "src/lib/deep/x.py"},
    ),
    # Docker's patterns start at the top directory.
    ".dockerignore": (
        "# comment\r\n*.log\n  ./secret/ \nlib\nout.o\n**x.py\n!secret/public\n.\n",
        {"a.log", "secret/key.pem", "src/lib/deep/x.py"},
    ),
}


@pytest.mark.parametrize(("name", "text", "out"), [(name, *row) for name, row in IGNORED.items()])
def test_an_ignore_file_counts_where_project_toml_has_no_patterns_and_that_is_said(
    app: Path, name: str, text: str, out: set[str]
) -> None:
    said: list[str] = []
    (app / name).write_text(text)
    project = Project.read(app, warn=said.append)
    empty = {f"{path}/" for path in ("src/lib/deep",) if f"{path}/" in out}
    assert ALL - kept(app, project) == out | empty and name in kept(app, project)
    assert len(said) == 1 and said[0].startswith(f"{app / name}: its patterns decide what is left out")
    (app / "project.toml").write_text('[build]\nexclude = ["a.log"]\n')
    assert Project.read(app, warn=said.append) == Project(exclude=("a.log",)) and len(said) == 1


def test_the_own_ignore_file_counts_before_dockers_also_if_it_is_empty(app: Path) -> None:
    (app / ".dockerignore").write_text("secret\n")
    (app / ".packhorseignore").write_text("")
    said: list[str] = []
    assert Project.read(app, warn=said.append).exclude == () and said == []


def test_an_ignore_file_that_cannot_be_used_is_refused_with_its_line(app: Path) -> None:
    (app / ".packhorseignore").write_text("*.log\n!\n")
    with pytest.raises(InputError) as raised:
        Project.read(app)
    assert raised.value.issues[0].startswith(f"{app / '.packhorseignore'}:2: '!' is not a pattern")


@pytest.mark.parametrize(
    ("project", "key"),
    [
        (Project(exclude=("*",)), "exclude"),
        (Project(include=("nosuch",)), "include"),
        (Project(exclude=("**",), ignore_file=".dockerignore"), ".dockerignore"),
    ],
)
def test_patterns_that_leave_out_the_whole_source_are_refused(app: Path, project: Project, key: str) -> None:
    with pytest.raises(InputError, match="leaves out the whole source") as raised:
        project.excluded_paths(app)
    assert key in raised.value.why
    assert ("empty .packhorseignore" in raised.value.fix) is (key == ".dockerignore")


def test_a_descriptor_that_is_named_is_read_instead_and_must_be_there(app: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[build]\nexclude = ["b"]\n')
    (app / "project.toml").write_text('[build]\nexclude = ["a"]\n')
    assert Project.read(app, descriptor=other) == Project(exclude=("b",))
    with pytest.raises(InputError, match=r"nosuch\.toml cannot be read"):
        Project.read(app, descriptor=tmp_path / "nosuch.toml")
