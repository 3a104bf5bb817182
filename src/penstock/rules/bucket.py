"""One budget over time: when may a cost go, and what is left after it went. Holds two floats, reads no clock.

The generic cell rate algorithm (GCRA, ITU-T I.371): a bucket remembers the time at which it will be whole again, so a
check is one comparison and the wait is exact. It never polls and never grants more than `rate * t + burst` in any t.
"""

from __future__ import annotations

import msgspec


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

    def empty_until(self, when: float) -> None:
        """Nothing before `when`, and by pace from then on: the burst is spent, so waiters do not leave in a herd."""
        self.whole_at = max(self.whole_at, when + self.burst)
