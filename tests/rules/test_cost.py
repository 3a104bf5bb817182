"""The arithmetic of cost: worked examples, and what must hold for any usage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.records import Usage
from penstock.rules.cost import Rates, Tiers, cost_of

RATES = Rates(input=2.0, output=8.0, cached=0.5)


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        (Usage(), 0.0),
        (Usage(1_000_000), 2.0),
        (Usage(0, 1_000_000), 8.0),
        (Usage(1_000_000, 0, 1_000_000), 0.5),
        (Usage(1_000_000, 500_000, 400_000), 1.2 + 0.2 + 4.0),
        (Usage(0, 1_000_000, 0, 900_000), 8.0),
        (Usage(100, 0, 1_000), 100 * 0.5 / 1e6),
    ],
)
def test_cached_is_part_of_input_and_reasoning_of_output(usage: Usage, dollars: float) -> None:
    assert cost_of(usage, RATES) == pytest.approx(dollars)


@pytest.mark.parametrize(("tokens", "rate"), [(0, 2.0), (200_000, 2.0), (200_001, 4.0), (500_000, 4.0), (500_001, 6.0)])
def test_a_tier_holds_for_all_tokens_once_the_input_exceeds_its_start(tokens: int, rate: float) -> None:
    tiers = Tiers((200_000, 500_000), tuple(Rates(input=rate, output=0.0, cached=0.0) for rate in (2.0, 4.0, 6.0)))
    assert tiers.cost(Usage(tokens)) == pytest.approx(tokens * rate / 1e6)


COUNT = st.integers(0, 10**12)
RATE = st.floats(0, 1e4)


@given(COUNT, COUNT, COUNT, RATE, RATE, RATE)
def test_a_cost_is_never_negative_and_more_tokens_never_cost_less(
    tokens: int, output: int, cached: int, rate: float, output_rate: float, cached_rate: float
) -> None:
    rates = Rates(input=rate, output=output_rate, cached=cached_rate)
    cost = cost_of(Usage(tokens, output, cached), rates)
    assert cost >= 0
    assert cost_of(Usage(tokens, output + 1_000, cached), rates) >= cost
