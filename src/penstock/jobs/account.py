"""The account of a run: its ledger against itself, against OUTPUT and the input. It reads all of them and changes nothing."""

from __future__ import annotations

from contextlib import closing
from itertools import islice, zip_longest
from pathlib import Path

import msgspec

from penstock.edges.files import StandardInput, open_input
from penstock.edges.ledger import LedgerReader, RunRecord
from penstock.errors import UsageError
from penstock.jobs.preparing import ledger_of
from penstock.jobs.running import recorded_results
from penstock.rules.entries import sums_in
from penstock.rules.identity import ANSWERED
from penstock.rules.lines import output_line
from penstock.rules.tally import CallTotals, Totals


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
    calls: CallTotals | None = None


def verify(output: str) -> Account:
    """Check the ledger against itself, against OUTPUT and against the input. Reads all of them; changes nothing."""
    with closing(LedgerReader(ledger_of(output))) as reader:
        totals, damaged = _totals(reader)
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
            totals.calls,
        )


def _totals(reader: LedgerReader) -> tuple[Totals, int]:
    """The sums over all that is recorded of a run, and how much of it is damaged."""
    totals, damaged = Totals(), 0
    for entry in reader.entries():
        if entry is None:
            damaged += 1
        else:
            totals.add_all(((entry.state == ANSWERED, sums_in(entry.meta)),))
    for call in reader.calls():
        if call is None:
            damaged += 1
        else:
            totals.add_call(sums_in(call.entry.meta), ok=call.entry.state == ANSWERED)
    return totals, damaged


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
