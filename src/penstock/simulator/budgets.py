"""The limits of a simulated account: which request fits now, how long another must wait, what the headers tell of it.

Pure: `now` comes in. It decides over all limits of one model together; how one of them is kept is in `windows`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from penstock.simulator import answers
from penstock.simulator.answers import Header
from penstock.simulator.settings import Headers, Settings, Window
from penstock.simulator.windows import DAY, Bucket, FixedWindow, Limiter, SlidingWindow

PER_DAY = "requests-day"


class Refusal(NamedTuple):
    """A 429: its body, and the headers that name a wait (none where no wait would help)."""

    body: bytes
    headers: list[Header]


class Told(NamedTuple):
    """What the headers say of one limit: units, units, seconds."""

    limit: float
    remaining: float
    reset: float


_UNTRUTHS: dict[Headers, Callable[[Told], Told]] = {
    "tenfold": lambda told: Told(10 * told.limit, 10 * told.remaining, told.reset),
    "tenth": lambda told: Told(told.limit / 10, told.remaining / 10, told.reset),
    "spent": lambda told: Told(told.limit, 0.0, told.reset),
}


def limits_of(settings: Settings) -> dict[str, float | None]:
    """The limits by unit, as the headers name it."""
    return {
        "requests": settings.requests_per_minute,
        "tokens": settings.tokens_per_minute,
        "input-tokens": settings.input_tokens_per_minute,
        "output-tokens": settings.output_tokens_per_minute,
        PER_DAY: settings.requests_per_day,
    }


class Budgets:
    """All limits of one model, by unit (requests, tokens, ...); a limit of None has none."""

    def __init__(
        self,
        model: str,
        limits: Mapping[str, float | None],
        burst_seconds: float = 60.0,
        window: Window = "bucket",
        window_offset: float | None = None,
    ) -> None:
        def limiter(unit: str, limit: float) -> Limiter:
            if unit == PER_DAY:
                return FixedWindow(limit, window_offset, DAY)
            if window == "fixed":
                return FixedWindow(limit, window_offset)
            return SlidingWindow(limit) if window == "sliding" else Bucket(limit, burst_seconds)

        self._model = model
        self._full = {unit: limit for unit, limit in limits.items() if limit is not None}
        self._limiters = {unit: limiter(unit, limit) for unit, limit in self._full.items()}

    def admit(self, now: float, costs: Mapping[str, float]) -> Refusal | None:
        """Charge all costs and return None; or, where one does not fit, charge nothing and return the 429."""
        waits = {unit: limiter.wait(now, costs[unit]) for unit, limiter in self._limiters.items()}
        unit = max(waits, key=waits.__getitem__, default="")
        if unit and waits[unit] > 0:
            return self._refusal(now, unit, costs[unit], waits[unit])
        for name, limiter in self._limiters.items():
            limiter.charge(now, costs[name])
        return None

    def settle(self, now: float, since: float, differences: Mapping[str, float]) -> None:
        """Correct what was charged at `since` by what was used; negative gives back."""
        for unit, limiter in self._limiters.items():
            if difference := differences[unit]:
                limiter.charge(now, difference, since)

    def scale(self, now: float, share: float) -> None:
        """From now on every limit is that share of what it was at first."""
        for unit, limiter in self._limiters.items():
            limiter.scale(now, self._full[unit] * share)

    def headers(self, now: float, kind: Headers = "right") -> list[Header]:
        """The `x-ratelimit-*` headers at `now`, true or not."""
        made: list[Header] = []
        for unit, limiter in self._limiters.items() if kind != "none" else ():
            if kind == "garbage":
                made += answers.garbled_limit_headers(unit.encode())
                continue
            told = Told(limiter.limit, limiter.room - limiter.level(now), limiter.reset(now))
            if kind in _UNTRUTHS:
                told = _UNTRUTHS[kind](told)
            made += answers.limit_headers(unit.encode(), *told)
        return made

    def _refusal(self, now: float, unit: str, cost: float, wait: float) -> Refusal:
        limiter = self._limiters[unit]
        # Told so that OpenAI's formula holds for a shorter burst too.
        used = limiter.level(now) + limiter.limit - max(limiter.room, cost)
        body = answers.rate_limited(self._model, unit, limiter.limit, used, cost, wait)
        return Refusal(body, [] if math.isinf(wait) else answers.retry_headers(wait))
