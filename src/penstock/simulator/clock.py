"""Virtual time: an event loop that jumps to its next timer, so that an hour of traffic runs in a second and replays.

It decides only what time it is. It never waits, opens a socket or starts a thread; what would need one of these raises.
Nothing can arrive from outside such a loop, so a loop with nothing ready and no timer would hang for ever: that is a
`DeadlockError`, which names the tasks that wait.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH = 1_767_225_600.0
"""Unix seconds of virtual time zero: 2026-01-01T00:00:00Z, always, so that dates replay too."""

_RESOLUTION = 1e-9


class DeadlockError(RuntimeError):
    """Every task waits for something that no timer and no other task will ever bring."""


class _TimeJump:
    """Stands where the loop keeps its selector: instead of waiting for files it moves the time to the next timer."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        """Called by asyncio with 0 if something is ready, None if nothing ever will be, else with the wait."""
        if timeout is None:
            raise DeadlockError(_deadlock_message(self._loop))
        if timeout > 0:
            self._loop.jump()
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio loop whose `time()` is virtual seconds from 0; `chance` is the one source of random numbers on it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self._now = 0.0
        self._clock_resolution = _RESOLUTION
        self._selector = _TimeJump(self)
        self._scheduled: list[asyncio.TimerHandle]

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def jump(self) -> None:
        """Move to the next timer, exactly: adding the difference could miss it by a rounding and spin."""
        self._now = max(self._now, self._scheduled[0].when())

    def run_in_executor(self, _: Any, __: Callable[[Unpack[Ts]], T], *___: *Ts) -> asyncio.Future[T]:
        """Refused: virtual time would run on while the thread works."""
        raise RuntimeError("the virtual loop runs no threads: give the code under test an in-memory part instead")

    def _process_events(self, _: list[Any]) -> None:
        """Part of asyncio's contract; there are no file events here."""

    def _write_to_self(self) -> None:
        """Part of asyncio's contract; there is no wait to be woken from."""


class VirtualClock:
    """The `Clock` port over the running virtual loop: time, dates, chance and sleep all replay from one seed."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise TypeError("VirtualClock works inside simulator.clock.run() only; elsewhere use the real clock")
        self._loop = loop

    def now(self) -> float:
        """Virtual seconds since the run began."""
        return self._loop.time()

    def wall(self) -> float:
        """Unix seconds: `EPOCH` plus the virtual time."""
        return EPOCH + self._loop.time()

    def random(self) -> float:
        """The next number in [0, 1) of the run's seed, shared by all clocks of the run."""
        return self._loop.chance.random()

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back at virtual time `when`; what is past is due at once."""
        return self._loop.call_at(when, callback)

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass; zero or less lets the others run once."""
        await asyncio.sleep(seconds)


def run(main: Coroutine[Any, Any, T], *, seed: int = 0) -> T:
    """Run `main` on a fresh virtual loop to its end, close the loop, return the value.

    Raises `DeadlockError` where nothing can go on, and RuntimeError inside another event loop.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
        return runner.run(main)


def _deadlock_message(loop: VirtualLoop) -> str:
    waiting = sorted(_place(task) for task in asyncio.all_tasks(loop))
    names = "; ".join(waiting) or "no task at all"
    return f"nothing is ready and no timer is set at virtual time {loop.time():g} s; waiting for ever: {names}"


def _place(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    if not frames:
        return task.get_name()
    code = frames[-1].f_code
    return f"{task.get_name()} in {code.co_qualname}, line {frames[-1].f_lineno}"
