"""`POST /v1/chat/completions` to the letter of the OpenAI API: what goes to the provider, what comes back, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit.hostile import Peer, answer
from tests.kit.serving import (
    CHAT,
    END,
    HI,
    LAST,
    ROLE,
    STREAM_HEAD,
    STREAMED,
    USAGE,
    Asked,
    chunk,
    completion,
    echoes,
    error_answer,
    event,
    gateway,
    gives,
    json_answer,
    raw_piece,
    stream_of,
    whole,
)

RETRIED = {"openai/gpt-5-mini": {"max_retries": 2}}


# -- whole answers


async def test_a_whole_answer_is_the_providers_body_byte_for_byte(tmp_path: Path) -> None:
    """Odd spacing, unknown fields, a second choice, log probabilities, numbers in any form: nothing is written anew."""
    body = (
        b'{ "id":"x",\n "choices" : [ {"index":0,"message":{"role":"assistant","content":"h\\u00e9 \\/","annotations":[]},'
        b'"logprobs":{"content":[]},"finish_reason":"stop"},{"index":1,"message":{"content":"b"},"finish_reason":"length"}],'
        b'"usage":{"prompt_tokens":1.0,"completion_tokens":2,"total_tokens":3,"cost":1e-7},"x_new":[1.50,{"a":null}] }\r\n'
    )
    async with gateway(gives(json_answer(body)), tmp_path) as (server, _):
        told = await server.ask(body=HI)
    assert (told.status, told.kind, told.body) == (200, "application/json", body)


async def test_unknown_fields_of_a_request_reach_the_provider_as_they_are(tmp_path: Path) -> None:
    """Every field but the stream's own, in its order, with messages of any form, under the provider's name of the model."""
    sent = {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "\u00fc\U0001f600"}], "name": "n", "x": {"y": [None]}},
            {"role": "tool", "tool_call_id": "t", "content": "42"},
        ],
        "model": "gpt-5-mini",
        "temperature": 0.25,
        "n": 2,
        "seed": 2**63 - 1,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "response_format": {"type": "json_object"},
        "logit_bias": {"50256": -100},
        "metadata": {},
        "x_vendor": {"deep": [1, 2.5, "three", False]},
        "user": "",
    }
    async with gateway(echoes, tmp_path) as (server, upstream):
        assert (await server.ask(body={**sent, "stream": False})).status == 200
        assert (await server.ask(body={**sent, "stream": None, "stream_options": None})).status == 200
    for asked in upstream.asked.all:
        assert asked.fields == sent
        assert list(asked.fields) == ["model", "messages", *list(sent)[2:]]


@pytest.mark.parametrize("name", ["gpt-5-mini", "openai/gpt-5-mini"])
async def test_a_model_goes_by_its_bare_name_and_by_the_whole(tmp_path: Path, name: str) -> None:
    async with gateway(echoes, tmp_path) as (server, upstream):
        assert (await server.ask(body={**HI, "model": name})).status == 200
    assert upstream.asked.all[0].fields["model"] == "gpt-5-mini"


async def test_a_model_of_a_name_of_ones_own_goes_by_that_name_only(tmp_path: Path) -> None:
    """`[models.fast] model = "openai/gpt-5-mini"`: clients say `fast`, the provider hears `gpt-5-mini`."""
    models: dict[str, Any] = {"fast": {"model": "openai/gpt-5-mini"}, "a/b/c": {"model": "custom/meta/llama"}}
    async with gateway(echoes, tmp_path, models=models) as (server, upstream):
        assert [(await server.ask(body={**HI, "model": name})).status for name in models] == [200, 200]
        for hidden in ("gpt-5-mini", "openai/gpt-5-mini", "meta/llama"):
            assert (await server.ask(body={**HI, "model": hidden})).status == 404
    assert [asked.fields["model"] for asked in upstream.asked.all] == ["gpt-5-mini", "meta/llama"]


async def test_a_bare_name_that_two_models_share_is_nobodys(tmp_path: Path) -> None:
    models: dict[str, Any] = {"openai/m": {}, "custom/m": {}}
    async with gateway(echoes, tmp_path, models=models) as (server, upstream):
        assert (await server.ask(body={**HI, "model": "m"})).status == 404
        assert (await server.ask(body={**HI, "model": "custom/m"})).status == 200
    assert len(upstream.asked.all) == 1


@pytest.mark.parametrize("name", ["gpt-5", "", "GPT-5-MINI", "openai/", "../gpt-5-mini", "x" * 10_000, 5, {}, True])
async def test_an_unknown_model_is_a_404_that_names_those_there_are(tmp_path: Path, name: object) -> None:
    async with gateway(echoes, tmp_path) as (server, upstream):
        told = await server.ask(body={**HI, "model": name})
    assert (told.status, told.error["code"], told.error["param"]) == (404, "model_not_found", "model")
    assert "gpt-5-mini" in told.error["message"]
    assert len(told.body) < 1_000
    assert upstream.asked.all == []


BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{", None),
    (b"nonsense", None),
    (b"[]", None),
    (b'"text"', None),
    (b"null", None),
    (b"\xff\xfe{}", None),
    (b'{"model":"gpt-5-mini","messages":[{"role":"user","content":NaN}]}', None),
    (b'{"model":"gpt-5-mini"}', "messages"),
    (b'{"model":"gpt-5-mini","messages":null}', "messages"),
    (b'{"model":"gpt-5-mini","messages":[]}', "messages"),
    (b'{"model":"gpt-5-mini","messages":"hi"}', "messages"),
    (b'{"model":"gpt-5-mini","messages":["hi"]}', "messages"),
    (b'{"messages":[{"role":"user","content":"hi"}]}', "model"),
    (b'{"model":null,"messages":[{"role":"user","content":"hi"}]}', "model"),
    (b'{"model":"gpt-5-mini","messages":[{}],"stream":"yes"}', "stream"),
    (b'{"model":"gpt-5-mini","messages":[{}],"stream":true,"stream_options":[]}', "stream_options"),
]


@pytest.mark.parametrize(("body", "param"), BAD_BODIES)
async def test_what_can_be_no_request_is_a_400_that_says_which_field(
    tmp_path: Path, body: bytes, param: str | None
) -> None:
    async with gateway(echoes, tmp_path) as (server, upstream):
        told = await server.ask(body=body)
    assert (told.status, told.error["type"], told.error["param"]) == (400, "invalid_request_error", param)
    assert upstream.asked.all == []


async def test_an_answer_is_passed_on_with_what_the_provider_tells_of_limits_and_ids(tmp_path: Path) -> None:
    """Limits, waits, its own time and its id; none of its other headers."""
    told_by_provider = (
        "X-Request-Id: req-upstream",
        "X-RateLimit-Limit-Requests: 60",
        "x-ratelimit-remaining-requests: 59",
        "x-ratelimit-reset-requests: 1s",
        "openai-processing-ms: 123",
        "set-cookie: session=1",
        "server: theirs",
        "access-control-allow-origin: *",
        "openai-organization: org",
    )
    async with gateway(gives(whole("fine", *told_by_provider)), tmp_path) as (server, _):
        told = await server.ask(body=HI)
    own = told.header("x-request-id")
    assert own is not None and own.startswith("req_") and own != "req-upstream"
    assert dict(told.headers) == {
        "content-type": "application/json",
        "content-length": str(len(told.body)),
        "x-request-id": own,
        "x-penstock-upstream-request-id": "req-upstream",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "openai-processing-ms": "123",
    }


async def test_headers_that_no_client_could_read_do_not_break_an_answer(tmp_path: Path) -> None:
    """A provider's odd bytes in what is passed on: the answer was paid for."""
    odd = ("x-ratelimit-remaining-requests: 5\xff\t9", "x-request-id: r\xe9q", "openai-processing-ms:")
    async with gateway(gives(whole("fine", *odd)), tmp_path) as (server, _):
        told = await server.ask(body=HI)
    assert (told.status, told.json["choices"][0]["message"]["content"]) == (200, "fine")


async def test_every_answer_has_an_id_of_its_own(tmp_path: Path) -> None:
    """Never the client's, nor the provider's, and it is the one of the account."""
    async with gateway(echoes, tmp_path) as (server, _):
        headers = {"x-request-id": "mine"}
        ids = [(await server.ask(body=HI, headers=headers)).header("x-request-id") for _ in range(3)]
        ids.append((await server.ask("/nowhere", headers=headers)).header("x-request-id"))
        over = await server.over.at_least(3)
    assert len(set(ids)) == 4
    assert "mine" not in ids
    assert [exchange.request_id for exchange in over][:3] == ids[:3]


# -- errors of the provider

STATUSES = [
    ("400 Bad Request", 400),
    ("401 Unauthorized", 401),
    ("402 Payment Required", 402),
    ("403 Forbidden", 403),
    ("404 Not Found", 404),
    ("409 Conflict", 409),
    ("413 Payload Too Large", 413),
    ("422 Unprocessable Entity", 422),
    ("429 Too Many Requests", 429),
    ("500 Internal Server Error", 500),
    ("502 Bad Gateway", 502),
    ("503 Service Unavailable", 503),
    ("529 Overloaded", 529),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("line", "status"), STATUSES)
async def test_an_error_of_the_provider_comes_in_its_own_words(
    tmp_path: Path, line: str, status: int, streamed: bool
) -> None:
    """Status, message, type, param, code, limits and id as sent; a status of its own also where a stream was asked for."""
    headers = ("x-request-id: req-upstream", "x-ratelimit-limit-requests: 60", "retry-after: 60")
    failed = error_answer(line, "their words, é", *headers, type="their_type", param="n", code="their_code")
    async with gateway(gives(failed), tmp_path, max_wait=0.02) as (server, _):
        told = await server.ask(body=STREAMED if streamed else HI)
        (exchange,) = await server.over.at_least(1)
    assert told.status == status
    assert told.error == {"message": "their words, é", "type": "their_type", "param": "n", "code": "their_code"}
    assert told.header("x-penstock-upstream-request-id") == "req-upstream"
    assert told.header("x-ratelimit-limit-requests") == "60"
    assert told.kind == "application/json"
    assert (exchange.status, exchange.upstream_request_id, exchange.streamed) == (status, "req-upstream", streamed)
    assert exchange.error_kind


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (answer(b"<html><title>502 Bad Gateway</title>", status="502 Bad Gateway"), 502, "server_error"),
        (answer(b"", status="500 Internal Server Error"), 500, "server_error"),
        (answer(b"slow down", status="429 Too Many Requests"), 429, "rate_limit_exceeded"),
        (answer(b"no", status="401 Unauthorized"), 401, "invalid_api_key"),
        (answer(b"", status="302 Found", headers=("location: http://127.0.0.1:9/",)), 404, "model_not_found"),
        (json_answer({"error": {"message": "lost", "type": "server_error"}}), 502, "server_error"),
        (json_answer({"choices": []}), 502, "malformed"),
        (json_answer(b"not json"), 502, "malformed"),
        (json_answer(completion())[:-9], 502, "truncated"),
        (b"\x00\x01 garbage\r\n\r\n", 502, "malformed"),
    ],
)
async def test_what_is_no_answer_becomes_an_error_of_the_one_form(
    tmp_path: Path, sent: bytes, status: int, code: str, streamed: bool
) -> None:
    """Pages, nothing at all, redirects, errors under a 200, cut and garbled bodies."""

    async def respond(_: Asked, peer: Peer) -> None:
        await peer.send(sent)
        raise ConnectionResetError("and the end")

    async with gateway(respond, tmp_path, max_wait=0.02) as (server, _):
        told = await server.ask(body=STREAMED if streamed else HI)
    assert told.status == status
    assert told.error["code"] in (code, "truncated") if streamed else told.error["code"] == code


async def test_a_provider_that_cannot_be_reached_is_a_502_that_is_not_to_be_retried(tmp_path: Path) -> None:
    async with gateway(echoes, tmp_path) as (server, _):
        server.server.serving.models.find("gpt-5-mini").client.provider._endpoint = type(
            server.server.serving.models.find("gpt-5-mini").client.provider._endpoint
        )("http://127.0.0.1:1/v1/chat/completions")
        told = await server.ask(body=HI)
    assert (told.status, told.error["type"], told.error["code"]) == (502, "server_error", "refused")
    assert told.header("x-should-retry") == "false"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_failure_that_was_retried_here_is_not_to_be_retried_again(tmp_path: Path, streamed: bool) -> None:
    """Three sends came to nothing: the official clients would make nine of them."""
    failed = error_answer("500 Internal Server Error")
    async with gateway(gives(failed), tmp_path, models=RETRIED) as (server, upstream):
        told = await server.ask(body=STREAMED if streamed else HI)
        (exchange,) = await server.over.at_least(1)
    assert (told.status, told.header("x-should-retry"), len(upstream.asked.all)) == (500, "false", 3)
    assert exchange.attempts == 3


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_an_answer_after_a_retry_is_an_answer(tmp_path: Path, streamed: bool) -> None:
    """Also where a stream broke before its first token: nothing of the first try is seen."""
    good = stream_of("fine") if streamed else whole("fine")
    first = STREAM_HEAD + ROLE + event({"error": {"message": "lost", "type": "server_error"}}) + LAST
    failures = [first] if streamed else [error_answer("500 Internal Server Error")]
    async with gateway(gives(*failures, good), tmp_path, models=RETRIED) as (server, upstream):
        told = await server.ask(body=STREAMED if streamed else HI)
        (exchange,) = await server.over.at_least(1)
    assert (told.status, len(upstream.asked.all), exchange.attempts) == (200, 2, 2)
    assert told.header("x-should-retry") is None
    if streamed:
        roles = [each["choices"][0]["delta"].get("role") for each in told.chunks]
        assert [role for role in roles if role] == ["assistant"]
    else:
        assert told.json["choices"][0]["message"]["content"] == "fine"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("named", "seconds", "milliseconds"),
    [
        (("retry-after: 7",), 7, 7_000),
        (("retry-after-ms: 1500",), 2, 1_500),
        (("retry-after: 3600",), 120, 120_000),
        (("retry-after-ms: 250", "retry-after: 1"), 1, 250),
    ],
)
async def test_a_throttle_is_told_with_its_wait_in_both_forms(
    tmp_path: Path, named: tuple[str, ...], seconds: int, milliseconds: int, streamed: bool
) -> None:
    """Where the wait is longer than requests may wait here; 120 s at most, because clients obey no longer one."""
    limits = ("x-ratelimit-remaining-requests: 0", "x-request-id: req-upstream")
    failed = error_answer("429 Too Many Requests", "slow down", *named, *limits, code="rate_limit_exceeded")
    async with gateway(gives(failed), tmp_path, max_wait=0.05) as (server, upstream):
        told = await server.ask(body=STREAMED if streamed else HI)
    assert (told.status, told.error["code"], told.error["message"]) == (429, "rate_limit_exceeded", "slow down")
    assert told.header("retry-after") == str(seconds)
    assert abs(int(told.header("retry-after-ms") or 0) - milliseconds) <= 100
    assert told.header("x-ratelimit-remaining-requests") == "0"
    assert len(upstream.asked.all) == 1


async def test_an_error_that_echoes_the_providers_key_does_not_tell_it(tmp_path: Path) -> None:
    """In the body, in a header that is passed on, and in the id."""
    key = "sk-canary-upstream-key"
    models = {"openai/gpt-5-mini": {"key": "UPSTREAM", "endpoint": "there"}}
    echo = error_answer("400 Bad Request", f"key {key}", f"x-request-id: {key}", f"x-ratelimit-x: {key}", param=key)

    async def respond(asked: Asked, peer: Peer) -> None:
        assert f"authorization: bearer {key}".encode() in asked.head.lower()
        await peer.send(echo)

    from tests.kit.serving import provider, served, settings_for

    async with provider(respond) as upstream:
        settings = settings_for(upstream.base_url, tmp_path, models=models)
        async with served(settings, {"UPSTREAM": key}) as server:
            told = await server.ask(body=HI)
    assert told.status == 400
    assert key not in repr(told)
    assert "[key]" in told.error["message"]


# -- streams


async def test_a_stream_passes_every_event_on_with_all_its_fields(tmp_path: Path) -> None:
    """Tool calls, reasoning, log probabilities, several choices, unknown fields: as sent, to the byte, and nothing else."""
    pieces = [
        chunk({"role": "assistant", "content": None}, obfuscation="x"),
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "a\u00fc\U0001f600\\n"}, system_fingerprint="fp"),
        chunk({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]}),
        {**chunk({}), "choices": [{"index": 1, "delta": {"content": "second"}, "finish_reason": None}]},
        {**chunk({}), "choices": [{"index": 0, "delta": {}, "logprobs": {"content": []}, "finish_reason": None}]},
    ]
    sent = STREAM_HEAD + b"".join(map(event, pieces)) + END
    async with gateway(gives(sent), tmp_path) as (server, upstream):
        told = await server.ask(body={**STREAMED, "n": 2})
        (exchange,) = await server.over.at_least(1)
    assert upstream.asked.all[0].fields == {**HI, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    assert [json.loads(each) for each in told.events[:-2]] == pieces
    assert told.chunks[-1] == chunk({}, "stop")
    assert told.kind == "text/event-stream"
    assert told.header("cache-control") == "no-cache"
    assert told.header("x-ratelimit-remaining-requests") == "59"
    assert told.header("x-penstock-upstream-request-id") == "req-upstream"
    assert (exchange.status, exchange.streamed, exchange.attempts) == (200, True, 1)
    assert exchange.usage is not None and exchange.usage.output_tokens == 5
    assert exchange.first_token_s is not None


@pytest.mark.parametrize(
    ("options", "asked_for"),
    [
        ({}, False),
        ({"stream_options": None}, False),
        ({"stream_options": {}}, False),
        ({"stream_options": {"include_usage": False}}, False),
        ({"stream_options": {"include_usage": None}}, False),
        ({"stream_options": {"include_usage": True}}, True),
        ({"stream_options": {"include_usage": True, "include_obfuscation": False}}, True),
    ],
)
async def test_the_usage_chunk_is_for_those_who_asked_for_it(
    tmp_path: Path, options: dict[str, Any], asked_for: bool
) -> None:
    """It has no choice, and many clients take the first choice of every chunk; the provider is always asked."""
    async with gateway(gives(stream_of("fine")), tmp_path) as (server, _):
        told = await server.ask(body={**STREAMED, **options})
        (exchange,) = await server.over.at_least(1)
    without_choice = [each for each in told.chunks if not each["choices"]]
    assert [each["usage"] for each in without_choice] == ([USAGE] if asked_for else [])
    assert all(each["usage"] is None for each in told.chunks if each["choices"])
    assert exchange.usage is not None and exchange.usage.input_tokens == 3


@pytest.mark.parametrize("spaced", [b'{"choices": [], "usage": %b}', b'{"usage":%b,\n"choices" : [ ]}', b'{"usage":%b}'])
async def test_a_usage_chunk_is_known_in_any_spelling(tmp_path: Path, spaced: bytes) -> None:
    usage = json.dumps(USAGE).encode()
    lines = b"".join(b"data: %b\n" % line for line in (spaced % usage).split(b"\n"))
    ending = event(chunk({}, "stop")) + raw_piece(lines + b"\n") + event(b"[DONE]") + LAST
    async with gateway(gives(STREAM_HEAD + event(chunk({"content": "a"})) + ending), tmp_path) as (server, _):
        plain = await server.ask(body=STREAMED)
        asking = await server.ask(body={**STREAMED, "stream_options": {"include_usage": True}})
    assert [bool(each["choices"]) for each in plain.chunks] == [True, True]
    assert asking.chunks[-1]["usage"] == USAGE


async def test_a_chunk_that_has_a_choice_is_passed_on_whatever_usage_it_tells(tmp_path: Path) -> None:
    """Some servers count in every chunk, with blanks in their JSON: the role of the first must not get lost."""
    counted = [
        {**chunk({"role": "assistant", "content": ""}), "usage": {"prompt_tokens": 3, "completion_tokens": 0}},
        {**chunk({"content": "a"}), "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
        {**chunk({}, "stop"), "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    ]
    spaced = b"".join(event(json.dumps(each).encode()) for each in counted)
    async with gateway(gives(STREAM_HEAD + spaced + event(b"[DONE]") + LAST), tmp_path) as (server, _):
        told = await server.ask(body=STREAMED)
    assert [each["choices"] for each in told.chunks] == [each["choices"] for each in counted]


async def test_no_field_of_a_providers_stream_but_data_gets_through(tmp_path: Path) -> None:
    """Ids, names and pings of the provider would break the official clients; split data comes on one line."""
    odd = raw_piece(
        b"id: 7\nretry: 10\n\n: ping\n\nevent: ping\ndata: {}\n\n"
        b'event: message\nid: 8\ndata: {"id":"x","model":"m","choices":\ndata: [{"index":0,"delta":{"content":"a"}}]}\n\n'
    )
    sent = STREAM_HEAD + ROLE + odd + END
    async with gateway(gives(sent), tmp_path) as (server, _):
        told = await server.ask(body=STREAMED)
    assert b"ping" not in told.body
    assert [each["choices"][0]["delta"] for each in told.chunks][1] == {"content": "a"}


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(event({"error": {"message": "lost", "type": "server_error", "code": "c", "param": None}}) + LAST, id="told"),
        pytest.param(raw_piece(b'event: error\ndata: {"message":"lost"}\n\n') + LAST, id="named"),
        pytest.param(b"", id="cut"),
        pytest.param(LAST, id="ended without its end"),
        pytest.param(event(b"{nonsense") + LAST, id="garbled"),
    ],
)
async def test_a_break_in_mid_stream_is_told_as_an_event_and_ends_it(tmp_path: Path, broken: bytes) -> None:
    """What came is passed on, then one event with `error` and all four keys; no `[DONE]`, and it is not tried again."""

    async def respond(_: Asked, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + ROLE + event(chunk({"content": "half"})), broken)
        raise ConnectionResetError("and the end")

    async with gateway(respond, tmp_path, models=RETRIED) as (server, upstream):
        told = await server.ask(body=STREAMED)
        (exchange,) = await server.over.at_least(1)
    *pieces, last = map(json.loads, told.events)
    assert [piece["choices"][0]["delta"].get("content") for piece in pieces] == ["", "half"]
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert (told.status, exchange.status, len(upstream.asked.all)) == (200, 200, 1)
    assert exchange.error_kind


IGNORED = [
    ({"message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}, {"content": "fine"}, "stop"),
    ({"message": {"content": "no", "refusal": "I won't"}, "finish_reason": "stop"}, {"content": "I won't"}, "stop"),
    ({"message": {"content": "cut"}, "finish_reason": "length"}, {"content": "cut"}, "length"),
    ({"message": {"content": "x"}, "finish_reason": "new_reason"}, {"content": "x"}, "stop"),
    (
        {"message": {"content": "", "reasoning_content": "hm"}, "finish_reason": "stop"},
        {"content": "", "reasoning_content": "hm"},
        "stop",
    ),
    (
        {
            "message": {
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            "finish_reason": "tool_calls",
        },
        {
            "content": "",
            "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        "tool_calls",
    ),
]


@pytest.mark.parametrize("wants_usage", [False, True])
@pytest.mark.parametrize(("choice", "delta", "reason"), IGNORED)
async def test_a_whole_answer_where_a_stream_was_asked_for_is_told_as_a_stream(
    tmp_path: Path, choice: dict[str, Any], delta: dict[str, Any], reason: str, wants_usage: bool
) -> None:
    """For servers that ignore `stream`: chunks of the usual form, the usage in one of its own."""
    sent = json_answer(completion(choices=[{"index": 0, **choice}]))
    async with gateway(gives(sent), tmp_path) as (server, _):
        told = await server.ask(body={**STREAMED, "stream_options": {"include_usage": wants_usage}})
    chunks = told.chunks
    assert {(each["object"], each["model"]) for each in chunks} == {("chat.completion.chunk", "gpt-5-mini")}
    assert len({(each["id"], each["created"]) for each in chunks}) == 1
    assert [each["choices"] for each in chunks if each["choices"]] == [
        [{"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": reason}]
    ]
    counted = [each["usage"] for each in chunks if not each["choices"]]
    assert counted == ([USAGE] if wants_usage else [])
    assert all(each["usage"] is None for each in chunks if each["choices"])


async def test_the_first_token_is_passed_on_before_the_second_is_there(tmp_path: Path) -> None:
    """Nothing is gathered: the provider goes on only once the client has what came."""
    seen = asyncio.Event()

    async def respond(_: Asked, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + ROLE + event(chunk({"content": "first"})))
        await seen.wait()
        await peer.send(END)

    from tests.kit.serving import wire

    async with gateway(respond, tmp_path) as (server, _), wire(server.port) as line:
        await line.send(server.request("POST", CHAT, STREAMED))
        assert (await line.head()).status == 200
        came = b""
        while b"first" not in came:
            came += await line.piece()
        seen.set()
        assert (await line.body()).endswith(b"data: [DONE]\n\n")


# -- connections


async def test_one_connection_carries_many_requests_also_after_errors(tmp_path: Path) -> None:
    """Whole, streamed, refused by us, refused by the provider: the connection stays usable, and pipelining keeps its order."""
    from tests.kit.serving import wire

    async with gateway(echoes, tmp_path) as (server, _), wire(server.port) as line:
        bodies = [HI, {**HI, "model": "nobody"}, STREAMED, HI]
        for body in bodies:
            await line.send(server.request("POST", CHAT, body))
        assert [(await line.answer()).status for _ in bodies] == [200, 404, 200, 200]


# -- models


async def test_the_list_of_models_is_openais(tmp_path: Path) -> None:
    """Each under its public name; a name with slashes is found as it is and escaped."""
    models: dict[str, Any] = {"openai/gpt-5-mini": {}, "team/a b": {"model": "custom/meta/llama"}}
    async with gateway(echoes, tmp_path, models=models) as (server, _):
        listed = (await server.ask("/v1/models")).json
        assert [set(card) for card in listed["data"]] == [{"id", "object", "created", "owned_by"}] * 2
        assert [card["id"] for card in listed["data"]] == ["gpt-5-mini", "team/a b"]
        assert listed["object"] == "list"
        for target in ("gpt-5-mini", "openai/gpt-5-mini", "openai%2Fgpt-5-mini"):
            assert (await server.ask(f"/v1/models/{target}")).json == listed["data"][0]
        for target in ("team/a%20b", "team%2Fa%20b"):
            assert (await server.ask(f"/v1/models/{target}")).json == listed["data"][1]
        unknown = await server.ask("/v1/models/nobody/here")
    assert (unknown.status, unknown.error["code"], unknown.error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/nowhere", 404),
        ("GET", CHAT, 405),
        ("DELETE", CHAT, 405),
        ("GET", "/generate", 405),
        ("GET", "/generate/", 404),
        ("GET", "/v1/models/", 404),
        ("OPTIONS", CHAT, 405),
        ("HEAD", "/nowhere", 404),
    ],
)
async def test_what_is_not_there_is_an_error_of_the_one_form_too(
    tmp_path: Path, method: str, target: str, status: int
) -> None:
    async with gateway(echoes, tmp_path) as (server, _):
        told = await server.ask(target, method=method)
    assert told.status == status
    assert method == "HEAD" or told.error["type"] == "invalid_request_error"
