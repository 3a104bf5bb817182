"""Drawn numbers depend on nothing but their names, and have the distribution that is asked for."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import fmean

import pytest

from penstock.errors import UsageError
from penstock.simulator.chance import EXACT, Scatter, chances
from penstock.simulator.foreign import RATE_WITHOUT_LIMIT, Others


def test_numbers_differ_by_each_of_their_names() -> None:
    """Seed, name, turn and purpose; the same four give the same numbers."""
    first = chances(b"1", b"name", 0)
    assert chances(b"1", b"name", 0) == first
    others = [chances(b"2", b"name", 0), chances(b"1", b"other", 0), chances(b"1", b"name", 1)]
    assert all(numbers != first for numbers in [*others, chances(b"1", b"name", 0, b"purpose")])
    assert all(0 <= number < 1 for number in first)


def test_a_scatter_keeps_its_mean() -> None:
    """The bias is the mean, the noise the spread around it; without either it is 1."""
    draws = [Scatter(1.3, 0.2).factor(*chances(b"1", b"n", turn)[:2]) for turn in range(4000)]
    assert fmean(draws) == pytest.approx(1.3, rel=0.02)
    assert math.sqrt(fmean((draw / 1.3 - 1) ** 2 for draw in draws)) == pytest.approx(0.2, rel=0.1)
    assert EXACT.factor(0.3, 0.7) == 1.0


@pytest.mark.parametrize("scatter", [(0.0, 0.1), (1.0, -0.1), (math.inf, 0.0)])
def test_a_scatter_that_cannot_be_is_refused(scatter: tuple[float, float]) -> None:
    """With what is wrong about it."""
    with pytest.raises(UsageError, match="bias above 0"):
        Scatter(*scatter)


def times(others: Others, until: float) -> list[float]:
    return list(others.until(until))


def test_others_come_at_their_share_of_the_rate_and_by_chance() -> None:
    """A Poisson process: as many as the rate says, and gaps that vary as much as their mean."""
    others = Others(b"1", b"m", 600.0)
    others.set_share(0.0, 0.3)
    arrivals = times(others, 1000.0)
    assert len(arrivals) == pytest.approx(3000, rel=0.06)
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert math.sqrt(fmean((gap * 3 - 1) ** 2 for gap in gaps)) == pytest.approx(1, rel=0.1)


def test_others_replay_and_stop() -> None:
    """The same seed brings the same times, however they are asked for; no share, nobody."""
    whole, parts, other = Others(b"1", b"m", None), Others(b"1", b"m", None), Others(b"2", b"m", None)
    for each in (whole, parts, other):
        assert each.requests_per_minute == RATE_WITHOUT_LIMIT
        assert times(each, 100.0) == []
        each.set_share(0.0, 0.5)
    assert times(whole, 10.0) == [at for second in range(1, 11) for at in times(parts, second)]
    assert times(other, 10.0) != times(parts, 10.0)
    whole.set_share(10.0, 0.0)
    assert times(whole, 1e6) == []
