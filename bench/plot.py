"""Plots as SVG: bars with their spread, and lines of growth, on logarithmic scales, for light and dark pages.

Called by `report`. Text and colours follow the page by `prefers-color-scheme`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """\
svg { font: 13px system-ui, sans-serif; color-scheme: light dark; }
.page { fill: #ffffff; } text { fill: #24292f; } .soft { fill: #57606a; } .head { font-weight: 600; }
.grid { stroke: #d0d7de; } .spread { stroke: #24292f; stroke-width: 1.5; }
path { fill: none; stroke-width: 2; }
.c0 { fill: #0a6ed1; stroke: #0a6ed1; } .c1 { fill: #b35900; stroke: #b35900; }
.c2 { fill: #1a7f37; stroke: #1a7f37; } .c3 { fill: #8250df; stroke: #8250df; }
.c4 { fill: #6e7781; stroke: #6e7781; }
path.c0, path.c1, path.c2, path.c3, path.c4 { fill: none; }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117; } text { fill: #e6edf3; } .soft { fill: #9198a1; }
.grid { stroke: #30363d; } .spread { stroke: #e6edf3; }
.c0 { fill: #4c9ff0; stroke: #4c9ff0; } .c1 { fill: #f0883e; stroke: #f0883e; }
.c2 { fill: #3fb950; stroke: #3fb950; } .c3 { fill: #a371f7; stroke: #a371f7; }
.c4 { fill: #8b949e; stroke: #8b949e; }
path.c0, path.c1, path.c2, path.c3, path.c4 { fill: none; }
}"""
_WIDTH = 780
_LEFT, _RIGHT = 150, 170
_BAR, _GAP, _HEAD = 14, 5, 24


@dataclass(frozen=True, slots=True)
class Bar:
    """A median and what it was between."""

    name: str
    median: float
    least: float
    most: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """Points (how much, what it took), and what is said of them."""

    name: str
    points: Sequence[tuple[float, float]]
    note: str = ""


def bars(title: str, groups: Mapping[str, Sequence[Bar]], unit: str, colours: Mapping[str, int]) -> str:
    """Draws groups of bars, one below another. `unit` is a word (seconds); `colours` has a number for each
    name.
    """
    every = [bar for group in groups.values() for bar in group]
    scale = _Scale.of([value for bar in every for value in (bar.least, bar.most)], _LEFT, _WIDTH - _RIGHT)
    body: list[str] = []
    top = 62.0
    for head, group in groups.items():
        body.append(_text(16, top + 12, head, "head"))
        top += _HEAD
        for bar in group:
            body += _bar(bar, scale, top, colours.get(bar.name, 4))
            top += _BAR + _GAP
        top += 8
    axis = _text(_WIDTH - 16, 24, f"{unit}, on a logarithmic scale", "soft", "end")
    lines = [axis, *_upright(scale, 48, top), *body]
    return _page(title, top + 10, lines)


def _bar(bar: Bar, scale: _Scale, top: float, colour: int) -> Iterator[str]:
    end, middle = scale(bar.median), top + _BAR / 2
    yield _text(_LEFT - 8, top + _BAR - 2, bar.name, anchor="end")
    yield (
        f'<rect x="{_LEFT}" y="{top:.1f}" width="{max(end - _LEFT, 1):.1f}" height="{_BAR}" rx="2" '
        f'class="c{colour}"/>'
    )
    if bar.most > bar.least:
        yield _line((scale(bar.least), scale(bar.most)), (middle, middle), "spread")
    place = max(end, scale(bar.most)) + 8
    yield _text(place, top + _BAR - 2, f"{shown(bar.median)}{bar.note}")


def lines(title: str, drawn: Sequence[Line], across: str, unit: str) -> str:
    """Lines over how much there was of something."""
    bottom = 330.0
    measured = sorted({x for line in drawn for x, _ in line.points})
    xs = _Scale.of(measured, 70, _WIDTH - 40, ticks=measured)
    ys = _Scale.of([y for line in drawn for _, y in line.points], bottom, 60)
    body = [*_upright(xs, bottom, 60, below=True)]
    for value in ys.ticks:
        body.append(
            f'<line x1="70" x2="{_WIDTH - 40}" y1="{ys(value):.1f}" y2="{ys(value):.1f}" class="grid"/>'
        )
        body.append(_text(62, ys(value) + 4, shown(value), "soft", "end"))
    body.append(_text(16, 48, f"{unit}, on a logarithmic scale", "soft"))
    body.append(_text(_WIDTH - 40, bottom + 36, f"{across}, on a logarithmic scale", "soft", "end"))
    top = bottom + 56
    for number, line in enumerate(drawn):
        places = [(xs(x), ys(y)) for x, y in sorted(line.points)]
        way = " L ".join(f"{x:.1f} {y:.1f}" for x, y in places)
        body.append(f'<path d="M {way}" class="c{number}"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="c{number}"/>' for x, y in places]
        body.append(f'<circle cx="78" cy="{top - 4:.1f}" r="4.5" class="c{number}"/>')
        body.append(_text(90, top, f"{line.name}: {line.note}"))
        top += 20
    return _page(title, top, body)


def shown(value: float) -> str:
    """A number with as many digits as say something."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}".removesuffix(".0")
    if value >= 1:
        return f"{value:.3g}"
    return f"{value:.2g}"


_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class _Scale:
    """A logarithmic scale from `low` to `high`, drawn from `start` to `end`; every tick has a label."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, *, ticks: Sequence[float] = ()) -> _Scale:
        """A scale that has all values, and a tick at both ends unless `ticks` says where they are."""
        positive = [value for value in values if value > 0] or [1.0]
        low, high = min(positive) / 1.2, max(positive) * 1.1
        if not ticks:
            first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
            steps = (1,) if last - first > 4 else _STEPS
            # To the next decade, so that there is a step at or above `high`.
            every = [step * 10.0**power for power in range(first, last + 2) for step in steps]
            low = max(value for value in every if value <= low)
            high = min(value for value in every if value >= high)
            ticks = [value for value in every if low <= value <= high]
        return cls(low, high, start, end, ticks)

    def __call__(self, value: float) -> float:
        part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self.start + part * (self.end - self.start)


def _upright(scale: _Scale, top: float, bottom: float, *, below: bool = False) -> Iterator[str]:
    for value in scale.ticks:
        place = scale(value)
        yield _line((place, place), (top, bottom), "grid")
        yield _text(place, top + 18 if below else top - 4, shown(value), "soft", "middle")


def _line(across: tuple[float, float], down: tuple[float, float], kind: str) -> str:
    (x1, x2), (y1, y2) = across, down
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    sort = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{sort}>{escape(text)}</text>'


def _page(title: str, height: float, body: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
            f'aria-label="{escape(title)}">',
            f"<style>\n{_STYLE}\n</style>",
            f'<rect width="{_WIDTH}" height="{height:.0f}" class="page"/>',
            _text(16, 24, title, "head"),
            *body,
            "</svg>\n",
        ]
    )
