"""One budget over time: when may a cost go, and what is left after it went. Holds few numbers, reads no clock.

Two rules bind together. The generic cell rate algorithm (GCRA, ITU-T I.371) sets the pace: a bucket remembers the time at
which it will be whole again, so a check is one comparison and the wait is exact. It never polls and never grants more than
`rate * t + burst` in any t. The window sees to it that no period holds more than the limit, which is what a provider that
counts by clock minutes, or over the last sixty seconds, refuses. Together they cause no throttle in front of either kind, and
reach 99 % of it: a request may reach the provider later than another, so that a period of ours is longer than one of theirs.
"""

from __future__ import annotations

import math

import msgspec

SLACK = 0.34
"""Seconds by which the way to the provider may differ from one request to the next (max - min one-way delay): an exact window of
60 s then reaches 60 / (60 + SLACK) of the limit (FLOW-CONTROL C3)."""

CELLS = 2_400
"""A window forgets in steps of a 2,400th of its period."""


class Bucket(msgspec.Struct):
    """A budget of `rate` units a second, of which `burst` seconds' worth may go at once."""

    rate: float
    burst: float
    whole_at: float = 0.0
    """When the budget is unspent again (GCRA's theoretical arrival time)."""

    def ready_at(self, cost: float) -> float:
        """The earliest time at which `cost` units may go.

        A cost above the burst goes when the bucket is whole and is paid off afterwards, so a large request waits but
        never starves.
        """
        return self.whole_at - max(0.0, self.burst - cost / self.rate)

    def take(self, now: float, cost: float) -> None:
        """Spend, whether or not the bucket is ready."""
        self.whole_at = max(self.whole_at, now) + cost / self.rate

    def settle(self, difference: float) -> None:
        """Correct an earlier `take` by actual minus reserved units; a refund never lifts the budget over its burst."""
        self.whole_at += difference / self.rate

    def retune(self, now: float, rate: float) -> None:
        """Go on at another rate (inf: none); what is owed stays owed in units."""
        if math.inf in (rate, self.rate):
            self.whole_at = min(self.whole_at, now)
        elif self.whole_at > now:
            self.whole_at = now + (self.whole_at - now) * self.rate / rate
        self.rate = rate

    def empty_until(self, when: float) -> None:
        """Nothing before `when`, and by pace from then on: the burst is spent, so waiters do not leave in a herd."""
        self.whole_at = max(self.whole_at, when + self.burst)


class Window:
    """At most `capacity` units in any `period` seconds, kept in cells; what was spent counts until its cell is forgotten."""

    def __init__(self, capacity: float, period: float) -> None:
        self.capacity = capacity
        self.used = 0.0
        self._width = period / CELLS
        self._kept = period + min(SLACK, period) + self._width
        self._cells: dict[int, float] = {}
        self._next_end = math.inf

    def ready_at(self, now: float, cost: float) -> float:
        """The earliest time at which `cost` units fit, -inf if they do now. A cost above the capacity waits for all."""
        if now >= self._next_end:
            self._forget(now)
        missing = self.used + min(cost, self.capacity) - self.capacity
        if missing <= 1e-9 * self.capacity:
            return -math.inf
        for cell, units in self._cells.items():
            missing -= units
            if missing <= 1e-9 * self.capacity:
                return self._end(cell)
        return now

    def take(self, now: float, cost: float) -> None:
        """Spend."""
        cell = int(now / self._width)
        if not self._cells:
            self._next_end = self._end(cell)
        self._cells[cell] = self._cells.get(cell, 0.0) + cost
        self.used += cost

    def scale(self, share: float) -> None:
        """The limit became this share of what it was, and is held to be judged by rate: what was spent shrinks with it."""
        self._cells = {cell: units * share for cell, units in self._cells.items()}
        self.used *= share

    def settle(self, at: float, difference: float) -> None:
        """Correct what was spent at `at`; nothing is owed for what is forgotten."""
        cell = int(at / self._width)
        if cell in self._cells:
            difference = max(difference, -self._cells[cell])
            self._cells[cell] += difference
            self.used += difference

    def _end(self, cell: int) -> float:
        return cell * self._width + self._kept

    def _forget(self, now: float) -> None:
        while self._cells and (end := self._end(cell := next(iter(self._cells)))) <= now:
            self.used -= self._cells.pop(cell)
        if self._cells:
            self._next_end = end
        else:
            self.used, self._next_end = 0.0, math.inf
