"""What a provider's headers show of one limit: whether it may be used in bursts, and how much of it others leave.

It decides a rate that must not be exceeded for a while, in units a second, from `remaining` and `reset` and from throttles. It
keeps no account of its own and never waits. Headers may be wrong: a provider that tells that nothing remains and refuses nobody
is believed less and less.
"""

from __future__ import annotations

import math

HEADROOM, HEADROOM_OF_BUCKET = 2.0, 16.0
"""The rate stays below so many times `remaining / reset`. In a clock minute that binds only where others use the same key; in
a continuous bucket only in its last seventeenth, which our own bursts leave alone. With others on the key it settles where they
leave off, before a throttle."""

NOT_OURS = 0.02
"""What the provider counts above our own count, as a share of the limit, before it is held to be of others."""

LEAST_SHARE = 0.05
TRUST_DOUBLES_IN = 5.0
"""Below a twentieth of the limit the provider is believed less, by half from one five seconds to the next."""

LOW_SHARE = 0.35
RECENT = 3.0
"""A throttle within three seconds of so low a `remaining` is the limit's, and no passing trouble of the provider."""

EPISODE = 10.0
FIRST_CUT, LATER_CUT, LATER_WITHIN = 0.65, 0.8, 60.0
REGROWTH = 0.01
CUSHION = 0.4
"""Such a throttle is of others' traffic: one cut of the rate in an episode, less deep where the last one is not long ago, and
back by 1 % of the limit a second. A pause of 0.4 s lets the provider's bucket fill a little, so that the next clump of others'
requests finds room; nothing is lost by it, as an empty bucket keeps all that flows in."""

YOUNG_SECONDS = 10.0
RESET_IS_LATE = 1.5
"""A continuous bucket is whole after `used / rate`. A clock minute is not; early in it, the two are far apart."""

USE_OF_BURST = 0.8
"""What a continuous bucket shows to hold may go at once but for a fifth, which is for what was sent and is not counted yet."""


class Headroom:
    """What is known of one limit beyond its size."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._most_remaining = 0.0
        self._is_bucket = self._is_none = self._refused_burst = False
        self._bound, self._until = math.inf, -math.inf
        self._disbelieved_since = self._low_at = self._cut_at = -math.inf
        self._cut_to = math.inf

    @property
    def bursts(self) -> bool:
        """True for a continuous bucket that holds more than a moment's worth: a job that fits it need not wait."""
        return self._is_bucket and not (self._is_none or self._refused_burst)

    @property
    def until(self) -> float:
        """When the present rate lapses, inf where nothing binds or nothing tells."""
        return self._until if self._bound != math.inf else math.inf

    @property
    def cushion(self) -> float:
        """Seconds to wait longer than a throttle says."""
        return CUSHION if self._cut_to != math.inf else 0.0

    def burst_seconds(self, limit: float) -> float:
        """How many seconds' worth may go at once."""
        return USE_OF_BURST * self._most_remaining / limit * self._period

    def rate(self, now: float, plain: float) -> float:
        """The most units a second for now, inf where nothing binds; `plain` is the rate of the whole limit."""
        if now >= self._until:
            self._bound = math.inf
        return min(self._bound, self._regrown(now, plain))

    def hear(self, now: float, limit: float, remaining: float, reset_s: float, ours: float) -> None:
        """Take in one answer's headers; `ours` is what we have used within the last period."""
        self._see_kind(limit, remaining, reset_s)
        if remaining < LOW_SHARE * self._most_remaining:
            self._low_at = now
        plain = limit / self._period
        if not self._is_none:
            factor = HEADROOM_OF_BUCKET if self._is_bucket else HEADROOM
            self._bind(now, plain, factor * remaining / reset_s, now + reset_s)
            return
        # All that is used and was not ours: as much of the next minute is not ours either.
        others = max(0.0, limit - remaining - ours)
        bound = plain - others / self._period if others > NOT_OURS * limit else math.inf
        if bound <= self._bound or now >= self._until:
            self._bind(now, plain, bound, now + self._period)

    def statistics(self, now: float, plain: float) -> dict[str, float]:
        """The most units a second that others leave, where it binds; and whether the provider's bucket allows a burst."""
        rate = self.rate(now, plain)
        return {"bursts": float(self.bursts)} | ({} if rate == math.inf else {"left_by_others_per_s": rate})

    def limit_changed(self, now: float) -> None:
        """The limit is another one: a throttle that comes of it is of nobody else's traffic."""
        self._cut_to, self._cut_at = math.inf, now

    def throttled(self, now: float, plain: float) -> None:
        """The provider refused: what it told is believed again, and what was tried beyond the plain rate is not tried again."""
        if self._disbelieved_since != -math.inf:
            self._disbelieved_since = now
        self._refused_burst = self._refused_burst or self.bursts
        since = now - self._cut_at
        if now - self._low_at < RECENT and since > EPISODE:
            factor = LATER_CUT if since < LATER_WITHIN else FIRST_CUT
            self._cut_to, self._cut_at = factor * min(self._regrown(now, plain), plain), now

    def _see_kind(self, limit: float, remaining: float, reset_s: float) -> None:
        used_s = (limit - remaining) / limit * self._period
        self._most_remaining = max(self._most_remaining, min(remaining, limit))
        if remaining <= 0:
            return  # overdrawn, by others or since the limit shrank: then the reset tells nothing of the kind
        if reset_s > RESET_IS_LATE * used_s + 1.0:
            self._is_none = True
        elif used_s < YOUNG_SECONDS:
            self._is_bucket = True

    def _bind(self, now: float, plain: float, bound: float, until: float) -> None:
        if bound > LEAST_SHARE * plain:
            self._disbelieved_since = -math.inf
        else:
            if self._disbelieved_since == -math.inf:
                self._disbelieved_since = now
            doublings = min((now - self._disbelieved_since) / TRUST_DOUBLES_IN, 10.0)
            bound = LEAST_SHARE * 2.0**doublings * plain
        self._bound, self._until = (bound, until) if bound < plain else (math.inf, -math.inf)

    def _regrown(self, now: float, plain: float) -> float:
        """The rate that the last cut allows by now."""
        if self._cut_to == math.inf:
            return math.inf
        allowed = self._cut_to + REGROWTH * plain * (now - self._cut_at)
        if allowed > plain:
            self._cut_to = math.inf
        return allowed
