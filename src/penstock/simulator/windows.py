"""The three ways to keep one limit: a draining bucket, a fixed window, a sliding window. Each tells level, wait and reset.

Pure: `now` comes in. It is written apart from the client's own rules on purpose: neither may hide the other's mistake.
"""

from __future__ import annotations

import heapq
import math
from typing import Protocol

MINUTE, DAY = 60.0, 86_400.0
_HAIR = 1e-6
"""Seconds: rounding must not refuse who waited exactly as told."""


class Limiter(Protocol):
    """One limit over time; `room` is how much of it may be used at once."""

    limit: float
    room: float

    def level(self, now: float) -> float:
        """What is used at `now`."""
        ...

    def wait(self, now: float, cost: float) -> float:
        """Seconds until `cost` fits, 0 if it does; infinite if it never will."""
        ...

    def charge(self, now: float, cost: float, since: float | None = None) -> None:
        """Take `cost`; a negative one, or one that corrects an admission at `since`, is put right as far as it still counts."""
        ...

    def reset(self, now: float) -> float:
        """Seconds until nothing is used any more."""
        ...

    def scale(self, now: float, limit: float) -> None:
        """From now on the limit is another one; what is used stays."""
        ...


class Bucket:
    """One per-minute limit as a level that drains continuously; `burst_seconds` of the limit fit in it.

    OpenAI's public 429s obey it to the millisecond with 60 s: wait = (used + requested - limit) / (limit / 60).
    """

    def __init__(self, limit: float, burst_seconds: float) -> None:
        self._burst_seconds = burst_seconds
        self._set(limit)
        self._level = 0.0
        self._at = -math.inf

    def _set(self, limit: float) -> None:
        self.limit = limit
        self.rate = limit / MINUTE
        self.room = limit * self._burst_seconds / MINUTE

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

    def charge(self, now: float, cost: float, since: float | None = None) -> None:  # noqa: ARG002  all of it still counts
        """Take `cost`, or give back a negative one."""
        self._level = max(0.0, self.level(now) + cost)

    def reset(self, now: float) -> float:
        """Seconds until the level is 0."""
        return self.level(now) / self.rate

    def scale(self, now: float, limit: float) -> None:
        """Drain at the old rate up to now, at the new one after."""
        self.level(now)
        self._set(limit)


class FixedWindow:
    """A limit as a counter that starts anew every `period` seconds from `offset` on; None: from the first charge."""

    def __init__(self, limit: float, offset: float | None, period: float = MINUTE) -> None:
        self.limit = self.room = limit
        self._offset = offset
        self._period = period
        self._used = 0.0
        self._began = -math.inf

    def level(self, now: float) -> float:
        """What was used in this window."""
        began = self._window(now)
        if began > self._began:
            self._began, self._used = began, 0.0
        return self._used

    def _window(self, now: float) -> float:
        if self._offset is None:
            return -math.inf
        return self._offset + math.floor((now - self._offset + _HAIR) / self._period) * self._period

    def wait(self, now: float, cost: float) -> float:
        """Seconds until the next window, unless it fits into this one; infinite above the limit."""
        if cost > self.limit:
            return math.inf
        return self.reset(now) if self.level(now) + cost > self.limit * (1 + 1e-9) else 0.0

    def charge(self, now: float, cost: float, since: float | None = None) -> None:
        """Take `cost`; a correction of what an earlier window took changes nothing."""
        if self._offset is None:
            self._offset = now
        used = self.level(now)
        if since is None or since >= self._began:
            self._used = max(0.0, used + cost)

    def reset(self, now: float) -> float:
        """Seconds until the next window, 0 while nothing is used."""
        return self._window(now) + self._period - now if self.level(now) else 0.0

    def scale(self, now: float, limit: float) -> None:
        """What is used stays."""
        self.level(now)
        self.limit = self.room = limit


class SlidingWindow:
    """A limit on what any `period` seconds may hold, by an exact log."""

    def __init__(self, limit: float, period: float = MINUTE) -> None:
        self.limit = self.room = limit
        self._period = period
        self._log: list[tuple[float, float]] = []
        self._used = 0.0

    def level(self, now: float) -> float:
        """What the last `period` seconds hold."""
        while self._log and self._log[0][0] <= now - self._period + _HAIR:
            self._used -= heapq.heappop(self._log)[1]
        return self._used if self._log else 0.0

    def wait(self, now: float, cost: float) -> float:
        """Seconds until enough of the log is old; infinite above the limit."""
        if cost > self.limit:
            return math.inf
        over = self.level(now) + cost - self.limit * (1 + 1e-9)
        for at, taken in sorted(self._log) if over > 0 else ():
            over -= taken
            if over <= 0:
                return at + self._period - now
        return 0.0

    def charge(self, now: float, cost: float, since: float | None = None) -> None:
        """Take `cost`; a correction grows old together with what it corrects."""
        at = now if since is None else since
        if not self.level(now):
            self._used = 0.0
        if at > now - self._period:
            heapq.heappush(self._log, (at, cost))
            self._used += cost

    def reset(self, now: float) -> float:
        """Seconds until the log is empty."""
        self.level(now)
        return max(self._log)[0] + self._period - now if self._log else 0.0

    def scale(self, now: float, limit: float) -> None:
        """What is used stays."""
        self.level(now)
        self.limit = self.room = limit
