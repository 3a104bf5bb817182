"""All budgets of one account and model: admit now, or say when and which budget binds. It never waits itself.

Admission is all or nothing over every budget: a request that must wait for tokens has not spent a request. What was
reserved by an estimate is settled by the usage that came back. A throttle empties the budgets for everybody, because
the provider's wait was computed as if the refused request were alone (FLOW-CONTROL: 1,280 waiters that each obey their
own Retry-After cause 43 throttles a request).
"""

from __future__ import annotations

import msgspec

from penstock.options import Limits
from penstock.rules.bucket import Bucket
from penstock.rules.pace import Pace

RATE_SHARE = 0.99
BURST = 0.5
"""99 % of the rate in bursts of half a second causes no throttle in front of a continuous bucket, a fixed or a sliding
window, simulated with delays of 20-350 ms; a full minute's burst causes hundreds in front of the last two."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
ABSURD_WAIT = 86_400.0
"""A provider that names a wait of over a day is misread rather than obeyed; the doubling pause takes its place."""


class Charge(msgspec.Struct, frozen=True):
    """What one request costs each budget: itself, and tokens by estimate (before) or by usage (after)."""

    requests: float = 1.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0

    def of(self, budget: str) -> float:
        """The units that this charge takes from a budget of that name."""
        match budget:
            case "requests_per_minute":
                return self.requests
            case "input_tokens_per_minute":
                return self.input_tokens
            case "output_tokens_per_minute":
                return self.output_tokens
            case _:
                return self.input_tokens + self.output_tokens


NOTHING = Charge(requests=0.0)
"""What a request costs that was never sent."""


class Wait(msgspec.Struct, frozen=True):
    """Not now: try again `until`; `budget` names what binds."""

    until: float
    budget: str


class Governor:
    """The budgets of one account and model, and the pause that a throttle puts on all of them."""

    def __init__(self, limits: Limits) -> None:
        given = {name: value for name, value in msgspec.structs.asdict(limits).items() if value is not None}
        self._per_minute: dict[str, float] = given
        self._budgets = {name: Bucket(rate=value / 60 * RATE_SHARE, burst=BURST) for name, value in given.items()}
        self._pace = Pace()
        self._paused_until = 0.0
        self._next_pause = FIRST_PAUSE
        self.counts_tokens = any(name != "requests_per_minute" for name in given)

    def admit(self, now: float, charge: Charge) -> Wait | None:
        """Spend the charge from every budget and return None, or spend nothing and tell until when to wait."""
        if now < self._paused_until:
            return Wait(self._paused_until, "the end of a throttle")
        if (ready := self._pace.ready_at()) > now:
            return Wait(ready, "the pace that the provider allows")
        for name, bucket in self._budgets.items():
            if (ready := bucket.ready_at(charge.of(name))) > now:
                return self._longest_wait(charge, ready)
        for name, bucket in self._budgets.items():
            bucket.take(now, charge.of(name))
        self._pace.take(now)
        return None

    def _longest_wait(self, charge: Charge, ready: float) -> Wait:
        waits = [(bucket.ready_at(charge.of(name)), name) for name, bucket in self._budgets.items()]
        until, name = max(waits)
        return Wait(max(until, ready), name)

    def never_fits(self, charge: Charge) -> str | None:
        """The budget that is smaller than this one charge, if there is one: waiting would last for ever."""
        return next((n for n, limit in self._per_minute.items() if charge.of(n) > max(limit, 1.0)), None)

    def settle(self, reserved: Charge, actual: Charge) -> None:
        """Put the budgets right once the usage is known."""
        for name, bucket in self._budgets.items():
            if difference := actual.of(name) - reserved.of(name):
                bucket.settle(difference)

    def throttle(self, now: float, wait: float | None) -> float:
        """The provider said "later": pause everybody and return until when.

        Without a wait: 1 s, doubling from one episode to the next while nothing is answered. Throttles of requests that were
        under way when the pause began belong to the same episode.
        """
        named = wait is not None and wait <= ABSURD_WAIT
        if wait is None or not named:
            new_episode = now >= self._paused_until
            wait = self._next_pause if new_episode else 0.0
            if new_episode:
                self._next_pause = min(self._next_pause * 2, LONGEST_PAUSE)
        self._paused_until = max(self._paused_until, now + wait)
        for bucket in self._budgets.values():
            bucket.empty_until(self._paused_until)
        self._pace.throttled(now, self._paused_until, named=named)
        return self._paused_until

    def answered(self, now: float) -> None:
        """An answer came through: the next throttle without a wait starts at one second again."""
        self._pace.answered(now)
        self._next_pause = FIRST_PAUSE

    def statistics(self, now: float) -> dict[str, float]:
        """Seconds until each budget is whole again, the rest of the pause, and the learned requests a second, if any."""
        waits = {name: max(0.0, bucket.whole_at - now) for name, bucket in self._budgets.items()}
        return (
            waits
            | {"throttled": max(0.0, self._paused_until - now)}
            | ({"pace": rate} if (rate := self._pace.rate) else {})
        )
