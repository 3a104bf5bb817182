"""One budget over time: never over the rate, never starving, never richer by a refund."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.rules.bucket import Bucket

rates = st.floats(0.1, 1_000)
costs = st.lists(st.floats(0.01, 50), min_size=1, max_size=60)


def spend(bucket: Bucket, cost: float, now: float) -> float:
    """Send one as early as the bucket allows; return when."""
    at = max(now, bucket.ready_at(cost))
    bucket.take(at, cost)
    return at


@settings(deadline=None)
@given(rate=rates, burst=st.floats(0, 5), costs=costs, gaps=st.lists(st.floats(0, 20), min_size=60, max_size=60))
def test_no_window_holds_more_than_rate_times_time_plus_burst(
    rate: float, burst: float, costs: list[float], gaps: list[float]
) -> None:
    bucket, now, sent = Bucket(rate, burst), 0.0, []
    for cost, gap in zip(costs, gaps, strict=False):
        now = spend(bucket, cost, now + gap)
        sent.append((now, cost))
    for first in range(len(sent)):
        start, spent = sent[first][0], 0.0
        for at, cost in sent[first:]:
            # A cost above the burst goes on credit when the bucket is whole, and is paid off before the next.
            assert spent <= rate * (at - start) + rate * burst + 1e-6
            spent += cost


@settings(deadline=None)
@given(rate=rates, burst=st.floats(0, 5), costs=costs)
def test_who_always_has_something_to_send_gets_the_whole_rate(rate: float, burst: float, costs: list[float]) -> None:
    bucket, now = Bucket(rate, burst), 0.0
    for cost in costs:
        now = spend(bucket, cost, now)
    assert now <= sum(costs[:-1]) / rate + 1e-6


def test_a_cost_above_the_burst_goes_when_the_bucket_is_whole() -> None:
    bucket = Bucket(rate=10, burst=0.5)
    assert spend(bucket, 100, now=0) == 0
    assert bucket.ready_at(1) == 10 - 0.4


@settings(deadline=None)
@given(rate=rates, refund=st.floats(0, 1e6))
def test_a_refund_never_lifts_the_budget_over_its_burst(rate: float, refund: float) -> None:
    bucket, fresh = Bucket(rate, 1.0), Bucket(rate, 1.0)
    bucket.take(0, rate)
    bucket.settle(-refund)
    for cost in (rate / 2, rate / 2, rate / 2):
        assert spend(bucket, cost, now=5.0) >= spend(fresh, cost, now=5.0) - 1e-9


@settings(deadline=None)
@given(
    rate=rates,
    burst=st.floats(0, 5),
    sends=st.lists(
        st.tuples(st.floats(0, 2), st.floats(0.01, 50), st.floats(0, 1), st.integers(0, 8)), min_size=1, max_size=60
    ),
)
def test_refunds_at_any_time_never_let_more_through_than_rate_times_time_plus_burst(
    rate: float, burst: float, sends: list[tuple[float, float, float, int]]
) -> None:
    """Each send reserves a cost, uses a share of it, and is settled some sends later; what is out counts in full."""
    bucket, now, charged, open_refunds = Bucket(rate, burst), 0.0, 0.0, []
    for turn, (gap, cost, used, later) in enumerate(sends):
        now = spend(bucket, cost, now + gap)
        # The last one may be on credit, as it is above the burst.
        assert charged <= rate * now + rate * burst + 1e-6
        charged += cost
        open_refunds.append((turn + later, cost * (1 - used)))
        for refund in [refund for due, refund in open_refunds if due <= turn]:
            bucket.settle(-refund)
            charged -= refund
        open_refunds = [(due, refund) for due, refund in open_refunds if due > turn]


@settings(deadline=None)
@given(rate=rates, costs=costs, used=st.floats(0, 3))
def test_what_is_settled_while_the_bucket_is_in_use_counts_as_if_it_had_been_known_from_the_start(
    rate: float, costs: list[float], used: float
) -> None:
    settled, known = Bucket(rate, 1.0), Bucket(rate, 1.0)
    for cost in costs:
        settled.take(0.0, cost)
        known.take(0.0, cost * used)
    for cost in costs:
        settled.settle(cost * used - cost)
    assert settled.ready_at(1.0) == pytest.approx(known.ready_at(1.0), abs=1e-6, rel=1e-9)


def test_settling_more_than_was_reserved_delays_the_next() -> None:
    bucket = Bucket(rate=1, burst=0)
    bucket.take(0, 1)
    bucket.settle(4)
    assert bucket.ready_at(1) == 5


@settings(deadline=None)
@given(before=rates, after=rates, debt=st.floats(0.1, 1_000))
def test_at_another_rate_what_is_owed_stays_owed_in_units(before: float, after: float, debt: float) -> None:
    bucket = Bucket(before, 0.0)
    bucket.take(10.0, debt)
    bucket.retune(10.0, after)
    assert (bucket.ready_at(0.0) - 10.0) * after == pytest.approx(debt, rel=1e-6)


def test_without_a_rate_nothing_waits_and_nothing_is_owed_when_one_is_told() -> None:
    bucket = Bucket(math.inf, 0.0)
    for _ in range(1_000):
        assert spend(bucket, 100, now=10) == 10
    bucket.retune(10, 2)
    assert [spend(bucket, 1, now=10) for _ in range(3)] == [10, 10.5, 11]
    bucket.retune(10.5, math.inf)
    assert spend(bucket, 100, now=10.5) == 10.5


def test_after_a_pause_waiters_leave_by_pace_and_not_in_a_herd() -> None:
    bucket = Bucket(rate=2, burst=1)
    bucket.empty_until(10)
    assert [spend(bucket, 1, now=10) for _ in range(3)] == [10.5, 11, 11.5]


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    bucket = Bucket(rate=2, burst=1)
    bucket.empty_until(10)
    bucket.empty_until(5)
    assert bucket.ready_at(1) == 10.5
