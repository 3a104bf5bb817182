"""What the server refuses by its own limits: waits that are too long, lines that are too long, what never fits, deadlines."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kit.hostile import Peer
from tests.kit.serving import (
    CHAT,
    HI,
    STREAMED,
    Asked,
    Served,
    echoes,
    error_answer,
    gateway,
    gives,
    holds,
    until,
    wire,
)

ALL = [
    pytest.param(CHAT, HI, id="whole"),
    pytest.param(CHAT, STREAMED, id="streamed"),
    pytest.param("/generate", {"prompt": "hi"}, id="generate"),
    pytest.param("/generate/stream", {"prompt": "hi"}, id="generate stream"),
]


@pytest.mark.parametrize(("target", "body"), ALL)
async def test_a_wait_that_is_too_long_is_a_429_with_the_time_to_come_again(
    tmp_path: Path, target: str, body: Any
) -> None:
    """One request an hour: the second would wait longer than requests may, and is told so, in both forms."""
    models = {"openai/gpt-5-mini": {"rpm": 1 / 60}}
    async with gateway(echoes, tmp_path, models=models, max_wait=0.05) as (server, upstream):
        assert (await server.ask(body=HI)).status == 200
        told = await server.ask(target, body)
        over = await server.over.at_least(2)
    assert (told.status, told.error["code"], told.error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert "requests a minute" in told.error["message"]
    assert 1 <= int(told.header("retry-after") or 0) <= 120
    assert 1_000 <= int(told.header("retry-after-ms") or 0) <= 120_000
    assert told.header("x-should-retry") is None
    assert len(upstream.asked.all) == 1
    assert (over[1].status, over[1].error_kind, over[1].attempts) == (429, "rate_limited", 0)


@pytest.mark.parametrize(("target", "body"), ALL)
async def test_a_throttle_that_names_no_wait_is_told_in_the_providers_words(
    tmp_path: Path, target: str, body: Any
) -> None:
    """We pause for a second then, which is longer than requests may wait here."""
    bare = error_answer("429 Too Many Requests", "busy", "x-ratelimit-limit-requests: 5", code="their_busy")
    async with gateway(gives(bare), tmp_path, max_wait=0.05) as (server, upstream):
        told = await server.ask(target, body)
    assert (told.status, told.error["message"], told.error["code"]) == (429, "busy", "their_busy")
    assert told.header("x-ratelimit-limit-requests") == "5"
    assert int(told.header("retry-after") or 0) >= 1
    assert len(upstream.asked.all) == 1


async def test_nobody_waits_to_be_told_of_a_wait_that_is_known_to_be_too_long(tmp_path: Path) -> None:
    """The next request of an hour is an hour away, and requests may wait a minute: told at once, not after that minute."""
    models = {"openai/gpt-5-mini": {"rpm": 1 / 60}}
    async with gateway(echoes, tmp_path, models=models, max_wait=60) as (server, _):
        assert (await server.ask(body=HI)).status == 200
        told = await server.ask(body=HI)
    assert (told.status, told.header("retry-after")) == (429, "120")


async def in_line(server: Served, count: int) -> None:
    await until(lambda: server.server.serving.models.statistics()["gpt-5-mini"]["ready"] == count)


@pytest.mark.parametrize(("target", "body"), ALL)
async def test_a_line_that_is_too_long_turns_the_next_away_at_once(tmp_path: Path, target: str, body: Any) -> None:
    """One slot and room for two in line: the fourth is refused while the others still wait."""
    models = {"openai/gpt-5-mini": {"max_concurrency": 1}}
    async with gateway(holds(), tmp_path, models=models, max_waiting=2) as (server, upstream):  # noqa: SIM117 - the ports
        async with wire(server.port) as one, wire(server.port) as two, wire(server.port) as three:
            await one.send(server.request("POST", CHAT, HI))
            await upstream.asked.at_least(1)
            await two.send(server.request("POST", CHAT, HI))
            await three.send(server.request("POST", CHAT, STREAMED))
            await in_line(server, 2)
            told = await server.ask(target, body)
            assert (told.status, told.error["code"]) == (429, "rate_limit_exceeded")
            assert told.header("retry-after")
            assert told.header("retry-after-ms")
            assert server.server.serving.models.statistics()["gpt-5-mini"]["ready"] == 2
            assert len(upstream.asked.all) == 1


@pytest.mark.parametrize(("target", "body"), ALL)
async def test_what_never_fits_is_a_400_at_once(tmp_path: Path, target: str, body: Any) -> None:
    """More tokens than a whole minute has: waiting would never help."""
    models = {"openai/gpt-5-mini": {"tpm": 1_000}}
    async with gateway(echoes, tmp_path, models=models) as (server, upstream):
        told = await server.ask(target, {**body, "max_tokens": 50_000})
        fits = await server.ask(body={**HI, "max_tokens": 5})
    assert (told.status, told.error["code"], told.error["type"]) == (400, "request_too_large", "invalid_request_error")
    assert fits.status == 200
    assert len(upstream.asked.all) == 1


@pytest.mark.parametrize(("target", "body"), ALL)
async def test_a_deadline_that_passes_is_a_504_that_is_not_to_be_retried(
    tmp_path: Path, target: str, body: Any
) -> None:
    """The provider is let go, and the slot is free."""
    models = {"openai/gpt-5-mini": {"deadline": 0.4}}
    async with gateway(holds(), tmp_path, models=models) as (server, upstream):
        told = await server.ask(target, body)
        await upstream.left.at_least(1)
        assert server.in_flight == 0
        (exchange,) = await server.over.at_least(1)
    assert (told.status, told.error["code"], told.error["type"]) == (504, "deadline", "server_error")
    assert told.header("x-should-retry") == "false"
    assert (exchange.status, exchange.error_kind) == (504, "deadline")


async def test_a_timeout_of_one_attempt_is_a_504_too(tmp_path: Path) -> None:
    models = {"openai/gpt-5-mini": {"timeout": 0.05}}
    async with gateway(holds(), tmp_path, models=models) as (server, _):
        told = await server.ask(body=HI)
    assert (told.status, told.error["code"]) == (504, "timeout")


async def test_two_names_of_one_model_share_its_limit(tmp_path: Path) -> None:
    """The bare name is not a second account."""
    models = {"openai/gpt-5-mini": {"rpm": 1 / 60}}
    async with gateway(echoes, tmp_path, models=models, max_wait=0.02) as (server, _):
        statuses = [
            (await server.ask(body={**HI, "model": name})).status for name in ("gpt-5-mini", "openai/gpt-5-mini")
        ]
    assert statuses == [200, 429]


async def test_a_throttle_of_the_provider_holds_the_others_back_too(tmp_path: Path) -> None:
    """Told to come again in an hour, nobody is sent before: the provider hears one request."""

    async def respond(_: Asked, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n")

    async with gateway(respond, tmp_path, max_wait=0.05) as (server, upstream):
        told = [await server.ask(body=HI) for _ in range(3)]
    assert [each.status for each in told] == [429] * 3
    assert all(int(each.header("retry-after") or 0) > 60 for each in told)
    assert len(upstream.asked.all) == 1


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_the_account_tells_the_wait_for_a_turn_and_counts_the_first_token_from_the_request(
    tmp_path: Path, streamed: bool
) -> None:
    """One slot: the second request waits until the first one's client has gone."""
    models = {"openai/gpt-5-mini": {"max_concurrency": 1}}
    held = asyncio.Event()

    async def respond(asked: Asked, peer: Peer) -> None:
        if not held.is_set():
            held.set()
            await holds()(asked, peer)
        await echoes(asked, peer)

    async with gateway(respond, tmp_path, models=models) as (server, upstream), wire(server.port) as first:
        await first.send(server.request("POST", CHAT, HI))
        await upstream.asked.at_least(1)
        asking = asyncio.create_task(server.ask(body=STREAMED if streamed else HI))
        await in_line(server, 1)
        waits_at_least_from = time.monotonic()
        await asyncio.sleep(0)
        waited = time.monotonic() - waits_at_least_from
        first.leave()
        assert (await asking).status == 200
        left, answered = await server.over.at_least(2)
    assert (left.status, answered.status) == (499, 200)
    assert left.queue_s is not None
    assert answered.queue_s is not None
    assert waited < answered.queue_s <= answered.duration_s
    if streamed:
        assert answered.first_token_s is not None
        assert answered.queue_s < answered.first_token_s <= answered.duration_s
    else:
        assert answered.first_token_s is None
