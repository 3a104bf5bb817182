"""The limits are those of a continuous bucket, told as OpenAI tells them."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.simulator.budgets import Bucket, Budgets


@pytest.mark.parametrize(
    ("limit", "used", "requested", "wait"),
    [
        (30_000, 18_928, 11_159, "174ms"),
        (30_000, 28_039, 3_906, "3.89s"),
        (30_000, 14_567, 24_754, "18.642s"),
        (30_000, 22_343, 10_955, "6.596s"),
        (10_000, 8_554, 3_082, "9.816s"),
        (30_000, 29_937, 385, "644ms"),
        (200_000, 162_960, 42_288, "1.574s"),
    ],
)
def test_public_429s_are_reproduced(limit: int, used: int, requested: int, wait: str) -> None:
    """The message of each public 429 comes out with its own numbers and wait."""
    budgets = Budgets("m", {"tokens": limit}, 60)
    assert budgets.admit(0, {"tokens": used}) is None
    refusal = budgets.admit(0, {"tokens": requested})
    assert refusal is not None
    error = json.loads(refusal.body)["error"]
    assert f"Limit {limit}, Used {used}, Requested {requested}. Please try again in {wait}." in error["message"]
    assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    assert [name for name, _ in refusal.headers] == [b"retry-after", b"retry-after-ms"]


def test_what_exceeds_the_limit_never_fits() -> None:
    """Such a 429 names no wait, because none would help."""
    refusal = Budgets("m", {"requests": 10, "tokens": 30_000}, 60).admit(0, {"requests": 1, "tokens": 30_601})
    assert refusal is not None
    assert "Request too large" in json.loads(refusal.body)["error"]["message"]
    assert refusal.headers == []


@given(
    burst=st.sampled_from([1.0, 10.0, 60.0]),
    arrivals=st.lists(st.tuples(st.floats(0, 20), st.integers(1, 300)), min_size=1, max_size=60),
)
@settings(max_examples=80)
def test_no_window_gets_more_than_burst_and_refill(burst: float, arrivals: list[tuple[float, int]]) -> None:
    """From any admission to any later one at most room + rate * time passes; a cost above the room counts as room."""
    bucket, now, admitted = Bucket(600, burst), 0.0, []
    for pause, cost in arrivals:
        now += pause
        if bucket.wait(now, cost) == 0:
            bucket.charge(now, cost)
            admitted.append((now, cost))
    for i, (start, _) in enumerate(admitted):
        for j in range(i, len(admitted)):
            end, last = admitted[j]
            passed = sum(cost for _, cost in admitted[i : j + 1])
            assert passed <= max(bucket.room, last) + bucket.rate * (end - start) + 0.01


@given(burst=st.sampled_from([0.5, 1.0, 60.0]), used=st.integers(0, 600), cost=st.integers(1, 600))
@settings(max_examples=80)
def test_who_waits_as_told_is_admitted(burst: float, used: int, cost: int) -> None:
    """The wait is enough, and a hundredth less is not."""
    bucket = Bucket(600, burst)
    bucket.charge(0, used)
    wait = bucket.wait(0, cost)
    assert bucket.wait(wait, cost) == 0
    if wait > 0.1:
        assert Bucket.wait(_charged(burst, used), wait * 0.99, cost) > 0


def _charged(burst: float, used: int) -> Bucket:
    bucket = Bucket(600, burst)
    bucket.charge(0, used)
    return bucket


def test_a_refusal_charges_nothing_to_either_budget() -> None:
    """A request that does not fit one limit leaves the other untouched."""
    budgets = Budgets("m", {"requests": 2, "tokens": 1000}, 60)
    assert budgets.admit(0, {"requests": 1, "tokens": 900}) is None
    before = budgets.headers(0)
    assert budgets.admit(0, {"requests": 1, "tokens": 900}) is not None
    assert budgets.headers(0) == before


def test_headers_tell_limit_rest_and_time_until_full() -> None:
    """`reset` is the time until nothing is used any more, as OpenAI has it."""
    budgets = Budgets("m", {"requests": 60, "tokens": 6000}, 60)
    budgets.admit(0, {"requests": 1, "tokens": 300})
    assert dict(budgets.headers(0.5)) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"500ms",
        b"x-ratelimit-limit-tokens": b"6000",
        b"x-ratelimit-remaining-tokens": b"5750",
        b"x-ratelimit-reset-tokens": b"2.5s",
    }


def test_a_correction_gives_back_and_takes() -> None:
    """What was reserved too much is free again; a level never falls below nothing."""
    bucket = Bucket(60, 60)
    bucket.charge(0, 30)
    bucket.charge(0, -10)
    assert bucket.level(0) == 20
    bucket.charge(0, -100)
    assert bucket.level(0) == 0


def test_a_short_burst_still_admits_what_is_larger_than_it() -> None:
    """With a second's burst a request of a minute's tokens passes an empty bucket, and then blocks it for a minute."""
    bucket = Bucket(600, 1)
    assert bucket.wait(0, 600) == 0
    bucket.charge(0, 600)
    assert bucket.wait(0, 600) == pytest.approx(60)
    assert math.isinf(bucket.wait(0, 601))


def test_the_formula_holds_for_a_short_burst_too() -> None:
    """(Used + Requested - Limit) / (Limit / 60) is the wait whatever the burst."""
    budgets = Budgets("m", {"tokens": 60_000}, 1)
    budgets.admit(0, {"tokens": 1000})
    refusal = budgets.admit(0, {"tokens": 500})
    assert refusal is not None
    message = json.loads(refusal.body)["error"]["message"]
    used = float(re.search(r"Used (\d+)", message)[1])
    assert (used + 500 - 60_000) / 1000 == 0.5
    assert "try again in 500ms" in message
