"""The guard's comparison with the figures that are kept."""

from __future__ import annotations

import math

import msgspec
import pytest

from bench.guard import KEPT, WORKS, Kept, compared, counted_in


@pytest.mark.parametrize(
    ("now", "may_be"), [(1_000, True), (1_049, True), (1_051, False), (951, True), (949, False), (2_000, False)]
)
def test_more_than_the_tolerance_is_told_and_so_is_a_gain_that_is_not_kept(now: int, may_be: bool) -> None:
    assert list(compared({"map": 1_000}, {"map": now}, 0.05)) == [("map", pytest.approx(now / 1_000 - 1), may_be)]


def test_a_work_without_a_kept_figure_is_told() -> None:
    assert list(compared({}, {"map": 5}, 0.05)) == [("map", math.inf, False)]


def test_only_what_was_counted_is_compared() -> None:
    assert [name for name, *_ in compared({"map": 1, "generate": 1}, {"generate": 1}, 0.05)] == ["generate"]


def test_callgrinds_count_is_found_in_what_it_says() -> None:
    assert counted_in("==7== Events    : Ir\n==7== Collected : 3141592653\n==7== \n") == 3_141_592_653


def test_a_callgrind_that_counted_nothing_is_an_error_with_what_it_said() -> None:
    with pytest.raises(ValueError, match="no such file"):
        counted_in("valgrind: no such file")


def test_the_kept_file_has_a_figure_for_each_work() -> None:
    kept = msgspec.json.decode(KEPT.read_bytes(), type=Kept)
    assert set(kept.instructions) == set(WORKS)
    assert all(count > 0 for count in kept.instructions.values())
