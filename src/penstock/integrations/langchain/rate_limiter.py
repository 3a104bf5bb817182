"""PenstockRateLimiter: requests a minute for chat models of others, by the rule that Penstock's own requests go by.

    ChatOpenAI(model="gpt-5-mini", rate_limiter=PenstockRateLimiter(requests_per_minute=3_000))

It decides when the next request may go. Who waits stands in one line, threads and tasks alike; only the first of the line
watches the time, and it knows it to the microsecond, so that nobody asks again and again. It knows nothing of tokens, of
what the provider tells, or of what others use: ChatPenstock does.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from langchain_core.rate_limiters import BaseRateLimiter

from penstock.options import Limits
from penstock.rules.budget import budgets_of
from penstock.rules.charges import USUAL


class PenstockRateLimiter(BaseRateLimiter):
    """At most `requests_per_minute` in any minute, evenly, with no burst of more than 0.6 seconds' worth.

    One limiter may serve many models, threads and event loops: those who share it share the limit. `share` is how much of it
    to use. Raises `UsageError` for figures that cannot be right.
    """

    def __init__(self, *, requests_per_minute: float, share: float = 1.0) -> None:
        limits = Limits(requests_per_minute=requests_per_minute, share=share)
        (self._budget,) = budgets_of(limits, USUAL.slice_seconds)
        self._lock = threading.Lock()
        self._line: deque[Future[None]] = deque()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Wait for the turn of one request. Without `blocking`, True where it may go now, and False else."""
        if not blocking:
            return self._at_once()
        with self._place() as place:
            place.result()
            while (wait := self._take()) > 0:
                time.sleep(wait)
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """The same for a task; others of the loop go on meanwhile."""
        if not blocking:
            return self._at_once()
        with self._place() as place:
            await asyncio.wrap_future(place)
            while (wait := self._take()) > 0:  # noqa: ASYNC110  nothing but time makes it ready, and the time is known
                await asyncio.sleep(wait)
        return True

    def _at_once(self) -> bool:
        with self._lock:
            return not self._line and self._try() <= 0

    def _take(self) -> float:
        with self._lock:
            return self._try()

    def _try(self) -> float:
        """Spend one request and return 0, or spend nothing and return the seconds to wait."""
        now = time.monotonic()
        wait = self._budget.ready_at(now, 1.0) - now
        if wait <= 0:
            self._budget.take(now, 1.0)
        return max(0.0, wait)

    @contextmanager
    def _place(self) -> Iterator[Future[None]]:
        """A place in the line, that is done when it is the first. Whoever leaves it, served or not, lets the next step up."""
        place: Future[None] = Future()
        with self._lock:
            self._line.append(place)
            self._step_up()
        try:
            yield place
        finally:
            with self._lock:
                self._line.remove(place)
                self._step_up()

    def _step_up(self) -> None:
        if self._line and not self._line[0].done() and self._line[0].set_running_or_notify_cancel():
            self._line[0].set_result(None)
