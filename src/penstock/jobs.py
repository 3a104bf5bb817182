"""A file of prompts in, a file of answers out: checked before anything is sent, recorded as it goes, resumed where it stopped.

It puts a client, an input, a ledger and an output together; the order of its steps is its promise. Bad input or usage
raises before any file is touched; OUTPUT appears whole, when every row is over.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice, takewhile, zip_longest
from pathlib import Path
from typing import Literal

import msgspec

from penstock.client import Asking, Client, reviver
from penstock.edges.files import Input, OutputFile, StandardInput, check_output, open_input
from penstock.edges.ledger import LedgerFile, LedgerReader, RunRecord, has_ledger, set_aside
from penstock.engine.run import Run
from penstock.errors import InputError, RunChanged, RunStopped, UsageError
from penstock.ports import Sink
from penstock.records import RawRow, Result
from penstock.rules.entries import to_result
from penstock.rules.identity import ANSWERED, FAILED, REFUSED, changed_options, options_digest, request_digest
from penstock.rules.lines import output_line
from penstock.rules.tally import Tally, Totals
from penstock.rules.template import check_rows

ERRORS_SHOWN = 20
TICK_ROWS = 10_000

Tick = Callable[[int], None]
"""Called with the number of rows read so far, now and then, while a long input is checked."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a file run is asked to do. `again` says what to do with a ledger that is there already."""

    input: str
    output: str
    asking: Asking
    limit: int | None = None
    again: Literal["resume", "update", "fresh"] = "resume"
    retry_failed: bool = False
    dedupe: bool = False
    max_cost: float | None = None

    @property
    def ledger(self) -> Path:
        """Where the state of the run stands."""
        return ledger_of(self.output)

    @property
    def resend(self) -> frozenset[int]:
        """The states of recorded rows that are sent again."""
        return frozenset({FAILED, REFUSED}) if self.retry_failed else frozenset({FAILED})


class Prepared(msgspec.Struct):
    """A run that is checked and whose ledger is open. `rows` is None for standard input; `notes` are for the user."""

    job: Job
    source: Input
    store: LedgerFile
    record: RunRecord
    rows: int | None
    look_up: bool
    notes: list[str]


def ledger_of(output: str) -> Path:
    """The ledger that stands beside an OUTPUT."""
    path = Path(output)
    return path.with_name(path.name + ".ledger")


def prepare(job: Job, client: Client, tick: Tick = lambda _: None) -> Prepared:
    """Check everything, then open the ledger. Raises `UsageError` (nothing was touched) or `LedgerFailed`."""
    job.asking.template()
    client.check_max_cost(job.max_cost)
    source = open_input(job.input)
    exists = has_ledger(job.ledger)
    check_output(job.input, job.output, ledger_exists=exists)
    there = LedgerFile(job.ledger) if exists and job.again != "fresh" else None
    try:
        before = there.latest() if there is not None else None
        record, same = _recorded(job, source, client, before, tick)
    except BaseException:
        if there is not None:
            there.close()
        raise
    return _opened(job, source, record, there, same=same)


def _recorded(job: Job, source: Input, client: Client, before: RunRecord | None, tick: Tick) -> tuple[RunRecord, bool]:
    """The run that is asked for, and whether it is the one that the ledger holds. Its rows are checked where they are new."""
    digest = None if isinstance(source, StandardInput) else source.digest()
    record = RunRecord(digest, client.options(job.asking), input_name=job.input, limit=job.limit)
    if before is not None and _same_run(before, record):
        return msgspec.structs.replace(record, rows=before.rows), True
    refused = before is not None and job.again == "resume"
    if isinstance(source, StandardInput):
        if refused:
            raise _changed(before, record, job, "")
        return record, False
    rows = _checked(source, job, client, tick)
    if refused:
        raise _changed(before, record, job, _count_of_new(source, job, client))
    return msgspec.structs.replace(record, rows=rows), False


def _same_run(before: RunRecord, record: RunRecord) -> bool:
    """The digest of the input and of the options tell a resume from a changed run without comparing rows."""
    return before.input_digest == record.input_digest and options_digest(before.options) == options_digest(
        record.options
    )


def _checked(source: Input, job: Job, client: Client, tick: Tick) -> int:
    """The number of rows; raises `InputError` for those that can never be sent."""
    assert not isinstance(source, StandardInput)
    render = client.render(job.asking)

    def read() -> Iterator[RawRow]:
        for raw in source.rows(lambda _: False):
            if raw.index % TICK_ROWS == 0:
                tick(raw.index)
            yield raw

    found = check_rows(read, render, at_most=ERRORS_SHOWN)
    if found.errors:
        raise _bad_rows(found.errors)
    if found.rows == 0:
        raise InputError(job.input, "there are no rows in it")
    return found.rows


def _bad_rows(errors: list[InputError]) -> InputError:
    first, *others = errors
    more = "".join(f"\n{error}" for error in others)
    end = "\n(there may be more)" if len(errors) >= ERRORS_SHOWN else ""
    return InputError(first.where, f"{first.reason}{more}{end}")


def _changed(before: RunRecord | None, record: RunRecord, job: Job, count: str) -> RunChanged:
    """The refusal of a run that is not the one in the ledger."""
    assert before is not None
    names = [name.replace("_", " ") for name in changed_options(before.options, record.options)]
    if before.input_digest != record.input_digest:
        names.append("the rows")
    return RunChanged(
        f"{' and '.join(names)} changed since {job.ledger} was made{count}. --update sends just what has no answer yet "
        "and keeps the other answers; --fresh starts over and keeps the old ledger under another name; "
        "or choose another output"
    )


def _count_of_new(source: Input, job: Job, client: Client) -> str:
    new, total = _without_answer(source, job, client)
    return f": {new:,} of {total:,} rows have no answer in it"


def _without_answer(source: Input, job: Job, client: Client) -> tuple[int, int]:
    """How many rows have no recorded answer of their own, and how many rows there are."""
    assert not isinstance(source, StandardInput)
    provider, render = client.provider, client.render(job.asking)
    with closing(LedgerReader(job.ledger)) as reader:
        recorded = _sorted_hashes(reader.requests())

    def digests() -> Iterator[bytes]:
        for raw in source.rows(lambda _: False):
            request = render(raw).request
            yield request_digest(provider.name, provider.encode(request, request.model or client.model))

    asked = _sorted_hashes(digests())
    kept = sum(
        min(_count(asked, value), _count(recorded, value))
        for k, value in enumerate(asked)
        if k == 0 or value != asked[k - 1]
    )
    return len(asked) - kept, len(asked)


def _sorted_hashes(digests: Iterable[bytes]) -> array[int]:
    """8 bytes for each request: enough to count with."""
    return array("Q", sorted(array("Q", (int.from_bytes(digest[:8], "little") for digest in digests))))


def _count(hashes: array[int], value: int) -> int:
    return bisect_right(hashes, value) - bisect_left(hashes, value)


def _opened(job: Job, source: Input, record: RunRecord, there: LedgerFile | None, *, same: bool) -> Prepared:
    notes = []
    if job.again == "fresh" and (old := set_aside(job.ledger)) is not None:
        notes.append(f"the earlier ledger is kept as {old}")
    store = there or LedgerFile(job.ledger)
    try:
        had_run = store.run > 0
        if same:
            store.resume(record, job.resend)
        else:
            store.begin(record)
    except BaseException:
        store.close()
        raise
    if store.set_aside is not None:
        notes.append(
            f"the ledger was damaged: it is kept as {store.set_aside}, {store.salvaged:,} good rows were salvaged"
        )
    if store.lost:
        notes.append(f"{store.lost:,} rows that had been recorded are gone from the ledger and will be sent again")
    look_up = had_run and (not same or record.input_digest is None)
    return Prepared(job, source, store, record, _rows(record.rows, job.limit), look_up, notes)


def _rows(total: int | None, limit: int | None) -> int | None:
    if total is None or limit is None:
        return total
    return min(total, limit)


# -- carrying out


def tally_of(prepared: Prepared, kind: type[Tally] = Tally) -> Tally:
    """The account so far: what earlier sessions recorded."""
    return kind(prepared.store.recorded, prepared.store.forgotten())


async def start(prepared: Prepared, client: Client, tally: Tally) -> Run:
    """The run over the rows that have no answer yet."""
    job, store = prepared.job, prepared.store
    kept = frozenset({ANSWERED, REFUSED}) - job.resend
    rows = prepared.source.rows(lambda index: not prepared.look_up and store.state(index) in kept)
    return await client.start(
        _until(rows, job.limit),
        job.asking,
        tally,
        client.scope(None, job.max_cost, store),
        ledger=store,
        look_up=prepared.look_up,
        retry_failed=job.retry_failed,
        dedupe=job.dedupe,
        originals=store.originals() if job.dedupe else {},
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


# -- what is recorded


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


class Account(msgspec.Struct, frozen=True):
    """What `verify` found. It balances when `problems` is empty."""

    rows: int
    ok: int
    failed: int
    left: int
    ambiguous: int
    under_way: int
    lost: int
    cost: float | None
    problems: list[str]


def verify(output: str) -> Account:
    """Check the ledger against itself, against OUTPUT and against the input. Reads all of them; changes nothing."""
    with closing(LedgerReader(ledger_of(output))) as reader:
        totals, damaged = Totals(), 0
        for result in recorded_results(reader):
            if result is None:
                damaged += 1
                continue
            usage = result.response.usage if result.response is not None else None
            totals.add(ok=result.ok, ambiguous=result.ambiguous, usage=usage, cost=result.cost)
        done = totals.ok + totals.failed
        rows = reader.record.rows if reader.record.rows is not None else done
        problems = [f"{damaged:,} recorded rows are damaged; run again to send them once more"] if damaged else []
        problems += _input_problems(reader.record) + _output_problems(reader, Path(output))
        if done > rows:
            problems.append(f"{done:,} rows are recorded, the input has {rows:,}")
        return Account(
            rows,
            totals.ok,
            totals.failed,
            rows - done,
            totals.ambiguous + reader.forgotten(),
            reader.under_way(),
            reader.lost(),
            totals.cost,
            problems,
        )


def _input_problems(record: RunRecord) -> list[str]:
    if record.input_digest is None or record.input_name is None:
        return []
    try:
        source = open_input(record.input_name)
        same = not isinstance(source, StandardInput) and source.digest() == record.input_digest
    except UsageError as error:
        return [f"the input cannot be compared: {error}"]
    return [] if same else [f"the input {record.input_name} is not what the run was made with"]


def _output_problems(reader: LedgerReader, output: Path) -> list[str]:
    """OUTPUT has each recorded row once, in order, and nothing else; while a run is unfinished it may be absent."""
    if not output.exists():
        return []
    problems = 0
    with output.open("rb") as lines:
        recorded = islice(recorded_results(reader), reader.record.limit)
        expected = (output_line(result) for result in recorded if result is not None)
        for line, written in zip_longest(expected, (text.rstrip(b"\n") for text in lines)):
            problems += line != written
    return (
        [f"{problems:,} lines of {output} differ from what is recorded; run again to write it anew"] if problems else []
    )
