"""Wait for a turn: a slot, every budget, and an origin that answers. The rule is synchronous; waiting only follows from it.

One queue per model, one timer for all of them. Whoever may go at once never waits, so it costs no task switch. After
waking, the rule is asked again: timers may fire early. The head of a queue is never overtaken in its own queue, so a large
request is not starved by small ones.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from itertools import count

from penstock.errors import RunStopped
from penstock.options import Limits
from penstock.ports import Clock, Timer
from penstock.rules.estimate import Estimator
from penstock.rules.governor import NOTHING, Charge, Governor
from penstock.rules.retry import Breaker

TIMER_GRAIN = 0.001
"""uvloop's timers may fire early by a tick of its clock; rounding up saves a second wake."""


class Scope:
    """A set of requests that end together: a run, or a single call. `stopped` says why nothing more is sent for it."""

    def __init__(self) -> None:
        self.stopped: RunStopped | None = None


class Waiter:
    """One request in line, with what it will cost."""

    __slots__ = ("charge", "future", "scope")

    def __init__(self, charge: Charge, scope: Scope, future: asyncio.Future[None]) -> None:
        self.charge, self.scope, self.future = charge, scope, future


class Lane:
    """What one model has: budgets, an estimate of its tokens, and its line of waiters."""

    def __init__(self, limits: Limits) -> None:
        self.governor = Governor(limits)
        self.estimator = Estimator()
        self.ready: deque[Waiter] = deque()
        self.binding = ""


class Gate:
    """The one way out to an account. `enter_nowait` is the rule, `wait` is the rule and patience, `leave` frees the slot."""

    def __init__(self, clock: Clock, limits: Limits, max_concurrency: int) -> None:
        self._clock = clock
        self._limits = limits
        self._lanes: dict[str, Lane] = {}
        self._later: list[tuple[float, int, Lane, Waiter]] = []
        self._order = count()
        self._timer: Timer | None = None
        self._timer_at = float("inf")
        self._free = max_concurrency
        self.max_concurrency = max_concurrency
        self.breaker = Breaker()

    def lane(self, model: str) -> Lane:
        """The lane of a model, made at its first use."""
        if (lane := self._lanes.get(model)) is None:
            lane = self._lanes[model] = Lane(self._limits)
        return lane

    def enter_nowait(self, lane: Lane, charge: Charge) -> bool:
        """Take a slot and spend the charge if both may happen now and nobody stands in line."""
        return not lane.ready and self._admit(lane, charge) is None

    async def wait(self, lane: Lane, charge: Charge, scope: Scope, *, at: float = 0.0, first: bool = False) -> None:
        """Stand in line, from `at` on, at its head if `first`; returns holding a slot.

        Raises the scope's `RunStopped` when the scope ends meanwhile.
        """
        waiter = Waiter(charge, scope, asyncio.get_running_loop().create_future())
        if at > self._clock.now():
            heapq.heappush(self._later, (at, next(self._order), lane, waiter))
        elif first:
            lane.ready.appendleft(waiter)
        else:
            lane.ready.append(waiter)
        self.pump()
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.give_back(lane, charge)
            raise

    def leave(self) -> None:
        """Free the slot of a request that is over."""
        self._free += 1
        self.pump()

    def give_back(self, lane: Lane, charge: Charge) -> None:
        """Free the slot of a request that was admitted and never sent; nothing of its charge was spent."""
        lane.governor.settle(charge, NOTHING)
        self.breaker.lost(self._clock.now())
        self.leave()

    def dismiss(self, scope: Scope, reason: RunStopped) -> None:
        """End a scope: whoever waits for it stops waiting, and whoever comes later is turned away."""
        scope.stopped = reason
        waiting = [w for lane in self._lanes.values() for w in lane.ready] + [entry[3] for entry in self._later]
        for waiter in waiting:
            if waiter.scope is scope and not waiter.future.done():
                waiter.future.set_exception(reason)
        self.pump()

    def pump(self) -> None:
        """Let everybody go who may, then set the timer for the next one."""
        now = self._clock.now()
        while self._later and self._later[0][0] <= now:
            _, _, lane, waiter = heapq.heappop(self._later)
            lane.ready.appendleft(waiter)
        wake_at = self._later[0][0] if self._later else float("inf")
        for lane in self._lanes.values():
            wake_at = min(wake_at, self._release(lane))
        self._set_timer(wake_at)

    def _release(self, lane: Lane) -> float:
        """Admit from the head of one line until somebody must wait; return until when."""
        while lane.ready:
            waiter = lane.ready[0]
            if not waiter.future.done():
                if (until := self._admit(lane, waiter.charge)) is not None:
                    return until
                waiter.future.set_result(None)
            lane.ready.popleft()
        return float("inf")

    def _admit(self, lane: Lane, charge: Charge) -> float | None:
        """None after taking slot and budgets; otherwise until when to wait (for ever, where a `leave` will tell)."""
        if self._free <= 0:
            lane.binding = ""
            return float("inf")
        now = self._clock.now()
        if self.breaker.open and (probe_at := self.breaker.ready_at()) > now:
            lane.binding = "the provider to recover"
            return probe_at
        if (wait := lane.governor.admit(now, charge)) is not None:
            lane.binding = wait.budget
            return wait.until
        self._free -= 1
        self.breaker.admit()
        return None

    def _set_timer(self, when: float) -> None:
        if when == self._timer_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, when
        if when != float("inf"):
            self._timer = self._clock.call_at(when + TIMER_GRAIN, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self.pump()

    @property
    def in_flight(self) -> int:
        """Requests that hold a slot."""
        return self.max_concurrency - self._free

    def waiting_for(self) -> str:
        """What the head of the lines waits for, in words; empty where it waits for a free slot only, or nobody waits."""
        return next((lane.binding.replace("_", " ") for lane in self._lanes.values() if lane.ready), "")

    def statistics(self) -> dict[str, float]:
        """In flight, free slots, and how many wait for a turn or for their time."""
        ready = sum(len(lane.ready) for lane in self._lanes.values())
        return {"in_flight": self.in_flight, "free": self._free, "ready": ready, "later": len(self._later)}
