"""All budgets of one account and model: admit now, or say when and which budget binds. It never waits itself.

Admission is all or nothing over every budget: a request that must wait for tokens has not spent a request. What was
reserved by an estimate is settled by the usage that came back. A throttle empties the budgets for everybody, because
the provider's wait was computed as if the refused request were alone (FLOW-CONTROL: 1,280 waiters that each obey their
own Retry-After cause 43 throttles a request).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from penstock.options import Limits
from penstock.records import Told
from penstock.rules.bucket import Bucket
from penstock.rules.budget import Budget, budgets_of, minute_or_day
from penstock.rules.charges import NOTHING, USUAL, Charge, ChargeRule
from penstock.rules.pace import Pace

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
ABSURD_WAIT = 86_400.0
"""A provider that names a wait of over a day is misread rather than obeyed; the doubling pause takes its place."""

FIRST_STEPS, STEPS_PER_S = 5.0, 10.0
"""Where no limit is known, five requests go at once and then ten a second, until a first answer tells more."""

MUCH_BACK = 0.3
"""A refund of less is not worth asking the waiters again for."""

LISTEN_EVERY = 0.05
"""Headers are read from one answer in so many seconds: they change no faster than that, and reading costs time."""

MOST_MARGIN = 0.03
MARGIN_PER_ERROR = 0.15
ERROR_DECAY = 0.99
"""Where a charge is known within 20 %, 97 % of the limit is used, and all of it where it is known exactly (FLOW-CONTROL B2)."""

SETTLED_ENOUGH = 50

COLD_SHARE = 1 / 8
COLD_AFTER = 60.0
"""A provider that refuses a sharp rise sees an eighth of the limit first, and again after a minute without traffic."""

__all__ = ["NOTHING", "Charge", "Governor", "Wait"]


class Wait(msgspec.Struct, frozen=True):
    """Not now: try again `until`; `budget` names what binds."""

    until: float
    budget: str


class Governor:
    """The budgets of one account and model, and the pause that a throttle puts on all of them."""

    def __init__(self, limits: Limits, rule: ChargeRule = USUAL, *, feels_its_way: bool = False) -> None:
        self.rule = rule
        self._first_steps = Bucket(STEPS_PER_S, FIRST_STEPS / STEPS_PER_S) if feels_its_way else None
        self._share = limits.share
        self._budgets = list(budgets_of(limits, rule.slice_seconds))
        self._pace = Pace()
        self._paused_until = 0.0
        self._next_pause = FIRST_PAUSE
        self._listen_at = -math.inf
        self._error, self._actual, self._settled = 0.0, 0.0, 0
        self._rising_since = self._last_admitted = -math.inf
        self.counts_tokens = any(budget.column for budget in self._budgets)
        self.changes = 0
        """Goes up whenever somebody who was told to wait might go earlier than that."""

    @property
    def knows_rate(self) -> bool:
        """True where a limit was set, told or found, so that the rate bounds the flow."""
        return self._pace.is_known or any(budget.paces for budget in self._budgets)

    def admit(self, now: float, charge: Charge) -> Wait | None:
        """Spend the charge from every budget and return None, or spend nothing and tell until when to wait."""
        if now < self._paused_until:
            return Wait(self._paused_until, "the end of a throttle")
        if self._first_steps is not None and not self._budgets:
            if (ready := self._first_steps.ready_at(1.0)) > now:
                return Wait(ready, "a first word of the provider")
            self._first_steps.take(now, 1.0)
        if self._pace.is_known and (ready := self._pace.ready_at()) > now:
            return Wait(ready, "the pace that the provider allows")
        if self.rule.doubling_seconds is not None:
            self._rise(now, self.rule.doubling_seconds)
        latest, binding = now, ""
        for budget in self._budgets:
            if (ready := budget.ready_at(now, charge[budget.column])) > latest:
                latest, binding = ready, budget.name
        if binding:
            return Wait(latest, binding)
        for budget in self._budgets:
            budget.take(now, charge[budget.column])
        self._pace.take(now)
        return None

    def _rise(self, now: float, doubling_seconds: float) -> None:
        """Let the rate double in so long, from cold."""
        if now - self._last_admitted > COLD_AFTER:
            self._rising_since = now
        self._last_admitted = now
        doublings = math.floor((now - self._rising_since) / doubling_seconds * 8) / 8
        for budget in self._budgets:
            budget.ramp(now, min(1.0, COLD_SHARE * 2.0 ** min(doublings, 10.0)))

    @property
    def smallest_limit(self) -> float:
        """The smallest limit of tokens: what takes less can be admitted some time."""
        return min((b.limit for b in self._budgets if b.column and b.limit is not None), default=math.inf)

    def never_fits(self, charge: Charge) -> str | None:
        """The budget that is smaller than this one charge, if there is one: waiting would last for ever."""
        return next((b.name for b in self._budgets if b.never_fits(charge[b.column])), None)

    def settle(self, now: float, at: float, reserved: Charge, actual: Charge) -> None:
        """Put the budgets right once the usage is known; `at` is when the charge was admitted."""
        for budget in self._budgets:
            if difference := actual[budget.column] - reserved[budget.column]:
                budget.settle(at, difference)
                self.changes += difference < -MUCH_BACK * reserved[budget.column]
        if self.counts_tokens and actual is not NOTHING:
            self._settled += 1
            if self._settled < SETTLED_ENOUGH:
                return  # the first estimates are cautious on purpose
            # A ratio of sums: a small prompt that is misjudged by half takes nothing from the limit.
            self._error = ERROR_DECAY * self._error + abs(actual.tokens - reserved.tokens)
            self._actual = ERROR_DECAY * self._actual + actual.tokens
            margin = min(MOST_MARGIN, MARGIN_PER_ERROR * self._error / max(self._actual, 1.0))
            for budget in self._budgets:
                if budget.column:
                    budget.keep_back(now, margin)

    # -- what the provider says

    def listens(self, now: float) -> bool:
        """True where it is worth reading an answer's headers."""
        return now >= self._listen_at

    def hear(self, now: float, sent_at: float, told: Mapping[str, Told]) -> None:
        """Take in the limits that an answer tells, by budget; `sent_at` is when its request went out."""
        self._listen_at = now + LISTEN_EVERY
        self.changes += 1
        for name, one in told.items():
            self._budget(minute_or_day(name, one), one).hear(now, sent_at, one)

    def _budget(self, name: str, told: Told) -> Budget:
        for budget in self._budgets:
            if budget.name == name:
                return budget
        budget = Budget(name, None, self._share, self.rule.slice_seconds)
        if told.limit:
            self._budgets.append(budget)
            self.counts_tokens = self.counts_tokens or budget.column > 0
        return budget

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
        for budget in self._budgets:
            budget.throttled(now, self._paused_until)
        self._pace.throttled(now, self._paused_until, named=named)
        return self._paused_until

    def answered(self, now: float) -> None:
        """An answer came through: the next throttle without a wait starts at one second again."""
        self._pace.answered(now)
        self._next_pause = FIRST_PAUSE
        if self._first_steps is not None:
            self._first_steps = None
            self.changes += 1

    def statistics(self, now: float) -> dict[str, float]:
        """What is known of each budget by its name (see `Budget.statistics`), the rest of the pause, the learned pace."""
        known: dict[str, float] = {"throttled_s": max(0.0, self._paused_until - now)}
        for budget in self._budgets:
            known |= budget.statistics(now)
        return known | self._pace.statistics()
