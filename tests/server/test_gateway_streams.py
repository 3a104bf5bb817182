"""Streams of `POST /v1/chat/completions`: every event as it was sent, the usage for those who asked, breaks told as events."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit.hostile import Peer
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
    event,
    gateway,
    gives,
    json_answer,
    raw_piece,
    stream_of,
)

RETRIED = {"openai/gpt-5-mini": {"max_retries": 2}}


async def test_a_stream_passes_every_event_on_with_all_its_fields(tmp_path: Path) -> None:
    """Tool calls, reasoning, log probabilities, several choices, unknown fields: as sent, to the byte, and nothing else."""
    pieces = [
        chunk({"role": "assistant", "content": None}, obfuscation="x"),
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "a\u00fc\U0001f600\\n"}, system_fingerprint="fp"),
        chunk(
            {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}
        ),
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
    assert exchange.usage is not None
    assert exchange.usage.output_tokens == 5
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
    assert exchange.usage is not None
    assert exchange.usage.input_tokens == 3


@pytest.mark.parametrize(
    "spaced", [b'{"choices": [], "usage": %b}', b'{"usage":%b,\n"choices" : [ ]}', b'{"usage":%b}']
)
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
        pytest.param(
            event({"error": {"message": "lost", "type": "server_error", "code": "c", "param": None}}) + LAST, id="told"
        ),
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
