"""How many calls a contender makes at a place of the benchmark."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.points import CASES, FULL, LEVELS, MOST_CALLS, QUICK, Case, Length, calls_for, patience_seconds

ZERO, SECOND = (next(case for case in CASES if case.name == name) for name in ("zero", "second"))


@pytest.mark.parametrize(
    ("in_flight", "cost_us", "expected"),
    [
        (64, 25, MOST_CALLS),  # cheap: no more than enough
        (64, 1_000, 1_500),  # as many as a turn has seconds for
        (64, 50_000, 256),  # dear: four times what is in flight, not one and a half seconds
        (1, 500_000, 20),  # never so few that one call decides
        (1_000, 12_000, 1_333),  # dearer: as many as the longest turn has seconds for
        (5_000, 25, MOST_CALLS),
    ],
)
def test_without_latency_calls_are_as_many_as_a_turn_can_pay_for(in_flight: int, cost_us: float, expected: int) -> None:
    assert calls_for(ZERO, in_flight, cost_us, FULL) == expected


@pytest.mark.parametrize(
    ("in_flight", "cost_us", "expected"),
    [(1, 40, 4), (1_000, 40, 4_000), (5_000, 40, 100_000), (5_000, 2_000, 8_000), (1_000, 10_000, 1_600)],
)
def test_with_latency_calls_are_waves_and_most_in_flight_have_more(
    in_flight: int, cost_us: float, expected: int
) -> None:
    assert calls_for(SECOND, in_flight, cost_us, FULL) == expected


@pytest.mark.parametrize("case", [ZERO, SECOND])
def test_whoever_would_take_too_long_is_left_out_with_the_reason(case: Case) -> None:
    told = calls_for(case, 5_000, 8_000, FULL)
    assert told == "5,000 calls of about 8.0 ms of CPU would take 40 s a turn"


@given(
    st.sampled_from(CASES), st.sampled_from([FULL, QUICK]), st.sampled_from(LEVELS), st.floats(1, 1e6, allow_nan=False)
)
def test_calls_are_never_fewer_than_in_flight_nor_longer_than_allowed(
    case: Case, length: Length, in_flight: int, cost_us: float
) -> None:
    calls = calls_for(case, in_flight, cost_us, length)
    if isinstance(calls, str):
        return
    seconds = calls * cost_us / 1e6
    assert calls >= in_flight
    assert seconds <= length.longest_seconds
    assert patience_seconds(case, in_flight, calls, length) > seconds + case.latency_s * calls / in_flight
