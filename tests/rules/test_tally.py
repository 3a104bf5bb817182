"""The account: it balances whatever comes, and an unknown part makes a sum unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import Kind, request_error
from penstock.records import Response, Result, Usage
from penstock.rules.tally import Summary, Tally, Totals


def answered(index: int, *, cost: float | None = 0.01, latency_s: float = 1.0, reused: bool = False) -> Result:
    response = Response("x", "stop", "m", Usage(10, 5))
    return Result(index, index, response=response, attempts=1, latency_s=latency_s, cost=cost, reused=reused)


def failed(index: int, kind: Kind = "timeout") -> Result:
    return Result(index, index, error=request_error(kind, "x"), attempts=3, ambiguous=3)


@given(rows=st.lists(st.booleans(), max_size=60), left=st.integers(0, 20))
def test_rows_are_ok_or_failed_or_left(rows: list[bool], left: int) -> None:
    tally = Tally()
    for index, ok in enumerate(rows):
        tally.finished(answered(index) if ok else failed(index))
    summary = tally.summary(len(rows) + left, 2.0)
    assert summary.rows == summary.ok + summary.failed + summary.left
    assert (summary.ok, summary.left) == (sum(rows), left)
    assert summary.ambiguous == 3 * rows.count(False)


def test_one_unknown_price_makes_the_cost_unknown_and_is_counted() -> None:
    tally = Tally()
    tally.finished(answered(0))
    assert tally.summary(1, 1.0).cost == pytest.approx(0.01)
    tally.finished(answered(1, cost=None))
    summary = tally.summary(2, 1.0)
    assert (summary.cost, summary.rows_without_cost) == (None, 1)


def test_a_failed_row_without_a_price_does_not_make_the_cost_unknown() -> None:
    tally = Tally()
    tally.finished(failed(0))
    assert tally.summary(1, 1.0).cost == 0


def test_sends_throttles_and_refused_connections_are_told_apart() -> None:
    tally = Tally()
    for error in (
        None,
        request_error("rate_limited", "x"),
        request_error("connect", "x"),
        request_error("timeout", "x"),
    ):
        tally.attempted(error)
    summary = tally.summary(0, 1.0)
    assert (summary.sent, summary.throttled) == (3, 1)


def test_a_session_goes_on_from_what_is_recorded() -> None:
    tally = Tally(Totals(ok=7, failed=1, input_tokens=70, ambiguous=2), interrupted=4)
    tally.finished(answered(8))
    summary = tally.summary(None, 1.0)
    assert (summary.rows, summary.ok, summary.failed, summary.left) == (9, 8, 1, 0)
    assert (summary.reused, summary.ambiguous, summary.input_tokens) == (8, 6, 80)


def test_percentiles_are_within_a_quarter_of_a_doubling_and_leave_out_what_was_reused() -> None:
    tally = Tally()
    assert tally.latency(0.5) is None
    for index in range(100):
        tally.finished(answered(index, latency_s=(index + 1) / 100))
    tally.finished(answered(100, latency_s=1e6, reused=True))
    for share in (0.5, 0.95, 1.0):
        assert share <= (tally.latency(share) or 0) <= share * 1.19 + 0.001


def test_the_pace_is_that_of_the_last_seconds() -> None:
    tally = Tally()
    assert tally.sample(0.0) == 0.0
    for second in range(1, 31):
        for _ in range(5 if second <= 15 else 50):
            tally.finished(answered(0))
        pace = tally.sample(float(second))
    assert pace == pytest.approx(50, rel=0.1)


def test_the_summary_has_the_promised_keys() -> None:
    assert Summary.__struct_fields__ == (
        *("rows", "ok", "failed", "left", "sent", "throttled", "retried", "reused", "ambiguous"),
        *("input_tokens", "output_tokens", "cost", "rows_without_cost", "wall_s", "requests_per_s", "calls"),
    )
