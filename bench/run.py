"""What a call costs: the bare floor, Penstock, and what people use instead, on the same work in turn.

    python bench/run.py [--quick] [--only NAME ...] [--case NAME ...] [--in-flight N ...] [--rounds N] [--write docs/benchmarks.md]

Contenders are programs of their own (`contenders/`), those of others in environments of their own that are made at the first use
from hash-locked requirements. Each case has one simulated provider; the cases, their providers and how many calls are made where
are in `points.py`. The page and its plots are written anew after each round. Machine and versions are named.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

# The kit of the tests makes environments and starts simulators; it is no package that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
from bench import many_streams, startup
from bench.field import BY_NAME, CONTENDERS, Contender, Ended, Provider, provided, python_of, turn
from bench.figures import machine
from bench.points import (
    CASES,
    FULL,
    LEVELS,
    QUICK,
    Case,
    Length,
    Point,
    Rounds,
    Skipped,
    calls_for,
    expected_seconds,
    patience_seconds,
)
from bench.speed_report import Measured, drawn, page, targets
from penstock.edges.environment import raise_descriptor_limit

QUICK_CASES, QUICK_LEVELS = ("zero", "together"), (1, 64)
QUICK_NAMES = ("floor", "penstock", "penstock, ledger", "penstock run", "aiohttp on uvloop", "aiohttp", "openai")
BY_CASE = {case.name: case for case in CASES}
PROBE_CALLS, PROBE_IN_FLIGHT, PROBE_PATIENCE = 40, 8, 120.0


class Course:
    """The rounds: whose turn it is, at how many calls, who is left out, and how long the rest will take."""

    def __init__(self, chosen: list[Contender], providers: dict[str, Provider], length: Length) -> None:
        self._order = chosen
        self._providers = providers
        self._length = length
        self._costs: dict[tuple[str | Point, str], float] = {}
        self._starts: dict[tuple[str, str], float] = {}
        self._walls: dict[tuple[Point, str], float] = {}
        self._number = 0
        self.rounds: Rounds = {}
        self.skipped: Skipped = {}

    def add(self, case: Case, levels: list[int]) -> None:
        """Measure this case too, at these levels; each contender shows by a few calls that it works, and what it costs."""
        self.rounds |= {Point(case.name, level): [] for level in levels}
        for contender in self._order:
            if not contender.takes(case):
                continue
            began = time.monotonic()
            try:
                provider = self._providers[case.name]
                told = turn(contender, case, provider, PROBE_CALLS, PROBE_IN_FLIGHT, PROBE_PATIENCE)
            except Ended as ended:
                self.skipped |= {(Point(case.name, level), contender.name): str(ended) for level in levels}
                say(f"{case.name}: {contender.name} is left out: {ended}")
            else:
                self._costs[case.name, contender.name] = told.cpu_us
                self._starts[case.name, contender.name] = time.monotonic() - began
                self._spare(contender, case, levels)

    def _spare(self, contender: Contender, case: Case, levels: list[int]) -> None:
        for level in levels:
            if self._length.sparing and (why := contender.spared(case, level)):
                self.skipped[Point(case.name, level), contender.name] = why

    def round(self) -> None:
        """Every contender that has a turn in it once at every place."""
        self._number += 1
        places = list(self.rounds)
        for done, point in enumerate(places, 1):
            began = time.monotonic()
            self.rounds[point].append({})
            for contender in self._due(point, self._number):
                self._turn(contender, BY_CASE[point.case], point)
            self._order = [*self._order[1:], *self._order[:1]]
            say(
                f"round {self._number} of {self._length.swift.rounds}, {point.case} at {point.in_flight:,}:"
                f" {time.monotonic() - began:.0f} s; about {self.left_seconds(places[done:]) / 60:.1f} min of rounds left"
            )

    def left_seconds(self, places: list[Point]) -> float:
        """What these places of this round and the rounds that follow will take, by what each turn took the last time."""
        later = range(self._number + 1, self._length.swift.rounds + 1)
        todo = [(point, self._number) for point in places] + [
            (point, number) for number in later for point in self.rounds
        ]
        return sum(self._wall(contender, point) for point, number in todo for contender in self._due(point, number))

    def _due(self, point: Point, number: int) -> list[Contender]:
        """Whose turns there are at a place in a round."""
        return [
            contender
            for contender in self._order
            if contender.takes(BY_CASE[point.case])
            and (point, contender.name) not in self.skipped
            and number <= self._length.effort(contender.slow).rounds
        ]

    def _wall(self, contender: Contender, point: Point) -> float:
        if (known := self._walls.get((point, contender.name))) is not None:
            return known
        calls, case = self._calls(contender, point), BY_CASE[point.case]
        if isinstance(calls, str):
            return 0.0
        cost = self._costs[case.name, contender.name]
        return self._starts[case.name, contender.name] + expected_seconds(case, point.in_flight, calls, cost)

    def _calls(self, contender: Contender, point: Point) -> int | str:
        """How many it makes there, or why none."""
        if (asked := self._length.asked.get((point, contender.name))) is not None:
            return asked
        # What it cost here; the first time, what it cost where it was last.
        cost = self._costs.get((point, contender.name), self._costs[point.case, contender.name])
        return calls_for(BY_CASE[point.case], point.in_flight, cost, self._length.effort(contender.slow))

    def _turn(self, contender: Contender, case: Case, point: Point) -> None:
        calls, began = self._calls(contender, point), time.monotonic()
        if isinstance(calls, str):
            self.skipped[point, contender.name] = calls
            return
        patience = patience_seconds(case, point.in_flight, calls, self._length.effort(contender.slow))
        try:
            told = turn(contender, case, self._providers[case.name], calls, point.in_flight, patience)
        except Ended as ended:
            self.skipped[point, contender.name] = str(ended)
            say(f"{case.name} at {point.in_flight:,}: {contender.name} is left out from now on: {ended}")
            return
        self._walls[point, contender.name] = time.monotonic() - began
        self._costs[point, contender.name] = self._costs[case.name, contender.name] = told.cpu_us
        self.rounds[point][-1][contender.name] = told


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def levels_of(case: Case, asked: list[int] | None) -> list[int]:
    """A case of one level has that one, whatever is asked."""
    return [level for level in case.levels if asked is None or level in asked or len(case.levels) == 1]


def measured(course: Course, length: Length, until: float) -> Iterator[Measured]:
    """After each round all that is known, until there are enough rounds or no time for one more."""
    longest = 0.0
    for number in range(1, length.swift.rounds + 1):
        began = time.monotonic()
        if number > 1 and began + longest > until:
            say(f"no time for round {number}")
            return
        course.round()
        longest = max(longest, time.monotonic() - began)
        say(f"round {number} took {time.monotonic() - began:.0f} s")
        yield Measured(course.rounds, course.skipped)


def write(told: Measured, document: Path, where: str, command: str, further: Iterable[str] = ()) -> None:
    """The page, and its plots in a folder of its name beside it."""
    folder = document.with_suffix("")
    for case in CASES:
        for name, text in drawn(told, case):
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    document.write_text(page(told, where, command, folder.name, further))


def further_sections() -> Iterator[str]:
    """What is measured once, and by programs that also stand alone."""
    yield from (
        "## Start-up",
        "",
        "CPU of whole processes, the median of pairs.",
        "",
        *startup.told(startup.ROUNDS),
        "",
    )
    yield from ("## Many streams in one process", "", *many_streams.told(), "")


def options() -> argparse.Namespace:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--quick", action="store_true", help="under two minutes, and rougher")
    told.add_argument("--only", nargs="+", choices=BY_NAME, metavar="NAME", help=", ".join(BY_NAME))
    told.add_argument("--case", nargs="+", choices=[case.name for case in CASES])
    told.add_argument("--in-flight", nargs="+", type=int, choices=LEVELS)
    told.add_argument("--rounds", type=int)
    told.add_argument("--write", type=Path, metavar="FILE", help="keep the tables and plots as a page of Markdown")
    given = told.parse_args()
    if given.quick:
        given.only, given.case = given.only or QUICK_NAMES, given.case or QUICK_CASES
        given.in_flight = given.in_flight or QUICK_LEVELS
    return given


def installed(chosen: list[Contender]) -> None:
    """Make the environments first: that is no part of anybody's time. Who cannot have one is told of by the probe."""
    for contender in chosen:
        try:
            python_of(contender)
        except Ended as ended:
            say(f"{contender.name}: {ended}")


def main() -> None:
    given = options()
    length = QUICK if given.quick else FULL
    if given.rounds:
        swift, slow = (effort._replace(rounds=given.rounds) for effort in (length.swift, length.slow))
        length = length._replace(swift=swift, slow=slow)
    # Whoever names places wants them measured.
    length = length._replace(sparing=length.sparing and given.in_flight is None)
    chosen = [contender for contender in CONTENDERS if given.only is None or contender.name in given.only]
    cases = [case for case in CASES if given.case is None or case.name in given.case]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_descriptor_limit()
    where, command = machine(), shlex.join(["python", *sys.argv])
    installed(chosen)
    until = time.monotonic() + length.budget_seconds
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        providers = {case.name: stack.enter_context(provided(case, Path(folder))) for case in cases}
        course = Course(chosen, providers, length)
        for case in cases:
            course.add(case, levels_of(case, given.in_flight))
        for told in measured(course, length, until):
            if given.write:
                write(told, given.write, where, command)
    further = []
    if not (given.quick or given.case):
        say("start-up and many streams: about a minute and a half")
        further = list(further_sections())
    if given.write:
        write(told, given.write, where, command, further)
    print(page(told, where, command, "benchmarks", further))
    if missed := [line for line in [*map(str, targets(told)), *further] if line.startswith("* MISSED")]:
        say("\n".join([f"{len(missed)} targets missed:", *missed]))


if __name__ == "__main__":
    main()
