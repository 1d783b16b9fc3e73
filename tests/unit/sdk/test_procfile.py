"""Reading a Procfile: what Heroku's specification of the format says, and what people's editors write."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse import sdk
from packhorse.errors import InputError


def read(tmp_path: Path, data: bytes) -> sdk.Procfile:
    (tmp_path / "Procfile").write_bytes(data)
    found = sdk.Procfile.read(tmp_path / "Procfile")
    assert found is not None
    return found


def test_each_line_names_a_process_and_comments_and_empty_lines_do_not_count(tmp_path: Path) -> None:
    text = "# how it runs\n\n  web:node server.js --x=a:b # kept\t \n \t\n\t# more\nworker: \tnode worker.js"
    found = read(tmp_path, text.encode())
    assert dict(found.commands) == {"web": "node server.js --x=a:b # kept", "worker": "node worker.js"}
    assert found.warnings == ()


@pytest.mark.parametrize(
    "data",
    [
        b"web: node a.js\r\nworker: node b.js\r\n",
        b"web: node a.js\rworker: node b.js",
        b"\xef\xbb\xbfweb: node a.js\nworker: node b.js\n",
        "web: node a.js\r\nworker: node b.js\r\n".encode("utf-16"),
    ],
)
def test_other_line_ends_and_byte_order_marks_make_no_difference(tmp_path: Path, data: bytes) -> None:
    assert dict(read(tmp_path, data).commands) == {"web": "node a.js", "worker": "node b.js"}


def test_the_last_line_for_a_process_counts_and_types_are_corrected_with_a_warning(tmp_path: Path) -> None:
    found = read(tmp_path, b"web: a\nWeb: b\nsend_mail: c\n")
    assert dict(found.commands) == {"web": "b", "send-mail": "c"}
    assert found.warnings == (
        "line 2: the process type Web is read as web",
        "line 2 replaces an earlier line for the process web",
        "line 3: the process type send_mail is read as send-mail",
    )


def test_all_lines_that_are_not_understood_are_named_at_once(tmp_path: Path) -> None:
    long = "a" * 64
    with pytest.raises(InputError, match="the Procfile cannot be used") as caught:
        read(tmp_path, f"web node a.js\n-a: x\na-: x\nw.e: x\nworker:\n: x\n{long}: x\nb: \0\n".encode())
    assert caught.value.issues == (
        "line 1 has no `type: command`: web node a.js",
        "line 2: -a cannot be a process type",
        "line 3: a- cannot be a process type",
        "line 4: w.e cannot be a process type",
        "line 5: the process worker has no command",
        "line 6 has no `type: command`: : x",
        f"line 7: {long} cannot be a process type",
        "line 8: the command has a NUL character",
    )
    assert list(read(tmp_path, f"{long[1:]}: x".encode()).commands) == [long[1:]]


def test_a_file_without_processes_is_warned_of_and_no_file_is_no_procfile(tmp_path: Path) -> None:
    assert sdk.Procfile.read(tmp_path / "Procfile") is None
    assert read(tmp_path, b"# later\n").warnings == ("it names no process",)


def test_what_is_no_text_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "Procfile"
    for data, why in (
        (b"web: \xff\n", "it is not UTF-8 (byte 5)"),
        (b"a" * (1 << 20) + b"b", "it is longer"),
    ):
        with pytest.raises(InputError, match="the Procfile cannot be read") as caught:
            read(tmp_path, data)
        assert why in caught.value.why
    path.unlink()
    path.symlink_to("gone")
    with pytest.raises(InputError, match="cannot be read") as caught:
        sdk.Procfile.read(path)
    assert "a link that leads nowhere: gone" in caught.value.why
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="the Procfile cannot be read"):
        sdk.Procfile.read(path)


@given(st.text())
def test_any_text_gives_processes_or_an_error_of_ours(text: str) -> None:
    try:
        found = sdk.Procfile.parse(text)
    except InputError as error:
        assert error.issues
    else:
        for name, command in found.commands.items():
            assert sdk.Process(name, ("bash", "-c", command)).type == name
