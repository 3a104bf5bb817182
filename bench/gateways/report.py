"""Rounds into tables: medians, ratios taken round by round, and what was promised. Arithmetic and words; it measures nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
from gateways.load import Measured

from bench.figures import Target, markdown, median, number, share

NONE, OURS = "none", "penstock"


class Cell(NamedTuple):
    """One kind of load."""

    streams: bool
    connections: int


class Turn(msgspec.Struct, frozen=True):
    """One gateway under one load for a moment: what the load saw, and what the gateway's processes took for it."""

    load: Measured
    peak_mb: float
    cpu_seconds: float

    @property
    def cpu_us(self) -> float:
        """Microseconds of all its processes for each answer."""
        return self.cpu_seconds / self.load.answered * 1e6 if self.load.answered else math.nan


Round: TypeAlias = dict[str, Turn]
"""The turns of all gateways under one load, taken one after another, by name."""

Rounds: TypeAlias = dict[Cell, list[Round]]


def of(rounds: Sequence[Round], name: str, figure: Callable[[Turn], float | None]) -> float:
    return median(figure(one[name]) for one in rounds if name in one)


def times(rounds: Sequence[Round], name: str, other: str) -> float:
    """How many times the rate of another one has, round by round."""
    pairs = ((one[name].load.rate, one[other].load.rate) for one in rounds if name in one and other in one)
    return median(own / theirs for own, theirs in pairs if theirs)


def added(rounds: Sequence[Round], name: str, latency: Callable[[Measured], float | None]) -> float:
    """Milliseconds more than without a gateway, round by round."""
    pairs = ((latency(one[name].load), latency(one[NONE].load)) for one in rounds if name in one and NONE in one)
    return median(own - bare for own, bare in pairs if own is not None and bare is not None)


def failed(rounds: Sequence[Round], name: str) -> int:
    return sum(sum(one[name].load.failures.values()) for one in rounds if name in one)


def ms(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"


HEADINGS = (
    "connections",
    "gateway",
    "{unit}/s",
    "of none",
    "penstock is",
    "p50 ms",
    "added p50",
    "added p99",
    "first byte added",
    "CPU us each",
    "peak MB",
    "failed",
)


def row(cell: Cell, rounds: Sequence[Round], name: str) -> list[str]:
    is_none, ratio = name == NONE, times(rounds, OURS, name)
    return [
        str(cell.connections),
        name,
        number(of(rounds, name, lambda turn: turn.load.rate)),
        "" if is_none else share(times(rounds, name, NONE)),
        "" if name in (OURS, NONE) or math.isnan(ratio) else f"{number(ratio)} x",
        ms(of(rounds, name, lambda turn: turn.load.p50)),
        "" if is_none else ms(added(rounds, name, lambda load: load.p50)),
        "" if is_none else ms(added(rounds, name, lambda load: load.p99)),
        "" if is_none else ms(added(rounds, name, lambda load: load.first_p50)),
        "" if is_none else number(of(rounds, name, lambda turn: turn.cpu_us)),
        "" if is_none else number(of(rounds, name, lambda turn: turn.peak_mb)),
        number(failed(rounds, name)) if failed(rounds, name) else "",
    ]


def table(rounds: Rounds, streams: bool, names: Sequence[str]) -> Iterator[str]:
    """The lines of a Markdown table, padded so that it reads as plain text too."""
    unit = "streams" if streams else "requests"
    rows = [[heading.format(unit=unit) for heading in HEADINGS]]
    for cell, told in rounds.items():
        if cell.streams == streams:
            rows += [row(cell, told, name) for name in names if any(name in one for one in told)]
    yield from markdown(rows, left=[HEADINGS.index("gateway")])


def failures(rounds: Rounds) -> Iterator[str]:
    """What went wrong, of whom and how often."""
    seen: dict[tuple[str, str], int] = {}
    for told in rounds.values():
        for one in told:
            for name, turn in one.items():
                for why, count in turn.load.failures.items():
                    seen[name, why] = seen.get((name, why), 0) + count
    for (name, why), count in seen.items():
        yield f"* {name}: {count:,} x {why}"


def targets(rounds: Rounds) -> Iterator[Target]:
    """Targets for our gateway with authentication, limits, accounting and metrics on, each by cell."""
    for cell, told in rounds.items():
        at, unit = f"at {cell.connections}", "streams" if cell.streams else "requests"
        bound = 2.0 if cell.streams else 1.0
        yield Target(f"{unit} {at}, times TensorZero's, at least {bound:g}", times(told, OURS, "tensorzero"), bound)
        if not cell.streams:
            yield Target(f"{unit} {at}, times LiteLLM's, at least 60", times(told, OURS, "litellm"), 60)
        if not cell.streams and cell.connections == 1:
            more = added(told, OURS, lambda load: load.p50)
            yield Target("milliseconds added at p50 and one connection, at most 0.3", more, 0.3, at_least=False)
