"""What a person sees while a run goes on: a live line on a terminal, a plain line every few seconds elsewhere.

It is sampled from the tally, never pushed by a row, so it costs the same whatever the speed. It goes to standard error.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from penstock.edges.environment import is_terminal
from penstock.rules.tally import Tally

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from penstock.client import Client

REFRESH_SECONDS = 0.25
PLAIN_LINE_SECONDS = 5.0


class View(msgspec.Struct, frozen=True):
    """Where the figures come from: the tally, the number of rows (None: not known), requests in flight, what is awaited."""

    tally: Tally
    rows: int | None
    in_flight: Callable[[], int]
    waiting_for: Callable[[], str]


def view_of(client: Client, tally: Tally, rows: int | None) -> View:
    """A run of `client` that keeps this tally."""
    return View(tally, rows, lambda: int(client.statistics().get("in_flight", 0)), client.waiting_for)


def figures(view: View, rate: float) -> str:
    """The state of a run in one line of words."""
    tally, totals = view.tally, view.tally.totals
    parts = [f"{totals.ok:,} ok", f"{totals.failed:,} failed", f"{view.in_flight():,} in flight", f"{rate:,.1f}/s"]
    parts.append(f"{_short(totals.input_tokens)} in, {_short(totals.output_tokens)} out")
    parts.append(f"cost {money(totals.cost)}")
    if tally.throttled:
        parts.append(f"{tally.throttled:,} throttled")
    if tally.retried:
        parts.append(f"{tally.retried:,} retried")
    left = _time_left(view, rate)
    if left:
        parts.append(f"{left} left")
    if waits := view.waiting_for():
        parts.append(f"waits for {waits}")
    return " · ".join(parts)


def money(cost: float | None) -> str:
    """Dollars for a person; an unknown sum is said to be unknown."""
    if cost is None:
        return "unknown"
    return f"${cost:,.2f}" if cost >= 1 or cost == 0 else f"${cost:.4f}"


def _time_left(view: View, rate: float) -> str:
    if view.rows is None or rate <= 0:
        return ""
    return duration((view.rows - view.tally.done) / rate)


def duration(seconds: float) -> str:
    """Seconds for a person."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _short(number: int) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(number)


@asynccontextmanager
async def shown(view: View, *, wanted: bool = True) -> AsyncIterator[None]:
    """Show progress while the block is at work: live on a terminal, plain lines elsewhere, nothing if not `wanted`."""
    if not wanted:
        yield
        return
    showing = asyncio.create_task(_live(view) if is_terminal(sys.stderr) else _plain(view))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait([showing])


async def _plain(view: View) -> None:
    view.tally.sample(time.monotonic())
    while True:
        await asyncio.sleep(PLAIN_LINE_SECONDS)
        rate = view.tally.sample(time.monotonic())
        rows = f"/{view.rows:,}" if view.rows is not None else ""
        click.echo(f"{view.tally.done:,}{rows} rows: {figures(view, rate)}", err=True)


async def _live(view: View) -> None:
    progress, task = _bar(view)
    with progress:
        try:
            while True:
                rate = view.tally.sample(time.monotonic())
                progress.update(task, completed=view.tally.done, figures=figures(view, rate))
                await asyncio.sleep(REFRESH_SECONDS)
        finally:
            progress.update(task, completed=view.tally.done, figures="")


def _bar(view: View) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    progress = Progress(*columns, console=Console(stderr=True), refresh_per_second=1 / REFRESH_SECONDS)
    return progress, progress.add_task("rows", total=view.rows, figures="")
