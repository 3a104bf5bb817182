"""One sitting of a file run: progress, signals, the account, the exit status. What is sent is decided in `jobs`.

First Ctrl-C (or SIGTERM): nothing more is sent, what is in flight may finish within the grace, everything is recorded.
Second: what is in flight is given up. Third: out at once. The ledger is whole in each case.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import click
import msgspec

from penstock import jobs
from penstock.cli.screen import account
from penstock.client import Client
from penstock.edges.environment import is_terminal, runner
from penstock.engine.run import Run
from penstock.errors import RunStopped
from penstock.jobs.progress import shown, view_of
from penstock.records import Result
from penstock.rules.tally import Summary, Tally

INTERRUPTED = "interrupted"


class Telling(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown and where."""

    summary: str | None = None
    progress: bool = True
    verbose: bool = False
    grace: float = 30.0


class Signals:
    """The first signal drains the run, the second cancels it, the third leaves at once."""

    def __init__(self, run: Run, task: asyncio.Task[None], grace: float) -> None:
        self._run, self._task, self._grace = run, task, grace
        self._count = 0
        self.received: signal.Signals | None = None

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)

    def hear_no_more(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the signals back: on a closed loop uvloop's handler would swallow the next Ctrl-C."""
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        self.received = self.received or number
        self._count += 1
        if self._run.over and self._count < 3:
            click.echo("\nevery row is over and OUTPUT is being written (the third signal leaves at once)", err=True)
        elif self._count == 1:
            click.echo(
                f"\nstopping: waiting up to {self._grace:g} s for what is in flight (again: give it up)", err=True
            )
            self._run.stop(RunStopped(INTERRUPTED, f"stopped by {number.name}"))
            asyncio.get_running_loop().call_later(self._grace, self._task.cancel)
        elif self._count == 2:
            self._task.cancel()
        else:
            os._exit(128 + number)


class Told(Tally):
    """A tally that also tells of each row that failed, as it fails."""

    def finished(self, result: Result) -> None:
        super().finished(result)
        if result.error is not None:
            click.echo(f"row {result.index} ({result.id}): {result.error.kind}: {result.error.message}", err=True)


def run_job(job: jobs.Job, client: Client, telling: Telling) -> int:
    """Prepare and carry out a job; returns the exit status."""
    prepared = jobs.prepare(job, client, _tick if telling.progress and is_terminal(sys.stderr) else lambda _: None)
    for note in filter(None, (client.note, *prepared.notes)):
        click.echo(note, err=True)
    with runner() as loop:
        return loop.run(_session(prepared, client, telling))


def _tick(rows: int) -> None:
    if rows:
        click.echo(f"\rchecking the input: {rows:,} rows", nl=False, err=True)


async def _session(prepared: jobs.Prepared, client: Client, telling: Telling) -> int:
    began = time.monotonic()
    tally = jobs.tally_of(prepared, Told if telling.verbose else Tally)
    stopped: RunStopped | None = None
    async with client:
        run = await jobs.start(prepared, client, tally)
        work = asyncio.create_task(jobs.carry_out(prepared, run))
        signals = Signals(run, work, telling.grace)
        signals.listen(asyncio.get_running_loop())
        async with shown(view_of(client, tally, prepared.rows), wanted=telling.progress):
            await asyncio.wait([work])
        stopped = _ending(work, signals)
    tally.interrupted += prepared.store.under_way()
    await prepared.store.aclose()
    summary = tally.summary(prepared.rows, time.monotonic() - began)
    finished = stopped is None
    click.echo(account(summary, tally, prepared.job.output if finished else None), err=True)
    _write_summary(telling.summary, summary)
    signals.hear_no_more(asyncio.get_running_loop())
    return _status(summary, stopped, signals.received)


def _ending(work: asyncio.Task[None], signals: Signals) -> RunStopped | None:
    """Why the work ended early, None where it did not. Anything but an early end is raised."""
    if work.cancelled():
        name = signals.received.name if signals.received is not None else "cancellation"
        return RunStopped(INTERRUPTED, f"stopped by {name}")
    error = work.exception()
    if error is None or isinstance(error, RunStopped):
        return error
    raise error


def _status(summary: Summary, stopped: RunStopped | None, received: signal.Signals | None) -> int:
    if stopped is None:
        return 1 if summary.failed else 0
    if stopped.reason != INTERRUPTED or received is None:
        click.echo(f"penstock: {stopped}", err=True)
        return 3
    click.echo(f"resume with: {shlex.join(['penstock', *sys.argv[1:]])}", err=True)
    return 128 + received


def _write_summary(path: str | None, summary: Summary) -> None:
    if path is None:
        return
    try:
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    except OSError as error:
        reason = f"--summary {path} cannot be written: {error.strerror}; mend that and run the same command again"
        raise RunStopped("disk", reason) from error
