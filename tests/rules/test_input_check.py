"""The reading of all rows before anything is sent: errors, and ids that two rows have, in bounded memory."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.records import RawRow
from penstock.rules import input_check
from penstock.rules.input_check import check_rows
from penstock.rules.template import Template


def reader(rows: list[RawRow], readings: list[int]) -> Callable[[], list[RawRow]]:
    def read() -> list[RawRow]:
        readings.append(len(rows))
        return rows

    return read


def checked(ids: list[Any], at_most: int = 20) -> tuple[int, list[str], int]:
    """(rows, errors, how often the rows were read) for rows with these ids; `...` is a row without one."""
    readings: list[int] = []
    rows = [
        RawRow(k, f"in:{k + 1}", {"prompt": "x"} if row_id is ... else {"prompt": "x", "id": row_id})
        for k, row_id in enumerate(ids)
    ]
    check = check_rows(reader(rows, readings), Template().row, at_most)
    return check.rows, [str(error) for error in check.errors], len(readings)


def twice(line: int, row_id: Any, first: int) -> str:
    return f"in:{line}: the id {row_id!r} is also that of in:{first}; ids must differ"


@pytest.mark.parametrize(
    ("ids", "errors"),
    [
        ([], []),
        ([..., ...], []),
        (["a", "b"], []),
        (["a", "b", "a", "a"], [twice(3, "a", 1), twice(4, "a", 1)]),
        ([1, "1", 2, "2"], []),
        ([5, 5], [twice(2, 5, 1)]),
        ([..., ..., 0], [twice(3, 0, 1)]),
        ([0, 1, 2, 0], [twice(4, 0, 1)]),
        ([2, 1, ...], [twice(3, 2, 1)]),
        (["a", ..., 1], [twice(3, 1, 2)]),
        ([-1, -1], [twice(2, -1, 1)]),
        ([2**80, 2**80], [twice(2, 2**80, 1)]),
    ],
)
def test_equal_ids_are_told_with_both_lines(ids: list[Any], errors: list[str]) -> None:
    assert checked(ids)[:2] == (len(ids), errors)


@given(ids=st.lists(st.integers(-2, 9) | st.sampled_from(["0", "1", "a"]) | st.just(...), max_size=12))
def test_duplicates_are_those_that_a_set_would_find(ids: list[Any]) -> None:
    seen: set[Any] = set()
    expected = []
    for k, row_id in enumerate(k if own is ... else own for k, own in enumerate(ids)):
        if row_id in seen:
            expected.append(k + 1)
        seen.add(row_id)
    assert [int(error.split(":")[1]) for error in checked(ids)[1]] == expected


def test_ids_that_only_share_a_hash_are_no_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_check, "_id_hash", lambda _row_id: 1)
    assert checked(["a", "b", "c"]) == (3, [], 2)
    assert checked(["a", "b", "a"]) == (3, [twice(3, "a", 1)], 2)


def test_rows_are_read_a_second_time_only_where_ids_may_be_equal() -> None:
    assert checked([f"row-{k}" for k in range(5_000)]) == (5_000, [], 1)
    assert checked([0, 1, -1]) == (3, [], 1)


def test_hashes_spread_over_the_parts_and_natural_ids_store_nothing() -> None:
    def parts(ids: list[str | int]) -> list[array.array[int]]:
        seen = input_check._SeenIds()
        for index, row_id in enumerate(ids):
            seen.add(index, row_id)
        return seen._parts

    for ids in ([f"row-{k}" for k in range(20_000)], [k + 1 for k in range(20_000)]):
        spread = [len(part) for part in parts([*ids])]
        assert sum(spread) == 20_000
        assert max(spread) < 200
    assert sum(len(part) for part in parts([*range(20_000)])) == 0


def test_the_memory_for_suspects_is_bounded_where_every_id_is_a_duplicate() -> None:
    seen = input_check._SeenIds()
    for index in range(40_000):
        seen.add(index, f"row-{index // 2}")
    assert 1_000 <= len(seen.suspects()) < 1_400
    natural = input_check._SeenIds()
    for index in range(4_000):
        natural.add(index, index % 2_000)
    assert len(natural.suspects()) == 1_000
    rows, errors, _ = checked([*range(5_000), *range(5_000)])
    assert (rows, len(errors)) == (10_000, 20)


def test_a_check_ends_at_the_wanted_number_of_errors() -> None:
    assert checked(["", "", "", "", "a"], at_most=3)[0] == 3
    assert len(checked(["a"] * 50, at_most=3)[1]) == 3
    rows, errors, _ = checked(["", "a", "b", "a", "b"], at_most=2)
    assert (rows, len(errors)) == (5, 2)
    assert errors[1] == twice(4, "a", 2)
