"""A self-hosted engine in virtual time: slots, a queue, tokens that come slower the more requests are decoded at once.

It asks a concurrency rule how many may be in flight and tells it of each answer. It knows no event loop and draws all
chance from one seed; all of its requests are always there to be sent.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Protocol

import msgspec


class Rule(Protocol):
    """What is measured here: `rules.concurrency.Concurrency`, or a constant to compare it with."""

    @property
    def allowed(self) -> int: ...
    def answered(
        self, now: float, in_flight: int, took_s: float, output_tokens: int | None, first_token_s: float | None = None
    ) -> None: ...
    def shed(self, now: float) -> None: ...


class Engine(msgspec.Struct, kw_only=True):
    """What is served and how. `latency_s` is the mean of an unqueued answer when every slot is busy.

    `growth` is how much the time per token grows from an idle engine to a full one (1 doubles it); answers and prompts are
    lognormal with `spread` as the sigma of their logarithm. `shed_above` is the queue length above which it refuses.
    """

    slots: int = 64
    latency_s: float = 1.0
    growth: float = 0.5
    spread: float = 0.6
    answer_tokens: float = 200.0
    prompt_work: float = 10.0
    """Mean cost of a prompt, in tokens of decoding."""
    network_s: float = 0.002
    shed_above: int | None = None
    usage: bool = True
    streams: bool = False

    def __post_init__(self) -> None:
        self.token_s = self.latency_s / (self.answer_tokens + self.prompt_work) / (1 + self.growth)

    token_s: float = 0.0

    def time_per_token(self, busy: int) -> float:
        return self.token_s * (1 + self.growth * busy / self.slots)

    @property
    def best_rate(self) -> float:
        """Tokens of work a second with every slot busy."""
        return self.slots / self.time_per_token(self.slots)


Change = tuple[float, Callable[[Engine], None]]


class _Sent:
    __slots__ = ("at", "first_token_s", "prompt", "tokens")

    def __init__(self, at: float, tokens: int, prompt: float) -> None:
        self.at, self.tokens, self.prompt = at, tokens, prompt
        self.first_token_s = 0.0


class Trial:
    """One run of a rule in front of an engine. `changes` are what happens to the engine, and when."""

    def __init__(self, rule: Rule, engine: Engine, seed: int, changes: tuple[Change, ...] = ()) -> None:
        self.rule, self.engine, self.chance = rule, engine, Random(seed)
        self.now = self.work = self.possible = self._progress = 0.0
        self.answers = self.sheds = self.in_flight = 0
        self.levels: list[tuple[float, int]] = []
        """Requests in flight after each event that changed them."""
        self.marks: list[tuple[float, float, float]] = []
        """Time, work done and work that was possible, at each event."""
        self._queue: deque[_Sent] = deque()
        self._running: list[tuple[float, int, _Sent]] = []
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for at, change in changes:
            self._at(at, lambda change=change: change(engine))

    def run(self, until: float) -> Trial:
        self._fill()
        while True:
            finish = self._next_finish()
            event_at = self._events[0][0] if self._events else math.inf
            if min(finish, event_at) > until:
                self._advance(until)
                return self
            if event_at <= finish:
                self._advance(event_at)
                heapq.heappop(self._events)[2]()
            else:
                self._advance(finish)
                _, _, sent = heapq.heappop(self._running)
                self._at(self.now + self.engine.network_s / 2, lambda sent=sent: self._answer(sent))
            self._start()

    def share(self, since: float = 0.0, until: float = math.inf) -> float:
        """Work done over work possible in that stretch of time."""
        marks = [mark for mark in self.marks if since <= mark[0] <= until]
        return (marks[-1][1] - marks[0][1]) / (marks[-1][2] - marks[0][2])

    def peak(self, since: float = 0.0, until: float = math.inf) -> int:
        """The most in flight in that stretch of time."""
        return max((level for at, level in self.levels if since <= at <= until), default=self.in_flight)

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), act))

    def _next_finish(self) -> float:
        if not self._running:
            return math.inf
        left = self._running[0][0] - self._progress
        return self.now + max(0.0, left) * self.engine.time_per_token(len(self._running))

    def _advance(self, to: float) -> None:
        elapsed, busy = to - self.now, len(self._running)
        self.now = to
        self._progress += elapsed / self.engine.time_per_token(max(busy, 1))
        self.work += busy * elapsed / self.engine.time_per_token(max(busy, 1))
        self.possible += self.engine.best_rate * elapsed
        self.marks.append((to, self.work, self.possible))

    def _fill(self) -> None:
        while self.in_flight < self.rule.allowed:
            self.in_flight += 1
            engine, lognormal = self.engine, self.chance.lognormvariate
            mean = -(engine.spread**2) / 2
            tokens = max(1, round(engine.answer_tokens * lognormal(mean, engine.spread)))
            sent = _Sent(self.now, tokens, engine.prompt_work * lognormal(mean, engine.spread))
            self._at(self.now + engine.network_s / 2, lambda sent=sent: self._arrive(sent))
        self.levels.append((self.now, self.in_flight))

    def _arrive(self, sent: _Sent) -> None:
        limit = self.engine.shed_above
        if limit is not None and len(self._queue) >= limit and len(self._running) >= self.engine.slots:
            self.sheds += 1
            self._at(self.now + self.engine.network_s / 2, self._refused)
        else:
            self._queue.append(sent)

    def _start(self) -> None:
        while self._queue and len(self._running) < self.engine.slots:
            sent = self._queue.popleft()
            heapq.heappush(self._running, (self._progress + sent.tokens + sent.prompt, next(self._order), sent))
            sent.first_token_s = self.now - sent.at + sent.prompt * self.engine.time_per_token(len(self._running))

    def _answer(self, sent: _Sent) -> None:
        self.answers += 1
        tokens = sent.tokens if self.engine.usage else None
        first = sent.first_token_s if self.engine.streams else None
        self.rule.answered(self.now, self.in_flight, self.now - sent.at, tokens, first)
        self.in_flight -= 1
        self._fill()

    def _refused(self) -> None:
        self.rule.shed(self.now)
        self.in_flight -= 1
        # The request goes back to the line; it is sent again only after a pause, as the governor has it.
        self._at(self.now + 1.0, self._fill)
