"""What waits to be recorded: all of it goes into one commit, and only then does it count. What it says is decided elsewhere.

While a commit is under way the next one gathers, so a slow disk makes commits larger, never more of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.errors import PenstockError
from penstock.ports import Ledger
from penstock.records import Call, Entry, Result
from penstock.rules.entries import to_entry

Row = tuple[Result, Entry]


class Recorder:
    """The one task that commits to a `ledger`. `recorded` gets the rows of each commit, `failed` why there can be no more.

    `wall` dates what is over, in Unix seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        wall: Callable[[], float],
        recorded: Callable[[list[Row]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.ledger, self._wall = ledger, wall
        self._recorded, self._failed = recorded, failed
        self._rows: list[Row] = []
        self._calls: list[Call] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._committing = self._closing = False
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._commit_for_ever())

    @property
    def busy(self) -> bool:
        """True while something is not recorded yet."""
        return self._committing or bool(self._rows or self._calls)

    def finish(self, result: Result, digest: bytes) -> None:
        """A row is over; `digest` is the identity of what it asked."""
        self._rows.append((result, to_entry(result, digest, self._wall())))
        if len(self._rows) == 1:
            self._news.set()

    def call(self, call: Call) -> None:
        """A call of a row is over."""
        self._calls.append(call)
        self._news.set()

    async def certain(self) -> None:
        """Return once what was given so far is recorded. Where the ledger has failed that is never: the run is over then."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._news.set()
        await waiter

    async def aclose(self) -> None:
        """Record what is left, unless the ledger has failed."""
        self._closing = True
        self._news.set()
        await asyncio.wait([self._task])

    async def _commit_for_ever(self) -> None:
        try:
            while self._rows or self._calls or not self._closing:
                await self._news.wait()
                self._news.clear()
                if self._rows or self._calls:
                    await self._commit()
        except PenstockError as error:
            self._failed(error)

    async def _commit(self) -> None:
        """Everything that waits, in one go; the loop wakes once for it."""
        rows, calls, waiting = self._rows, self._calls, self._waiting
        self._rows, self._calls, self._waiting, self._committing = [], [], [], True
        entries = [entry for _, entry in rows]
        if calls:
            await self.ledger.commit(entries, calls)
        else:
            await self.ledger.commit(entries)
        self._committing = False
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._recorded(rows)
