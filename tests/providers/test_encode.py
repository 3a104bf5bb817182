"""Requests to bytes: the same request always gives the same bytes, and only the known quirks change a parameter."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import RequestError
from penstock.providers.catalog import SERVICES
from penstock.providers.openai import ChatCompletions, chat_completions
from penstock.records import Request

MESSAGES = [{"role": "user", "content": "Tea?"}]


def provider(service: str) -> ChatCompletions:
    return chat_completions(SERVICES[service], base_url="http://127.0.0.1:1/v1", api_key="sk-1234567")


def body(service: str, params: dict[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(provider(service).encode(Request(MESSAGES, params=params), "m"))
    return decoded


def test_model_and_messages_come_first_and_parameters_follow_as_given() -> None:
    request = Request(MESSAGES, params={"top_p": 0.5, "n": 2, "anything_new": {"b": 1, "a": [None]}})
    assert provider("openai").encode(request, "gpt-x") == (
        b'{"model":"gpt-x","messages":[{"role":"user","content":"Tea?"}],'
        b'"top_p":0.5,"n":2,"anything_new":{"b":1,"a":[null]}}'
    )


def test_parameters_never_replace_model_or_messages() -> None:
    assert body("openai", {"messages": [], "model": "other"}) == {"model": "m", "messages": MESSAGES}


@pytest.mark.parametrize(
    ("service", "params", "sent"),
    [
        ("openai", {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ("openai", {"max_tokens": 5, "max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ("ollama", {"max_completion_tokens": 5}, {"max_tokens": 5}),
        ("ollama", {"max_completion_tokens": 5, "max_tokens": 7}, {"max_tokens": 7}),
        ("mistral", {"seed": 3, "user": "u", "logit_bias": {"1": 2}}, {"random_seed": 3, "logit_bias": {"1": 2}}),
        ("openai", {"seed": 3, "user": "u"}, {"seed": 3, "user": "u"}),
        ("custom", {"max_tokens": 5}, {"max_tokens": 5}),
        ("vllm", {"max_tokens": 5, "top_k": 4}, {"max_tokens": 5, "top_k": 4}),
    ],
)
def test_quirks_rename_and_drop(service: str, params: dict[str, Any], sent: dict[str, Any]) -> None:
    assert body(service, params) == {"model": "m", "messages": MESSAGES} | sent


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_row_never_asks_for_a_stream_that_could_be_paid_and_not_read(service: str) -> None:
    assert body(service, {"stream": True, "stream_options": {"include_usage": True}}).keys() == {"model", "messages"}


def test_encoding_leaves_the_callers_request_alone() -> None:
    params = {"max_tokens": 5, "user": "u", "stream": True}
    request = Request(MESSAGES, params=params)
    provider("mistral").encode(request, "m")
    assert request.params == {"max_tokens": 5, "user": "u", "stream": True}


def nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [object(), "\ud800", {(1, 2): 3}, nested()], ids=["object", "surrogate", "key", "nested"]
)
def test_what_json_cannot_hold_is_told_as_bad_input(value: Any) -> None:
    with pytest.raises(RequestError, match="JSON") as refused:
        provider("openai").encode(Request(MESSAGES, params={"stop": value}), "m")
    assert refused.value.kind == "input"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(params=st.dictionaries(st.sampled_from(["max_tokens", "seed", "stop", "user", "x"]), JSON, max_size=4))
def test_the_same_request_gives_the_same_bytes_from_any_provider_object(params: dict[str, Any]) -> None:
    first = provider("mistral").encode(Request(MESSAGES, params=params), "m")
    copy = msgspec.json.decode(msgspec.json.encode(params))
    assert provider("mistral").encode(Request([dict(MESSAGES[0])], params=copy), "m") == first
