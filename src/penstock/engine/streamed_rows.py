"""Rows whose answers are shown as they come, many at a time: one reader gets their chunks and their results in turn.

Nothing runs ahead of the reader. A row whose chunks are not taken waits with them, reads no more, and holds back its socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Generic, TypeVar

from penstock.engine.call import Caller
from penstock.engine.recorder import Recorder
from penstock.engine.run import Task, to_its_end
from penstock.engine.single import SingleRequests
from penstock.engine.stream import OnBreak, Streaming
from penstock.ports import Prices
from penstock.records import RawRow, Result, Row, RowChunk

T = TypeVar("T")


class HandOver(Generic[T]):
    """From many givers to one taker. A giver waits until its items are taken, so no more lies here than each has given."""

    def __init__(self) -> None:
        self._offers: deque[tuple[Sequence[T], asyncio.Future[None]]] = deque()
        self._news = asyncio.Event()
        self._over = False

    async def give(self, items: Sequence[T]) -> None:
        """Return once the items are taken."""
        taken = asyncio.get_running_loop().create_future()
        self._offers.append((items, taken))
        self._news.set()
        await taken

    async def take(self) -> Sequence[T] | None:
        """The items that have waited longest; None once nobody will give any more. What was given up meanwhile is skipped."""
        while True:
            while self._offers:
                items, taken = self._offers.popleft()
                if not taken.done():
                    taken.set_result(None)
                    return items
            if self._over:
                return None
            self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """Nobody will give any more."""
        self._over = True
        self._news.set()


class StreamedRequests(SingleRequests):
    """`engine.run.Work` as `SingleRequests` does it, and the chunks of each answer are handed over on the way."""

    def __init__(
        self,
        hand: HandOver[RowChunk | Result],
        on_break: OnBreak,
        caller: Caller,
        render: Callable[[RawRow], Row],
        prices: Prices,
    ) -> None:
        super().__init__(caller, render, prices)
        self._hand, self._on_break = hand, on_break

    async def carry_out(self, task: Task, recorder: Recorder | None) -> Result:  # noqa: ARG002  its end is all there is
        row: Row = task.row
        streaming = Streaming(self._caller, row.request, task.matter, row.index, self._on_break)
        async with aclosing(streaming.pieces()) as pieces:
            async for chunks in pieces:
                await self._hand.give([RowChunk(row.index, row.id, chunk) for chunk in chunks])
        return self.result(row, streaming.outcome)


async def interleaved(
    hand: HandOver[RowChunk | Result], results: AsyncGenerator[Result, None]
) -> AsyncGenerator[RowChunk | Result, None]:
    """What is handed over, and the results of the run between it; raises what the run raises. Leaving early closes the run."""

    async def show() -> None:
        async for result in results:
            await hand.give([result])

    showing = asyncio.create_task(show())
    showing.add_done_callback(lambda _: hand.close())
    try:
        while (items := await hand.take()) is not None:
            for item in items:
                yield item
    finally:
        if not showing.done():
            showing.cancel()
        await to_its_end(asyncio.create_task(_closed(showing, results)))
    showing.result()


async def _closed(showing: asyncio.Task[None], results: AsyncGenerator[Result, None]) -> None:
    await asyncio.wait([showing])
    await results.aclose()
