"""What people read of a comparison, on a terminal and as a page, whatever the images say."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fakes.app_image import App
from fakes.small_image import tar_of
from packhorse.cli.diff import print_difference
from packhorse.cli.diff_page import Markup, page, tag
from packhorse.cli.output import Console
from packhorse.oci.place import Image
from packhorse.report.diff import Difference, compared_image, diff

HOSTILE = "</b><script>x()</script>&\x1b[31m\u202e\"'"
SAMPLE = App(layers={"acme/node:node": tar_of({"layers/node/x": b"x"})}, labels={"said": "a"})


def _diff(before: Image, after: Image) -> Difference:
    return diff(compared_image(f"one{HOSTILE}", before), compared_image("other", after))


def _text(found: Difference, capsys: pytest.CaptureFixture[str], *, every: bool = False) -> str:
    print_difference(Console({}), found, every=every)
    return capsys.readouterr().out


def test_one_line_says_that_images_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    found = _diff(SAMPLE.image(), SAMPLE.image())
    assert _text(found, capsys) == f"the same image: {SAMPLE.image().id}\n"


def test_many_files_are_counted_and_listed_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    newer = replace(SAMPLE, app=(tar_of({f"workspace/{number:03}": b"" for number in range(200)}),))
    found = _diff(SAMPLE.image(), newer.image())
    text = _text(found, capsys)
    assert text.count("\n  + ") == 15 and "… and 186 more: 185 added, 1 removed (--all)" in text
    assert "app  changed, " in text and " more value" in text and "from the layers (--all)" in text
    every = _text(found, capsys, every=True)
    assert every.count("\n  + /workspace/") == 200 and "app[0].sha" in every


def test_packages_are_listed_before_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    stanza = "Package: {0}\nStatus: install ok installed\nVersion: {1}\n\n"
    old, new = (
        tar_of(
            {"var/lib/dpkg/status": "".join(stanza.format(f"{HOSTILE}{n:02}", v) for n in range(20)).encode()}
        )
        for v in ("1", f"2{HOSTILE}")
    )
    found = _diff(replace(SAMPLE, base=(old,)).image(), replace(SAMPLE, base=(new,)).image())
    text = _text(found, capsys)
    assert text.count("\n  ~ package ") == 15 and "\n  … and 5 more packages (--all)\n" in text
    assert text.index("~ package") < text.index("~ /var/lib/dpkg/status")
    assert "00  1 → 2" in text and "\x1b" not in text
    assert _text(found, capsys, every=True).count("\n  ~ package ") == 20
    drawn = unescape(page(found))
    assert drawn.count(">package ") == 20 and "<script>" not in page(found)


def test_what_images_say_cannot_look_like_lines_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    newer = replace(SAMPLE, app=(tar_of({f"a\n{HOSTILE}": b""}),), labels={"said": f"b\n\x1b[2J{HOSTILE}"})
    text = _text(_diff(SAMPLE.image(), newer.image()), capsys)
    assert "\x1b" not in text and "\u202e" not in text
    assert not any(line.startswith("</b>") for line in text.splitlines())


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append(name)
        self.addresses += [value or "" for key, value in attributes if key in ("src", "href", "action")]
        assert not any(key.startswith("on") for key, _ in attributes)


def test_the_page_has_nothing_from_elsewhere_and_no_script() -> None:
    newer = replace(SAMPLE, app=(tar_of({HOSTILE: b""}),), labels={HOSTILE: HOSTILE, "said": HOSTILE})
    text = page(_diff(SAMPLE.image(), newer.image()))
    elements = _Elements(text)
    assert not {"script", "img", "iframe", "object", "form"} & set(elements.found)
    assert elements.addresses == ["data:,"] and "url(" not in text and "@import" not in text
    assert "<script>x()" in unescape(text) and "\x1b" not in text and "\u202e" not in text
    assert text.count("</b><script") == 0


def test_a_page_of_many_files_says_how_many_it_leaves_out() -> None:
    newer = replace(SAMPLE, app=(tar_of({f"{number:04}": b"" for number in range(1200)}),))
    text = page(_diff(SAMPLE.image(), newer.image()))
    assert "… and 201 more" in text and text.count('class="path"') < 1020


def test_the_page_of_equal_images_and_of_no_layers(tmp_path: Path) -> None:
    same = page(_diff(SAMPLE.image(), SAMPLE.image()))
    assert "The same image" in same and 'class="block same"' in same and "set a" not in same
    assert re.search(r"<style>\s*:root", same)


def test_text_is_escaped_wherever_it_stands() -> None:
    assert tag("b", "<&>", title="\"'<") == '<b title="&quot;&#x27;&lt;">&lt;&amp;&gt;</b>'
    assert tag("p", tag("br"), Markup("<i>"), open=True, hidden=False) == "<p open><br><i></p>"
