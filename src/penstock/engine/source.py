"""Rows that a program passes in, as the engine draws them. It decides what counts as a row, not what the row asks."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

from penstock.errors import UsageError
from penstock.records import RawRow


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
    if isinstance(row, str | Mapping):
        return RawRow(index, where, row)
    if isinstance(row, list | tuple):
        return RawRow(index, where, {"messages": list(row)})
    return RawRow(index, where, None, f"a row is a text, a mapping or a list of messages, not {type(row).__name__}")
