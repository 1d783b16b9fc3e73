"""The page of `packhorse diff --html` in a real browser: at a phone's width and a desk's, light and dark."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from fakes import browser
from fakes.app_image import BASE, App
from fakes.small_image import tar_of
from packhorse.cli.diff_page import page
from packhorse.report.diff import compared_image, diff

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
NAMES = (f"layers/x/{HOSTILE}"[:99], "layers/x/" + "long" * 20, "layers/x/\x1b[31m\"'&\u202e")
NODE = tar_of({"layers/acme_node/node/bin/node": Random(7).randbytes(400_000)})
SAMPLE = App(
    layers={"acme/node:node": NODE, "acme/npm:modules": tar_of({"layers/x/y": b"x"})},
    labels={"plain": "a", 'k"><b>': HOSTILE},
)
NEWER = replace(
    SAMPLE,
    base=(BASE[0], tar_of({"etc/motd": b"new\n"}), tar_of({"etc/more": b"x"})),
    layers={"acme/node:node": NODE, "acme/npm:modules": tar_of(dict.fromkeys(NAMES, b"y"))},
    labels={"plain": "w" * 900, 'k"><b>': f"{HOSTILE}{HOSTILE}"},
)
QUESTION = """{
  title: document.title,
  heading: document.querySelector('h1').textContent,
  same: [...document.querySelectorAll('.same b')].map((block) => block.textContent),
  apart: [...document.querySelectorAll('.set b')].map((block) => block.textContent),
  colours: [...document.querySelectorAll('.same')]
    .map((block) => window.getComputedStyle(block).backgroundColor),
  wide: [...document.querySelectorAll('.same')].map((block) => block.getBoundingClientRect().width),
  narrow: [...document.querySelectorAll('.set')].map((block) => block.getBoundingClientRect().width),
  heights: [...document.querySelectorAll('.block')].map((block) => block.getBoundingClientRect().height),
  beyond: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  cut: [...document.querySelectorAll('.block')]
    .filter((block) => block.scrollHeight > block.clientHeight + 4).length,
  loaded: window.performance.getEntriesByType('resource').map((entry) => entry.name),
  made: document.querySelectorAll('script, img, body link, iframe, [onerror]').length,
  paper: window.getComputedStyle(document.body).backgroundColor,
  ink: window.getComputedStyle(document.body).color,
  open: document.querySelectorAll('details[open] .files li').length,
}"""


PHONE, DESK = (390, True), (1200, False)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, bool], Any]:
    """What a browser says of the page on a dark phone and on a light desk."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    names = ("registry.example/team/a-rather-long-name:1.4.0", f"{HOSTILE}:1")
    path.write_text(page(diff(*map(compared_image, names, (SAMPLE.image(), NEWER.image())))))
    return {
        (width, dark): browser.ask(path, QUESTION, width=width, dark=dark) for width, dark in (PHONE, DESK)
    }


@pytest.mark.parametrize("view", [PHONE, DESK])
def test_the_page_shows_what_stayed_and_what_stands_apart(
    seen: dict[tuple[int, bool], Any], view: tuple[int, bool]
) -> None:
    found, (_, dark) = seen[view], view
    assert found["heading"] == "The base, acme/npm and the config changed"
    assert found["same"] == ["config", "launcher", "app", "node", "base"]
    assert found["apart"] == ["modules", "modules", "base", "base", "base"]
    assert min(found["wide"]) > 1.8 * max(found["narrow"])  # one piece across both
    assert max(found["heights"]) > 3 * min(found["heights"]) > 60
    assert len(set(found["colours"])) == 4  # the launcher's two layers are alike
    assert found["beyond"] <= 0 and found["cut"] == 0
    assert found["open"] == 4 + 2
    assert (_lightness(found["paper"]) < 0.5) == dark == (_lightness(found["ink"]) > 0.5)


def test_names_in_images_run_nothing_and_load_nothing(seen: dict[tuple[int, bool], Any]) -> None:
    for found in seen.values():
        assert found["title"].startswith("registry.example") and found["title"].endswith("packhorse diff")
        assert found["loaded"] == [] and found["made"] == 0


def _lightness(colour: str) -> float:
    """Of a colour as the browser tells it: `oklch(0.98 …)`."""
    return float(colour.partition("(")[2].split()[0])
