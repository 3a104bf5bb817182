"""What a file run is asked to do, checked whole, and its ledger opened. It decides whether a run is a resume; it sends nothing."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec

from penstock.client import Client
from penstock.edges.files import Input, StandardInput, check_output, open_input
from penstock.edges.functions import Function, require_workflow
from penstock.edges.ledger import LedgerFile, LedgerReader, RunRecord, has_ledger, set_aside
from penstock.engine.workflow import digest_of, identity_of
from penstock.errors import InputError, RunChanged
from penstock.records import RawRow
from penstock.rules.asking import Asking
from penstock.rules.identity import FAILED, REFUSED, changed_options, options_digest, request_digest
from penstock.rules.input_check import check_rows
from penstock.rules.template import OUTPUT_KEYS, WORKFLOW_KEYS, Template

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
    workflow: Function | None = None
    """What is run over each row, where it is more than one request."""

    @property
    def ledger(self) -> Path:
        """Where the state of the run stands."""
        return ledger_of(self.output)

    def template(self) -> Template:
        """The rule that reads its rows; raises `UsageError` where it can be right for no row."""
        return self.asking.template(OUTPUT_KEYS if self.workflow is None else WORKFLOW_KEYS)

    @property
    def resend(self) -> frozenset[int]:
        """The states of recorded rows that are sent again."""
        return frozenset({FAILED, REFUSED}) if self.retry_failed else frozenset({FAILED})


class Prepared(msgspec.Struct):
    """A run that is checked and whose ledger is open. `rows` is None for standard input; `notes` are for the user.

    Rows that are recorded in it are left out where it `skips`, for they are known to be the same; where it is to `look_up`,
    every other row is looked for by its content.
    """

    job: Job
    source: Input
    store: LedgerFile
    record: RunRecord
    rows: int | None
    look_up: bool
    skips: bool
    notes: list[str]


def ledger_of(output: str) -> Path:
    """The ledger that stands beside an OUTPUT."""
    path = Path(output)
    return path.with_name(path.name + ".ledger")


def prepare(job: Job, client: Client, tick: Tick = lambda _: None) -> Prepared:
    """Check everything, then open the ledger. Raises `UsageError` (nothing was touched) or `LedgerFailed`."""
    job.template()
    if job.workflow is not None:
        require_workflow(job.workflow)
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
    record = RunRecord(digest, client.options(job.asking, job.workflow), input_name=job.input, limit=job.limit)
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
    render = client.render(job.asking) if job.workflow is None else job.template().given

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
    what = (
        "sends just what has no answer yet"
        if job.workflow is None
        else "runs these, reusing recorded answers by content,"
    )
    return RunChanged(
        f"{' and '.join(names)} changed since {job.ledger} was made{count}. --update {what} "
        "and keeps the other answers; --fresh starts over and keeps the old ledger under another name; "
        "or choose another output"
    )


def _count_of_new(source: Input, job: Job, client: Client) -> str:
    new, total = _without_answer(source, job, client)
    return f": {new:,} of {total:,} rows have no {'answer' if job.workflow is None else 'value'} in it"


def _without_answer(source: Input, job: Job, client: Client) -> tuple[int, int]:
    """How many rows have no recorded answer of their own, and how many rows there are."""
    assert not isinstance(source, StandardInput)
    digest = _digests(job, client)
    with closing(LedgerReader(job.ledger)) as reader:
        recorded = _sorted_hashes(reader.requests())

    asked = _sorted_hashes(map(digest, source.rows(lambda _: False)))
    kept = sum(
        min(_count(asked, value), _count(recorded, value))
        for k, value in enumerate(asked)
        if k == 0 or value != asked[k - 1]
    )
    return len(asked) - kept, len(asked)


def _digests(job: Job, client: Client) -> Callable[[RawRow], bytes]:
    """The rule that gives a row its identity."""
    if job.workflow is not None:
        identity = identity_of(client.options(job.asking, job.workflow))
        return lambda raw: digest_of(identity, raw.values)
    provider, render = client.provider, client.render(job.asking)

    def digest(raw: RawRow) -> bytes:
        request = render(raw).request
        return request_digest(provider.name, provider.encode(request, request.model or client.model))

    return digest


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
            f"the ledger was damaged: it is kept as {store.set_aside}, {store.salvaged:,} good {_records(job)} were salvaged"
        )
    if store.lost:
        notes.append(
            f"{store.lost:,} {_records(job)} that had been recorded are gone from the ledger and will be sent again"
        )
    skips = same and record.input_digest is not None
    # An earlier run's answers are still to be had where the update that was to take them over was cut.
    look_up = had_run and (not skips or store.run > 1)
    return Prepared(job, source, store, record, _rows(record.rows, job.limit), look_up, skips, notes)


def _records(job: Job) -> str:
    """What a ledger is full of."""
    return "rows" if job.workflow is None else "rows and answers"


def _rows(total: int | None, limit: int | None) -> int | None:
    if total is None or limit is None:
        return total
    return min(total, limit)
