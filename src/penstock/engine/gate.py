"""Wait for a turn: a slot, every budget, and an origin that answers. The rule is synchronous; waiting only follows from it.

One queue per model, one timer for all of them. Whoever may go at once never waits, so it costs no task switch. After
waking, the rule is asked again: timers may fire early. What a request costs is estimated when its turn comes, not when it
got in line, so that whoever waited is charged by what was learned meanwhile. The head of a line is never overtaken in its
own lane, so a large request is not starved by small ones.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from itertools import count

import msgspec

from penstock.errors import RequestError, RunStopped, request_error
from penstock.options import BATCH, Lane, Limits
from penstock.ports import Clock, Timer
from penstock.rules.charges import NOTHING, ONE_REQUEST, Charge, Estimate, charge_rule
from penstock.rules.concurrency import Concurrency
from penstock.rules.estimate import Estimator
from penstock.rules.fairness import FairQueue
from penstock.rules.governor import Governor
from penstock.rules.retry import Breaker
from penstock.rules.spending import Spending, overspent

TIMER_GRAIN = 0.001
"""uvloop's timers may fire early by a tick of its clock; rounding up saves a second wake."""

FOR_EVER = float("inf")
LONGEST_ADVICE = 120.0
"""Clients do not obey a wait above two minutes (the OpenAI SDK gives up then)."""

NO_MONEY = float("nan")
"""Not a time to wait for: the next that is over tells."""


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What a request's cost is estimated from: the length and script of its body, its own token limit."""

    body_bytes: int = 0
    script: int = 0
    most_output: int | None = None


class Ticket(msgspec.Struct, frozen=True):
    """An admitted request: what was charged, what money was set aside, and when."""

    charge: Charge
    money: float
    at: float


class Scope:
    """A set of requests that end together: a run, or a single call. `stopped` says why nothing more is sent for it."""

    def __init__(self, lane: Lane = BATCH, spending: Spending | None = None) -> None:
        self.lane, self.spending = lane, spending
        self.stopped: RunStopped | None = None
        self.away = 0
        """How many wait for their time to be tried again: whoever carries them can carry nothing else meanwhile."""
        self.when_away: Callable[[], None] | None = None
        self.parked: deque[tuple[Queue, Waiter]] = deque()
        """Who waits for what is under way to turn out cheaper: not in line, so that nobody else waits behind."""


class Waiter:
    """One request in line."""

    __slots__ = ("ask", "future", "scope")

    def __init__(self, ask: Ask, scope: Scope, future: asyncio.Future[Ticket]) -> None:
        self.ask, self.scope, self.future = ask, scope, future


class Queue:
    """What one model has: budgets, an estimate of its tokens, how many may be in flight, and its lines of waiters."""

    def __init__(self, model: str, governor: Governor, concurrency: Concurrency | None) -> None:
        self.model = model
        self.governor = governor
        self.estimator = Estimator()
        self.concurrency = concurrency
        self.ready: FairQueue[Waiter] = FairQueue()
        self.in_flight = 0
        self.binding, self.until = "", 0.0
        self.refused: Waiter | None = None
        self.known_changes = -1
        """Who was told to wait `until`, and by which state of the governor: he need not ask again before."""

    def charge(self, ask: Ask) -> Charge:
        """What the request will be charged where tokens count, by all that is known now."""
        return self.governor.rule.before(self.estimate(ask))

    def estimate(self, ask: Ask) -> Estimate:
        """The tokens to expect of it."""
        return self.estimator.estimate(ask.body_bytes, ask.script, ask.most_output)

    def weight(self, ask: Ask) -> float:
        """What a request counts when lanes share: one, or where tokens are limited, roughly its tokens (four bytes each)."""
        return ask.body_bytes / 4 + (ask.most_output or 0) if self.governor.counts_tokens else 1.0

    def too_large(self, ask: Ask) -> RequestError | None:
        """The error of a request that is larger than a whole limit of tokens: it would wait for ever."""
        governor = self.governor
        # No token has less than a byte; Bedrock's fivefold output is the dearest.
        if not governor.counts_tokens or ask.body_bytes + 5 * (ask.most_output or 0) < governor.smallest_limit:
            return None
        # An estimate that errs on the high side must not condemn a request.
        charge = governor.rule.before(self.estimator.lower(self.estimate(ask)))
        budget = governor.never_fits(charge)
        return _too_large_for(budget, charge) if budget is not None else None

    def no_turn(self, now: float, reason: str) -> RequestError:
        """The error of a request whose turn is too far off; its wait is that of the head of the line."""
        wait = self.until - now if self.binding else 0.0
        return request_error(
            "rate_limited",
            f"{reason}, waiting for {self.binding_words or 'a free slot'}: ask again later",
            retry_after=max(1.0, min(wait, LONGEST_ADVICE)),
        )

    @property
    def binding_words(self) -> str:
        """What binds, in words; empty where nothing but slots does."""
        return self.binding.replace("_per_", " a ").replace("_", " ")

    def full_until(self, now: float) -> float:
        """Until when no more may go, where no limit says how many and the engine behind has shown that more would not help."""
        rule = self.concurrency
        if rule is None or self.governor.knows_rate:
            return now
        return rule.full_until(now, self.in_flight)


def _too_large_for(budget: str, charge: Charge) -> RequestError:
    words = budget.replace("_", " ")
    return request_error(
        "never_fits",
        f"this one request needs about {charge.of(budget):,.0f} of the {words}, more than the whole limit: "
        "shorten it, lower max_tokens, or raise the limit",
    )


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """By which rules a gate lets through. `adaptive`: how many at once is found out, up to `max_concurrency`."""

    limits: Limits
    max_concurrency: int
    service: str = "custom"
    adaptive: bool = False


class Gate:
    """The one way out to an account. `enter_nowait` is the rule, `wait` is the rule and patience, `leave` frees the slot."""

    def __init__(self, clock: Clock, rules: Rules) -> None:
        self._clock = clock
        self._rules = rules
        self._queues: dict[str, Queue] = {}
        self._later: list[tuple[float, int, Queue, Waiter]] = []
        self._order = count()
        self._timer: Timer | None = None
        self._timer_at = FOR_EVER
        self._free = self.max_concurrency = rules.max_concurrency
        self.breaker = Breaker()

    def queue(self, model: str) -> Queue:
        """The queue of a model, made at its first use."""
        if (queue := self._queues.get(model)) is None:
            rules = self._rules
            rule = charge_rule(rules.service, model)
            governor = Governor(rules.limits, rule, feels_its_way=rules.adaptive)
            concurrency = Concurrency(rules.max_concurrency) if rules.adaptive else None
            queue = self._queues[model] = Queue(model, governor, concurrency)
        return queue

    def enter_nowait(self, queue: Queue, ask: Ask, scope: Scope) -> Ticket | None:
        """A slot and the charge, if both may be had now and nobody stands in line."""
        if queue.ready.length:
            return None
        admitted = self._admit(queue, ask, scope)
        return admitted if isinstance(admitted, Ticket) else None

    async def wait(self, queue: Queue, ask: Ask, scope: Scope, *, at: float = 0.0, first: bool = False) -> Ticket:
        """Stand in line, from `at` on, at the head of its lane if `first`; returns holding a slot.

        Raises the scope's `RunStopped` when the scope ends meanwhile.
        """
        waiter = Waiter(ask, scope, asyncio.get_running_loop().create_future())
        away = at > self._clock.now()
        if away:
            heapq.heappush(self._later, (at, next(self._order), queue, waiter))
            scope.away += 1
            if scope.when_away is not None:
                scope.when_away()
        else:
            self._line_up(queue, waiter, first=first)
        self.pump()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.give_back(queue, scope, waiter.future.result())
            raise
        finally:
            scope.away -= away

    def leave(self, queue: Queue, scope: Scope) -> None:
        """Free the slot of a request that is over."""
        self._free += 1
        queue.in_flight -= 1
        if scope.parked:
            self._unpark(scope)
        if self._later:
            self.pump()
            return
        for one in self._queues.values():
            if one.ready.length:
                self.pump()
                return

    def _unpark(self, scope: Scope) -> None:
        """Let the first of those who wait for money try again; if it fits, the next one follows."""
        if scope.parked:
            queue, waiter = scope.parked.popleft()
            self._line_up(queue, waiter, first=True)

    def give_back(self, queue: Queue, scope: Scope, ticket: Ticket) -> None:
        """Free the slot of a request that was admitted and never sent; nothing of its charge was spent."""
        now = self._clock.now()
        queue.governor.settle(now, ticket.at, ticket.charge, NOTHING)
        if scope.spending is not None:
            scope.spending.settle(ticket.money, 0.0)
        self.breaker.lost(now)
        self.leave(queue, scope)

    def dismiss(self, scope: Scope, reason: RunStopped) -> None:
        """End a scope: whoever waits for it stops waiting, and whoever comes later is turned away."""
        scope.stopped = reason
        waiting = [w for queue in self._queues.values() for w in queue.ready] + [entry[3] for entry in self._later]
        for waiter in waiting + [waiter for _, waiter in scope.parked]:
            if waiter.scope is scope and not waiter.future.done():
                waiter.future.set_exception(reason)
        self.pump()

    def pump(self) -> None:
        """Let everybody go who may, then set the timer for the next one."""
        now = self._clock.now()
        while self._later and self._later[0][0] <= now:
            _, _, queue, waiter = heapq.heappop(self._later)
            self._line_up(queue, waiter, first=True)
        wake_at = self._later[0][0] if self._later else FOR_EVER
        for queue in self._in_turn():
            wake_at = min(wake_at, self._release(queue))
        self._set_timer(wake_at)

    def _line_up(self, queue: Queue, waiter: Waiter, *, first: bool) -> None:
        queue.ready.push(waiter, waiter.scope.lane, queue.weight(waiter.ask), first=first)

    def _in_turn(self) -> list[Queue]:
        """The queues, each time from another one on, so that none takes every free slot before the others."""
        queues = list(self._queues.values())
        if len(queues) > 1:
            start = next(self._order) % len(queues)
            queues = queues[start:] + queues[:start]
        return queues

    def _release(self, queue: Queue) -> float:
        """Admit from the heads of one queue until somebody must wait; return until when."""
        while len(queue.ready):
            waiter = queue.ready.head()
            if waiter.scope.stopped is not None and not waiter.future.done():
                waiter.future.set_exception(waiter.scope.stopped)
            if waiter.future.done():
                queue.ready.drop()
                continue
            if (
                waiter is queue.refused
                and queue.known_changes == queue.governor.changes
                and self._clock.now() < queue.until
            ):
                return queue.until
            queue.refused = waiter
            admitted = self._admit(queue, waiter.ask, waiter.scope)
            if isinstance(admitted, Ticket):
                waiter.future.set_result(admitted)
                queue.ready.pop()
                self._unpark(waiter.scope)
            elif admitted is NO_MONEY:
                self._park(queue, waiter)
            else:
                return admitted
        return FOR_EVER

    def _admit(self, queue: Queue, ask: Ask, scope: Scope) -> Ticket | float:
        """Slot, budgets and money; or until when to wait (for ever, where a `leave` will tell)."""
        queue.binding, queue.known_changes = "", -1
        if self._free <= 0:
            return FOR_EVER
        now = self._clock.now()
        if queue.concurrency is not None and (until := queue.full_until(now)) > now:
            return until
        if self.breaker.open and (probe_at := self.breaker.ready_at()) > now:
            queue.binding, queue.until = "the provider to recover", probe_at
            return probe_at
        charge = queue.charge(ask) if queue.governor.counts_tokens else ONE_REQUEST
        if (wait := queue.governor.admit(now, charge)) is not None:
            queue.binding, queue.until, queue.known_changes = wait.budget, wait.until, queue.governor.changes
            return wait.until
        money = 0.0
        if scope.spending is not None:
            upper = queue.estimator.upper(queue.estimate(ask))
            if (reserved := scope.spending.reserve(queue.model, upper)) is None:
                queue.governor.settle(now, now, charge, NOTHING)
                return self._no_money(scope.spending, scope)
            money = reserved
        self._free -= 1
        queue.in_flight += 1
        if self.breaker.open:
            self.breaker.admit()
        return Ticket(charge, money, now)

    def _no_money(self, spending: Spending, scope: Scope) -> float:
        """What is under way may turn out cheaper than it was reserved for; with nothing under way the scope is over."""
        if not spending.under_way:
            scope.stopped = overspent(spending)
        return NO_MONEY

    def _park(self, queue: Queue, waiter: Waiter) -> None:
        queue.ready.drop()
        scope = waiter.scope
        scope.parked.appendleft((queue, waiter))
        if scope.stopped is not None:
            while scope.parked:
                _, parked = scope.parked.popleft()
                if not parked.future.done():
                    parked.future.set_exception(scope.stopped)

    def _set_timer(self, when: float) -> None:
        if when == self._timer_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, when
        if when != FOR_EVER:
            self._timer = self._clock.call_at(when + TIMER_GRAIN, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, FOR_EVER
        self.pump()

    @property
    def in_flight(self) -> int:
        """Requests that hold a slot."""
        return self.max_concurrency - self._free

    def waiting_for(self) -> str:
        """What the head of the lines waits for, in words; empty where it waits for a free slot only, or nobody waits."""
        for queue in self._queues.values():
            if len(queue.ready) and queue.binding:
                seconds = max(0.0, queue.until - self._clock.now())
                return queue.binding_words + (f", next in {seconds:.1f} s" if seconds < FOR_EVER else "")
        return ""

    def statistics(self) -> dict[str, float]:
        """In flight, free slots, and how many wait for a turn or for their time."""
        ready = sum(len(queue.ready) for queue in self._queues.values())
        return {"in_flight": self.in_flight, "free": self._free, "ready": ready, "later": len(self._later)}

    def statistics_of(self, model: str) -> dict[str, float]:
        """What is known of one model: its limits in force, its estimates, how many may be in flight."""
        queue, now = self.queue(model), self._clock.now()
        rule = queue.concurrency
        allowed = rule.statistics() if rule is not None and not queue.governor.knows_rate else {}
        waiting = {f"waiting ({lane})": number for lane, number in queue.ready.statistics().items()}
        breaker = {f"breaker.{name}": value for name, value in self.breaker.statistics(now).items()}
        return queue.governor.statistics(now) | queue.estimator.statistics() | allowed | waiting | breaker
