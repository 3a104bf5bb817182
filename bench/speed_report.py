"""Rounds of `bench/run.py` into a page: tables, plots, and what was promised. Arithmetic and words; it measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from bench.drawing import plot
from bench.figures import Target, markdown, median, number, ratio
from bench.points import CASES, MIDDLE, MOST, Case, Point, Rounds, Skipped, Told

FLOOR, MAP, LEDGER, RUN, TWO = "floor", "penstock", "penstock, ledger", "penstock run", "penstock run, 2 processes"
READING_LINES = "aiohttp on uvloop"
Figure: TypeAlias = Callable[[Told], float]


class Column(NamedTuple):
    """One figure of a turn, and what it is called."""

    name: str
    heading: str
    of: Figure


CPU = Column("cpu", "CPU us a call", lambda told: told.cpu_us)
RATE = Column("rate", "calls a second", lambda told: told.rate)
MEMORY = Column("memory", "peak MB", lambda told: told.peak_mb)
CALLS = Column("calls", "calls in a turn", lambda told: told.calls)
FIGURES = (CPU, RATE, MEMORY, CALLS)


class Measured(NamedTuple):
    """All that was measured; a contender without a figure at a place is in `skipped`."""

    rounds: Rounds
    skipped: Skipped

    def values(self, point: Point, name: str, figure: Figure) -> list[float | None]:
        """One for each round, None where there is none."""
        return [figure(one[name]) if name in one else None for one in self.rounds.get(point, [])]

    def median(self, point: Point, name: str, column: Column) -> float:
        return median(self.values(point, name, column.of))

    def times(self, point: Point, name: str, other: str, column: Column = CPU) -> float:
        """How many times the figure of another one has, round by round."""
        return ratio(self.values(point, name, column.of), self.values(point, other, column.of))

    def names(self, case: Case) -> list[str]:
        """Who has a figure in this case, in the order of the turns."""
        told = [one for point in points(case) for one in self.rounds.get(point, [])]
        return list(dict.fromkeys(name for one in told for name in one))

    def levels(self, case: Case) -> list[int]:
        return [point.in_flight for point in points(case) if self.rounds.get(point)]


def points(case: Case) -> list[Point]:
    return [Point(case.name, level) for level in case.levels]


def by_levels(measured: Measured, case: Case, column: Column) -> Iterator[str]:
    """One figure: a row for each contender, a column for each level."""
    levels = measured.levels(case)
    rows = [[f"{column.heading}, in flight:", *(f"{level:,}" for level in levels)]]
    for name in sorted(measured.names(case), key=ORDER.index):
        cells = [number(measured.median(Point(case.name, level), name, column)) for level in levels]
        rows.append([name, *cells])
    yield from markdown(rows)


def ratios_by_levels(measured: Measured, case: Case) -> Iterator[str]:
    levels = measured.levels(case)
    rows = [[f"CPU, times that of {case.base}, in flight:", *(f"{level:,}" for level in levels)]]
    for name in sorted(measured.names(case), key=ORDER.index):
        if name != case.base:
            cells = [number(measured.times(Point(case.name, level), name, case.base)) for level in levels]
            rows.append([name, *cells])
    yield from markdown(rows)


def of_one_level(measured: Measured, case: Case) -> Iterator[str]:
    """All figures: a row for each contender."""
    (level,) = measured.levels(case)
    point, unit = Point(case.name, level), "stream" if case.streams else "call"
    headings = [column.heading.replace("call", unit) for column in FIGURES]
    rows = [[f"{level:,} in flight", *headings, f"CPU, times {case.base}"]]
    for name in sorted(measured.names(case), key=ORDER.index):
        cells = [number(measured.median(point, name, column)) for column in FIGURES]
        times = "" if name == case.base else number(measured.times(point, name, case.base))
        rows.append([name, *cells, times])
    yield from markdown(rows)


ORDER = [FLOOR, MAP, LEDGER, RUN, TWO, READING_LINES, "aiohttp", "httpx2", "openai", "langchain", "litellm"]


def section(measured: Measured, case: Case, plots: Sequence[str]) -> Iterator[str]:
    """A case: its tables, its plots by file name, and who was left out."""
    yield from (f"## {case.title}", "")
    if len(measured.levels(case)) == 1:
        yield from of_one_level(measured, case)
    else:
        yield from (*by_levels(measured, case, CPU), "", *ratios_by_levels(measured, case), "")
        for column in FIGURES[1:]:
            yield from (*by_levels(measured, case, column), "")
        yield from (f"![{name}]({name})" for name in plots)
    if told := list(left_out(measured, case)):
        yield from ("", "Left out:", "", *told)
    yield ""


def left_out(measured: Measured, case: Case) -> Iterator[str]:
    """Each reason once, with where it holds."""
    where: dict[tuple[str, str], list[str]] = {}
    for (point, name), why in measured.skipped.items():
        if point.case == case.name:
            where.setdefault((name, why), []).append(f"{point.in_flight:,}")
    for (name, why), levels in where.items():
        yield f"* {name}, {', '.join(levels)} in flight: {why}"


def drawn(measured: Measured, case: Case) -> Iterator[tuple[str, str]]:
    """The plots of a case of several levels: file name and SVG."""
    if len(measured.levels(case)) < 2:
        return
    for column in (CPU, RATE, MEMORY):
        curves = {
            name: [
                (level, value)
                for level in measured.levels(case)
                if (value := measured.median(Point(case.name, level), name, column)) > 0
            ]
            for name in sorted(measured.names(case), key=ORDER.index)
        }
        if text := plot(case.title, column.heading, curves):
            yield f"{case.name}-{column.name}.svg", text


def targets(measured: Measured) -> Iterator[Target]:
    """What was promised, as far as these rounds show it."""
    zero, second = Point("zero", MIDDLE), Point("second", MOST)
    times = measured.times
    yield Target("CPU of map, times the floor's, at most 2.5", times(zero, MAP, FLOOR), 2.5, False)
    yield Target("CPU of map with a ledger, times the floor's, at most 4", times(zero, LEDGER, FLOOR), 4, False)
    rate = measured.median(zero, LEDGER, RATE)
    yield Target("calls a second of map with a ledger, at least 10,000", rate, 10_000)
    yield Target("CPU of the OpenAI SDK, times map's, at least 50", times(zero, "openai", MAP), 50)
    yield Target("CPU of bare aiohttp, times map's, at least 2", times(zero, "aiohttp", MAP), 2)
    rate = times(second, MAP, FLOOR, RATE)
    yield Target("rate of map at 5,000 in flight and 1 s, times the floor's, at least 0.95", rate, 0.95)
    memory = measured.median(second, MAP, MEMORY)
    yield Target("MB of map at 5,000 in flight and 1 s, at most 200", memory, 200, False)
    for case in CASES:
        if case.streams:
            value = times(Point(case.name, MIDDLE), MAP, READING_LINES)
            title = case.title[0].lower() + case.title[1:]
            yield Target(f"CPU of {title}, times that of aiohttp reading lines, at most 0.7", value, 0.7, False)
    processes = times(zero, TWO, RUN)
    yield Target("CPU of penstock run with two processes, times that with one, at most 1.15", processes, 1.15, False)


def versions(measured: Measured) -> Iterator[str]:
    """What each contender is made of."""
    seen = {name: told for place in measured.rounds.values() for one in place for name, told in one.items()}
    yield from (f"* {name}: {', '.join(seen[name].versions)}" for name in sorted(seen, key=ORDER.index))


def rounds_of(measured: Measured) -> str:
    """`5 rounds`, and who had fewer."""
    had: dict[str, int] = {}
    for place in measured.rounds.values():
        for name in {name for one in place for name in one}:
            had[name] = max(had.get(name, 0), sum(name in one for one in place))
    most = max(had.values(), default=0)
    fewer = [f"{name} {had[name]}" for name in sorted(had, key=ORDER.index) if had[name] < most]
    return f"{most} rounds" + (f" ({', '.join(fewer)})" if fewer else "")


def page(measured: Measured, where: str, command: str, folder: str, further: Iterable[str] = ()) -> str:
    """The whole document; plots lie in `folder` beside it, `further` are lines for its end."""
    lines = [
        "# What a call costs",
        "",
        f"Written by `{command}`, not by hand; run it to have figures of your machine.",
        "",
        f"Machine: {where}.",
        "",
        "Contenders take turns, each a process of its own in front of one `penstock simulate`, in another order each round, so",
        f"that a noisy machine is noisy for all. Figures are medians of {rounds_of(measured)}; ratios are taken round by round.",
        "",
        "The floor is a bare protocol on httptools, uvloop and msgspec that does nothing but send and decode. CPU is that of the",
        "client's process and of those that it starts, its own start and one call to warm up not counted; memory is the peak of",
        "that process alone from its start, imports and all. Slow contenders make fewer calls in a turn (each section says how",
        "many), and are not everywhere (it says where). Where calls are few, what is paid once for all of them counts:",
        "connections, and for `penstock run` the start, the ledger and the files. The provider has a core of its own only where",
        "nothing else runs: calls a second say as much of it as of the client.",
        "",
        *versions(measured),
        "",
        "## Targets",
        "",
        f"At {MIDDLE} in flight and no latency, where nothing else is said. Start-up and many streams have theirs below.",
        "",
        *map(str, targets(measured)),
        "",
    ]
    for case in CASES:
        if measured.levels(case):
            lines += section(measured, case, [f"{folder}/{name}" for name, _ in drawn(measured, case)])
    return "\n".join([*lines, *further])
