"""Money is set aside before it is spent: the sum is never exceeded, and what was set aside comes back to the last cent."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.records import Usage
from penstock.rules.spending import Spending, overspent

DOLLARS_PER_TOKEN = 3.3e-6

moves = st.lists(
    st.tuples(st.integers(1, 100_000), st.one_of(st.none(), st.floats(0, 1)), st.integers(0, 1_000)), max_size=200
)
"""Output tokens at most; the share of them that is used, None if nobody knows; which one of those under way ends."""


def price(model: str, usage: Usage) -> float | None:
    return None if model == "unpriced" else usage.output_tokens * DOLLARS_PER_TOKEN


@settings(deadline=None)
@given(most=st.floats(1e-3, 10), earlier=st.floats(0, 10), moves=moves)
def test_what_is_spent_and_set_aside_never_exceeds_the_sum(
    most: float, earlier: float, moves: list[tuple[int, float | None, int]]
) -> None:
    spending = Spending(most, price, earlier)
    under_way: list[tuple[float, float | None]] = []
    known = earlier
    for tokens, used, turn in moves:
        reserved = spending.reserve("m", Usage(0, tokens))
        if reserved is not None:
            under_way.append((reserved, used))
        elif under_way:
            money, share = under_way.pop(turn % len(under_way))
            cost = money if share is None else money * share
            spending.settle(money, None if share is None else cost)
            known += cost
        assert spending.spent == pytest.approx(known)
        assert spending.spent + spending.reserved <= max(most, earlier) + 1e-9


@settings(deadline=None)
@given(tokens=st.lists(st.integers(1, 100_000), min_size=1, max_size=50), used=st.floats(0, 1), chance=st.randoms())
def test_when_everything_is_over_nothing_at_all_is_set_aside(tokens: list[int], used: float, chance: Random) -> None:
    """Not even a rounding of it: a run that has nothing under way and too little left must end, and not wait."""
    spending = Spending(1e6, price)
    reserved = [spending.reserve("m", Usage(0, most)) for most in tokens]
    chance.shuffle(reserved)
    for money in reserved:
        assert money is not None
        spending.settle(money, money * used)
    assert spending.reserved == 0.0


def test_what_does_not_fit_sets_nothing_aside() -> None:
    spending = Spending(10 * DOLLARS_PER_TOKEN, price)
    assert spending.reserve("m", Usage(0, 11)) is None
    assert spending.reserved == 0.0
    assert spending.reserve("m", Usage(0, 9)) == pytest.approx(9 * DOLLARS_PER_TOKEN)
    assert spending.reserve("m", Usage(0, 2)) is None


def test_what_turns_out_cheaper_makes_room() -> None:
    spending = Spending(10 * DOLLARS_PER_TOKEN, price)
    reserved = spending.reserve("m", Usage(0, 9))
    assert reserved is not None
    spending.settle(reserved, 3 * DOLLARS_PER_TOKEN)
    assert spending.reserve("m", Usage(0, 6)) is not None


def test_a_send_whose_answer_is_lost_counts_in_full() -> None:
    spending = Spending(1.0, price)
    reserved = spending.reserve("m", Usage(0, 1_000))
    assert reserved is not None
    spending.settle(reserved, None)
    assert spending.spent == reserved


def test_earlier_sessions_have_spent_their_part() -> None:
    spending = Spending(1.0, price, spent=0.999)
    assert spending.reserve("m", Usage(0, 1_000)) is None
    assert spending.statistics() == {"spent_usd": 0.999, "reserved_usd": 0.0, "most_usd": 1.0}


def test_without_a_known_price_nothing_fits_and_the_error_names_the_model() -> None:
    spending = Spending(1.0, price)
    assert spending.reserve("unpriced", Usage(0, 1)) is None
    error = overspent(spending)
    assert error.reason == "cost"
    assert "'unpriced'" in str(error)


def test_the_error_tells_what_is_spent_and_what_to_do() -> None:
    error = overspent(Spending(0.5, price, spent=0.4321))
    assert error.reason == "cost"
    assert "$0.4321 of the $0.5000" in str(error)
    assert "Raise --max-cost" in str(error)
