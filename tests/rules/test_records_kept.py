"""Identity, ledger entries and output lines: what was stored is what is told again, byte for byte."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import KINDS, Kind, request_error
from penstock.records import Response, Result, ToolCall, Usage
from penstock.rules.entries import NO_REQUEST, meta_of, state_of, to_entry, to_result
from penstock.rules.identity import (
    ANSWERED,
    FAILED,
    REFUSED,
    changed_options,
    checksum,
    options_digest,
    request_digest,
)
from penstock.rules.lines import output_line

RESPONSE = Response("hello", "stop", "m-1", Usage(10, 5, 2, 1), request_id="req_1", raw=b'{"id":"x"}')


def result(**fields: Any) -> Result:
    return Result(
        **({"index": 3, "id": "r3", "response": RESPONSE, "attempts": 2, "latency_s": 1.23456, "cost": 0.5} | fields)
    )


def revive(body: bytes) -> Response:
    assert body == RESPONSE.raw
    return msgspec.structs.replace(RESPONSE, request_id=None)


def test_equal_requests_of_two_providers_are_not_the_same() -> None:
    assert request_digest("openai", b"{}") == request_digest("openai", b"{}")
    assert len({request_digest("openai", b"{}"), request_digest("groq", b"{}"), request_digest("openai", b"[]")}) == 3


def test_options_are_the_same_in_any_order() -> None:
    assert options_digest({"a": 1, "b": {"c": 2, "d": 3}}) == options_digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert options_digest({"a": 1}) != options_digest({"a": 2})


def test_changed_options_are_named() -> None:
    assert changed_options({"a": 1, "b": 2, "gone": 0}, {"a": 1, "b": 3, "new": None}) == ["b", "gone"]
    assert changed_options({"keep": ["x"]}, {"keep": ("x",)}) == []


@given(data=st.data(), body=st.binary(min_size=1, max_size=200), meta=st.binary(max_size=50))
def test_any_single_bit_that_flips_changes_the_checksum(data: st.DataObject, body: bytes, meta: bytes) -> None:
    proof = checksum(1, 2, ANSWERED, bytes(16), meta, body)
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    flipped = bytearray(body)
    flipped[bit // 8] ^= 1 << bit % 8
    assert checksum(1, 2, ANSWERED, bytes(16), meta, bytes(flipped)) != proof


def test_an_intact_answer_under_another_row_or_run_has_another_checksum() -> None:
    proofs = {checksum(run, index, ANSWERED, bytes(16), b"", b"x") for run in range(5) for index in range(50)}
    assert len(proofs) == 250


def test_an_answer_goes_into_the_ledger_and_comes_out_the_same() -> None:
    entry = to_entry(result(columns={"author": "Ada"}, ambiguous=1), bytes(16))
    assert entry.body is RESPONSE.raw
    assert entry.state == ANSWERED
    again = to_result(entry, revive)
    assert again == result(columns={"author": "Ada"}, ambiguous=1, latency_s=1.2346, reused=True)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_error_comes_out_as_the_same_typed_error(kind: Kind) -> None:
    error = request_error(kind, "why", status=400, code="c", request_id="req_2")
    again = to_result(to_entry(result(response=None, error=error, cost=None), NO_REQUEST), revive).error
    assert type(again) is KINDS[kind]
    assert again is not None
    assert (again.kind, again.message, again.status, again.code, again.request_id) == (kind, "why", 400, "c", "req_2")


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        *((kind, REFUSED) for kind in ("invalid_request", "content_blocked", "never_fits", "input")),
        *((kind, FAILED) for kind in ("timeout", "server_error", "truncated", "deadline")),
    ],
)
def test_what_was_refused_for_good_is_kept_and_what_was_given_up_is_sent_again(kind: Kind, state: int) -> None:
    assert state_of(result(response=None, error=request_error(kind, "x"))) == state


def test_sums_need_only_the_meta() -> None:
    meta = meta_of(to_entry(result(), bytes(16)))
    assert (meta.usage, meta.cost, meta.attempts) == (Usage(10, 5, 2, 1), 0.5, 2)


def test_a_line_has_the_promised_keys_in_order() -> None:
    line = msgspec.json.decode(output_line(result(columns={"author": "Ada"})))
    assert list(line.items()) == [
        ("id", "r3"),
        ("index", 3),
        ("text", "hello"),
        ("finish_reason", "stop"),
        ("model", "m-1"),
        ("usage", {"input_tokens": 10, "output_tokens": 5, "cached_tokens": 2, "reasoning_tokens": 1}),
        ("cost", 0.5),
        ("attempts", 2),
        ("latency_s", 1.2346),
        ("error", None),
        ("author", "Ada"),
    ]


def test_the_line_of_a_failed_row_has_no_text() -> None:
    error = request_error("content_blocked", "blocked", status=400, code="content_filter")
    line = msgspec.json.decode(output_line(result(response=None, error=error, cost=None)))
    assert line["text"] is None
    assert line["error"] == {"kind": "content_blocked", "status": 400, "code": "content_filter", "message": "blocked"}


def test_tool_calls_are_told_where_there_are_some() -> None:
    response = msgspec.structs.replace(RESPONSE, text="", tool_calls=(ToolCall("c1", "f", "{}"),))
    line = msgspec.json.decode(output_line(result(response=response)))
    assert line["tool_calls"] == [{"id": "c1", "name": "f", "arguments": "{}"}]


def test_a_batch_line_is_answered_as_the_batch_service_does() -> None:
    response = msgspec.structs.replace(RESPONSE, raw=b'{\n "id": "x"\n}')
    line = output_line(result(response=response, batch=True))
    assert b"\n" not in line
    assert msgspec.json.decode(line) == {
        "id": "batch_req_3",
        "custom_id": "r3",
        "response": {"status_code": 200, "request_id": "req_1", "body": {"id": "x"}},
        "error": None,
    }


def test_a_failed_batch_line_tells_a_refusal_from_what_was_never_executed() -> None:
    refused = request_error("invalid_request", "bad", status=400, code="c", request_id="req_9")
    line = msgspec.json.decode(output_line(result(response=None, error=refused, batch=True)))
    body = {"error": {"message": "bad", "type": "invalid_request", "param": None, "code": "c"}}
    assert line["response"] == {"status_code": 400, "request_id": "req_9", "body": body}
    assert line["error"] is None
    lost = request_error("timeout", "no answer")
    line = msgspec.json.decode(output_line(result(response=None, error=lost, batch=True)))
    assert line["response"] is None
    assert line["error"] == {"code": "timeout", "message": "no answer"}
