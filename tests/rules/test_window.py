"""One budget over any period: never over its capacity, whoever waits is served, what comes back was spent before."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.rules.bucket import CELLS, SLACK, Window

CAPACITY = 100.0
arrivals = st.lists(st.tuples(st.floats(0, 30), st.floats(0.1, CAPACITY)), min_size=1, max_size=80)
periods = st.sampled_from([1.0, 60.0, 86_400.0])


def spend(window: Window, cost: float, now: float) -> float:
    """Send one as early as the window allows; return when. The told time is enough: it is asked twice at most."""
    ready = window.ready_at(now, cost)
    if ready > now:
        now = ready
        assert window.ready_at(now, cost) <= now
    window.take(now, cost)
    return now


@settings(deadline=None)
@given(arrivals=arrivals, period=periods)
def test_no_period_holds_more_than_the_capacity(arrivals: list[tuple[float, float]], period: float) -> None:
    """Not even one that is longer by what the way to the provider may differ."""
    window, now, sent = Window(CAPACITY, period), 0.0, []
    for gap, cost in arrivals:
        now = spend(window, cost, now + gap)
        sent.append((now, cost))
    for start, _ in sent:
        end = (start + period + min(SLACK, period)) * (1 - 1e-12)
        held = sum(cost for at, cost in sent if start <= at < end)
        assert held <= CAPACITY * (1 + 1e-6)


@settings(deadline=None)
@given(arrivals=arrivals, period=periods)
def test_nobody_waits_longer_than_until_the_last_spending_is_forgotten(
    arrivals: list[tuple[float, float]], period: float
) -> None:
    window, now = Window(CAPACITY, period), 0.0
    longest = period + min(SLACK, period) + 2 * period / CELLS
    for gap, cost in arrivals:
        arrived, before = now + gap, now
        now = spend(window, cost, arrived)
        assert now <= max(arrived, before + longest)


def test_a_steady_flow_fills_99_percent_of_the_capacity() -> None:
    window, now, sent = Window(600.0, 60.0), 0.0, 0
    while now < 3_600:
        now = spend(window, 1.0, now)
        sent += 1
    assert sent >= 0.99 * 600 * 60


def test_a_cost_above_the_capacity_goes_once_the_window_is_empty() -> None:
    window = Window(10.0, 60.0)
    window.take(0.0, 1.0)
    assert 60.0 < spend(window, 25.0, now=1.0) < 60.5


def test_without_a_capacity_nothing_waits_but_what_was_spent_is_remembered() -> None:
    window = Window(math.inf, 60.0)
    window.take(0.0, 50.0)
    assert window.ready_at(0.0, 1e9) <= 0.0
    window.capacity = 60.0
    assert window.used == 50.0
    assert window.ready_at(1.0, 20.0) > 59.0


def test_what_was_spent_shrinks_with_a_limit_that_falls() -> None:
    window = Window(100.0, 60.0)
    window.take(0.0, 80.0)
    window.scale(0.5)
    window.capacity = 50.0
    assert window.used == pytest.approx(40.0)
    assert window.ready_at(0.0, 10.0) <= 0.0
    assert window.ready_at(0.0, 11.0) > 0.0


@settings(deadline=None)
@given(
    sends=st.lists(
        st.tuples(st.floats(0, 30), st.floats(0.1, CAPACITY), st.floats(0, 1), st.integers(0, 5)),
        min_size=1,
        max_size=60,
    )
)
def test_a_refund_never_lets_more_through_than_if_the_cost_had_been_the_smaller_one_from_the_start(
    sends: list[tuple[float, float, float, int]],
) -> None:
    """Each send reserves a cost, uses a share of it, and is settled some sends later."""
    window, known, now = Window(CAPACITY, 60.0), Window(CAPACITY, 60.0), 0.0
    refunds: list[tuple[int, float, float]] = []
    for turn, (gap, cost, used, later) in enumerate(sends):
        now = spend(window, cost, now + gap)
        known.take(now, cost * used)
        refunds.append((turn + later, now, cost * used - cost))
        for due, at, difference in refunds:
            if due == turn:
                window.settle(at, difference)
        for probe in (1.0, CAPACITY / 2, CAPACITY):
            assert max(now, window.ready_at(now, probe)) >= max(now, known.ready_at(now, probe))


def test_what_is_forgotten_is_neither_given_back_nor_owed() -> None:
    window = Window(10.0, 60.0)
    window.take(0.0, 10.0)
    assert window.ready_at(61.0, 10.0) <= 61.0
    for difference in (-10.0, 5.0):
        window.settle(0.0, difference)
        assert window.used == 0.0


def test_more_used_than_reserved_is_owed_in_its_own_time() -> None:
    window = Window(10.0, 60.0)
    window.take(0.0, 2.0)
    window.settle(0.0, 7.0)
    assert window.ready_at(1.0, 1.0) <= 1.0
    assert 60.0 < window.ready_at(1.0, 2.0) < 60.5


def test_after_a_change_of_capacity_what_was_spent_is_forgotten_and_given_back_in_the_new_measure() -> None:
    window = Window(100.0, 60.0)
    window.take(0.0, 40.0)
    window.take(30.0, 40.0)
    window.scale(0.5)
    window.capacity = 50.0
    window.settle(0.0, -40.0)
    assert window.used == pytest.approx(20.0)
    assert window.ready_at(61.0, 30.0) <= 61.0
    assert window.ready_at(61.0, 31.0) > 90.0
