"""Rows that a program passes in, and the drawing of them. It decides what counts as a row, not what the row asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from penstock.errors import UsageError
from penstock.records import RawRow

T = TypeVar("T")


def raw_rows(rows: Iterable[Any] | AsyncIterable[Any]) -> Iterator[RawRow] | AsyncIterator[RawRow]:
    """The rows of an iterable of either kind, numbered, drawn only as they are asked for.

    A row is a text, a mapping or a list of messages; anything else becomes a row with an error. Raises `UsageError` for
    a single prompt in place of rows.
    """
    if isinstance(rows, AsyncIterable):
        return _as_they_come(rows)
    if isinstance(rows, str | bytes | Mapping):
        raise UsageError("rows must be a list or another iterable of rows; for one prompt use generate()")
    return (_raw_row(index, row) for index, row in enumerate(rows))


async def _as_they_come(rows: AsyncIterable[Any]) -> AsyncIterator[RawRow]:
    index = 0
    async for row in rows:
        yield _raw_row(index, row)
        index += 1


def _raw_row(index: int, row: Any) -> RawRow:
    where = f"row {index}"
    if type(row) is str or isinstance(row, str | Mapping):  # the first spares texts the slow question
        return RawRow(index, where, row)
    if isinstance(row, list | tuple):
        return RawRow(index, where, {"messages": list(row)})
    return RawRow(index, where, None, f"a row is a text, a mapping or a list of messages, not {type(row).__name__}")


class Draw(Generic[T]):
    """One item at a time from an iterator of either kind. `stop` ends it, also for those who wait for an item.

    `over` is true once there will be no more; `waits` where the next item may have to be waited for.
    """

    def __init__(self, items: Iterator[T] | AsyncIterator[T]) -> None:
        self._items = items if isinstance(items, Iterator) else iter(())
        self._coming = None if isinstance(items, Iterator) else items
        self.waits = self._coming is not None
        self._turn = asyncio.Lock()
        self._waiting: set[asyncio.Task[None]] = set()
        self.over = False

    def at_once(self) -> T | None:
        """The next item where none need be waited for, None after the last one."""
        item = None if self.over else next(self._items, None)
        if item is None:
            self.over = True
        return item

    async def in_turn(self) -> T | None:
        """The next item, None after the last one; `stop` cancels whoever waits for it."""
        if self.over or self._coming is None:
            return self.at_once()
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            async with self._turn:
                item = await anext(self._coming, None)
        finally:
            self._waiting.discard(task)
        if item is None:
            self.over = True
        return item

    def stop(self) -> None:
        self.over = True
        for task in self._waiting:
            task.cancel()
