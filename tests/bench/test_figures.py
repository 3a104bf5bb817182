"""Figures of the benchmarks: medians, ratios pair by pair, tables, targets."""

from __future__ import annotations

import math

import pytest

from bench.figures import Target, markdown, median, number, ratio, share


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0, 1.0, 2.0], 2.0), ([1.0, 2.0], 1.5), ([None, 4.0, math.nan], 4.0)],
)
def test_a_median_leaves_out_what_is_not_there(values: list[float | None], expected: float) -> None:
    assert median(values) == expected


def test_a_median_of_nothing_is_nan() -> None:
    assert math.isnan(median([None, math.nan]))


def test_a_ratio_is_taken_pair_by_pair_and_not_of_medians() -> None:
    """Round two was ten times slower for both: the ratio is 2 all the same, and a ratio of medians would be 20."""
    assert ratio([2.0, 200.0, 200.0], [1.0, 100.0, 10.0]) == 2.0


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [([None, 6.0], [1.0, 2.0], 3.0), ([5.0, 6.0], [None, 2.0], 3.0), ([5.0, 6.0], [0.0, 2.0], 3.0)],
)
def test_a_pair_that_is_not_whole_does_not_count(
    own: list[float | None], theirs: list[float | None], expected: float
) -> None:
    assert ratio(own, theirs) == expected


def test_a_ratio_of_no_whole_pair_is_nan() -> None:
    assert math.isnan(ratio([None], [1.0]))


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1,234"), (9.876, "9.88"), (0.0, "0.00"), (math.nan, "-")])
def test_a_number_has_as_many_digits_as_it_is_good_for(value: float, text: str) -> None:
    assert number(value) == text


def test_a_share_is_in_per_cent() -> None:
    assert share(0.125) == "12.5%"


def test_a_table_is_padded_and_its_figures_stand_right() -> None:
    assert list(markdown([["who", "us"], ["floor", "25"], ["a", "1,000"]])) == [
        "| who   |    us |",
        "| ----- | ----: |",
        "| floor |    25 |",
        "| a     | 1,000 |",
    ]


def test_columns_of_words_stand_left_where_they_are_named() -> None:
    assert list(markdown([["n", "who"], ["1", "a"]], left=[1])) == ["|  n | who |", "| -: | --- |", "|  1 | a   |"]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (Target("x, at least 2", 2.0, 2.0), "* reached: x, at least 2: 2"),
        (Target("x, at most 1.15", 1.1523, 1.15, at_least=False), "* MISSED: x, at most 1.15: 1.152"),
        (Target("x, at least 2", 1.99, 2.0), "* MISSED: x, at least 2: 1.99"),
        (Target("x, at most 2", 2.0, 2.0, at_least=False), "* reached: x, at most 2: 2"),
        (Target("x, at most 2", 2.01, 2.0, at_least=False), "* MISSED: x, at most 2: 2.01"),
        (Target("x", math.nan, 2.0), "* not measured: x"),
    ],
)
def test_a_target_says_whether_it_is_reached(target: Target, text: str) -> None:
    assert str(target) == text
