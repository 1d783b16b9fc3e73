"""Tables know the lines of what they hold, collect every issue, and refuse what is too much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse.base.toml import DEPTH, LIMIT, Table, decode
from packhorse.errors import FormatError, InputError

DOCUMENT = """\
name = "x"   # line 1
flag = true

[a]
text = 4
"quoted" = 4
long = \"\"\"
flag = false
[b]
\"\"\"
after = 4

[[order]]
  [[order.group]]
  id = 1
  [[order.group]]
  id = 2
[[order]]
  [[order.group]]
  id = 3
[b.c]
deep = 4
list = [
  [1],
  {x = 2},
]
last = 4
"""


def table(text: str) -> Table:
    return Table.read(text.encode(), "file.toml")


def issues(table: Table) -> list[str]:
    with pytest.raises(InputError) as raised:
        table.finish()
    return list(raised.value.issues)


def test_every_issue_is_told_at_once_with_its_line() -> None:
    top = table(DOCUMENT)
    a = top.table("a")
    for key in ("text", "quoted", "after"):
        a.text(key)
    for group in top.tables("order"):
        for entry in group.tables("group"):
            entry.text("id")
    c = top.table("b").table("c")
    c.text("deep")
    c.texts("list")
    c.text("last")
    assert issues(top) == [
        "file.toml:5: a.text must be a string",
        "file.toml:6: a.quoted must be a string",
        "file.toml:11: a.after must be a string",
        "file.toml:15: order.group.id must be a string",
        "file.toml:17: order.group.id must be a string",
        "file.toml:20: order.group.id must be a string",
        "file.toml:22: b.c.deep must be a string",
        "file.toml:23: b.c.list must be a list of strings",
        "file.toml:27: b.c.last must be a string",
    ]


def test_an_issue_without_a_line_of_its_own_has_that_of_what_it_stands_in() -> None:
    top = table("\n[a]\nx = [\n{y = 1},\n{}]\n")
    first, second = top.table("a").tables("x")
    first.text("y")
    second.text("y", required=True)
    top.table("a").add_issue("something")
    top.add_issue("everything")
    assert issues(top) == [
        "file.toml:3: a.x.y must be a string",
        "file.toml:3: a.x.y is missing",
        "file.toml:2: something",
        "file.toml: everything",
    ]


def test_what_is_absent_is_empty_and_no_issue() -> None:
    top = table("")
    assert (top.text("x"), top.flag("x"), top.texts("x"), top.tables("x")) == ("", False, (), ())
    assert (top.mapping("x"), top.table("x").values, top.has("x")) == ({}, {}, False)
    top.finish()


def test_what_is_there_is_read() -> None:
    top = table('t = "s"\nf = true\nl = ["a", "b"]\nm = {x = 1}\n[[r]]\nn = "1"\n[[r]]\nn = "2"\n')
    assert (top.text("t", required=True), top.flag("f"), top.texts("l")) == ("s", True, ("a", "b"))
    assert top.mapping("m") == {"x": 1}
    assert [entry.text("n") for entry in top.tables("r")] == ["1", "2"]
    assert top.table("m").values == {"x": 1}
    top.finish()


@pytest.mark.parametrize(
    ("method", "text", "words"),
    [
        ("text", "x = 1", "must be a string"),
        ("flag", 'x = "true"', "must be true or false"),
        ("flag", "x = 1", "must be true or false"),
        ("texts", 'x = "a"', "must be a list of strings"),
        ("texts", 'x = ["a", 1]', "must be a list of strings"),
        ("table", "x = []", "must be a table"),
        ("tables", "x = {}", "must be an array of tables ([[x]])"),
        ("tables", "x = [1]", "must be an array of tables ([[x]])"),
        ("mapping", "x = []", "must be a table"),
    ],
)
def test_a_value_of_another_kind_is_an_issue(method: str, text: str, words: str) -> None:
    top = table(text)
    getattr(top, method)("x")
    assert issues(top) == [f"file.toml:1: x {words}"]


def test_a_required_text_must_be_there_and_not_empty() -> None:
    top = table('a = ""\n')
    top.text("a", required=True)
    top.text("b", required=True)
    assert issues(top) == ["file.toml:1: a is empty", "file.toml: b is missing"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"a = \xff", "file.toml is not UTF-8 text"),
        (b"a = ", "file.toml is not valid TOML"),
        (b"a = 1\na = 2", "file.toml is not valid TOML"),
        (b"a = " + b"1" * 5000, "file.toml is not valid TOML"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "file.toml is nested too deeply"),
        (b".".join([b"a"] * (DEPTH + 2)) + b" = 1", "file.toml is nested too deeply"),
        (b"#" * (LIMIT + 1), "file.toml is too large"),
    ],
    ids=["bytes", "syntax", "twice", "digits", "brackets", "dots", "size"],
)
def test_what_is_not_toml_or_too_much_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(InputError) as raised:
        Table.read(data, "file.toml")
    assert raised.value.what == what
    assert raised.value.why


def test_the_line_of_what_is_not_utf_8_is_said() -> None:
    with pytest.raises(InputError) as raised:
        Table.read(b"\xef\xbb\xbfa = 1\n\n# caf\xe9\n", "file.toml")
    assert raised.value.why == "line 3 has bytes that are not UTF-8"


DOTS = ".a" * (LIMIT // 2 - 10)
ESCAPES = r"\"" * (LIMIT // 2 - 10)
MUCH = {
    "a dotted key": (f"a{DOTS} = 1", "nested too deeply"),
    "a dotted key of an inline table": (f"x = {{a{DOTS} = 1}}", "nested too deeply"),
    "a dotted header": (f"[a{DOTS}]", "nested too deeply"),
    "a header and a key together": (f"[a{'.a' * 60}]\nb{'.b' * 60} = 1", "nested too deeply"),
    "brackets": ("a = " + "[" * (LIMIT - 10), "nested too deeply"),
    "spaces in a header": ('["' + " " * (LIMIT - 10) + '"]', ""),
    "quotes in a text of many lines": (f'x = """{ESCAPES}"""', ""),
    "quotes in a text without an end": (f'x = "{ESCAPES}', "not valid TOML"),
}


@pytest.mark.parametrize(("text", "words"), MUCH.values(), ids=MUCH)
def test_a_file_of_nothing_else_takes_one_pass(text: str, words: str) -> None:
    """Each would take hours by an algorithm that is quadratic in the length of the file."""
    assert len(text) <= LIMIT
    if words:
        with pytest.raises(InputError, match=words):
            table(text)
    else:
        assert len(table(text).values) == 1


def test_an_error_has_a_length_that_can_be_read() -> None:
    top = table("\n".join(f'[[a]]\nb = "{number}"' for number in range(10_000)))
    for entry in top.tables("a"):
        entry.flag("b")
    top.add_issue("x" * 10_000)
    assert len(found := issues(top)) == 51
    assert found[-1] == "file.toml: there are more"
    top = table("")
    top.add_issue("x" * 10_000)
    assert len(issues(top)[0]) < 500


def test_just_as_much_as_allowed_is_read() -> None:
    assert Table.read(b".".join([b"a"] * (DEPTH + 1)) + b" = 1", "f").has("a")
    assert not Table.read(b"#" * LIMIT, "f").has("a")


def test_a_syntax_error_says_where() -> None:
    with pytest.raises(InputError, match="line 2, column 5"):
        table("a = 1\nb = \n")


def test_a_programs_file_is_a_format_error_instead() -> None:
    assert decode(b"a = 1", "f") == {"a": 1}
    with pytest.raises(FormatError, match="f is not valid TOML"):
        decode(b"a", "f")


keys = st.lists(st.sampled_from(["a", "b-c", '"d e"', "'f'"]), min_size=1, max_size=4, unique=True)
noise = st.sampled_from(
    ["", "# comment", "{0} = [", "{0} = '''\n[x]\n'''", "{0} = {{y = 1}}", '{0} = "[z] # no"']
)


@given(keys, st.data())
def test_the_line_of_a_key_is_where_it_stands(names: list[str], data: st.DataObject) -> None:
    lines: list[str] = []
    expected: list[int] = []
    for number, name in enumerate(names):
        filler = data.draw(noise).format(f"n{number}")
        lines += (f"{filler}\n1, [2],\n]" if filler.endswith("[") else filler).split("\n")
        lines.append(f"{name} = 1")
        expected.append(len(lines))
    top = table("[t]\n" + "\n".join(lines)).table("t")
    for name in names:
        top.text(name.strip("\"'"))
    assert [int(issue.split(":")[1]) for issue in issues(top)] == [line + 1 for line in expected]


def warnings(text: str) -> tuple[Table, list[str]]:
    found: list[str] = []
    return Table.read(text.encode(), "file.toml", found.append), found


def test_keys_that_nobody_asked_for_are_named_with_their_lines() -> None:
    top, found = warnings(DOCUMENT)
    top.text("name")
    for group in top.tables("order"):
        for entry in group.tables("group"):
            entry.allow_keys("id")
    top.table("a").text("long")
    top.mapping("b")
    top.finish()
    assert found == [
        "file.toml:2: flag is not a key of this file and is ignored",
        "file.toml:5: a.text is not a key of this file and is ignored",
        "file.toml:6: a.quoted is not a key of this file and is ignored",
        "file.toml:11: a.after is not a key of this file and is ignored",
    ]


def test_a_key_in_other_capitals_counts_and_is_named() -> None:
    top, found = warnings("[Types]\nLaunch = true\ncache = true\nCache = false\n")
    types = top.table("types")
    assert (types.flag("launch"), types.flag("cache")) == (True, True)
    top.finish()
    assert found == [
        "file.toml:1: Types is read as types, which is how this key is spelled",
        "file.toml:2: Types.Launch is read as launch, which is how this key is spelled",
        "file.toml:4: Types.Cache is not a key of this file and is ignored",
    ]


def test_an_issue_of_a_key_in_other_capitals_has_its_line() -> None:
    top = table("\nLaunch = 1\n")
    top.flag("launch")
    assert issues(top) == ["file.toml:2: launch must be true or false"]


def test_warnings_have_a_length_that_can_be_read() -> None:
    top, found = warnings("\n".join(f"key{number} = 1" for number in range(1000)))
    top.finish()
    assert len(found) == 51
    assert found[-1] == "file.toml: there are more"


def test_a_byte_order_mark_is_skipped() -> None:
    assert Table.read(b"\xef\xbb\xbfa = 1\n", "file.toml").values == {"a": 1}
