"""What files in env directories, layers' directories and users do to an environment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse.spec.env import PATH_LISTS, EnvFile, with_files, with_roots, with_user


def apply(env: dict[str, str], files: dict[str, str], action: str = "override") -> dict[str, str]:
    return with_files(env, [EnvFile(name, content) for name, content in files.items()], default_action=action)


SUFFIXES = {
    "none": ({"X": "old"}, {"X": "new"}, "new"),
    "override": ({"X": "old"}, {"X.override": "new"}, "new"),
    "override of nothing": ({}, {"X.override": "new"}, "new"),
    "default": ({"X": "old"}, {"X.default": "new"}, "old"),
    "default of nothing": ({}, {"X.default": "new"}, "new"),
    "default of an empty value": ({"X": ""}, {"X.default": "new"}, "new"),
    "prepend": ({"X": "old"}, {"X.prepend": "new"}, "newold"),
    "append": ({"X": "old"}, {"X.append": "new"}, "oldnew"),
    "prepend with a delimiter": ({"X": "old"}, {"X.prepend": "new", "X.delim": ":"}, "new:old"),
    "append with a delimiter": ({"X": "old"}, {"X.append": "new", "X.delim": ", "}, "old, new"),
    "prepend to nothing": ({}, {"X.prepend": "new", "X.delim": ":"}, "new"),
    "append to an empty value": ({"X": ""}, {"X.append": "new", "X.delim": ":"}, "new"),
    "a delimiter alone": ({"X": "old"}, {"X.delim": ":"}, "old"),
    "an unknown suffix": ({"X": "old"}, {"X.other": "new"}, "old"),
    "two suffixes": ({"X": "old"}, {"X.prepend.bak": "new", "X.delim.append": "new"}, "old"),
    "append, then prepend": ({"X": "m"}, {"X.prepend": "a", "X.append": "z", "X.delim": "-"}, "a-m-z"),
    "override after append": ({"X": "m"}, {"X.override": "o", "X.append": "z"}, "o"),
    "prepend after override": ({"X": "m"}, {"X.prepend": "a", "X.override": "o"}, "ao"),
    "a value is kept byte for byte": ({}, {"X": " $HOME `x`\n\udcff"}, " $HOME `x`\n\udcff"),
}


@pytest.mark.parametrize(("env", "files", "expected"), SUFFIXES.values(), ids=SUFFIXES)
def test_a_suffix_says_what_a_file_does(env: dict[str, str], files: dict[str, str], expected: str) -> None:
    assert apply(env, files).get("X") == expected


def test_without_a_suffix_an_operators_file_is_a_default() -> None:
    assert apply({"X": "old"}, {"X": "new", "Y": "new"}, "default") == {"X": "old", "Y": "new"}
    assert apply({"X": "old"}, {"X.override": "new"}, "default") == {"X": "new"}


def test_a_file_without_a_name_sets_nothing() -> None:
    assert apply({}, {".append": "x", ".": "x", ".default": "x"}) == {}


def test_delimiters_are_for_the_variable_they_are_named_after() -> None:
    assert apply({"X": "a", "Y": "a"}, {"X.append": "b", "Y.append": "b", "X.delim": ":"}) == {
        "X": "a:b",
        "Y": "ab",
    }


@given(
    st.dictionaries(st.sampled_from("XY"), st.text("ab", max_size=2)),
    st.dictionaries(
        st.sampled_from(
            [f"{n}{s}" for n in "XY" for s in ("", ".append", ".prepend", ".default", ".override", ".delim")]
        ),
        st.text("ab:", max_size=2),
    ),
    st.randoms(),
)
def test_the_order_in_which_files_are_listed_makes_no_difference(
    env: dict[str, str], files: dict[str, str], random: object
) -> None:
    shuffled = list(files.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert apply(env, files) == apply(env, dict(shuffled))
    assert set(apply(env, files)) <= set(env) | {"X", "Y"}


def test_directories_of_a_layer_are_put_in_front_of_their_variables() -> None:
    present = {"bin", "lib", "include", "pkgconfig", "share"}
    assert with_roots({"PATH": "/bin", "OTHER": "x"}, "/layers/a/l", present) == {
        "PATH": "/layers/a/l/bin:/bin",
        "LD_LIBRARY_PATH": "/layers/a/l/lib",
        "LIBRARY_PATH": "/layers/a/l/lib",
        "CPATH": "/layers/a/l/include",
        "PKG_CONFIG_PATH": "/layers/a/l/pkgconfig",
        "OTHER": "x",
    }
    assert with_roots({"PATH": "/bin"}, "/layers/a/l", set()) == {"PATH": "/bin"}


def test_a_users_value_goes_before_a_list_and_in_place_of_anything_else() -> None:
    env = {"PATH": "/bin", "CPATH": "", "X": "old"}
    assert with_user(env, {"PATH": "/mine", "CPATH": "/c", "LIBRARY_PATH": "/l", "X": "new"}) == {
        "PATH": "/mine:/bin",
        "CPATH": "/c",
        "LIBRARY_PATH": "/l",
        "X": "new",
    }
    assert {"PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "PKG_CONFIG_PATH"} == PATH_LISTS


def test_the_environment_given_is_not_changed() -> None:
    env = {"PATH": "/bin"}
    with_roots(env, "/l", {"bin"})
    with_user(env, {"PATH": "/x"})
    apply(env, {"PATH": "/x"})
    assert env == {"PATH": "/bin"}
