"""The limits of a simulated account: which request fits now, how long another must wait, what the headers tell of it.

Pure: `now` comes in. It is written apart from the client's own rules on purpose: neither may hide the other's mistake.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from penstock.simulator import answers
from penstock.simulator.answers import Header


class Bucket:
    """One per-minute limit as a level that drains continuously; `burst_seconds` of the limit fit in it.

    OpenAI's public 429s obey it to the millisecond with 60 s: wait = (used + requested - limit) / (limit / 60).
    """

    def __init__(self, limit: float, burst_seconds: float) -> None:
        self.limit = limit
        self.rate = limit / 60
        self.room = limit * burst_seconds / 60
        self._level = 0.0
        self._at = -math.inf

    def level(self, now: float) -> float:
        """What is used at `now`."""
        if now > self._at:
            self._level = max(0.0, self._level - (now - self._at) * self.rate)
            self._at = now
        return self._level

    def wait(self, now: float, cost: float) -> float:
        """Seconds until `cost` fits: infinite above the limit. What is larger than the room passes an empty bucket."""
        if cost > self.limit and cost > self.room:
            return math.inf
        over = self.level(now) + cost - max(self.room, cost)
        # Rounding must not refuse who waited exactly as told.
        return over / self.rate if over > 1e-6 * cost else 0.0

    def charge(self, now: float, cost: float) -> None:
        """Take `cost`, or give back a negative one."""
        self._level = max(0.0, self.level(now) + cost)


class Refusal(NamedTuple):
    """A 429: its body, and the headers that name a wait (none where no wait would help)."""

    body: bytes
    headers: list[Header]


class Budgets:
    """The buckets of one model, by unit (requests, tokens); a limit of None has none."""

    def __init__(self, model: str, limits: Mapping[str, float | None], burst_seconds: float) -> None:
        self._model = model
        self._buckets = {unit: Bucket(limit, burst_seconds) for unit, limit in limits.items() if limit is not None}

    def admit(self, now: float, costs: Mapping[str, float]) -> Refusal | None:
        """Charge all costs and return None; or, where one does not fit, charge nothing and return the 429."""
        waits = {unit: bucket.wait(now, costs[unit]) for unit, bucket in self._buckets.items()}
        unit = max(waits, key=waits.__getitem__, default="")
        if unit and waits[unit] > 0:
            return self._refusal(now, unit, costs[unit], waits[unit])
        for name, bucket in self._buckets.items():
            bucket.charge(now, costs[name])
        return None

    def charge_tokens(self, now: float, tokens: float) -> None:
        """Correct the estimate by what was used; negative gives back."""
        bucket = self._buckets.get("tokens")
        if bucket is not None:
            bucket.charge(now, tokens)

    def headers(self, now: float) -> list[Header]:
        """The `x-ratelimit-*` headers at `now`."""
        made: list[Header] = []
        for unit, bucket in self._buckets.items():
            level = bucket.level(now)
            made += answers.limit_headers(unit.encode(), bucket.limit, bucket.room - level, level / bucket.rate)
        return made

    def _refusal(self, now: float, unit: str, cost: float, wait: float) -> Refusal:
        bucket = self._buckets[unit]
        # Told so that OpenAI's formula holds for a shorter burst too.
        used = bucket.level(now) + bucket.limit - max(bucket.room, cost)
        body = answers.rate_limited(self._model, unit, bucket.limit, used, cost, wait)
        return Refusal(body, [] if math.isinf(wait) else answers.retry_headers(wait))
