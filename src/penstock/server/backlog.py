"""Work that no request waits for: a bounded queue, one task that empties it, and a thread for what would block the loop.

What comes while the queue is full is dropped, the newest first, counted, and told once a minute at most. It decides
nothing about the work itself.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from penstock.ports import Clock

LOGGER = logging.getLogger("penstock.server")
MOST_AT_ONCE = 500
"""So few that a batch is written within milliseconds, so many that a thread's round trip is nothing for each."""

WARN_EVERY_SECONDS = 60.0

T = TypeVar("T")


class Warnings:
    """Tells of a trouble at once, and then at most once a minute, with what was counted meanwhile."""

    def __init__(self, clock: Clock, message: str) -> None:
        self._clock, self._message = clock, message
        self._next = -float("inf")
        self._untold = 0

    def count(self, number: int, reason: object = "") -> None:
        """So many more; `reason` is the latest."""
        self._untold += number
        if self._clock.now() >= self._next:
            self.tell(reason)

    def tell(self, reason: object = "") -> None:
        """Tell what has not been told, if anything."""
        if self._untold:
            self._next = self._clock.now() + WARN_EVERY_SECONDS
            untold, self._untold = self._untold, 0
            LOGGER.warning(self._message, untold, f": {reason}" if str(reason) else "")


class Worker:
    """One thread that does what would block the loop, in order. A daemon: what hangs in it does not hold up the exit."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def do(self, job: Callable[[], T]) -> T:
        """What the job returns or raises."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((future, job))
        return await future

    def stop(self, last: Callable[[], object]) -> None:
        """Do this one more thing after what is under way, then end."""
        self._jobs.put((self._loop.create_future(), last))
        self._jobs.put(None)

    def _work(self) -> None:
        while (order := self._jobs.get()) is not None:
            future, job = order
            told: Callable[[], None]
            try:
                result = job()
            except Exception as error:  # noqa: BLE001  (it belongs to whoever asked)
                told = _told(future, error=error)
            else:
                told = _told(future, result)
            try:
                self._loop.call_soon_threadsafe(told)
            except RuntimeError:
                return  # the loop is closed: nobody asks any more


def _told(future: asyncio.Future[Any], result: object = None, error: Exception | None = None) -> Callable[[], None]:
    def tell() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    return tell


class Backlog(Generic[T]):
    """The queue and its task. `take` is given what waits, in order, and counts by `lose` what it cannot deal with.

    The first that comes waits `gather_s` for others: a turn of the thread for each would cost more than the work.
    """

    def __init__(
        self,
        take: Callable[[list[T]], Awaitable[None]],
        *,
        capacity: int,
        clock: Clock,
        name: str,
        gather_s: float = 0.0,
    ) -> None:
        self._take, self._capacity, self._clock, self._name = take, capacity, clock, name
        self._gather_s = gather_s
        self._waiting: deque[T] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.closing = False
        self.dropped = 0
        self._warnings = Warnings(clock, f"{name}: %d dropped%s")

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: T) -> None:
        """Never waits and never raises."""
        if self.closing or len(self._waiting) >= self._capacity:
            self.lose(1, "it is closed" if self.closing else "its queue is full")
            return
        self._waiting.append(item)
        if len(self._waiting) == 1:
            self._rouse()

    def lose(self, number: int, reason: object) -> None:
        """So many are dropped."""
        self.dropped += number
        self._warnings.count(number, reason)

    def start(self) -> None:
        """Begin, on the running loop."""
        self._task = asyncio.create_task(self._work())

    async def pause(self, seconds: float) -> None:
        """For `take`: wait, but not on once the queue is being closed."""
        until = self._clock.now() + seconds
        while not self.closing and self._clock.now() < until:
            timer = self._clock.call_at(until, self._rouse)
            try:
                await self._roused()
            finally:
                timer.cancel()

    async def aclose(self, grace_s: float) -> None:
        """Let the task finish what waits, for so many seconds at most; the rest is dropped, and told."""
        self.closing = True
        self._rouse()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=grace_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting:
            self.lose(len(self._waiting), "the server stopped before their turn")
            self._waiting.clear()
        self._warnings.tell()

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                if self.closing:
                    return
                await self._roused()
            if self._gather_s and len(self._waiting) < MOST_AT_ONCE:
                await self.pause(self._gather_s)
            batch = [self._waiting.popleft() for _ in range(min(MOST_AT_ONCE, len(self._waiting)))]
            try:
                await self._take(batch)
            except Exception:
                LOGGER.exception("%s: a batch came to nothing", self._name)

    async def _roused(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
