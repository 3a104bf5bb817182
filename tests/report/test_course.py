"""What a report counts stays small and loses nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.records import Usage
from penstock.report.course import FINEST_S, MOST_STRETCHES, PER_DOUBLING, Course, Latencies, Stretch

NOW = 1_795_000_000.0
SECONDS = st.floats(0.001, 5_000)
WITHIN = 2 ** (1 / PER_DOUBLING)


@given(st.lists(SECONDS, min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_percentile_is_never_below_the_true_one_and_little_above(latencies: list[float], share: float) -> None:
    """Within one size, 1/16 of a doubling."""
    counted = Latencies()
    for seconds in latencies:
        counted.add(seconds)
    ordered = sorted(latencies)
    exact = next(value for rank, value in enumerate(ordered, 1) if rank >= share * len(ordered))
    found = counted.at(share)
    assert found is not None
    assert exact * (1 - 1e-9) <= found <= exact * WITHIN * (1 + 1e-9)


def test_no_latency_has_no_percentile() -> None:
    assert Latencies().at(0.5) is None


def many(seed: int) -> list[float]:
    """Offsets of ends, up to a thousand, over a span from a second to a month."""
    chance = random.Random(seed)
    return [chance.uniform(0, chance.choice([1, 1e3, 3e6])) for _ in range(chance.randrange(1, 1_000))]


ENDS = st.integers(0, 2**32).map(many)


@settings(max_examples=40)
@given(ENDS, SECONDS)
def test_a_course_has_few_stretches_and_every_row(ends: list[float], latency_s: float) -> None:
    """However far apart the rows end: over a month there are no more stretches than over a minute, and none is lost."""
    course = Course()
    for offset in ends:
        stretch = course.at(NOW + offset)
        stretch.add(ok=offset > 1e6, latency_s=latency_s, usage=Usage(2, 3), cost=0.5)
    found = [stretch for _, stretch in course.in_order()]
    assert len(found) <= MOST_STRETCHES
    assert sum(each.ok + each.failed for each in found) == len(ends)
    assert sum(each.ok for each in found) == sum(offset > 1e6 for offset in ends)
    assert sum(sum(each.latencies.counts.values()) for each in found) == sum(each.ok for each in found)
    assert sum(each.output_tokens for each in found) == 3 * len(ends)
    assert sum(each.cost for each in found) == pytest.approx(0.5 * len(ends))


@settings(max_examples=40)
@given(ENDS)
def test_a_row_stands_in_the_stretch_in_which_it_ended(ends: list[float]) -> None:
    """Also after the stretches became wider."""
    course = Course()
    for offset in ends:
        course.at(NOW + offset).add(ok=True, latency_s=1.0, usage=None, cost=None)
    for start, stretch in course.in_order():
        within = [offset for offset in ends if start <= NOW + offset < start + course.width_s]
        assert stretch.ok == len(within) > 0


def test_a_short_run_is_told_finely() -> None:
    course = Course()
    for number in range(100):
        course.at(NOW + number / 10)
    assert course.width_s == FINEST_S


def test_an_unknown_price_adds_nothing() -> None:
    stretch = Stretch()
    stretch.add(ok=True, latency_s=1.0, usage=None, cost=None)
    assert (stretch.cost, stretch.input_tokens) == (0.0, 0)
