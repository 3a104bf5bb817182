"""One named limit of an account: what the caller set, what the provider tells, and what others leave of it.

It decides the rate and the capacity that a `Bucket` and a `Window` then keep. The caller's figure binds from above; what the
headers tell binds below it. It never waits, and it never learns from an answer that is older than one it has heard already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from penstock.records import Told
from penstock.rules.bucket import Bucket, Window
from penstock.rules.charges import BUDGETS, DAY, MINUTE, Charge

HEADROOM, HEADROOM_OF_BUCKET = 2.0, 8.0
"""The rate stays below so many times `remaining / reset`. In a clock minute that binds only where others use the same key; in a
continuous bucket only in its last ninth, which our own bursts leave alone. With others it settles where they leave off, before a throttle."""

LOW_SHARE = 0.35
RECENT = 3.0
EPISODE = 10.0
FIRST_CUT, LATER_CUT = 0.65, 0.8
LATER_AFTER = 60.0
REGROWTH = 0.01
"""A throttle while little was told to remain is others' traffic: one cut of the rate in an episode, back by 1 % of the limit a second."""

BURST_KEPT_BACK = 10.0
"""Where charges are known only roughly, less may go at once: at a margin of 3 %, 70 % of it."""

NOT_OURS = 0.02
"""What the provider counts above our own count, as a share of the limit, before it is held to be of others."""

TRUST_DOUBLES_IN = 5.0
LEAST_SHARE = 0.05
"""A provider that tells that nothing remains, and throttles nobody, is believed less from one five seconds to the next."""

USE_OF_BURST = 0.8
BURST_GROWTH = 3.0
"""Where the headers show a continuous bucket that is nearly full, up to 80 % of what it holds goes at once, at no more than four
times the rate: a small job then need not wait, and the rest is for what was sent and is not counted yet."""

RESET_IS_LATE = 1.5
YOUNG_SECONDS = 10.0
"""A bucket's reset is `used / rate` away. A clock minute's is not; early in it, the two are far apart."""

A_DAY = (0.5 * DAY, 1.5 * DAY)
"""`reset` is the time until the limit is whole again: a minute's limit takes no longer than a minute, and a day's a day in all."""


class Budget:
    """The limit of one name, as a pace and a window. Its `limit` is None while nobody has told one."""

    def __init__(self, name: str, asked: float | None, share: float, slice_seconds: float) -> None:
        unit, self._period = BUDGETS[name]
        self.name = name
        self.column = Charge._fields.index(unit)
        self._asked, self._share, self._burst = asked, share, slice_seconds
        self._told: float | None = None
        self._heard_at = self._low_since = -math.inf
        self._bound, self._bound_until = math.inf, -math.inf
        self._margin, self._ramp = 0.0, 1.0
        self._most_remaining = 0.0
        self._low_at = self._cut_at = -math.inf
        self._cut_to = math.inf
        self._bucket_since: float | None = None
        self._surely_none = False
        self._bucket = Bucket(1.0, slice_seconds)
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
        """Units a second at present."""
        return self._bucket.rate

    def ready_at(self, now: float, cost: float) -> float:
        """The earliest time at which `cost` may go."""
        if self._bound == math.inf:
            return max(self._bucket.ready_at(cost), self._window.ready_at(now, cost))
        if now >= self._bound_until:
            self._bound = math.inf
            self._retune(now)
            return self.ready_at(now, cost)
        return max(min(self._bucket.ready_at(cost), self._bound_until), self._window.ready_at(now, cost))

    def take(self, now: float, cost: float) -> None:
        """Spend."""
        if self._bucket.rate != math.inf:
            self._bucket.take(now, cost)
        self._window.take(now, cost)

    def settle(self, at: float, difference: float) -> None:
        """Correct what was spent at `at` by actual minus reserved units."""
        if self._bucket.rate != math.inf:
            self._bucket.settle(difference)
        self._window.settle(at, difference)

    def empty_until(self, when: float) -> None:
        """Nothing before `when`, and by pace from then on."""
        if self._bucket.rate != math.inf:
            self._bucket.empty_until(when)

    def never_fits(self, cost: float) -> bool:
        """True where the whole limit is smaller than this one cost."""
        limit = self.limit
        return limit is not None and cost > max(limit, 1.0)

    def keep_back(self, now: float, margin: float) -> None:
        """Leave a share of the limit unused, because charges are known only roughly."""
        if abs(margin - self._margin) > 0.0005:
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
        before = (self._told, self._bound)
        self._told = told.limit or self._told
        if told.remaining is not None and self._told is not None:
            if self._period == DAY:
                self._hear_of_the_day(now, self._told - told.remaining)
            elif told.reset_s:
                self._hear_kind(now, self._told, told.remaining, told.reset_s)
                self._hear_headroom(now, told.remaining, told.reset_s)
        if before != (self._told, self._bound) or self._bursts or self._cut_to != math.inf:
            self._retune(now)
            if self._bursts and told.remaining is not None:
                held = USE_OF_BURST * told.remaining * self._share / self._bucket.rate
                self._bucket.whole_at = max(self._bucket.whole_at, now + self._bucket.burst - held)

    def throttled(self, now: float) -> None:
        """The provider meant it: what it tells to remain is believed again, and no burst is tried any more."""
        if self._bound != math.inf:
            self._low_since = now
        if self._bursts:
            self._surely_none = True
            self._retune(now)
            self._bucket.whole_at = min(self._bucket.whole_at, now + self._bucket.burst)
        limit = self.limit
        if limit is not None and now - self._low_at < RECENT and now - self._cut_at > EPISODE:
            factor = LATER_CUT if now - self._cut_at < LATER_AFTER else FIRST_CUT
            self._cut_to, self._cut_at = factor * min(self._uncut(now), limit / self._period), now
            self._retune(now)

    def _uncut(self, now: float) -> float:
        """The rate that the last cut allows by now, in units a second."""
        limit = self.limit
        if limit is None or self._cut_to == math.inf:
            return math.inf
        allowed = self._cut_to + REGROWTH * (now - self._cut_at) * limit / self._period
        if allowed > limit / self._period:
            self._cut_to = math.inf
        return allowed

    @property
    def _bursts(self) -> bool:
        """True where the provider's own bucket holds more than a moment's worth, and the caller set nothing below it."""
        mine = self._asked is None or (self._told is not None and self._asked >= self._told)
        return mine and self._bucket_since is not None and not self._surely_none

    def _hear_kind(self, now: float, limit: float, remaining: float, reset_s: float) -> None:
        """Is it a continuous bucket? Its reset fits what is used; a clock minute's does not."""
        used_s = (limit - remaining) / limit * self._period
        self._most_remaining = max(self._most_remaining, min(remaining, limit))
        if remaining < LOW_SHARE * self._most_remaining:
            self._low_at = now
        if reset_s > RESET_IS_LATE * used_s + 1.0:
            self._surely_none = True
        elif used_s < YOUNG_SECONDS and self._bucket_since is None:
            self._bucket_since = now

    def _hear_of_the_day(self, now: float, used: float) -> None:
        """Others, or an earlier session, have used some of the day."""
        if (missing := used - self._window.used) > 0:
            self._window.take(now, missing)

    def _hear_headroom(self, now: float, remaining: float, reset_s: float) -> None:
        """Slow down before others on the same key, or a limit that is not what it was, make the provider throttle."""
        limit, told = self.limit, self._told
        assert limit is not None
        assert told is not None
        plain = limit / self._period
        if self._surely_none:
            # All that is used and was not ours: as much of the next minute is not ours either.
            others = max(0.0, told - remaining - self._window.used)
            bound = (told - others) / self._period if others > NOT_OURS * told else math.inf
            reset_s = self._period
        else:
            bound = (HEADROOM_OF_BUCKET if self._bursts else HEADROOM) * remaining / reset_s
        if bound < plain:
            self._bind(now, bound, plain, reset_s)
        elif not self._surely_none or now >= self._bound_until:
            self._bound, self._low_since = math.inf, -math.inf

    def _bind(self, now: float, bound: float, plain: float, seconds: float) -> None:
        if self._low_since == -math.inf:
            self._low_since = now
        doublings = min((now - self._low_since) / TRUST_DOUBLES_IN, 10.0)
        bound = max(bound, min(1.0, LEAST_SHARE * 2.0**doublings) * plain)
        if not self._surely_none or bound <= self._bound or now >= self._bound_until:
            self._bound, self._bound_until = bound, now + seconds

    def _retune(self, now: float) -> None:
        limit = self.limit
        if limit is None:
            self._bucket.rate = math.inf
            self._window.resize(math.inf)
            return
        allowed = limit * self._share * (1.0 - self._margin)
        self._window.resize(math.inf if self._bursts else allowed)
        if self._period != MINUTE:
            self._bucket.rate = math.inf
            return
        rate = min(allowed / self._period * self._ramp, self._bound, self._uncut(now))
        if self._bucket.rate == math.inf:
            self._bucket = Bucket(rate, self._burst)
        self._bucket.retune(now, rate)
        if self._bursts and self._told is not None and self._bucket_since is not None:
            held = USE_OF_BURST * self._most_remaining / self._told * self._period
            self._bucket.burst = max(self._burst, min(held, self._burst + BURST_GROWTH * (now - self._bucket_since)))
        else:
            self._bucket.burst = self._burst * (1.0 - BURST_KEPT_BACK * self._margin)


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
