"""Others who use the same key: requests that come by chance (a Poisson process) and take from the same limits.

Pure. It decides when they come, from a seed; whether they fit is for the limits to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from penstock.simulator.chance import chances

RATE_WITHOUT_LIMIT = 600.0
"""Requests a minute that a whole limit is cut into where only tokens are limited."""


class Others:
    """The arrivals of everybody else, in order of time, each asked for once; `next_at` is the time of the next."""

    def __init__(self, seed: bytes, name: bytes, requests_per_minute: float | None) -> None:
        self._seed, self._name = seed, name
        self.requests_per_minute = requests_per_minute or RATE_WITHOUT_LIMIT
        self._turn = 0
        self._share = 0.0
        self.next_at = math.inf

    def set_share(self, now: float, share: float) -> None:
        """From now on they ask for that share of the limit; the process has no memory, so that the gap is drawn anew."""
        self._share = share
        self.next_at = self._after(now)

    def until(self, now: float) -> Iterator[float]:
        """The times of those that came up to now."""
        while self.next_at <= now:
            at = self.next_at
            self.next_at = self._after(at)
            yield at

    def _after(self, at: float) -> float:
        if not self._share:
            return math.inf
        self._turn += 1
        gap = -math.log(1 - chances(self._seed, self._name, self._turn, b"others")[0])
        return at + gap * 60 / (self.requests_per_minute * self._share)
