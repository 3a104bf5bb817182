"""All budgets together: all or nothing, the binding one told, one pause for everybody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.options import Limits
from penstock.rules.charges import NOTHING, Charge
from penstock.rules.governor import Governor, Wait

SMALL = Charge(1, 20, 10, 10)


def test_without_limits_everything_may_go() -> None:
    governor = Governor(Limits())
    assert all(governor.admit(0.0, SMALL) is None for _ in range(1_000))
    assert not governor.counts_tokens


def test_a_request_that_waits_for_tokens_has_not_spent_a_request() -> None:
    governor = Governor(Limits(requests_per_minute=6_000, tokens_per_minute=600))
    large = Charge(1, 300, 300, 0)
    assert governor.admit(0.0, large) is None
    before = governor.statistics(0.0)
    wait = governor.admit(0.0, large)
    assert isinstance(wait, Wait)
    assert wait.budget == "tokens_per_minute"
    assert governor.statistics(0.0) == before


def test_waiting_until_the_told_time_is_enough() -> None:
    governor = Governor(Limits(requests_per_minute=60, tokens_per_minute=1_000))
    now = 0.0
    for _ in range(20):
        wait = governor.admit(now, SMALL)
        if wait is not None:
            now = wait.until
            assert governor.admit(now, SMALL) is None


@given(gaps=st.lists(st.floats(0, 3), min_size=1, max_size=300), rpm=st.floats(10, 600))
def test_no_minute_holds_more_than_the_limit(gaps: list[float], rpm: float) -> None:
    governor, now, sent = Governor(Limits(requests_per_minute=rpm)), 0.0, []
    for gap in gaps:
        now += gap
        while (wait := governor.admit(now, Charge())) is not None:
            now = wait.until
        sent.append(now)
    for start in sent:
        assert sum(start <= at < start + 60 for at in sent) <= rpm + 1


@pytest.mark.parametrize(
    ("limits", "charge", "budget"),
    [
        (Limits(tokens_per_minute=100), Charge(1, 101, 60, 41), "tokens_per_minute"),
        (Limits(input_tokens_per_minute=100), Charge(1, 101, 101, 0), "input_tokens_per_minute"),
        (Limits(output_tokens_per_minute=100), Charge(1, 101, 0, 101), "output_tokens_per_minute"),
        (Limits(requests_per_minute=0.5), Charge(), None),
        (Limits(tokens_per_minute=100), Charge(1, 100, 60, 40), None),
    ],
)
def test_a_request_above_a_whole_limit_is_told_at_once(limits: Limits, charge: Charge, budget: str | None) -> None:
    assert Governor(limits).never_fits(charge) == budget


def test_usage_settles_what_was_reserved_and_nothing_is_owed_for_what_was_not_sent() -> None:
    governor = Governor(Limits(tokens_per_minute=6_000))
    charge = Charge(1, 6_000, 3_000, 3_000)
    assert governor.admit(0.0, charge) is None
    assert governor.admit(0.0, charge) is not None
    governor.settle(0.0, 0.0, charge, NOTHING)
    assert governor.admit(0.0, charge) is None


def test_a_named_wait_pauses_everybody() -> None:
    governor = Governor(Limits())
    assert governor.throttle(10.0, 5.0) == 15.0
    assert governor.throttle(11.0, 2.0) == 15.0  # a shorter wait of another answer does not shorten the pause
    assert governor.admit(14.9, SMALL) == Wait(15.0, "the end of a throttle")
    assert governor.admit(15.0, SMALL) is None


def test_without_a_named_wait_the_pause_doubles_by_episode_and_starts_again_after_an_answer() -> None:
    governor, now, pauses = Governor(Limits()), 0.0, []
    for _ in range(8):
        until = governor.throttle(now, None)
        assert governor.throttle(now + 0.1, None) == until  # under way when the pause began: the same episode
        pauses.append(until - now)
        now = until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    governor.answered(now)
    assert governor.throttle(now, None) - now == 1


@pytest.mark.parametrize("wait", [86_401.0, 1e9, float("inf")])
def test_an_absurd_wait_counts_as_none(wait: float) -> None:
    assert Governor(Limits()).throttle(0.0, wait) == 1.0
