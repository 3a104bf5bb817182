"""The guide's own routes: a prompt in, a text out; as it comes; many at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit.hostile import Peer
from tests.kit.serving import (
    LAST,
    STREAM_HEAD,
    Answer,
    Asked,
    chunk,
    echoes,
    error_answer,
    event,
    gateway,
    gives,
    provider,
    served,
    settings_for,
    whole,
)


async def test_a_prompt_gives_a_text(tmp_path: Path) -> None:
    """The guide's example; with one model, no name is needed."""
    async with gateway(echoes, tmp_path) as (server, upstream):
        told = await server.ask("/generate", {"prompt": "why?"})
        further = {"system": "short", "model": "openai/gpt-5-mini", "temperature": 0, "stop": ["x"], "stream": True}
        assert (await server.ask("/generate", {"prompt": "why?", **further})).status == 200
    assert told.json == {
        "generated_text": "answer to why?",
        "model": "gpt-5-mini-1",
        "finish_reason": "stop",
        "usage": {"input_tokens": 3, "output_tokens": 5, "cached_tokens": 0, "reasoning_tokens": 0},
    }
    asked = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "why?"}]}
    assert upstream.asked.all[0].fields == asked
    assert upstream.asked.all[1].fields == {
        "model": "gpt-5-mini",
        "messages": [{"role": "system", "content": "short"}, {"role": "user", "content": "why?"}],
        "temperature": 0,
        "stop": ["x"],
    }


async def test_a_stream_of_text_ends_with_how_it_ended(tmp_path: Path) -> None:
    async with gateway(echoes, tmp_path) as (server, _):
        told = await server.ask("/generate/stream", {"prompt": "why?"})
        (exchange,) = await server.over.at_least(1)
    *texts, last = told.chunks
    assert "".join(each["text"] for each in texts) == "answertowhy?"
    assert (last["finish_reason"], last["usage"]["output_tokens"]) == ("stop", 5)
    assert told.kind == "text/event-stream"
    assert (exchange.route, exchange.status, exchange.streamed) == ("/generate/stream", 200, True)


async def test_a_break_in_mid_stream_is_told_as_an_event(tmp_path: Path) -> None:
    async def respond(_: Asked, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + event(chunk({"content": "half"})) + LAST)

    async with gateway(respond, tmp_path) as (server, _):
        told = await server.ask("/generate/stream", {"prompt": "why?"})
        (exchange,) = await server.over.at_least(1)
    first, last = map(json.loads, told.events)
    assert (first, set(last["error"])) == ({"text": "half"}, {"message", "type", "param", "code"})
    assert exchange.error_kind == "truncated"


def lines_of(told: Answer) -> list[dict[str, Any]]:
    """The lines of a batch by their index."""
    assert told.kind == "application/x-ndjson"
    return sorted(map(json.loads, told.body.splitlines()), key=lambda line: line["index"])


async def test_many_prompts_give_a_line_each(tmp_path: Path) -> None:
    """Also where some fail, and whatever a prompt looks like."""
    prompts = ["one", "{braces} {{x}}", "bad", "two\nlines"]

    async def respond(asked: Asked, peer: Peer) -> None:
        if asked.prompt == "bad":
            await peer.send(error_answer("400 Bad Request", "their words"))
        else:
            await echoes(asked, peer)

    async with gateway(respond, tmp_path) as (server, upstream):
        told = await server.ask("/generate/batch", {"prompts": prompts, "system": "s", "temperature": 1})
    lines = lines_of(told)
    assert [line["generated_text"] for line in lines] == [
        "answer to one",
        "answer to {braces} {{x}}",
        None,
        "answer to two\nlines",
    ]
    assert lines[2]["error"] == {
        "kind": "invalid_request",
        "status": 400,
        "code": "their_code",
        "message": "openai answered 400: their words",
    }
    assert {asked.fields["messages"][0]["content"] for asked in upstream.asked.all} == {"s"}
    assert {asked.fields["temperature"] for asked in upstream.asked.all} == {1}


async def test_what_dooms_a_whole_batch_is_told_by_the_status(tmp_path: Path) -> None:
    """A key that the provider refuses: no line was promised yet."""
    async with gateway(gives(error_answer("401 Unauthorized")), tmp_path) as (server, _):
        told = await server.ask("/generate/batch", {"prompts": ["one", "two"]})
        (exchange,) = (each for each in await server.over.at_least(1) if each.request_id)
    assert (told.status, told.error["code"]) == (503, "auth")
    assert exchange.status == 503


async def test_what_dooms_a_batch_half_way_is_told_by_a_last_line(tmp_path: Path) -> None:
    """The lines that came are good; the last one says why there are no more."""
    models = {"openai/gpt-5-mini": {"max_concurrency": 1}}
    refused = error_answer("401 Unauthorized")
    async with gateway(gives(whole("fine"), refused), tmp_path, models=models) as (server, _):
        told = await server.ask("/generate/batch", {"prompts": ["one", "two", "three"]})
    *lines, last = map(json.loads, told.body.splitlines())
    assert [line["generated_text"] for line in lines] == ["fine"]
    assert (last["index"], last["generated_text"], last["error"]["kind"]) == (None, None, "auth")


BAD: list[tuple[str, bytes]] = [
    (target, body)
    for target in ("/generate", "/generate/stream", "/generate/batch")
    for body in (
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        b'{"prompt":"","prompts":[]}',
        b'{"prompt":5,"prompts":"x"}',
        b'{"prompt":["x"],"prompts":["x",""]}',
        b'{"prompt":"x","prompts":["x"],"model":5}',
        b'{"prompt":"x","prompts":["x"],"system":{}}',
    )
]


async def test_a_body_of_another_form_is_a_400_that_says_what_is_wrong(tmp_path: Path) -> None:
    async with gateway(echoes, tmp_path) as (server, upstream):
        for target, body in BAD:
            told = await server.ask(target, body)
            assert (told.status, told.error["type"]) == (400, "invalid_request_error"), (target, body)
        over = await server.over.at_least(len(BAD))
    assert upstream.asked.all == []
    assert {(exchange.route, exchange.status) for exchange in over} == {(target, 400) for target, _ in BAD}


@pytest.mark.parametrize("target", ["/generate", "/generate/stream", "/generate/batch"])
async def test_with_several_models_one_must_be_named(tmp_path: Path, target: str) -> None:
    models: dict[str, Any] = {"openai/a": {}, "openai/b": {}}
    async with provider(echoes) as upstream:
        settings = settings_for(upstream.base_url, tmp_path, models=models)
        async with served(settings) as server:
            asked = {"prompt": "x", "prompts": ["x"]}
            unnamed, unknown = await server.ask(target, asked), await server.ask(target, {**asked, "model": "c"})
            assert (await server.ask(target, {**asked, "model": "b"})).status == 200
            over = await server.over.at_least(3)
    assert (unnamed.status, unnamed.error["param"]) == (400, "model")
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    assert [exchange.status for exchange in over if exchange.request_id] == [400, 404, 200]
