"""A rate for an account whose limit nobody told: found from what the provider lets through, only once it throttles.

Without it, everybody who waits leaves at the end of each pause and nearly all are refused again: 800 rows against an
unknown limit of 300 a minute drew 44,000 throttles in simulation, and 310 with it. Throttles that are rare among answers
are the provider's passing trouble and change nothing.
"""

from __future__ import annotations

import math

from penstock.rules.bucket import Bucket

SHARE_DECAY = 0.98
SHARE_THAT_CUTS = 0.03
"""Throttles among about the last fifty attempts."""

COUNTED_SECONDS = 1.0
"""A rate is measured over at least so long, from the first send after the pause of a cut."""

MOST_ABOVE = 2.0
"""The rate does not grow where it does not bind: at most to twice of what is answered."""

SHORTEST_SECONDS = 0.1
FORGOTTEN_AFTER = 10.0
CUT = 0.95
SMALLEST_CUT = 0.9
SLOWEST = 0.02
BURST = 0.2
GROWTH_A_SECOND = 0.01
GROWTH_DOUBLES_IN = 10.0
FASTEST_GROWTH = 0.1


class Pace:
    """The learned rate of one account and model, in requests a second; free until the provider throttles."""

    def __init__(self) -> None:
        self._bucket: Bucket | None = None
        self.is_known = False
        """True once there is a rate to keep to."""
        self._share = 0.0
        self._answers = 0.0
        self._own_pauses = 0.0
        self._counted_since: float | None = None
        self._count_from = self._cut_at = self._paused_until = -math.inf

    @property
    def rate(self) -> float | None:
        """Requests a second, None while nothing is known."""
        return None if self._bucket is None else self._bucket.rate

    def statistics(self) -> dict[str, float]:
        """Requests a second that were found, if any, and the share of throttles among about the last fifty attempts."""
        return {"throttled_share": self._share} | ({} if self.rate is None else {"pace_per_s": self.rate})

    def ready_at(self) -> float:
        """The earliest time for the next request."""
        return 0.0 if self._bucket is None else self._bucket.ready_at(1.0)

    def take(self, now: float) -> None:
        """One request goes out."""
        if self._counted_since is None and now >= self._count_from:
            self._counted_since = now
        if self._bucket is not None:
            self._bucket.take(now, 1.0)

    def answered(self, now: float) -> None:
        """An answer came: the rate grows by 1 % a second of use, ever faster the longer no cut was needed."""
        self._share *= SHARE_DECAY
        if self._counted_since is not None:
            self._answers += 1
            if now - self._counted_since > FORGOTTEN_AFTER:
                # The older half is forgotten, so that a quiet hour does not count as a slow provider.
                self._answers, self._counted_since = self._answers / 2, now - FORGOTTEN_AFTER / 2
                self._own_pauses = min(self._own_pauses, FORGOTTEN_AFTER) / 2
        if self._bucket is not None and self._bucket.rate < MOST_ABOVE * self._measured(now):
            growth = GROWTH_A_SECOND * 2.0 ** min((now - self._cut_at) / GROWTH_DOUBLES_IN, 6.0)
            # While the rate binds, `rate` answers come in a second, so each adds g to the rate for a growth by g a second.
            self._bucket.rate += min(growth, FASTEST_GROWTH)

    def throttled(self, now: float, paused_until: float, *, named: bool) -> None:
        """A throttle came: where they are no exception, cut to just below what was answered since the last cut.

        `named` is true where the provider named the wait; a pause of our own says nothing of its speed.
        """
        self._share = self._share * SHARE_DECAY + (1 - SHARE_DECAY)
        if self._share > SHARE_THAT_CUTS and self._answers and self._seconds(now) >= COUNTED_SECONDS:
            self._cut(now)
            self._count_from = paused_until
        if not named:
            self._own_pauses += max(0.0, paused_until - max(now, self._paused_until))
        self._paused_until = max(self._paused_until, paused_until)
        if self._bucket is not None:
            self._bucket.empty_until(paused_until)

    def _seconds(self, now: float) -> float:
        return 0.0 if self._counted_since is None else now - self._counted_since

    def _measured(self, now: float) -> float:
        """Answers a second since the last cut; infinite until enough was seen."""
        seconds = self._seconds(now)
        if seconds < COUNTED_SECONDS:
            return math.inf
        return self._answers / max(seconds - self._own_pauses, SHORTEST_SECONDS)

    def _cut(self, now: float) -> None:
        rate, whole_at = CUT * self._measured(now), now
        if self._bucket is not None:
            rate, whole_at = min(rate, SMALLEST_CUT * self._bucket.rate), self._bucket.whole_at
        self._bucket, self.is_known = Bucket(max(rate, SLOWEST), BURST, whole_at), True
        self._answers = self._own_pauses = 0.0
        self._counted_since, self._cut_at = None, now
