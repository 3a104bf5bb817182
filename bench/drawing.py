"""Curves as SVG text, on axes of powers of ten. Pure: points in, text out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple, TypeAlias

Curve: TypeAlias = Sequence[tuple[float, float]]
"""Points (x, y), both above zero."""

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 36, 48
LABEL_HEIGHT = 14
COLOURS = ("#000000", "#0072b2", "#56b4e9", "#009e73", "#7a5195", "#d55e00", "#cc79a7", "#b8860b", "#999999", "#8b0000")
"""Told apart also by those who see fewer colours (after Okabe and Ito), and each curve is named at its end."""


class Axis(NamedTuple):
    """A range of values on a logarithmic scale, laid on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + part * (self.end - self.start)


def powers_around(values: Sequence[float]) -> tuple[float, float]:
    """The powers of ten below and above all values, never the same."""
    low = math.floor(math.log10(min(values)) + 1e-9)
    high = math.ceil(math.log10(max(values)) - 1e-9)
    return 10.0**low, 10.0 ** max(high, low + 1)


def apart(places: Sequence[float], least: float, most: float) -> list[float]:
    """The same places in the given order, moved so that none is nearer than `least` to the next, and none beyond `most`."""
    order, moved = sorted(range(len(places)), key=places.__getitem__), list(places)
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + least)
    ceiling = most
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - least
    return moved


def plot(title: str, y_title: str, curves: Mapping[str, Curve], x_title: str = "in flight") -> str:
    """All curves that have points, by name; empty where none has."""
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return ""
    xs = sorted({x for curve in curves.values() for x, _ in curve})
    ys = [y for curve in curves.values() for _, y in curve]
    x_axis = Axis(xs[0], max(xs[-1], xs[0] * 10), LEFT, WIDTH - RIGHT)
    y_axis = Axis(*powers_around(ys), HEIGHT - BOTTOM, TOP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 20, title, size=14),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_title, anchor="middle"),
        _text(LEFT - 60, TOP - 6, y_title),
        *_grid(x_axis, y_axis, xs),
        *_curves(x_axis, y_axis, curves),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _grid(x_axis: Axis, y_axis: Axis, xs: Sequence[float]) -> Iterator[str]:
    for power in range(round(math.log10(y_axis.low)), round(math.log10(y_axis.high)) + 1):
        y = y_axis.at(10.0**power)
        yield _line(LEFT, y, WIDTH - RIGHT, y)
        yield _text(LEFT - 6, y + 4, f"{10.0**power:,g}" if power < 0 else f"{10**power:,}", anchor="end")
    for x in xs:
        yield _line(x_axis.at(x), TOP, x_axis.at(x), HEIGHT - BOTTOM)
        yield _text(x_axis.at(x), HEIGHT - BOTTOM + 16, f"{x:,g}", anchor="middle")


def _curves(x_axis: Axis, y_axis: Axis, curves: Mapping[str, Curve]) -> Iterator[str]:
    ends = [y_axis.at(curve[-1][1]) for curve in curves.values()]
    labels = apart(ends, LABEL_HEIGHT, HEIGHT - LABEL_HEIGHT)
    for number, ((name, curve), label_at) in enumerate(zip(curves.items(), labels, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        places = [(x_axis.at(x), y_axis.at(y)) for x, y in curve]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
        yield _line(places[-1][0] + 4, places[-1][1], WIDTH - RIGHT + 10, label_at, colour)
        yield _text(WIDTH - RIGHT + 14, label_at + 4, name, fill=colour)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = "#dddddd") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="1"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = "#222222", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">{escape(text)}</text>'
    )
