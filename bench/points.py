"""What is measured: loads, how many are in flight, and how many calls a contender makes there. Pure: it starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import msgspec

LEVELS = (1, 8, 64, 256, 1_000, 5_000)
MIDDLE, MOST = 64, 5_000

SIMULATED_TOKENS = 91
"""What makes a stream of the simulator's have 100 chunks with text."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of load: what the provider is, and what is asked of it."""

    name: str
    title: str
    options: tuple[str, ...] = ()
    """Of `penstock simulate`."""

    levels: tuple[int, ...] = (MIDDLE,)
    slow_levels: tuple[int, ...] | None = None
    """Where slow contenders are measured, if not everywhere."""

    latency_s: float = 0.0
    tls: bool = False
    streams: bool = False

    @property
    def base(self) -> str:
        """The contender that the others are compared with: there is no floor for streams."""
        return "aiohttp on uvloop" if self.streams else "floor"


CASES = (
    Case(name="zero", title="No latency", levels=LEVELS, slow_levels=(1, 64, 1_000)),
    Case(
        name="second",
        title="Answers after 1 s",
        options=("--latency", "1"),
        levels=LEVELS,
        slow_levels=(64, 1_000),
        latency_s=1.0,
    ),
    Case(name="tls", title="No latency, TLS", tls=True),
    Case(
        name="together",
        title="Streams of 100 chunks, sent as fast as the provider can",
        options=("--output-tokens", str(SIMULATED_TOKENS)),
        streams=True,
    ),
    Case(
        name="apart",
        title="Streams of 100 chunks, 5 ms apart",
        options=("--output-tokens", str(SIMULATED_TOKENS), "--token-latency", "0.005"),
        latency_s=0.5,
        streams=True,
    ),
)


class Point(NamedTuple):
    """A place in the tables."""

    case: str
    in_flight: int


class Told(msgspec.Struct, frozen=True):
    """What a contender tells of its turn: the line that `contenders/contest.py` prints, and how many calls it made."""

    cpu_us: float
    rate: float
    peak_mb: float
    versions: list[str]
    calls: int = 0


Rounds: TypeAlias = dict[Point, list[dict[str, Told]]]
"""For each place its rounds, each the turns of all contenders one after another, by name."""

Skipped: TypeAlias = dict[tuple[Point, str], str]
"""Why a contender has no figure at a place."""


class Effort(NamedTuple):
    """How much of the time a contender gets."""

    rounds: int
    turn_seconds: float
    """CPU of one turn, where calls can be chosen freely; twice as much at `MIDDLE`, where most targets are taken."""

    longest_seconds: float
    """CPU of one turn, where so many must be in flight; what would take longer is skipped."""

    waves: int
    """How many times what is in flight, at least; twice as many at `MOST` where answers take time."""


class Length(NamedTuple):
    """How long it may take: the effort for contenders that are swift, and for those of milliseconds a call."""

    swift: Effort
    slow: Effort
    budget_seconds: float
    asked: Mapping[tuple[Point, str], int] = {}
    """Where a target names the calls, or needs many of them, by place and contender."""

    sparing: bool = False
    """Leave out the places that a case or a contender can be spared."""

    def effort(self, slow: bool) -> Effort:
        return self.slow if slow else self.swift


ASKED = {
    **dict.fromkeys([(Point("apart", MIDDLE), name) for name in ("penstock", "aiohttp on uvloop")], 6 * MIDDLE),
    **dict.fromkeys([(Point("second", MOST), name) for name in ("floor", "penstock")], 100_000),
    # Processes are started once for each run: over few calls, that is what would be measured.
    **dict.fromkeys([(Point("zero", MIDDLE), name) for name in ("penstock run", "penstock run, 2 processes")], 30_000),
}
FULL = Length(
    swift=Effort(rounds=5, turn_seconds=0.7, longest_seconds=16, waves=2),
    slow=Effort(rounds=3, turn_seconds=0.7, longest_seconds=12, waves=1),
    budget_seconds=60 * 60,  # twice what it takes on a quiet machine
    asked=ASKED,
    sparing=True,
)
QUICK = Length(
    swift=Effort(rounds=3, turn_seconds=0.4, longest_seconds=5, waves=2),
    slow=Effort(rounds=3, turn_seconds=0.4, longest_seconds=5, waves=2),
    budget_seconds=95,
)
LEAST_CALLS, MOST_CALLS = 20, 20_000


def calls_for(case: Case, in_flight: int, cost_us: float, effort: Effort) -> int | str:
    """How many calls a contender makes in a turn, from what one has cost it so far; or why it makes none.

    Whoever is slow makes fewer, but never fewer than are in flight.
    """
    affordable = int(effort.longest_seconds * 1e6 / cost_us)
    if affordable < in_flight:
        seconds = in_flight * cost_us / 1e6
        return f"{in_flight:,} calls of about {cost_us / 1000:,.1f} ms of CPU would take {seconds:,.0f} s a turn"
    if case.latency_s:
        waves = effort.waves * (2 if in_flight >= MOST else 1)
        return min(waves * in_flight, affordable)
    seconds = effort.turn_seconds * (2 if in_flight == MIDDLE else 1)
    wanted = max(int(seconds * 1e6 / cost_us), LEAST_CALLS, effort.waves * in_flight)
    return min(wanted, affordable, max(MOST_CALLS, in_flight))


def expected_seconds(case: Case, in_flight: int, calls: int, cost_us: float) -> float:
    """What so many calls take, start not counted: a guess for who has not been there yet. The provider works meanwhile."""
    return max(1.5 * calls * cost_us / 1e6, case.latency_s * calls / in_flight)


def patience_seconds(case: Case, in_flight: int, calls: int, effort: Effort) -> float:
    """After which a turn has hung: it was expected to take a third of this at the most."""
    return 30 + 3 * (effort.longest_seconds + case.latency_s * calls / in_flight)
