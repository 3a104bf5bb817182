"""An auditor outside of the engine: it stands between client and provider, and judges by nothing but what passed there.

The figures are those of the promises: F1 use of the limit, F2 throttles, F3 recovery, F6 sends for each row, F7 waits obeyed.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from penstock.errors import NotSent
from penstock.options import Timeouts
from penstock.ports import Clock
from penstock.records import HttpAnswer, HttpCall
from penstock.simulator.behaviour import Plan, Seconds, Settings, Simulator
from penstock.simulator.local import LocalTransport

MINUTE = 60.0
RECOVERY = 10.0
EPISODE = 10.0
"""Throttles that follow the first of them within so many seconds belong to the same episode."""

HAIR = 1e-6

Steps: TypeAlias = tuple[tuple[float, float], ...]
"""What a server lets through: (from so many seconds after the first admission on, units a minute)."""


class Throttle(NamedTuple):
    """A 429 as the client met it: when it was sent, when the answer was there, the wait it named, the sends until then."""

    sent: float
    told: float
    wait: float | None
    sends_before: int


class Watched(Simulator):
    """A provider that writes down what it charges, and when; to others too."""

    def __init__(self, settings: Settings, unit: str) -> None:
        super().__init__(settings)
        self._unit = unit
        self.admitted_at: list[float] = []
        self.charged: list[float] = []
        self.others_at: list[float] = []
        self.others_charged: list[float] = []
        self.throttled_at: list[float] = []

    def arrive(self, now: float, body: bytes, key: str | None = None) -> Plan:
        plan = super().arrive(now, body, key)
        if plan.outcome == "throttled":
            self.throttled_at.append(now)
        elif plan.model:
            self.admitted_at.append(now)
            self.charged.append(plan.reserved_tokens if self._unit == "tokens" else 1.0)
        return plan

    def others_admitted(self, at: float, costs: Mapping[str, float]) -> None:
        super().others_admitted(at, costs)
        self.others_at.append(at)
        self.others_charged.append(costs[self._unit])


class Auditor:
    """A `Transport` over a provider in memory. `unit` is what its binding limit counts: requests or tokens."""

    def __init__(self, settings: Settings, clock: Clock, arrival_delay: Seconds = 0.0, unit: str = "requests") -> None:
        self._clock = clock
        self._local = LocalTransport(settings, clock, arrival_delay)
        self.server = self._local.simulator = Watched(settings, unit)
        self.sent_at: list[float] = []
        self.throttles: list[Throttle] = []
        self.refused_connections = 0

    async def send(self, call: HttpCall, timeouts: Timeouts) -> HttpAnswer:
        sent = self._clock.now()
        self.sent_at.append(sent)
        try:
            answer = await self._local.send(call, timeouts)
        except NotSent:
            self.refused_connections += 1
            raise
        if answer.status == 429:
            told = self._clock.now()
            self.throttles.append(Throttle(sent, told, _wait(answer), len(self.sent_at)))
        return answer

    async def aclose(self) -> None:
        await self._local.aclose()

    # -- what it found

    def seconds(self) -> float:
        """From the first admission to the last."""
        times = self.server.admitted_at
        return times[-1] - times[0] if times else 0.0

    def use_between(self, available: Steps, since: float, until: float) -> float:
        """Charges after `since`, up to `until`, over what was there to be had, less what others took of it."""
        server = self.server
        others = _between(server.others_at, server.others_charged, since, until)
        allowed = self._allowed(available, since, until) - others
        return _between(server.admitted_at, server.charged, since, until) / allowed if allowed > 0 else math.inf

    def _allowed(self, available: Steps, since: float, until: float) -> float:
        """Units that `available` allows between two times."""
        began = self.server.admitted_at[0]
        ends = [*(began + at for at, _ in available[1:]), until]
        return sum(
            per_minute / 60 * max(0.0, min(end, until) - max(began + at, since))
            for (at, per_minute), end in zip(available, ends, strict=True)
        )

    def _overdrawn_for(self, available: Steps, at: float) -> float:
        """Seconds for which a bucket lets nothing through because it holds more than its room, which has become smaller."""
        rate = self._allowed(available, at, at + 1.0)
        level, now = 0.0, self.server.admitted_at[0]
        for then, charge in zip(self.server.admitted_at, self.server.charged, strict=True):
            if then > at:
                break
            level, now = max(0.0, level - self._allowed(available, now, then)) + charge, then
        over = level - self._allowed(available, now, at) - rate * self.server.settings.burst_seconds
        return max(0.0, over / rate) if rate else 0.0

    def use(self, available: Steps) -> float:
        """F1: what was charged over what was to be had, from the first admission to the last; the first does not count."""
        times = self.server.admitted_at
        return self.use_between(available, times[0], times[-1])

    def recovered(self, available: Steps) -> float | None:
        """F3: the least use of any minute that begins 10 s after the client heard of a change; None where there is none.

        It has heard of one by its first 429; where it drew none, it knew before.
        """
        times = self.server.admitted_at
        shares = []
        for at, until in pairwise([*(times[0] + at for at, _ in available[1:]), times[-1]]):
            heard = min((throttle.told for throttle in self.throttles if at <= throttle.sent < until), default=at)
            since = heard + RECOVERY + self._overdrawn_for(available, heard)
            if since + MINUTE < until and self._allowed(available, since, since + MINUTE) > 0:
                shares.append(self.use_between(available, since, since + MINUTE))
        return min(shares, default=None)

    def throttled(self, since: float = 0.0) -> int:
        """F2: 429s that the server gave from `since` seconds after the first admission on."""
        times = self.server.throttled_at
        return len(times) - bisect_left(times, self.server.admitted_at[0] + since)

    def billed_sends(self) -> int:
        """F6: sends that reached the provider and were not throttled: what may be billed."""
        return len(self.sent_at) - self.refused_connections - len(self.throttles)

    def early_sends(self) -> int:
        """F7: sends within a wait that the client had been told of by then."""
        early = set()
        for throttle in self.throttles:
            if throttle.wait is not None:
                end = bisect_left(self.sent_at, throttle.told + throttle.wait - HAIR)
                early.update(range(throttle.sends_before, end))
        return len(early)

    def extra_throttles(self) -> int:
        """F3: the most 429s in one episode that were sent after the first one of it had come back."""
        worst = extra = 0
        began = -EPISODE - 1
        for throttle in sorted(self.throttles, key=lambda throttle: throttle.told):
            if throttle.told > began + EPISODE and throttle.sent >= began:
                began, extra = throttle.told, 0
            elif throttle.sent >= began:
                extra += 1
            worst = max(worst, extra)
        return worst


def _between(times: list[float], charges: list[float], since: float, until: float) -> float:
    return sum(charges[bisect_right(times, since) : bisect_right(times, until)])


def _wait(answer: HttpAnswer) -> float | None:
    told = answer.header(b"retry-after-ms")
    return None if told is None else float(told) / 1000
