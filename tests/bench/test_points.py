"""How many calls a contender makes at a place of the benchmark."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.field import BY_NAME
from bench.points import (
    CASES,
    FULL,
    LEVELS,
    MOST_CALLS,
    QUICK,
    Case,
    Effort,
    calls_for,
    expected_seconds,
    patience_seconds,
)

ZERO, SECOND = (next(case for case in CASES if case.name == name) for name in ("zero", "second"))
EFFORT = Effort(rounds=5, turn_seconds=0.75, longest_seconds=16, waves=2)


@pytest.mark.parametrize(
    ("in_flight", "cost_us", "expected"),
    [
        (64, 25, MOST_CALLS),  # cheap: no more than enough
        (8, 1_000, 750),  # as many as a turn has seconds for
        (64, 1_000, 1_500),  # twice as many where most targets are taken
        (64, 50_000, 128),  # dear: twice what is in flight, not one and a half seconds
        (1, 500_000, 20),  # never so few that one call decides
        (1_000, 12_000, 1_333),  # dearer: as many as the longest turn has seconds for
        (5_000, 25, MOST_CALLS),
    ],
)
def test_without_latency_calls_are_as_many_as_a_turn_can_pay_for(in_flight: int, cost_us: float, expected: int) -> None:
    assert calls_for(ZERO, in_flight, cost_us, EFFORT) == expected


@pytest.mark.parametrize(
    ("in_flight", "cost_us", "expected"),
    [(1, 40, 2), (1_000, 40, 2_000), (5_000, 40, 20_000), (5_000, 2_000, 8_000), (1_000, 10_000, 1_600)],
)
def test_with_latency_calls_are_waves_and_most_in_flight_have_more(
    in_flight: int, cost_us: float, expected: int
) -> None:
    assert calls_for(SECOND, in_flight, cost_us, EFFORT) == expected


@pytest.mark.parametrize("case", [ZERO, SECOND])
def test_whoever_would_take_too_long_is_left_out_with_the_reason(case: Case) -> None:
    told = calls_for(case, 5_000, 8_000, EFFORT)
    assert told == "5,000 calls of about 8.0 ms of CPU would take 40 s a turn"


def test_what_targets_ask_for_is_asked_of_contenders_at_places_there_are() -> None:
    places = {(case.name, level) for case in CASES for level in case.levels}
    assert {name for _, name in FULL.asked} <= set(BY_NAME)
    assert {point for point, _ in FULL.asked} <= places


def test_swift_contenders_have_the_five_rounds_that_are_promised_and_are_spared_none_at_64() -> None:
    assert FULL.swift.rounds >= 5
    assert FULL.effort(slow=True).rounds >= 3
    assert FULL.effort(slow=False) == FULL.swift
    assert [contender.name for contender in BY_NAME.values() if contender.spared(ZERO, 64)] == []


@pytest.mark.parametrize(
    "name", ["floor", "penstock", "penstock, ledger", "penstock run", "aiohttp on uvloop", "aiohttp"]
)
def test_who_is_promised_everywhere_is_spared_nowhere(name: str) -> None:
    contender = BY_NAME[name]
    assert not contender.slow
    assert [(case.name, level) for case in CASES for level in case.levels if contender.spared(case, level)] == []


@pytest.mark.parametrize(
    ("name", "case", "in_flight", "why"),
    [
        ("openai", SECOND, 8, "not measured, to spare time"),
        ("openai", SECOND, 1_000, None),
        ("openai", ZERO, 1, None),
        ("penstock run, 2 processes", ZERO, 8, "meant for 64 and more"),
    ],
)
def test_who_is_spared_where_is_told(name: str, case: Case, in_flight: int, why: str | None) -> None:
    assert BY_NAME[name].spared(case, in_flight) == why


@pytest.mark.parametrize(
    ("case", "calls", "in_flight", "cost_us", "seconds"),
    [(ZERO, 1_000, 64, 1_000, 1.5), (SECOND, 128, 64, 100, 2.0), (SECOND, 100, 1_000, 10_000, 1.5)],
)
def test_a_turn_takes_what_it_works_or_what_it_waits(
    case: Case, calls: int, in_flight: int, cost_us: float, seconds: float
) -> None:
    assert expected_seconds(case, in_flight, calls, cost_us) == pytest.approx(seconds)


@given(
    st.sampled_from(CASES),
    st.sampled_from([FULL.swift, FULL.slow, QUICK.swift]),
    st.sampled_from(LEVELS),
    st.floats(1, 1e6, allow_nan=False),
)
def test_calls_are_never_fewer_than_in_flight_nor_longer_than_allowed(
    case: Case, effort: Effort, in_flight: int, cost_us: float
) -> None:
    calls = calls_for(case, in_flight, cost_us, effort)
    if isinstance(calls, str):
        return
    seconds = calls * cost_us / 1e6
    assert calls >= in_flight
    assert seconds <= effort.longest_seconds
    assert patience_seconds(case, in_flight, calls, effort) > seconds + case.latency_s * calls / in_flight
