"""The launcher's TOML reader, asked through what an exec.d program writes: TOML 1.0 and nothing else."""

import pytest

from unit.launcher.appimage import AppImage

pytestmark = pytest.mark.system

# Sentence: a document, and the variables that it gives.
ACCEPTED: dict[str, tuple[str, dict[str, str]]] = {
    "an empty document": ("", {}),
    "comments and blank lines": ("# one\n\n \t# two é\nX = 'x' # three", {"X": "x"}),
    "Windows line ends": ("X = 'x'\r\n# c\r\nY = 'y'\r\n", {"X": "x", "Y": "y"}),
    "a byte order mark": ("\ufeffX = 'x'", {"X": "x"}),
    "no blanks": ("X='x'", {"X": "x"}),
    "bare keys": ("a-B_9 = 'x'\n1234 = 'y'", {"a-B_9": "x", "1234": "y"}),
    "quoted keys": ("\"a \\u00e9\" = 'x'\n'b\\' = 'y'", {"a é": "x", "b\\": "y"}),
    "basic strings": (r'X = "\b\t\n\f\r\"\\\u00E9\U0001F600 é #"', {"X": '\b\t\n\f\r"\\é😀 é #'}),
    "literal strings": ("X = 'C:\\new \\u00e9 \"#\"'", {"X": 'C:\\new \\u00e9 "#"'}),
    "multi-line basic strings": ('X = """\na "quoted" b\n\n c\\\n\n   \t d"""', {"X": 'a "quoted" b\n\n cd'}),
    "multi-line basic strings that end in quotes": ('X = """"a"""""', {"X": '"a""'}),
    "multi-line basic strings with an escaped quote": ('X = """a\\"""b"""', {"X": 'a"""b'}),
    "multi-line literal strings": ("X = '''\r\na\\\n'b' '''", {"X": "a\\\n'b' "}),
    "multi-line literal strings that end in quotes": ("X = '''a'''''", {"X": "a''"}),
    "empty strings": ("A = ''\nB = \"\"\nC = ''''''\nD = \"\"\"\"\"\"", {"A": "", "B": "", "C": "", "D": ""}),
}

# Values that metadata.toml may hold beside those which the launcher reads.
PASSED_OVER = [
    *("0", "+1", "-17", "1_000", "0xDEAD_beef", "0o17", "0b1_0", "-0"),
    *("1.5", "-0.0", "+1_0.0_1", "5e+22", "6.626e-34", "1E1_0", "inf", "-inf", "+nan"),
    *("true", "false"),
    *("1979-05-27T07:32:00Z", "1979-05-27t00:32:00.999999-07:00", "1979-05-27 07:32:00z"),
    *("1979-05-27T07:32:00", "1979-05-27 07:32:00.5", "2000-02-29", "07:32:00", "23:59:60.123"),
    *(
        "[]",
        "[1, 'a', [2.5, []], {}]",
        "[ # c\n 1,\n\n 2, # d\n]",
        "{}",
        "{ a = 1, b.c = 'x', 'd e' = {f = []} }",
    ),
    *('"a\\u0000b"', "'''\n'''"),
]

REFUSED = [
    # Keys
    *("= 'x'", "'x'", "a", "a =", "a b = 'x'", "é = 'x'", "a. = 'x'", ".a = 'x'", "a..b = 'x'"),
    *(
        '"""a""" = 1',
        "'a\n' = 1",
        "a = 'x' b = 'y'",
        "a = 'x'\nb = 'y', c = 'z'",
        "\x00 = 1",
        "a = 'x'\r b = 1",
    ),
    # Strings
    *("a = 'x", 'a = "x', 'a = "\\"', "a = '''x''", 'a = """x""', "a = 'x\ny'", 'a = "x\ny"', "a = x"),
    *(
        'a = "\\x41"',
        'a = "\\e"',
        'a = "\\u12"',
        'a = "\\u12g4"',
        'a = "\\uD800"',
        'a = "\\U00110000"',
        'a = "\\ "',
    ),
    *(
        "a = '\x00'",
        "a = '\x7f'",
        "a = '\x1b'",
        "a = '''\r'''",
        '# \x01\na = "x"',
        'a = """x\\ y"""',
        "a = '''''''''",
    ),
    # Numbers, booleans, dates
    *(
        "a = 01",
        "a = -01",
        "a = 1_",
        "a = _1",
        "a = 1__0",
        "a = 0x",
        "a = 0xg",
        "a = -0x1",
        "a = 0b2",
        "a = 1.",
    ),
    *("a = .5", "a = 1.e5", "a = 1e", "a = 1e1.0", "a = Inf", "a = +true", "a = TRUE", "a = truey"),
    *(
        "a = 1979-5-27",
        "a = 1979-13-01",
        "a = 1979-02-30",
        "a = 1900-02-29",
        "a = 1979-05-27T",
        "a = 24:00:00",
    ),
    *(
        "a = 07:32",
        "a = 07:32:00Z",
        "a = 1979-05-27T07:32:00.Z",
        "a = 1979-05-27T07:32:00+7",
        "a = 1979-05-27  07:32:00",
    ),
    # Arrays and inline tables
    *(
        "a = [",
        "a = [1",
        "a = [1 2]",
        "a = [,]",
        "a = [1,,2]",
        "a = ]",
        "a = {",
        "a = {b}",
        "a = {b = 1",
        "a = {,}",
    ),
    *("a = {b = 1,}", "a = {b = 1\n}", "a = {b = 1 c = 2}", "a = {b = 1, b = 2}", "a = {b = 1, b.c = 2}"),
    # Tables
    *(
        "[a",
        "[]",
        "[a]]",
        "[[a]",
        "[[a] ]",
        "[ [a]]",
        "[a] b = 1",
        "[a.]",
        "[a]\n[a]",
        "a = 1\n[a]",
        "a = 1\n[a.b]",
    ),
    *(
        "[[a]]\n[a]",
        "[a]\n[[a]]",
        "a = [{}]\n[[a]]",
        "a = {}\n[a.b]",
        "a = {b = {}}\na.b.c = 1",
        "a = [1]\na.b = 1",
    ),
    *(
        "a = 1\na = 2",
        "a = 1\na.b = 2",
        "a.b = 1\n[a]",
        "[a]\nb.c = 1\n[a.b]",
        "[a.b]\n[a]\nb.c = 1",
        "[[a]]\n[[a.b]]\n[a.b]",
    ),
]

ALLOWED_TABLES = [
    "[a.b.c]\n[a]\n[a.d]",
    "[a]\nb.c = 1\nb.d = 2\n[a.b.e]",
    "[[a]]\n[a.b]\n[[a]]\n[a.b]\n[[a.c]]\n[[a.c]]",
    "[ a . 'b c' . \"d\" ] # comment",
    "a.b = 1\na.c = 2",
]


def give(image: AppImage, document: bytes) -> None:
    """Makes an exec.d program that writes the document."""
    image.write("document", document)
    image.write("layers/a/l/exec.d/x", f"#!/bin/sh\ncat '{image.root}/document' >&3\n", executable=True)


@pytest.mark.parametrize(("document", "expected"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_strings_and_keys_of_every_kind_are_read(
    image: AppImage, document: str, expected: dict[str, str]
) -> None:
    give(image, document.encode())

    variables = image.variables(env={"PATH": "/bin"})

    assert {name: value for name, value in variables.items() if name != "PATH"} == expected


@pytest.mark.parametrize("document", REFUSED)
def test_what_is_not_toml_is_refused_with_its_line(image: AppImage, document: str) -> None:
    give(image, document.encode())

    done = image.start("--", "echo", "started")

    assert (done.returncode, done.stdout) == (82, b"")
    assert b": line " in done.stderr


@pytest.mark.parametrize(
    "document",
    [
        b"a = '\xff'",
        b"# \xc0\x80",
        b"# \xed\xa0\x80",
        b"# \xf5\x80\x80\x80",
        b"# \xe2\x82",
        b"# \xe0\x80\x80",
        b"\x80",
    ],
)
def test_what_is_not_utf_8_is_refused(image: AppImage, document: bytes) -> None:
    give(image, document)

    assert b"line 1: this is not UTF-8" in image.start("--", "true").stderr


@pytest.mark.parametrize("value", PASSED_OVER)
def test_values_of_every_type_are_passed_over_in_the_metadata(image: AppImage, value: str) -> None:
    image.metadata(
        f"before = {value}\n[table]\ninner = {value}\n[[processes]]\ntype = 'web'\nother = {value}\n"
    )

    assert image.output("--", "echo", "started", name="launcher") == "started\n"


@pytest.mark.parametrize("document", ALLOWED_TABLES)
def test_tables_may_be_extended_in_these_ways(image: AppImage, document: str) -> None:
    image.metadata(document)

    assert image.output("--", "echo", "started") == "started\n"


def test_nesting_has_an_end(image: AppImage) -> None:
    image.metadata("a = " + "[" * 64 + "]" * 64)
    assert image.output("--", "echo", "started") == "started\n"

    image.metadata("a = " + "[" * 100_000)
    assert b"line 1: too many arrays or tables in each other" in image.start("--", "true").stderr
