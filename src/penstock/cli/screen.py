"""What a person sees while a run goes on: a live line on a terminal, a plain line every few seconds elsewhere, the account.

Progress is sampled from the tally, never pushed by a row, so it costs the same whatever the speed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import msgspec

from penstock.edges.environment import is_terminal
from penstock.rules.tally import CallTotals, Summary, Tally

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

REFRESH_SECONDS = 0.25
PLAIN_LINE_SECONDS = 5.0


class View(msgspec.Struct, frozen=True):
    """Where the figures come from: the tally, the number of rows (None: not known), requests in flight, what is awaited."""

    tally: Tally
    rows: int | None
    in_flight: Callable[[], int]
    waiting_for: Callable[[], str]


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


def account(summary: Summary, tally: Tally, output: str | None) -> str:
    """The closing account, several lines."""
    reused = f"   ({summary.reused:,} of them from earlier sessions or equal rows)" if summary.reused else ""
    unknown = f" ({summary.rows_without_cost:,} answers of unknown price)" if summary.rows_without_cost else ""
    sends = f"{summary.sent:,} sent, {summary.throttled:,} throttled, {summary.retried:,} retried"
    lines = [
        f"{summary.rows:,} rows = {summary.ok:,} ok + {summary.failed:,} failed + {summary.left:,} left{reused}",
        f"{sends}, {summary.ambiguous:,} that may be billed without an answer",
        f"{summary.input_tokens:,} tokens in, {summary.output_tokens:,} out, cost {money(summary.cost)}{unknown}",
        f"{_duration(summary.wall_s)}, {summary.requests_per_s:,.1f} requests/s{_latencies(tally)}",
    ]
    if summary.calls is not None:
        lines.append(calls_told(summary.calls))
    if tally.errors:
        lines.append("failed: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.errors.items())))
    if output is not None:
        lines.append(f"answers: {output}")
    return "\n".join(lines)


def calls_told(calls: CallTotals) -> str:
    """The account of a workflow's calls."""
    told = f"{calls.answers:,} answers to the calls of rows"
    if calls.dropped:
        told += f", {calls.dropped:,} of them not of the form that was asked for"
    if calls.unused:
        told += f", {calls.unused:,} recorded and not asked for again (cost {money(calls.unused_cost)})"
    return told


def _latencies(tally: Tally) -> str:
    half, most = tally.latency(0.5), tally.latency(0.95)
    return "" if half is None or most is None else f", latency p50 {half:.2g} s, p95 {most:.2g} s"


def _time_left(view: View, rate: float) -> str:
    if view.rows is None or rate <= 0:
        return ""
    return _duration((view.rows - view.tally.done) / rate)


def _duration(seconds: float) -> str:
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


async def show_progress(view: View, *, wanted: bool) -> None:
    """Show progress until cancelled: live on a terminal, plain lines elsewhere, nothing if not `wanted`."""
    if not wanted:
        await asyncio.Event().wait()
    elif is_terminal(sys.stderr):
        await _live(view)
    else:
        await _plain(view)


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
