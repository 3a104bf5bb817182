"""One budget over time: never over the rate, never starving, never richer by a refund."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.rules.bucket import Bucket

rates = st.floats(0.1, 1_000)
costs = st.lists(st.floats(0.01, 50), min_size=1, max_size=60)


def spend(bucket: Bucket, cost: float, now: float) -> float:
    """Send one as early as the bucket allows; return when."""
    at = max(now, bucket.ready_at(cost))
    bucket.take(at, cost)
    return at


@given(rate=rates, burst=st.floats(0, 5), costs=costs)
def test_no_window_holds_more_than_rate_times_time_plus_burst(rate: float, burst: float, costs: list[float]) -> None:
    bucket, now, sent = Bucket(rate, burst), 0.0, []
    for cost in costs:
        now = spend(bucket, cost, now)
        sent.append((now, cost))
    for first in range(len(sent)):
        start, spent = sent[first][0], 0.0
        for at, cost in sent[first:]:
            # A cost above the burst goes on credit when the bucket is whole, and is paid off before the next.
            assert spent <= rate * (at - start) + rate * burst + 1e-6
            spent += cost


def test_a_cost_above_the_burst_goes_when_the_bucket_is_whole() -> None:
    bucket = Bucket(rate=10, burst=0.5)
    assert spend(bucket, 100, now=0) == 0
    assert bucket.ready_at(1) == 10 - 0.4


@given(rate=rates, refund=st.floats(0, 1e6))
def test_a_refund_never_lifts_the_budget_over_its_burst(rate: float, refund: float) -> None:
    bucket, fresh = Bucket(rate, 1.0), Bucket(rate, 1.0)
    bucket.take(0, rate)
    bucket.settle(-refund)
    for cost in (rate / 2, rate / 2, rate / 2):
        assert spend(bucket, cost, now=5.0) >= spend(fresh, cost, now=5.0) - 1e-9


def test_settling_more_than_was_reserved_delays_the_next() -> None:
    bucket = Bucket(rate=1, burst=0)
    bucket.take(0, 1)
    bucket.settle(4)
    assert bucket.ready_at(1) == 5


def test_after_a_pause_waiters_leave_by_pace_and_not_in_a_herd() -> None:
    bucket = Bucket(rate=2, burst=1)
    bucket.empty_until(10)
    assert [spend(bucket, 1, now=10) for _ in range(3)] == [10.5, 11, 11.5]
