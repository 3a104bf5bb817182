"""A prepared run carried out, and what is recorded of it told again. Its rows are sent by the client; OUTPUT is written whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from itertools import islice, takewhile
from typing import Any

from penstock.access import reviver
from penstock.client import Client
from penstock.edges.files import OutputFile
from penstock.edges.ledger import LedgerReader
from penstock.engine.run import Run
from penstock.errors import RunStopped, UsageError
from penstock.jobs.preparing import Job, Prepared
from penstock.ports import Sink
from penstock.records import RawRow, Result
from penstock.rules.asking import Asking
from penstock.rules.entries import to_result
from penstock.rules.identity import ANSWERED, REFUSED
from penstock.rules.lines import output_line
from penstock.rules.tally import Tally, Totals


def tally_of(prepared: Prepared, kind: type[Tally] = Tally) -> Tally:
    """The account so far: what earlier sessions recorded, but for rows that come again and are counted then."""
    store = prepared.store
    return kind(store.recorded if prepared.skips else Totals(ambiguous=store.cut), store.forgotten())


async def start(prepared: Prepared, client: Client, tally: Tally) -> Run:
    """The run over the rows that have no answer yet."""
    job, store = prepared.job, prepared.store
    kept = frozenset({ANSWERED, REFUSED}) - job.resend
    rows = prepared.source.rows(lambda index: prepared.skips and store.state(index) in kept)
    asking, more = job.asking, dict[str, Any]()
    if job.workflow is not None:
        flow = {"called": tally.called, "tells_recorded": not prepared.skips, "retry_failed": job.retry_failed}
        more["work"] = client.workflow(job.workflow, job.asking, **flow)
        asking = Asking()  # the function asks
    return await client.start(
        _until(rows, job.limit),
        asking,
        tally,
        client.scope(None, job.max_cost, store),
        ledger=store,
        look_up=prepared.look_up,
        retry_failed=job.retry_failed,
        dedupe=job.dedupe,
        originals=store.originals() if job.dedupe else {},
        **more,
    )


async def carry_out(prepared: Prepared, run: Run) -> None:
    """Every row to its end, then OUTPUT. Raises `RunStopped` where it ends early; all that came back is recorded then."""
    try:
        async for _ in run.results():
            pass
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, write_output, prepared.job))
    except UsageError as error:
        # It was right when the run began: a file or the folder went away meanwhile.
        raise RunStopped("disk", f"{error}; mend that and run the same command again") from error


def _until(
    rows: Iterator[RawRow] | AsyncIterator[RawRow], limit: int | None
) -> Iterator[RawRow] | AsyncIterator[RawRow]:
    if limit is None:
        return rows
    if isinstance(rows, Iterator):
        return takewhile(lambda raw: raw.index < limit, rows)
    return _first_of(rows, limit)


async def _first_of(rows: AsyncIterator[RawRow], limit: int) -> AsyncIterator[RawRow]:
    if limit > 0:
        async for raw in rows:
            yield raw
            if raw.index >= limit - 1:
                return


def recorded_results(reader: LedgerReader) -> Iterator[Result | None]:
    """The results of a ledger's latest run, in input order; None for a damaged row."""
    revive = reviver(str(reader.record.options["provider"]))
    for entry in reader.entries():
        yield None if entry is None else to_result(entry, revive)


def write_output(job: Job) -> None:
    """OUTPUT, whole, from the ledger. Raises `RunStopped` where the disk or a damaged row prevents it."""
    sink: Sink = OutputFile(job.output)
    try:
        with closing(LedgerReader(job.ledger)) as reader:
            for result in islice(recorded_results(reader), job.limit):
                if result is None:
                    raise RunStopped(
                        "disk", "a recorded row is damaged: run the same command again to send it once more"
                    )
                sink.write(output_line(result))
        sink.finish()
    finally:
        sink.abandon()
