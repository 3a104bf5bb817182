"""One pass over a run's ledger into the sums of a report, also while the run is under way. It changes nothing.

Nothing of the answers is read but what Penstock noted beside them; a row that failed is read whole, for its error.
"""

from __future__ import annotations

import heapq
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from penstock.edges.ledger import LedgerReader, RunRecord
from penstock.errors import RequestError
from penstock.records import Call, Entry, Usage
from penstock.report.course import Course, Latencies
from penstock.rules.entries import sums_in, to_result
from penstock.rules.identity import ANSWERED
from penstock.rules.tally import Sums, Totals

MOST_FAILURES = 50
EXAMPLES = 5
SLOWEST = 10
MOST_SENDS = 10
"""Rows that were sent more often are counted together."""


class Noted(Sums, frozen=True):
    """The part of what is noted of a row that a report shows. `ended` is in Unix seconds; older ledgers have none."""

    id: str | int = 0
    attempts: int = 1
    latency_s: float = 0.0
    ended: float | None = None


class Failure(msgspec.Struct):
    """Rows that failed in one way: how many, the first of their ids, and the message of the first."""

    kind: str
    status: int | None
    code: str | None
    message: str
    rows: int = 0
    ids: list[str | int] = []


class Report(msgspec.Struct):
    """How a run went. Times are Unix seconds; costs US dollars, None where an answer's price is unknown.

    `rows` is None until it is known; `under_way` counts sends that are not over (or were cut by a crash); `undated` rows have
    no time, because an older version recorded them; `sends` tells how many rows were sent so often.
    """

    provider: str
    model: str
    input_name: str | None
    rows: int | None
    totals: Totals = msgspec.field(default_factory=Totals)
    ambiguous: int = 0
    under_way: int = 0
    lost: int = 0
    damaged: int = 0
    undated: int = 0
    began: float | None = None
    ended: float | None = None
    course: Course = msgspec.field(default_factory=Course)
    latencies: Latencies = msgspec.field(default_factory=Latencies)
    sends: dict[int, int] = {}
    failures: dict[tuple[str, int | None, str | None], Failure] = {}
    slowest: list[tuple[float, str]] = []

    @property
    def done(self) -> int:
        """Rows that are over."""
        return self.totals.ok + self.totals.failed

    @property
    def left(self) -> int | None:
        """Rows that are not over; None while their number is not known."""
        return None if self.rows is None else max(0, self.rows - self.done)

    def add(self, entry: Entry) -> None:
        """Take in one recorded row."""
        ok, noted = entry.state == ANSWERED, _noted_in(entry.meta)
        self.totals.add_all(((ok, noted),))
        usage, cost, sends = _taken(noted)
        self.sends[min(sends, MOST_SENDS)] = self.sends.get(min(sends, MOST_SENDS), 0) + 1
        if ok:
            self.latencies.add(noted.latency_s)
            self._keep_slow(noted)
        else:
            self._count_failure(noted.id, entry)
        if noted.ended is None:
            self.undated += 1
        else:
            self._date(noted.ended, noted.latency_s)
            self.course.at(noted.ended).add(ok=ok, latency_s=noted.latency_s, usage=usage, cost=cost)

    def _date(self, ended: float, latency_s: float) -> None:
        began = ended - latency_s
        self.began = began if self.began is None else min(self.began, began)
        self.ended = ended if self.ended is None else max(self.ended, ended)

    def _keep_slow(self, noted: Noted) -> None:
        heapq.heappush(self.slowest, (noted.latency_s, str(noted.id)))
        if len(self.slowest) > SLOWEST:
            heapq.heappop(self.slowest)

    def _count_failure(self, name: str | int, entry: Entry) -> None:
        error = to_result(entry, _no_answer).error
        assert error is not None, "a row without an answer has an error"
        failure = self._failure_of(error)
        failure.rows += 1
        if len(failure.ids) < EXAMPLES:
            failure.ids.append(name)

    def _failure_of(self, error: RequestError) -> Failure:
        """Where rows with this error are counted. A provider may invent codes without end: later ones share one place."""
        key = (error.kind, error.status, error.code)
        if key not in self.failures and len(self.failures) >= MOST_FAILURES:
            key = (error.kind, None, None)
        return self.failures.setdefault(key, Failure(*key, message=error.message))


_noted_in = msgspec.json.Decoder(Noted).decode


def _taken(noted: Noted) -> tuple[Usage | None, float | None, int]:
    """Tokens, cost and sends of a row; of a workflow's row, those of its calls."""
    if noted.taken is None:
        return noted.usage, noted.cost, noted.attempts
    return noted.taken.calls.usage, noted.taken.cost, noted.taken.attempts


def _no_answer(_body: bytes) -> NoReturn:
    raise AssertionError("only rows that failed are read whole")


def read_report(ledger: str | Path) -> Report:
    """The report of a ledger's latest run. Raises `UsageError` where there is no ledger, or it cannot be read."""
    with closing(LedgerReader(Path(ledger))) as reader:
        report = _begun(reader.record)
        for entry in reader.entries():
            if entry is None:
                report.damaged += 1
            else:
                report.add(entry)
        for call in reader.calls():
            _add_call(report, call)
        report.ambiguous = report.totals.ambiguous + reader.forgotten()
        report.under_way = reader.under_way()
        report.lost = reader.lost()
    return report


def _begun(record: RunRecord) -> Report:
    options: dict[str, Any] = record.options
    rows = record.rows if record.rows is None or record.limit is None else min(record.rows, record.limit)
    return Report(str(options.get("provider", "")), str(options.get("model", "")), record.input_name, rows)


def _add_call(report: Report, call: Call | None) -> None:
    if call is None:
        report.damaged += 1
    else:
        report.totals.add_call(sums_in(call.entry.meta), ok=call.entry.state == ANSWERED)
