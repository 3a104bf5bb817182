"""How things end: a loop that cancels at a drawn turn, and what must be left when a task is gone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from penstock.simulator.clock import VirtualLoop

T = TypeVar("T")
MOST_TURNS = 4_000
SETTLING_TURNS = 8
"""A thread's work that had begun ends a few turns after the task that asked for it."""


class Turns(asyncio.BaseEventLoop):
    """A loop that counts its turns, and cancels a task before a turn of one's choice."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.turns = 0
        self.cancelled = False
        self._due: tuple[int, asyncio.Task[Any]] | None = None

    def cancel_after(self, turns: int, task: asyncio.Task[Any]) -> None:
        """Cancel a task so many turns from now; `cancelled` then tells whether it was still under way."""
        self.cancelled = False
        self._due = self.turns + turns, task

    def _run_once(self) -> None:
        if self._due is not None and self.turns >= self._due[0]:
            self.cancelled = self._due[1].cancel()
            self._due = None
        self.turns += 1
        super()._run_once()  # type: ignore[misc]  # asyncio's own, and the same in all its loops


class SocketTurnLoop(Turns, asyncio.SelectorEventLoop):
    """Real time, sockets and threads, by turns."""


class TurnLoop(Turns, VirtualLoop):
    """Virtual time by turns.

    Its executor does the work of a thread on the loop itself: work that was cancelled before it began is never done, work
    that had begun is done whether anybody waits for it or not. So every moment of a real executor has its turn here.
    """

    def run_in_executor(self, _: Any, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """The result of work that another thread would do: it begins in the next turn and is told in the one after."""
        future: asyncio.Future[T] = self.create_future()
        self.call_soon(self._begin, future, work, arguments)
        return future

    def _begin(self, future: asyncio.Future[T], work: Callable[..., T], arguments: tuple[Any, ...]) -> None:
        if future.cancelled():
            return
        try:
            result = work(*arguments)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            self.call_soon(_tell, future.set_exception, future, error)
        else:
            self.call_soon(_tell, future.set_result, future, result)


def _tell(how: Callable[[Any], None], future: asyncio.Future[Any], what: Any) -> None:
    if not future.done():
        how(what)


def run_in_turns(main: Coroutine[Any, Any, T], loop: Callable[[], Turns] = TurnLoop) -> T:
    """Run `main` on a fresh loop."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


def turns_until_whole(
    cancelled: Callable[[int], Coroutine[Any, Any, bool]], loop: Callable[[], Turns] = TurnLoop
) -> int:
    """Cancel before turn 0, 1, 2, ... until it is over before its turn; returns how many turns it takes."""
    for turns in range(MOST_TURNS):
        if not run_in_turns(cancelled(turns), loop):
            return turns
    raise AssertionError("it never came to its end")


async def cancelled_after(turns: int, work: Awaitable[object]) -> bool:
    """Let work run, cancel it before a turn of the loop; True where it was cancelled, False where it was quicker.

    A cancellation that came in time and is swallowed fails the test.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Turns)
    task = asyncio.ensure_future(work)
    loop.cancel_after(turns, task)
    await asyncio.wait([task])
    if loop.cancelled:
        assert task.cancelled(), "the cancellation was swallowed"
    elif not task.cancelled():  # by somebody else, before
        task.result()
    return loop.cancelled


async def settle() -> None:
    """Let what threads had begun come to its end."""
    for _ in range(SETTLING_TURNS):
        await asyncio.sleep(0)


def open_files(folder: object) -> list[str]:
    """The files of a folder that this process has open."""
    places = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))  # noqa: PTH208 - not a folder of files
    return sorted(place for link in places if (place := _target(link)).startswith(str(folder)))


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115 - the target is text, and may be no path
    except FileNotFoundError:
        return ""  # the descriptor of the listing itself
