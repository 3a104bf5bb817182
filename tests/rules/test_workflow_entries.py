"""Rows of workflows as the ledger keeps them, as OUTPUT shows them, and as they are counted: each call once, each row once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import KINDS, Kind, request_error
from penstock.records import Calls, Response, Result, Usage
from penstock.rules.entries import json_value, meta_of, state_of, sums_in, to_entry, to_result
from penstock.rules.identity import ANSWERED, FAILED, REFUSED, row_digest
from penstock.rules.lines import output_line
from penstock.rules.tally import Sums, Tally, Totals

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
CALLS = st.builds(
    Calls,
    answers=st.integers(0, 9),
    dropped=st.integers(0, 9),
    usage=st.none() | st.builds(Usage, st.integers(0, 99), st.integers(0, 99)),
    unused=st.integers(0, 9),
    unused_cost=st.none() | st.floats(0, 9),
)


def unread(_: bytes) -> Response:
    raise AssertionError("a workflow's row has no provider's body")


@given(
    value=JSON,
    calls=CALLS,
    cost=st.none() | st.floats(0, 9),
    attempts=st.integers(0, 99),
    ambiguous=st.integers(0, 9),
    failed=st.none() | st.sampled_from(sorted(KINDS)),
)
def test_what_a_row_came_to_is_told_again_as_it_was(
    value: Any, calls: Calls, cost: float | None, attempts: int, ambiguous: int, failed: Kind | None
) -> None:
    error = None if failed is None else request_error(failed, "why", trace="Traceback", param="p")
    result = Result(
        *(7, "row"), value=None if error else json_value(value), error=error, attempts=attempts, ambiguous=ambiguous,
        latency_s=1.5, cost=cost, columns={"kept": 1}, calls=calls,
    )  # fmt: skip
    again = to_result(to_entry(result, bytes(16)), unread)
    assert again.reused
    for name in (
        "index",
        "id",
        "value",
        "attempts",
        "ambiguous",
        "latency_s",
        "cost",
        "columns",
        "calls",
        "usage",
        "ok",
    ):
        assert getattr(again, name) == getattr(result, name), name
    if error is not None:
        assert again.error is not None
        assert again.error.__dict__ == error.__dict__
    assert output_line(again) == output_line(result)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_row_whose_code_failed_is_run_again_as_one_that_was_late(kind: Kind) -> None:
    state = state_of(Result(0, 0, error=request_error(kind, "x")))
    assert state in (REFUSED, FAILED)
    if kind in ("workflow", "deadline"):
        assert state == FAILED


def test_a_row_adds_nothing_to_the_sums_of_its_calls() -> None:
    """In the ledger as in the tally: what the calls took is counted where they stand."""
    calls = Calls(2, 1, Usage(10, 5), 1, 0.5)
    result = Result(0, 0, value=1, calls=calls, attempts=4, ambiguous=2, cost=0.25)
    kept = to_entry(result, bytes(16))
    sums = sums_in(kept.meta)
    assert (sums.ambiguous, sums.cost, sums.usage) == (0, 0.0, None)
    assert (meta_of(kept).attempts, kept.state) == (0, ANSWERED)
    totals, tally = Totals(), Tally()
    totals.add_all(((True, sums),))
    tally.finished(result)
    for counted in (totals, tally.totals):
        assert (counted.ok, counted.ambiguous, counted.cost, counted.rows_without_cost) == (1, 0, 0.0, 0)
        assert counted.calls is not None
        assert (counted.calls.dropped, counted.calls.unused, counted.calls.unused_cost) == (1, 1, 0.5)


def test_calls_are_counted_as_they_come_and_found_rows_whole() -> None:
    tally = Tally()
    response = Response("x", "stop", "m", Usage(10, 5))
    tally.called(Result(0, 0, response=response, ambiguous=1, cost=0.25))
    tally.called(Result(0, 0, response=response, cost=None))
    tally.called(Result(0, 0, error=request_error("timeout", "x"), ambiguous=1))
    tally.finished(Result(1, 1, value=1, calls=Calls(3, usage=Usage(1, 1)), cost=1.0, ambiguous=2, reused=True))
    totals = tally.totals
    assert (totals.ok, totals.failed, totals.ambiguous, totals.known_cost) == (1, 0, 4, 1.25)
    assert (totals.input_tokens, totals.output_tokens, totals.rows_without_cost) == (21, 11, 1)
    assert totals.calls is not None
    assert totals.calls.answers == 5


def test_totals_of_a_run_without_workflows_have_no_calls() -> None:
    totals = Totals()
    totals.add_all(((True, Sums(0, 1.0, Usage(1, 1))),))
    assert totals.calls is None


def test_the_line_of_a_row_that_failed_tells_its_trace() -> None:
    error = request_error("workflow", "KeyError: 'x'", code="KeyError", trace="Traceback ...")
    line = json.loads(output_line(Result(3, "r", error=error, calls=Calls(), columns={"text": "a"})))
    assert list(line) == ["id", "index", "value", "usage", "cost", "attempts", "latency_s", "error", "text"]
    assert line["error"] == {
        "kind": "workflow",
        "status": None,
        "code": "KeyError",
        "message": "KeyError: 'x'",
        "trace": "Traceback ...",
    }


@given(one=st.dictionaries(st.text(), st.integers()), other=st.dictionaries(st.text(), st.integers()))
def test_rows_are_equal_where_their_columns_are(one: dict[str, int], other: dict[str, int]) -> None:
    """In whatever order; and only under the same options."""
    assert (row_digest(b"o", one) == row_digest(b"o", other)) == (one == other)
    assert row_digest(b"o", one) == row_digest(b"o", dict(reversed(one.items()))) != row_digest(b"p", one)


class Marked(str):
    """A text with more to it, like those of LangChain's messages."""

    __slots__ = ()


def test_a_text_with_more_to_it_becomes_its_text() -> None:
    told = json_value({"summary": Marked("short"), "parts": [Marked("a")]})
    assert told == {"summary": "short", "parts": ["a"]}
    assert type(told["summary"]) is str
