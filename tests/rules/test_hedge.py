"""A second send is for what is slower than 99 % of its kind, and for two requests in a hundred at most."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.rules.hedge import Hedging

HIGH = 2 ** (1 / 8) + 1e-9


def seen(latencies: list[float]) -> Hedging:
    hedging = Hedging()
    for latency in latencies:
        hedging.answered(latency)
    return hedging


def percentile(latencies: list[float]) -> float:
    """The largest of the latencies that is not above 99 % of them."""
    return sorted(latencies)[-1 - int(0.01 * len(latencies))]


def test_before_a_hundred_answers_nothing_counts_as_slow() -> None:
    hedging = seen([1.0] * 99)
    assert hedging.after() is None
    hedging.answered(1.0)
    assert hedging.after() is not None


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1_000), min_size=100, max_size=400))
def test_the_threshold_is_the_99th_percentile_rounded_up_by_9_percent_at_most(latencies: list[float]) -> None:
    after, exact = seen(latencies).after(), percentile(latencies)
    assert after is not None
    assert exact * (1 - 1e-9) <= after <= exact * HIGH


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_follows_the_providers_day(seed: int) -> None:
    """After 5,000 slower answers what was before is all but forgotten."""
    chance = random.Random(seed)
    fast, slow = ([chance.lognormvariate(mu, 0.4) for _ in range(5_000)] for mu in (0.0, 1.5))
    after = seen(fast + slow).after()
    assert after is not None
    assert after == pytest.approx(percentile(slow), rel=0.15), f"seed {seed}"


@pytest.mark.parametrize("latency", [0.0, 1e-6, 0.001])
def test_no_latency_is_too_short_to_be_counted(latency: float) -> None:
    assert seen([latency] * 100).after() == pytest.approx(0.001)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=2_000))
def test_at_most_two_in_a_hundred_are_hedged_whatever_the_order(tries: list[bool]) -> None:
    """True is a request for a hedge, False an answer."""
    hedging, answers, hedged = Hedging(), 0, 0
    for hedge in tries:
        if hedge:
            hedged += hedging.spend()
        else:
            hedging.answered(1.0)
            answers += 1
        assert hedged == hedging.hedged <= 0.02 * answers + 1e-9


def test_two_in_a_hundred_may_be_hedged_when_asked_for_steadily() -> None:
    hedging = Hedging()
    for _ in range(10_000):
        hedging.answered(1.0)
        hedging.spend()
    assert 199 <= hedging.hedged <= 200


def test_a_long_time_without_hedges_allows_no_flood_of_them() -> None:
    hedging = seen([1.0] * 100_000)
    assert sum(hedging.spend() for _ in range(100)) == 3


def test_what_was_hedged_and_the_threshold_can_be_told() -> None:
    assert Hedging().statistics() == {"hedged": 0.0}
    hedging = seen([2.0] * 100)
    assert hedging.spend()
    assert hedging.statistics() == {"hedged": 1.0, "hedge_after_s": hedging.after()}
