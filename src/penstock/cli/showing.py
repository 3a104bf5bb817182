"""Several answers on one screen, as they come: in turn, or side by side. What is asked is decided elsewhere.

Only rows near the one that is shown are drawn, so that what waits for its turn stays small, whatever the input.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

import click
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from penstock.records import RawRow, Result, RowChunk

AHEAD = 64
NARROWEST = 40
"""Characters of a column that can be read with ease."""


class Window:
    """The rows up to a mark, drawn as it moves on; `limit` is how many there are at most."""

    def __init__(self, rows: Iterator[RawRow] | AsyncIterator[RawRow], until: int, limit: int | None = None) -> None:
        self._rows, self._until, self._limit = rows, until, limit
        self._moved = asyncio.Event()

    def move(self, until: int) -> None:
        """Rows before this index may be drawn."""
        self._until = until
        self._moved.set()

    async def rows(self) -> AsyncIterator[RawRow]:
        """The rows, each as soon as it may be drawn."""
        index = 0
        while index != self._limit:
            while index >= self._until:
                self._moved.clear()
                await self._moved.wait()
            row = next(self._rows, None) if isinstance(self._rows, Iterator) else await anext(self._rows, None)
            if row is None:
                return
            yield row
            index = row.index + 1


class Show(AbstractContextManager["Show"], Protocol):
    """What a screen does with the pieces and results of rows."""

    ahead: int

    def take(self, item: RowChunk | Result, move: Callable[[int], None]) -> None:
        """Show it; `move` tells how far rows may be drawn from now on."""
        ...


class InTurn:
    """One answer after the other in the order of the rows, each headed by its id; the one in turn as it comes."""

    ahead = AHEAD

    def __init__(self) -> None:
        self._turn = 0
        self._early: dict[int, list[RowChunk | Result]] = {}
        self._headed = False
        self._line_is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_line()

    def take(self, item: RowChunk | Result, move: Callable[[int], None]) -> None:
        if item.index != self._turn:
            self._early.setdefault(item.index, []).append(item)
            return
        waiting = deque([item])
        while waiting:
            item = waiting.popleft()
            self._show(item)
            if isinstance(item, Result):  # the last of its row
                self._turn += 1
                move(self._turn + self.ahead)
                waiting.extend(self._early.pop(self._turn, ()))

    def _show(self, item: RowChunk | Result) -> None:
        if not self._headed:
            click.echo(f"{'' if item.index == 0 else chr(10)}== {item.id} ==")
            self._headed = True
        if isinstance(item, RowChunk):
            self._echo(f"\n(again from the start)\n{item.chunk.text}" if item.chunk.restarted else item.chunk.text)
            return
        if item.reused and item.text:
            self._echo(item.text)
        self._close_line()
        self._headed = False
        if note := ending_of(item):
            click.echo(note, err=True)

    def _echo(self, text: str) -> None:
        if text:
            click.echo(text, nl=False)
            self._line_is_open = not text.endswith("\n")

    def _close_line(self) -> None:
        if self._line_is_open:
            click.echo()
            self._line_is_open = False


class SideBySide:
    """As many answers as the terminal has columns for, all as they come; then the next ones below them."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self.ahead = max(1, self._console.width // NARROWEST)
        self._first = 0
        self._texts: dict[int, Text] = {}
        self._ids: dict[int, str] = {}
        self._over: set[int] = set()
        self._live = Live(console=self._console, refresh_per_second=10, transient=True, get_renderable=self._newest)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if self._texts:
            self._console.print(self._columns(None))

    def take(self, item: RowChunk | Result, move: Callable[[int], None]) -> None:
        text = self._texts.setdefault(item.index, Text())
        self._ids[item.index] = str(item.id)
        if isinstance(item, RowChunk):
            if item.chunk.restarted:
                text.truncate(0)
            text.append(item.chunk.text)
            return
        if note := ending_of(item):
            text.append(f"\n{note}", style="red")
        self._over.add(item.index)
        if len(self._over) == self.ahead:
            whole = self._columns(None)
            self._first += self.ahead
            self._texts, self._ids, self._over = {}, {}, set()
            self._console.print(whole)
            move(self._first + self.ahead)

    def _newest(self) -> Table:
        """What is under way, the last lines of each: as much as the terminal is high."""
        return self._columns(self._console.height - 3)

    def _columns(self, lines: int | None) -> Table:
        table = Table.grid(expand=True)
        width = self._console.width // self.ahead
        panels = []
        for index in sorted(self._texts):
            table.add_column(width=width)
            text = self._texts[index]
            if lines is not None:
                text = Text("\n").join(text.wrap(self._console, width - 4)[-lines:])
            panels.append(Panel(text, title=Text(self._ids[index]), title_align="left"))
        table.add_row(*panels)
        return table


def ending_of(result: Result) -> str:
    """What is to be said of an answer's end; nothing of a good one."""
    if result.error is not None:
        return f"row {result.index} ({result.id}): {result.error.kind}: {result.error.message}"
    if result.response is not None and result.response.finish_reason not in ("stop", "tool_calls"):
        return f"(the answer ended by: {result.response.finish_reason})"
    return ""
