"""One named limit of an account: what the caller set, what the provider tells, and how fast it may be used.

It decides the rates and the capacity that a `Bucket`, a `Window` and a valve then keep. The caller's figure binds from above;
what the headers tell binds below it. It never waits, and it never learns from an answer that is older than one it has heard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from penstock.records import Told
from penstock.rules.bucket import Bucket, Window
from penstock.rules.charges import BUDGETS, DAY, MINUTE, Charge
from penstock.rules.headroom import USE_OF_BURST, Headroom

MOST_RATE = 4.0
VALVE_SECONDS = 0.1
"""A burst goes out at no more than four times the rate; what is bound for a moment, in a tenth of a second's worth at a time."""

BURST_KEPT_BACK = 10.0
"""Where charges are known only roughly, less may go at once: at a margin of 2 %, four fifths of it."""

SAME_MARGIN = 0.0005

A_DAY = (0.5 * DAY, 1.5 * DAY)
"""`reset` is the time until the limit is whole again: a minute's limit takes no longer than a minute, and a day's a day in all."""


class Budget:
    """The limit of one name, as a pace and a window. Its `limit` is None while nobody has told one."""

    def __init__(self, name: str, asked: float | None, share: float, slice_seconds: float) -> None:
        unit, self._period = BUDGETS[name]
        self.name = name
        self.column = Charge._fields.index(unit)
        self._asked, self._share, self._slice = asked, share, slice_seconds
        self._told: float | None = None
        self._heard_at = -math.inf
        self._margin, self._ramp = 0.0, 1.0
        self._headroom = Headroom(self._period)
        self._bucket = Bucket(math.inf, slice_seconds)
        self._valve = Bucket(math.inf, VALVE_SECONDS)
        self._window = Window(math.inf, self._period)
        self._retune(0.0)

    @property
    def limit(self) -> float | None:
        """Units in a period that the account allows, before the share."""
        known = [limit for limit in (self._asked, self._told) if limit is not None]
        return min(known, default=None)

    @property
    def paces(self) -> bool:
        """True where this budget sets a rate; a day's budget is only counted down."""
        return self._period == MINUTE and self.limit is not None

    @property
    def rate(self) -> float:
        """Units a second in the long run."""
        return self._bucket.rate

    @property
    def _plain(self) -> float:
        return (self.limit or math.inf) / self._period

    @property
    def _bursts(self) -> bool:
        """True where the provider's own bucket allows it, and the caller set nothing below it."""
        mine = self._asked is None or (self._told is not None and self._asked >= self._told)
        return mine and self._headroom.bursts

    def ready_at(self, now: float, cost: float) -> float:
        """The earliest time at which `cost` may go, or at which to ask again."""
        ready = max(self._bucket.ready_at(cost), self._window.ready_at(now, cost))
        if self._valve.rate == math.inf:
            return ready
        if now >= (until := self._headroom.until):
            self._retune(now)
            until = math.inf
        return max(ready, min(self._valve.ready_at(cost), until))

    def take(self, now: float, cost: float) -> None:
        """Spend."""
        self._bucket.take(now, cost)
        self._window.take(now, cost)
        if self._valve.rate != math.inf:
            self._valve.take(now, cost)

    def settle(self, at: float, difference: float) -> None:
        """Correct what was spent at `at` by actual minus reserved units."""
        self._bucket.settle(difference)
        self._window.settle(at, difference)

    def never_fits(self, cost: float) -> bool:
        """True where the whole limit is smaller than this one cost."""
        limit = self.limit
        return limit is not None and cost > max(limit, 1.0)

    def keep_back(self, now: float, margin: float) -> None:
        """Leave a share of the limit unused, because charges are known only roughly."""
        if abs(margin - self._margin) > SAME_MARGIN:
            self._margin = margin
            self._retune(now)

    def ramp(self, now: float, share: float) -> None:
        """Use this share of the limit at most, while traffic is still rising."""
        if share != self._ramp:
            self._ramp = share
            self._retune(now)

    def hear(self, now: float, sent_at: float, told: Told) -> None:
        """Take in what the headers of an answer tell; `sent_at` is when its request went out."""
        if sent_at < self._heard_at:
            return
        self._heard_at = sent_at
        if told.limit and told.limit != self._told:
            before = self.limit
            if self._told is not None:
                self._headroom.limit_changed(now)
            self._told = told.limit
            if before is not None and told.limit < before:
                self._window.scale(told.limit / before)
        if self._told is not None and told.remaining is not None:
            if self._period == DAY:
                self._hear_of_the_day(now, self._told - told.remaining)
            elif told.reset_s:
                self._headroom.hear(now, self._told, told.remaining, told.reset_s, self._window.used)
        self._retune(now)
        if self._bursts and told.remaining is not None:
            held_s = USE_OF_BURST * told.remaining * self._share / self._bucket.rate
            self._bucket.whole_at = max(self._bucket.whole_at, now + self._bucket.burst - held_s)

    def throttled(self, now: float, until: float) -> None:
        """The provider refused: nothing goes before `until`, and by pace from then on."""
        if not self.paces:
            return
        self._headroom.throttled(now, self._plain)
        self._retune(now)
        # What a burst had borrowed is not owed any more: the provider has just told how long to wait.
        self._bucket.whole_at = min(self._bucket.whole_at, now + self._bucket.burst)
        self._bucket.empty_until(until)
        self._valve.empty_until(until + self._headroom.cushion)

    def statistics(self, now: float) -> dict[str, float]:
        """By this budget's name: its limit, what of it was used in the last period, and what its headers show."""
        if self.limit is None:
            return {}
        found = {"limit": self.limit, "used": self._window.used} | self._headroom.statistics(now, self._plain)
        return {self.name if key == "limit" else f"{self.name}.{key}": value for key, value in found.items()}

    def _hear_of_the_day(self, now: float, used: float) -> None:
        """Others, or an earlier session, have used some of the day."""
        if (missing := used - self._window.used) > 0:
            self._window.take(now, missing)

    def _retune(self, now: float) -> None:
        limit, bursts = self.limit, self._bursts
        if limit is None:
            return
        allowed = limit * self._share * (1.0 - self._margin)
        self._window.capacity = math.inf if bursts else allowed
        if self._period != MINUTE:
            return
        rate = allowed / self._period * self._ramp
        self._bucket.retune(now, rate)
        self._bucket.burst = self._slice * (1.0 - BURST_KEPT_BACK * self._margin)
        if bursts:
            self._bucket.burst = max(self._slice, self._headroom.burst_seconds(limit))
        # What is bound for a moment has a valve of its own: it must not stretch what a burst has borrowed.
        self._valve.retune(now, min(rate * MOST_RATE if bursts else math.inf, self._headroom.rate(now, self._plain)))


def minute_or_day(name: str, told: Told) -> str:
    """The budget that a told limit is of: a provider may put a day's limit into the header of a minute's."""
    if told.limit and told.remaining is not None and told.reset_s and told.reset_s > 1.2 * MINUTE:
        whole = told.reset_s * told.limit / max(told.limit - told.remaining, 1.0)
        day = name.replace("_per_minute", "_per_day")
        if day in BUDGETS and A_DAY[0] < whole < A_DAY[1]:
            return day
    return name


def budgets_of(limits: msgspec.Struct, slice_seconds: float) -> Iterable[Budget]:
    """The budgets that a caller has set."""
    values = msgspec.structs.asdict(limits)
    for name in BUDGETS:
        if values[name] is not None:
            yield Budget(name, values[name], values["share"], slice_seconds)
