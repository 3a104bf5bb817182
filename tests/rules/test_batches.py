"""The life of a batch, what may be asked for, and what is wrong with a line of its input."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import RequestError
from penstock.records import RawRow, Usage
from penstock.rules.batch_lines import MOST_ERRORS, InputCheck, asked, unanswered_line
from penstock.rules.batches import (
    BATCH_ID,
    ENDED,
    FILE_ID,
    FIRST,
    KEPT_SECONDS,
    LIFE,
    Batch,
    BatchRequest,
    follow,
    new_batch,
    read_expiry,
    read_request,
    usage_of,
)
from penstock.rules.template import Template

GOOD = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}

# -- life


def test_every_state_is_reached_and_the_ends_are_ends() -> None:
    """Whatever happens leads to a state of the table, and from each living state there is a way to an end."""
    reached, todo = {FIRST}, [FIRST]
    while todo:
        new = set(LIFE[todo.pop()].values()) - reached
        reached |= new
        todo += new
    assert reached == set(LIFE)
    assert {"failed", "completed", "expired", "cancelled"} == ENDED


@pytest.mark.parametrize("status", sorted(set(LIFE) - ENDED - {"cancelling"}))
def test_a_living_batch_can_be_cancelled(status: Any) -> None:
    """Any active state leads to cancelling, and that to cancelled."""
    assert follow(follow(status, "cancel"), "files written") == "cancelled"


@pytest.mark.parametrize("status", sorted(ENDED))
def test_nothing_follows_an_end(status: Any) -> None:
    """An event that cannot happen is an error, not a state."""
    with pytest.raises(KeyError):
        follow(status, "cancel")


def test_each_move_dates_its_state() -> None:
    """The one `*_at` field of the new state is set, and nothing else changes."""
    kept = new_batch("batch_1", read_request(json.dumps(GOOD).encode()), 100, "me")
    moved = kept.moved("good input", 105, model="m")
    changed = {
        name: getattr(moved.batch, name)
        for name in Batch.__struct_fields__
        if getattr(moved.batch, name) != getattr(kept.batch, name)
    }
    assert changed == {"status": "in_progress", "in_progress_at": 105, "model": "m"}


@given(st.lists(st.sampled_from([event for events in LIFE.values() for event in events]), max_size=8))
@settings(max_examples=200)
def test_a_batch_has_the_times_of_the_states_it_was_in(events: list[Any]) -> None:
    """Whatever happens in whatever order: a time stands where and only where the batch has been."""
    kept = new_batch("batch_1", msgspec.convert(GOOD, BatchRequest), 1, "")
    seen: set[str] = {FIRST}
    for now, event in enumerate(events, 2):
        if event in LIFE[kept.batch.status]:
            kept = kept.moved(event, now)
            seen.add(kept.batch.status)
    dated = {status for status in LIFE if getattr(kept.batch, f"{status}_at", None) is not None}
    assert dated == seen - {FIRST}


def test_a_new_batch_has_every_key_of_the_wire() -> None:
    """Those that are not known yet are null."""
    batch = new_batch("batch_1", read_request(json.dumps(GOOD).encode()), 100, "").batch
    told = json.loads(msgspec.json.encode(batch))
    assert set(told) == {
        *("id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window", "status"),
        *("output_file_id", "error_file_id", "created_at", "in_progress_at", "expires_at", "finalizing_at"),
        *("completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at", "request_counts", "usage"),
        "metadata",
    }
    assert (told["status"], told["expires_at"] - told["created_at"]) == ("validating", 86_400)
    assert told["request_counts"] == {"total": 0, "completed": 0, "failed": 0}


def test_usage_as_the_wire_has_it() -> None:
    """Totals with their parts below them."""
    assert json.loads(msgspec.json.encode(usage_of(Usage(10, 5, 4, 3)))) == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 15,
    }


# -- what is asked for


@pytest.mark.parametrize(
    "further",
    [
        {},
        {"metadata": None},
        {"metadata": {f"{'k' * 62}{n:02}": "v" * 512 for n in range(16)}},
        {"output_expires_after": {"anchor": "created_at", "seconds": 3_600}},
        {"output_expires_after": {"anchor": "created_at", "seconds": 2_592_000}},
        {"something_new": True},
    ],
)
def test_good_requests(further: dict[str, Any]) -> None:
    """Up to the very limits; what is not known is passed over."""
    assert read_request(json.dumps(GOOD | further).encode()).input_file_id == "file-1"


@pytest.mark.parametrize(
    ("further", "param"),
    [
        ({"input_file_id": None}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"key": 1}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "last_active_at", "seconds": 3_600}}, "output_expires_after.anchor"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3_599}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at"}}, "output_expires_after"),
    ],
)
def test_bad_requests_name_the_field(further: dict[str, Any], param: str) -> None:
    """A 400 whose `param` says what to mend."""
    with pytest.raises(RequestError) as refused:
        read_request(json.dumps(GOOD | further).encode())
    assert (refused.value.status, refused.value.param) == (400, param)
    assert param in refused.value.message


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_a_missing_field_is_named(missing: str) -> None:
    """So that nobody has to guess."""
    with pytest.raises(RequestError) as refused:
        read_request(json.dumps({name: value for name, value in GOOD.items() if name != missing}).encode())
    assert refused.value.param == missing


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"\\ud800"', b"\xff", b"{" * 10, b"[" * 100_000])
def test_what_is_no_request_at_all(body: bytes) -> None:
    """A 400 too, whatever the bytes."""
    with pytest.raises(RequestError) as refused:
        read_request(body)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"purpose": "batch"}, KEPT_SECONDS),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}, 3_600),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "2592000"}, 2_592_000),
    ],
)
def test_how_long_an_upload_is_kept(fields: dict[str, str], seconds: int) -> None:
    """Thirty days, or what the form asks for."""
    assert read_expiry(fields) == seconds


@pytest.mark.parametrize(
    ("anchor", "seconds", "param"),
    [
        (None, "3600", "expires_after[anchor]"),
        ("created_at", None, "expires_after[seconds]"),
        ("tomorrow", "3600", "expires_after[anchor]"),
        ("created_at", "3599", "expires_after[seconds]"),
        ("created_at", "2592001", "expires_after[seconds]"),
        ("created_at", "soon", "expires_after[seconds]"),
        ("created_at", "", "expires_after[seconds]"),
    ],
)
def test_a_bad_expiry_is_refused(anchor: str | None, seconds: str | None, param: str) -> None:
    """By the name that the form has for it."""
    told = {"expires_after[anchor]": anchor, "expires_after[seconds]": seconds}
    with pytest.raises(RequestError) as refused:
        read_expiry({name: value for name, value in told.items() if value is not None})
    assert refused.value.param == param


@pytest.mark.parametrize(
    "name",
    [
        "",
        "file-",
        "file-0123456789abcdef0123456",
        "file-0123456789abcdef012345678",
        "file-0123456789ABCDEF01234567",
        "file-0123456789abcdef0123456\n",
        "file-../../../../../etc/passwd",
        "file-0123456789abcdef0123456٣",
        "../file-0123456789abcdef01234567",
    ],
)
def test_ids_are_ours_or_none(name: str) -> None:
    """Nothing but 24 hexadecimal digits after the prefix."""
    assert FILE_ID.fullmatch("file-0123456789abcdef01234567")
    assert BATCH_ID.fullmatch("batch_0123456789abcdef01234567")
    assert not FILE_ID.fullmatch(name)
    assert not BATCH_ID.fullmatch(name.replace("file-", "batch_"))


# -- the lines of an input

URL = "/v1/chat/completions"
NAMES = {"mini": "mini", "openai/mini": "mini", "large": "large"}


def line(custom_id: Any = "a", **further: Any) -> dict[str, Any]:
    """A line of an input."""
    body = {"model": "mini", "messages": [{"role": "user", "content": "hi"}]}
    return {"custom_id": custom_id, "method": "POST", "url": URL, "body": body} | further


def body_with(**further: Any) -> dict[str, Any]:
    """A body of a line; a field that is None is left out."""
    body = {"model": "mini", "messages": [{"role": "user", "content": "hi"}]} | further
    return {name: value for name, value in body.items() if value is not None}


def checked(*lines: Any, most: int = 50_000) -> InputCheck:
    """The check of these lines, numbered from 1."""
    check = InputCheck(URL, NAMES.get, most)
    for number, values in enumerate(lines, 1):
        if not check.take(number, RawRow(number - 1, f"line {number}", values)):
            return check
    check.end()
    return check


def test_a_good_input() -> None:
    """Any names of one model will do, and every other field of a body goes through."""
    check = checked(line("a"), line("b", body=body_with(model="openai/mini", temperature=0, tools=[])))
    assert (check.errors, check.rows, check.model) == ([], 2, "mini")


@pytest.mark.parametrize(
    ("second", "code", "param"),
    [
        ("text", "invalid_json_line", None),
        ([], "invalid_json_line", None),
        ({}, "invalid_request", "custom_id"),
        (line(""), "invalid_request", "custom_id"),
        (line(7), "invalid_request", "custom_id"),
        (line(None), "invalid_request", "custom_id"),
        (line("a"), "duplicate_custom_id", "custom_id"),
        (line("b", method="GET"), "invalid_request", "method"),
        (line("b", method=None), "invalid_request", "method"),
        (line("b", url="/v1/embeddings"), "url_mismatch", "url"),
        (line("b", url="https://elsewhere.example/v1/chat/completions"), "url_mismatch", "url"),
        (line("b", body=None), "invalid_request", "body"),
        (line("b", body=[]), "invalid_request", "body"),
        (line("b", body=body_with(model=None)), "invalid_request", "body.model"),
        (line("b", body=body_with(model=7)), "invalid_request", "body.model"),
        (line("b", body=body_with(model="huge")), "model_not_found", "body.model"),
        (line("b", body=body_with(model="large")), "model_mismatch", "body.model"),
        (line("b", body=body_with(messages=None)), "invalid_request", "body"),
        (line("b", body=body_with(messages=[])), "invalid_request", "body"),
        (line("b", body=body_with(messages="hi")), "invalid_request", "body"),
        (line("b", body=body_with(messages=[{"content": "hi"}])), "invalid_request", "body"),
        (line("b", body=body_with(stream=True)), "invalid_request", "body"),
    ],
)
def test_bad_lines(second: Any, code: str, param: str | None) -> None:
    """Each is told once, by code, line and field; the good line before it has no error."""
    check = checked(line("a"), second)
    (error,) = check.errors
    assert (error.code, error.param, error.line) == (code, param, 2)
    assert error.message


def test_a_line_that_could_not_be_read() -> None:
    """What was wrong with its bytes is told."""
    check = InputCheck(URL, NAMES.get, 10)
    assert check.take(3, RawRow(0, "line 3", None, "not valid JSON: ..."))
    assert [(error.code, error.line, error.message) for error in check.errors] == [
        ("invalid_json_line", 3, "not valid JSON: ...")
    ]


def test_an_empty_input() -> None:
    """A batch of nothing is a mistake."""
    assert [error.code for error in checked().errors] == ["empty_batch"]


def test_too_many_lines() -> None:
    """The limit itself is good; one more is told at once, whatever else was wrong."""
    lines = [line(f"row {n}") for n in range(5)]
    assert checked(*lines, most=5).errors == []
    check = checked(line("x", method="GET"), *lines, "never read", most=5)
    assert [error.code for error in check.errors] == ["too_many_tasks"]


def test_fifty_thousand_lines_and_one() -> None:
    """The number of the wire contract."""
    good = line()
    check = InputCheck(URL, NAMES.get, 50_000)
    taken = [check.take(n + 1, RawRow(n, "", good | {"custom_id": str(n)})) for n in range(50_001)]
    assert taken == [True] * 50_000 + [False]
    assert [error.code for error in check.errors] == ["too_many_tasks"]


def test_a_thoroughly_bad_input_is_not_read_to_its_end() -> None:
    """A hundred errors are enough to see what is wrong."""
    check = checked(*(line("same") for _ in range(10_000)))
    assert (len(check.errors), check.rows) == (MOST_ERRORS, MOST_ERRORS + 1)


def test_the_row_that_is_sent_names_no_model() -> None:
    """The server decides where it goes; everything else stays, and the line that was given stays as it was."""
    given_line = line("a", body=body_with(temperature=0.5))
    raw = RawRow(0, "line 1", given_line)
    row = Template().row(asked(raw))
    assert (row.id, row.request.model, row.request.params, row.batch) == ("a", None, {"temperature": 0.5}, True)
    assert given_line["body"]["model"] == "mini"


def test_the_line_of_a_row_without_answer() -> None:
    """As the wire has it: no response, and an error that says why."""
    told = json.loads(unanswered_line(7, "mine", "batch_expired"))
    assert told == {
        "id": "batch_req_7",
        "custom_id": "mine",
        "response": None,
        "error": {"code": "batch_expired", "message": told["error"]["message"]},
    }
