"""Results -> totals, percentiles, pace, time left. Counts what it is told; reads no clock.

The account always balances: `rows = ok + failed + left`. A sum with an unknown part is unknown (None), never too small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from penstock.errors import NotSent, RequestError, Throttled
from penstock.records import Calls, Result, Usage

BUCKETS_PER_DOUBLING = 4
SHORTEST = 0.001
PACE_SECONDS = 10.0
"""The pace is what was done over about the last ten seconds."""


class Taken(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the calls of a workflow's row took, all together."""

    calls: Calls
    attempts: int = 0
    ambiguous: int = 0
    cost: float | None = None


class Sums(msgspec.Struct, frozen=True):
    """The part of an entry (`rules.entries.Meta`) that is summed up."""

    ambiguous: int = 0
    cost: float | None = None
    usage: Usage | None = None
    taken: Taken | None = None


class CallTotals(msgspec.Struct):
    """Of workflows: `answers` that are recorded, those `dropped` for want of their form, those that no row asked for again.

    `unused_cost` counts the known part.
    """

    answers: int = 0
    dropped: int = 0
    unused: int = 0
    unused_cost: float = 0.0


class Totals(msgspec.Struct):
    """Sums over rows that are over, and over calls. `rows_without_cost` counts the answers of unknown price.

    `known_cost` leaves these out. A row of a workflow adds none of its own: each of its calls does, once it is recorded.
    """

    ok: int = 0
    failed: int = 0
    ambiguous: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    known_cost: float = 0.0
    rows_without_cost: int = 0
    calls: CallTotals | None = None

    def add(self, *, ok: bool, ambiguous: int, usage: Usage | None, cost: float | None) -> None:
        """Take in one row."""
        self.ok += ok
        self.failed += not ok
        self.ambiguous += ambiguous
        if usage is not None:
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens
        if cost is not None:
            self.known_cost += cost
        else:
            self.rows_without_cost += ok

    def add_all(self, rows: Iterable[tuple[bool, Sums]]) -> None:
        """Take in many rows at once, each `(ok, its sums)`."""
        ok = failed = ambiguous = input_tokens = output_tokens = unpriced = 0
        known_cost = 0.0
        for answered, sums in rows:
            ok += answered
            failed += not answered
            ambiguous += sums.ambiguous
            if (usage := sums.usage) is not None:
                input_tokens += usage.input_tokens
                output_tokens += usage.output_tokens
            if sums.taken is not None:
                self.add_calls_of(sums.taken.calls)
            if sums.cost is not None:
                known_cost += sums.cost
            else:
                unpriced += answered
        self.ok += ok
        self.failed += failed
        self.ambiguous += ambiguous
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.known_cost += known_cost
        self.rows_without_cost += unpriced

    def add_call(self, sums: Sums, *, ok: bool) -> None:
        """Take in one call of a workflow's row."""
        rows = self.ok, self.failed
        self.add_all(((ok, sums),))
        self.ok, self.failed = rows
        self._calls().answers += ok

    def add_calls_of(self, calls: Calls, *, found: bool = False) -> None:
        """Take in what a workflow's row that is over tells of its calls; where it was `found`, they were not told before."""
        totals = self._calls()
        totals.answers += found * (calls.answers + calls.unused)
        totals.dropped += calls.dropped
        totals.unused += calls.unused
        totals.unused_cost += calls.unused_cost or 0.0

    def _calls(self) -> CallTotals:
        if self.calls is None:
            self.calls = CallTotals()
        return self.calls

    @property
    def cost(self) -> float | None:
        """US dollars, None where an answer's price is unknown."""
        return None if self.rows_without_cost else self.known_cost


class Summary(msgspec.Struct, frozen=True):
    """The account of a run as `--summary` writes it.

    `rows` to `left` and the tokens and cost speak of the whole run, earlier sessions included; `sent`, `throttled`,
    `retried`, `reused`, `wall_s` and `requests_per_s` of this session. `ambiguous` counts sends that may be billed and of
    which no answer is recorded. `calls` is there for a workflow only; tokens and cost are then those of all its calls.
    """

    rows: int
    ok: int
    failed: int
    left: int
    sent: int
    throttled: int
    retried: int
    reused: int
    ambiguous: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    rows_without_cost: int
    wall_s: float
    requests_per_s: float
    calls: CallTotals | None = None


class Uncounted:
    """A run, or calls, whose account nobody reads: keeping one would be a tenth of a call. Implements `ports.Observer`."""

    def attempted(self, error: RequestError | None) -> None:
        """A send that nobody counts."""

    def trying_again(self) -> None:
        """Another."""

    def finished(self, result: Result) -> None:
        """A row that nobody counts."""


class Tally:
    """What a run has done so far. Implements `ports.Observer`."""

    def __init__(self, recorded: Totals | None = None, interrupted: int = 0) -> None:
        self.totals = recorded or Totals()
        self.reused = self.totals.ok + self.totals.failed
        self.interrupted = interrupted
        self.sent = self.throttled = self.retried = 0
        self.errors: dict[str, int] = {}
        self._latencies: dict[int, int] = {}
        self._samples: list[tuple[float, int]] = []

    def attempted(self, error: RequestError | None) -> None:
        if error is None:
            self.sent += 1
        else:
            self.sent += not isinstance(error, NotSent)
            self.throttled += isinstance(error, Throttled)

    def trying_again(self) -> None:
        self.retried += 1

    def finished(self, result: Result) -> None:
        error, calls = result.error, result.calls
        if calls is None or result.reused:
            self.totals.add(ok=error is None, ambiguous=result.ambiguous, usage=result.usage, cost=result.cost)
        else:
            self.totals.add(ok=error is None, ambiguous=0, usage=None, cost=0.0)
        if calls is not None:
            self.totals.add_calls_of(calls, found=result.reused)
        self.reused += result.reused
        if error is not None:
            self.errors[error.kind] = self.errors.get(error.kind, 0) + 1
        elif not result.reused:
            bucket = math.ceil(math.log2(max(result.latency_s, SHORTEST) / SHORTEST) * BUCKETS_PER_DOUBLING)
            self._latencies[bucket] = self._latencies.get(bucket, 0) + 1

    def called(self, call: Result) -> None:
        """A call of a workflow's row is over, and recorded where there is a ledger."""
        self.totals.add_call(Sums(call.ambiguous, call.cost, call.usage), ok=call.ok)

    @property
    def done(self) -> int:
        """Rows that are over."""
        return self.totals.ok + self.totals.failed

    def latency(self, share: float) -> float | None:
        """The latency that this share of the rows did not exceed, within 19 % (a quarter of a doubling); None before any."""
        wanted, seen = share * sum(self._latencies.values()), 0
        for bucket in sorted(self._latencies):
            seen += self._latencies[bucket]
            if seen >= wanted:
                return float(SHORTEST * 2 ** (bucket / BUCKETS_PER_DOUBLING))
        return None

    def sample(self, now: float) -> float:
        """Rows a second over about the last ten seconds; call it now and then."""
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and self._samples[1][0] < now - PACE_SECONDS:
            self._samples.pop(0)
        before, elapsed = self._samples[0][1], now - self._samples[0][0]
        return (self.done - before) / elapsed if elapsed > 0 else 0.0

    def summary(self, rows: int | None, wall_s: float) -> Summary:
        """The account; `rows` is None where their number is known only at the end."""
        totals = self.totals
        total_rows = rows if rows is not None else self.done
        return Summary(
            rows=total_rows,
            ok=totals.ok,
            failed=totals.failed,
            left=total_rows - self.done,
            sent=self.sent,
            throttled=self.throttled,
            retried=self.retried,
            reused=self.reused,
            ambiguous=totals.ambiguous + self.interrupted,
            input_tokens=totals.input_tokens,
            output_tokens=totals.output_tokens,
            cost=totals.cost,
            rows_without_cost=totals.rows_without_cost,
            wall_s=round(wall_s, 3),
            requests_per_s=round(self.sent / wall_s, 1) if wall_s > 0 else 0.0,
            calls=totals.calls,
        )
