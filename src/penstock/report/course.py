"""What a report counts: latencies by size, and what happened in each stretch of time. It reads nothing and knows no clock.

Both stay small however long the run is: a latency is counted within 5 %, and stretches double when they become too many.
"""

from __future__ import annotations

import math

import msgspec

from penstock.records import Usage

PER_DOUBLING = 16
SHORTEST_S = 0.001
"""Latencies below a millisecond count as one."""

FINEST_S = 0.25
MOST_STRETCHES = 240
"""How finely the course is told: stretches of at least a quarter of a second, at most so many of them with something in them."""

_STEP = math.log(2) / PER_DOUBLING


class Latencies(msgspec.Struct):
    """How many latencies there were of each size; a size is 1/16 of a doubling wide."""

    counts: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        number = math.ceil(math.log(max(seconds, SHORTEST_S) / SHORTEST_S) / _STEP)
        self.counts[number] = self.counts.get(number, 0) + 1

    def take_in(self, other: Latencies) -> None:
        for number, count in other.counts.items():
            self.counts[number] = self.counts.get(number, 0) + count

    def at(self, share: float) -> float | None:
        """The latency in seconds that this share did not exceed; None where there was none."""
        wanted, seen = share * sum(self.counts.values()), 0
        for number in sorted(self.counts):
            seen += self.counts[number]
            if seen >= wanted:
                return upper_bound(number)
        return None


def upper_bound(number: int) -> float:
    """The longest latency in seconds that a size of `Latencies` counts."""
    return SHORTEST_S * math.exp(number * _STEP)


class Stretch(msgspec.Struct):
    """The rows that ended in one stretch of time. `cost` is the known part in US dollars."""

    ok: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    latencies: Latencies = msgspec.field(default_factory=Latencies)

    def add(self, *, ok: bool, latency_s: float, usage: Usage | None, cost: float | None) -> None:
        self.ok += ok
        self.failed += not ok
        if ok:
            self.latencies.add(latency_s)
        if usage is not None:
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens
        self.cost += cost or 0.0

    def take_in(self, other: Stretch) -> None:
        self.ok += other.ok
        self.failed += other.failed
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost += other.cost
        self.latencies.take_in(other.latencies)


class Course(msgspec.Struct):
    """Stretches by number: one holds the Unix seconds from `number * width_s` on. Those in which nothing ended are left out."""

    width_s: float = FINEST_S
    stretches: dict[int, Stretch] = {}

    def at(self, ended: float) -> Stretch:
        """The stretch that an end falls into."""
        number = int(ended // self.width_s)
        if number not in self.stretches:
            while len(self.stretches) >= MOST_STRETCHES:
                self._widen()
                number = int(ended // self.width_s)
        return self.stretches.setdefault(number, Stretch())

    def _widen(self) -> None:
        self.width_s *= 2
        before, self.stretches = self.stretches, {}
        for number, stretch in before.items():
            self.stretches.setdefault(number // 2, Stretch()).take_in(stretch)

    def in_order(self) -> list[tuple[float, Stretch]]:
        """Each stretch with the Unix seconds at which it begins."""
        return [(number * self.width_s, self.stretches[number]) for number in sorted(self.stretches)]
