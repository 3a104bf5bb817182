"""Answers to responses: what is whole, in every dialect, and what only looks like an answer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import RequestError
from penstock.providers.catalog import SERVICES
from penstock.providers.openai import ChatCompletions, chat_completions
from penstock.records import HttpAnswer, Response, ToolCall, Usage

KEY = "sk-canary-1234567890"


def provider(service: str) -> ChatCompletions:
    return chat_completions(SERVICES[service], base_url="http://127.0.0.1:1/v1", api_key=KEY)


def decode(body: Any, service: str = "openai", status: int = 200) -> Response:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return provider(service).decode(HttpAnswer(status, [], raw), 0.0)


def completion(message: dict[str, Any] | None = None, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Tea."} if message is None else message
    return {"model": "m-1", "choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


def failure(body: Any, service: str = "openai", status: int = 200) -> RequestError:
    with pytest.raises(RequestError) as failed:
        decode(body, service, status)
    return failed.value


def test_a_whole_answer_is_read_in_full() -> None:
    usage = {
        "prompt_tokens": 41,
        "completion_tokens": 6,
        "total_tokens": 47,
        "prompt_tokens_details": {"cached_tokens": 32},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    raw = msgspec.json.encode(completion(usage=usage, system_fingerprint="fp", unknown={"a": [1]}))
    response = provider("openai").decode(HttpAnswer(200, [(b"X-Request-Id", b" req_1 ")], raw), 0.0)
    assert response == Response(
        text="Tea.", finish_reason="stop", model="m-1", usage=Usage(41, 6, 32, 4), request_id="req_1", raw=raw
    )
    assert response.raw is raw


def test_a_recorded_answer_revives_equal_but_for_its_request_id() -> None:
    body = msgspec.json.encode(completion(usage={"prompt_tokens": 1, "completion_tokens": 2}))
    assert provider("openai").revive(body) == decode(body)


@pytest.mark.parametrize(
    ("service", "sent", "normalised"),
    [
        ("openai", "stop", "stop"),
        ("openai", "length", "length"),
        ("openai", "tool_calls", "tool_calls"),
        ("openai", "function_call", "tool_calls"),
        ("openai", "content_filter", "content_filter"),
        ("openai", "something_new", "other"),
        ("together", "eos", "stop"),
        ("mistral", "model_length", "length"),
        ("anthropic", "max_tokens", "length"),
        ("anthropic", "end_turn", "stop"),
        ("anthropic", "refusal", "refusal"),
        ("custom", "eos", "stop"),
        ("openai", "eos", "other"),
    ],
)
def test_finish_reasons_are_normalised_by_service(service: str, sent: str, normalised: str) -> None:
    assert decode(completion(finish=sent), service).finish_reason == normalised


@pytest.mark.parametrize(
    ("service", "finish"),
    [
        ("openrouter", "error"),
        ("mistral", "error"),
        ("deepseek", "insufficient_system_resource"),
        ("deepseek", "aborted"),
        ("vllm", "abort"),
        ("custom", "error"),
    ],
)
def test_an_answer_given_up_half_way_is_a_server_error_that_may_be_billed(service: str, finish: str) -> None:
    error = failure(completion(finish=finish), service)
    assert (error.kind, error.maybe_billed) == ("server_error", True)
    assert finish in error.message


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "Tea.", "reasoning_content": "Hm."}, "Tea.", "Hm."),
        ({"content": "Tea.", "reasoning": "Hm."}, "Tea.", "Hm."),
        ({"content": "Tea.", "reasoning_content": "", "reasoning": "Hm."}, "Tea.", "Hm."),
        ({"content": "Tea.", "reasoning_content": None, "reasoning": {"odd": 1}}, "Tea.", ""),
        ({"content": ""}, "", ""),
        ({"content": None}, "", ""),
        ({}, "", ""),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                    {"type": "text", "text": "Te"},
                    {"type": "reference", "reference_ids": [1]},
                    {"type": "text", "text": "a."},
                ]
            },
            "Tea.",
            "Hm.",
        ),
        ({"content": [{"type": "thinking", "thinking": "Hm."}, "Tea.", 7, None]}, "Tea.", "Hm."),
    ],
)
def test_text_and_reasoning_are_found_in_every_dialect(message: dict[str, Any], text: str, reasoning: str) -> None:
    response = decode(completion(message))
    assert (response.text, response.reasoning) == (text, reasoning)


@pytest.mark.parametrize(
    ("message", "calls"),
    [
        (
            {"tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1'}}]},
            (ToolCall("c1", "f", '{"a":1'),),
        ),
        (
            {"tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}]},
            (ToolCall("c1", "f", '{"a":1}'),),
        ),
        (
            {"tool_calls": [{"id": "c2", "type": "custom", "custom": {"name": "g", "input": "raw"}}]},
            (ToolCall("c2", "g", "raw"),),
        ),
        ({"function_call": {"name": "f", "arguments": "{}"}}, (ToolCall("", "f", "{}"),)),
        ({"tool_calls": ["odd", {"id": 5, "function": "odd"}]}, (ToolCall("", "", ""),)),
        ({"tool_calls": []}, ()),
        ({"tool_calls": None}, ()),
    ],
)
def test_tool_calls_are_read_in_every_form(message: dict[str, Any], calls: tuple[ToolCall, ...]) -> None:
    response = decode(completion(message))
    assert response.tool_calls == calls
    assert response.finish_reason == ("tool_calls" if calls else "stop")


def test_a_call_cut_off_by_the_limit_stays_marked_as_cut_off() -> None:
    message = {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}]}
    assert decode(completion(message, "length")).finish_reason == "length"


def test_a_refusal_is_marked_and_never_passes_as_a_stop() -> None:
    response = decode(completion({"content": None, "refusal": "I cannot."}))
    assert (response.finish_reason, response.text) == ("refusal", "I cannot.")


def test_of_several_choices_the_first_is_the_text_and_raw_keeps_all() -> None:
    body = completion()
    body["choices"].append({"index": 1, "message": {"content": "Coffee."}, "finish_reason": "stop"})
    response = decode(body)
    assert response.text == "Tea."
    assert b"Coffee." in response.raw


def test_filtered_output_is_a_response_even_without_a_message() -> None:
    body = {"model": "m", "choices": [{"index": 0, "finish_reason": "content_filter", "content_filter_results": {}}]}
    response = decode(body, "azure")
    assert (response.finish_reason, response.text) == ("content_filter", "")


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, None),
        ({}, None),
        ("odd", None),
        ([], None),
        ({"prompt_tokens": 3}, Usage(3)),
        ({"prompt_tokens": 3.0, "completion_tokens": "4"}, Usage(3, 4)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_cache_hit_tokens": 2}, Usage(3, 4, 2)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(3, 4)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": None}}, Usage(3, 4)),
        ({"prompt_tokens": -1, "completion_tokens": 10**30}, Usage()),
        ({"prompt_tokens": True, "completion_tokens": [4]}, Usage()),
        ({"prompt_tokens": 3, "completion_tokens": 4, "cost": 0.1, "completion_tokens_details": 7}, Usage(3, 4)),
    ],
)
def test_odd_usage_never_costs_the_answer(usage: Any, read: Usage | None) -> None:
    response = decode(completion(usage=usage))
    assert response.text == "Tea."
    assert response.usage == read


@pytest.mark.parametrize(
    "service", sorted(name for name, service in SERVICES.items() if service.finish_reason_optional)
)
def test_where_the_finish_reason_may_be_missing_a_text_without_one_is_other(service: str) -> None:
    assert decode(completion(finish=None), service).finish_reason == "other"
    assert failure(completion({"content": ""}, None), service).kind == "truncated"


@pytest.mark.parametrize("finish", [None, ""])
@pytest.mark.parametrize(
    "service", sorted(n for n, s in SERVICES.items() if not s.finish_reason_optional and n != "builtin")
)
def test_anywhere_else_a_missing_finish_reason_is_a_truncation(service: str, finish: str | None) -> None:
    error = failure(completion(finish=finish), service)
    assert (error.kind, error.maybe_billed) == ("truncated", True)


def test_blank_lines_before_the_body_are_skipped() -> None:
    assert decode(b"\n\n\n" + msgspec.json.encode(completion()), "deepseek").text == "Tea."


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"null",
        b"[]",
        b"42",
        b"{}",
        b'{"choices": []}',
        b'{"choices": null}',
        b'{"choices": [null]}',
        b'{"choices": {}}',
        b'{"choices": [{"finish_reason": "stop"}]}',
        b'{"choices": [{"finish_reason": "stop", "message": null}]}',
        b'{"choices": [{"finish_reason": "stop", "message": {"content": "Te',
        b'{"choices": [{"finish_reason": "stop", "message": {"content": "\xff"}}]}',
        b"<html><title>502 Bad Gateway</title></html>",
        b"data: [DONE]",
        b'{"message": "moved"}',
        b"[" * 100_000,
    ],
)
def test_a_200_without_an_answer_is_malformed_and_may_be_billed(body: bytes) -> None:
    error = failure(body)
    assert (error.kind, error.maybe_billed, error.status) == ("malformed", True, 200)


@pytest.mark.parametrize(
    ("service", "body", "kind"),
    [
        ("openai", {"error": {"message": "lost", "type": "server_error", "code": None}}, "server_error"),
        ("openai", {"error": {"message": "slow", "type": "tokens", "code": "rate_limit_exceeded"}}, "rate_limited"),
        ("openai", {"error": {"message": "no", "type": "insufficient_quota", "code": "insufficient_quota"}}, "billing"),
        ("openai", {"error": "went wrong"}, "server_error"),
        ("openai", {"error": True}, "server_error"),
        ("openai", {"error": {"message": "x", "type": "invalid_request_error"}}, "invalid_request"),
        ("openrouter", {"error": {"code": 502, "message": "provider dropped"}}, "server_error"),
        ("openrouter", {"error": {"code": "429", "message": "later"}}, "rate_limited"),
        ("openrouter", {"error": {"code": 503, "message": "none"}}, "overloaded"),
        (
            "openrouter",
            {"error": {"code": 400, "message": "long", "metadata": {"error_type": "context_length_exceeded"}}},
            "context_too_long",
        ),
        (
            "openrouter",
            {
                "choices": [
                    {"error": {"code": 502, "message": "x"}, "finish_reason": "error", "message": {"content": "Te"}}
                ]
            },
            "server_error",
        ),
        (
            "openrouter",
            {"choices": [{"error": {"code": 429, "message": "x"}, "message": {"content": ""}}]},
            "rate_limited",
        ),
        ("gemini", [{"error": {"code": 429, "message": "q", "status": "RESOURCE_EXHAUSTED"}}], "rate_limited"),
        ("gemini", [{"error": {"code": 400, "message": "q", "details": [{"reason": "API_KEY_INVALID"}]}}], "auth"),
        ("mistral", {"object": "error", "message": "slow", "type": "rate_limited", "code": "1300"}, "rate_limited"),
        ("vllm", {"error": {"message": "maximum context length is 8", "code": 400}}, "context_too_long"),
        ("anthropic", {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, "overloaded"),
    ],
)
def test_an_error_under_a_200_is_the_error_that_its_own_code_names(service: str, body: Any, kind: str) -> None:
    error = failure(body, service)
    assert (error.kind, error.status) == (kind, 200)


def test_an_error_beside_an_answer_wins_over_the_answer() -> None:
    assert failure(completion(error={"message": "lost", "code": 502}), "openrouter").maybe_billed


@pytest.mark.parametrize("value", [None, {}, "", []])
def test_an_empty_error_member_is_none(value: Any) -> None:
    assert decode(completion(error=value)).text == "Tea."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(KEY),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "finish_reason",
                    "error",
                    "usage",
                    "prompt_tokens",
                    "tool_calls",
                    "detail",
                    "code",
                    "type",
                    "details",
                    "metadata",
                    "function",
                    "text",
                    "thinking",
                    "status",
                    "violations",
                    "retryDelay",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"Retry-After", b"retry-after-ms", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens"]
        ),
        st.binary(max_size=12) | st.sampled_from([b"0", b"-1", b"nan", b"1e9", b"5", KEY.encode()]),
    ),
    max_size=4,
)


@settings(max_examples=400, deadline=None)
@given(
    status=st.sampled_from(
        [0, 100, 200, 204, 301, 400, 401, 402, 403, 404, 413, 422, 429, 498, 500, 503, 529, 600, 999]
    ),
    body=st.binary(max_size=60)
    | JSON.map(msgspec.json.encode)
    | JSON.map(lambda value: b"<html>" + str(value).encode()),
    headers=HEADERS,
    service=st.sampled_from(sorted(SERVICES)),
)
def test_whatever_comes_is_a_response_or_a_typed_error_without_the_key(
    status: int, body: bytes, headers: list[tuple[bytes, bytes]], service: str
) -> None:
    try:
        response = provider(service).decode(HttpAnswer(status, headers, body), 1e9)
    except RequestError as error:
        check(error)
    else:
        assert 200 <= status < 300
        assert response.raw == body


def check(error: RequestError) -> None:
    assert KEY not in f"{error}{error!r}{error.code}{error.request_id}"
    assert error.retry_after is None or 0 < error.retry_after < float("inf")
    assert error.message.isprintable()
    assert len(error.message) < 500


@settings(max_examples=300, deadline=None)
@given(
    message=st.dictionaries(
        st.sampled_from(["content", "refusal", "tool_calls", "function_call", "reasoning", "reasoning_content"]), JSON
    ),
    finish=st.none() | st.sampled_from(["", "stop", "length", "tool_calls", "error", "content_filter", "new"]),
    usage=JSON,
    service=st.sampled_from(sorted(SERVICES)),
)
def test_whatever_a_choice_holds_is_a_response_or_a_typed_error(
    message: dict[str, Any], finish: str | None, usage: Any, service: str
) -> None:
    try:
        response = decode(completion(message, finish, usage=usage), service)
    except RequestError as error:
        check(error)
    else:
        assert isinstance(response.text, str)
        assert response.finish_reason != "error"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"choices": [{"finish_reason": "stop", "message": {"tool_calls": [{"function": {"arguments": ', "}}]}}]}"),
        ('{"choices": [{"error": ', "}]}"),
        ('{"detail": [{"loc": ', ', "msg": 1}]}'),
        ('{"error": {"status": "RESOURCE_EXHAUSTED", "details": [{"violations": [{"quotaId": ', "}]}]}}"),
    ],
)
@pytest.mark.parametrize("status", [200, 429])
def test_no_depth_of_nesting_breaks_out_of_the_typed_errors(status: int, before: str, after: str) -> None:
    for depth in range(100, 1_100, 3):
        body = f"{before}{'[' * depth}{']' * depth}{after}".encode()
        try:
            decode(body, status=status)
        except RequestError as error:
            check(error)
