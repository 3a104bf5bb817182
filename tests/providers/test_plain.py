"""The quick reading of a plain answer tells what the thorough one tells, and leaves every other answer to it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.providers import openai
from penstock.providers.catalog import SERVICES
from penstock.providers.openai import chat_completions
from penstock.providers.plain import plain_response, plain_text
from penstock.records import HttpAnswer

PROVIDER = chat_completions(SERVICES["custom"], base_url="http://127.0.0.1:9/v1", api_key="none")
HEADERS = [(b"Content-Type", b"application/json"), (b"X-Request-Id", b"req_1")]

counts = st.integers(0, 10**6)
details = st.none() | st.fixed_dictionaries({}, optional={"cached_tokens": counts, "reasoning_tokens": counts})
usages = st.fixed_dictionaries(
    {"prompt_tokens": counts, "completion_tokens": counts},
    optional={"prompt_tokens_details": details, "completion_tokens_details": details, "total_tokens": counts},
)
plain_bodies = st.builds(
    lambda text, reason, usage: {
        "id": "chatcmpl-1",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}],
        "usage": usage,
    },
    st.text(max_size=40),
    st.sampled_from(["stop", "length"]),
    usages,
)


def answer_of(body: Any) -> HttpAnswer:
    return HttpAnswer(200, HEADERS, msgspec.json.encode(body))


@given(plain_bodies)
def test_both_readings_tell_the_same(body: dict[str, Any]) -> None:
    answer = answer_of(body)
    quick = PROVIDER.decode(answer, 0.0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(openai, "plain_response", lambda _, __: None)
        assert PROVIDER.decode(answer, 0.0) == quick
    assert plain_response(answer, "req_1") == quick


def changed(**fields: Any) -> dict[str, Any]:
    """A plain body, other in some fields of its choice, its message, its usage or itself."""
    message = {"role": "assistant", "content": "text"} | fields.pop("message", {})
    choice = {"index": 0, "message": message, "finish_reason": "stop"} | fields.pop("choice", {})
    usage = {"prompt_tokens": 1, "completion_tokens": 2} | fields.pop("usage_fields", {})
    return {"model": "m", "choices": [choice], "usage": usage} | fields


@pytest.mark.parametrize(
    "body",
    [
        changed(message={"content": None}),
        changed(message={"content": [{"type": "text", "text": "in parts"}]}),
        changed(message={"refusal": "no"}),
        changed(message={"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}),
        changed(message={"function_call": {"name": "f", "arguments": "{}"}}),
        changed(message={"reasoning_content": "hm"}),
        changed(message={"reasoning": "hm"}),
        changed(choice={"finish_reason": "content_filter"}),
        changed(choice={"finish_reason": None}),
        changed(choice={"error": {"message": "gave up"}}),
        changed(usage_fields={"prompt_tokens": -1}),
        changed(usage_fields={"completion_tokens": 1e30}),
        changed(usage_fields={"prompt_cache_hit_tokens": 5}),
        changed(usage_fields={"completion_tokens": "12"}),
        changed(error={"message": "failed"}),
        changed(choices=[]),
        changed(usage=None),
        changed(model=None),
        [],
        None,
    ],
    ids=repr,
)
def test_whatever_is_not_plain_is_left_to_the_thorough_reading(body: Any) -> None:
    assert plain_response(answer_of(body), None) is None


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 200_000])
def test_what_is_no_json_is_left_to_it_too(body: bytes) -> None:
    assert plain_response(HttpAnswer(200, HEADERS, body), None) is None


def piece(**changes: Any) -> str:
    choice = {"index": 0, "delta": {"content": "hello"}, "logprobs": None, "finish_reason": None}
    choice |= changes.pop("choice", {})
    return json.dumps({"id": "c", "choices": [choice], "usage": None, **changes})


@pytest.mark.parametrize(
    "data", [piece(), piece(id=None, obfuscation="x"), piece(choice={"native_finish_reason": None})]
)
def test_a_piece_that_brings_some_text_is_plain(data: str) -> None:
    assert plain_text(data) == "hello"


@pytest.mark.parametrize(
    "data",
    [
        piece(usage={"prompt_tokens": 1, "completion_tokens": 1}),
        piece(error={"message": "no"}),
        piece(x_groq={"id": "r"}),
        piece(choices=[]),
        piece(choices=None),
        piece(choice={"index": 1}),
        piece(choice={"finish_reason": "stop"}),
        piece(choice={"error": {"message": "no"}}),
        piece(choice={"delta": None}),
        *(piece(choice={"delta": {"content": content}}) for content in ("", None, [], 7)),
        *(
            piece(choice={"delta": {"content": "hello", name: "more"}})
            for name in ("refusal", "tool_calls", "function_call", "reasoning_content", "reasoning")
        ),
        "[DONE]",
        "",
        "{",
        "[" * 200_000,
    ],
)
def test_any_other_piece_is_left_to_the_thorough_reading(data: str) -> None:
    assert plain_text(data) is None
