"""A client that goes takes its request with it: the provider's connection is closed, the slot is free, the account says 499.

The order of events is asserted; how long it took is bounded from far above and printed. What is promised is 200 ms.
"""

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
    PATIENCE_SECONDS,
    ROLE,
    STREAM_HEAD,
    STREAMED,
    Asked,
    Provider,
    Served,
    Wire,
    chunk,
    event,
    gateway,
    holds,
    until,
    wire,
)

FROM_FAR_ABOVE = 2.0
ASK = {"prompt": "hi"}
MANY = {"prompts": ["one", "two", "three"]}
SILENT = holds()
HEAD_ONLY = holds(STREAM_HEAD + ROLE)
BEGUN = holds(STREAM_HEAD + ROLE + event(chunk({"content": "first"})))

CASES: list[Any] = [
    pytest.param(CHAT, HI, SILENT, False, id="whole"),
    pytest.param(CHAT, STREAMED, SILENT, False, id="before the head of a stream"),
    pytest.param(CHAT, STREAMED, HEAD_ONLY, False, id="before its first token"),
    pytest.param(CHAT, STREAMED, BEGUN, True, id="after its first token"),
    pytest.param("/generate", ASK, SILENT, False, id="generate"),
    pytest.param("/generate/stream", ASK, HEAD_ONLY, False, id="generate stream, before"),
    pytest.param("/generate/stream", ASK, BEGUN, True, id="generate stream, after"),
    pytest.param("/generate/batch", MANY, SILENT, False, id="generate batch"),
]


async def free(server: Served) -> None:
    """Wait until no slot is taken."""
    await until(lambda: server.in_flight == 0)


async def first_piece(line: Wire) -> None:
    assert (await line.head()).status == 200
    came = b""
    while b"first" not in came:
        came += await line.piece()


@pytest.mark.parametrize(("target", "body", "respond", "begun"), CASES)
async def test_when_the_client_goes_the_provider_is_let_go(
    tmp_path: Path, target: str, body: Any, respond: Any, begun: bool
) -> None:
    sends = len(body.get("prompts", [1]))
    async with gateway(respond, tmp_path) as (server, upstream):
        async with wire(server.port) as line:
            await line.send(server.request("POST", target, body))
            await upstream.asked.at_least(sends)
            if begun:
                await first_piece(line)
            assert upstream.left.all == []
            assert server.in_flight == sends
            went = time.monotonic()
            line.leave()
            await upstream.left.at_least(sends)
            took = time.monotonic() - went
        (exchange,) = (each for each in await server.over.at_least(1) if each.request_id)
        await free(server)
    print(f"closed after {took * 1000:.0f} ms")  # noqa: T201 - for whoever reads with -s
    assert took < FROM_FAR_ABOVE
    assert (exchange.status, exchange.route) == (499, target)
    assert exchange.attempts == (0 if "prompts" in body else 1)  # the rows of a batch are accounted for one by one
    assert len(upstream.asked.all) == sends


@pytest.mark.parametrize(
    ("target", "body"), [(CHAT, HI), (CHAT, STREAMED), ("/generate", ASK), ("/generate/stream", ASK)]
)
async def test_who_goes_while_it_waits_for_a_turn_is_never_sent(tmp_path: Path, target: str, body: Any) -> None:
    """One slot, which another holds: the one in line goes, and the next in line gets the slot."""
    models = {"openai/gpt-5-mini": {"max_concurrency": 1}}
    let_go = asyncio.Event()

    async def respond(asked: Asked, peer: Peer) -> None:
        if asked.prompt == "first":
            await let_go.wait()
        await peer.send(b"HTTP/1.1 500 Server Error\r\ncontent-length: 0\r\n\r\n")

    def saying(prompt: str) -> dict[str, Any]:
        return {**HI, "messages": [{"role": "user", "content": prompt}]}

    async with gateway(respond, tmp_path, models=models) as (server, upstream):
        async with wire(server.port) as holding, wire(server.port) as line, wire(server.port) as next_one:
            await holding.send(server.request("POST", CHAT, saying("first")))
            await upstream.asked.at_least(1)
            await line.send(server.request("POST", target, body))
            await waiting(server, 1)
            line.leave()
            (gone,) = await server.over.at_least(1)
            assert gone.status == 499
            await next_one.send(server.request("POST", CHAT, saying("next")))
            await waiting(server, 1)
            let_go.set()
            assert (await next_one.answer()).status == 500
        await free(server)
    assert [asked.prompt for asked in upstream.asked.all] == ["first", "next"]


async def waiting(server: Served, count: int) -> None:
    """Wait until so many requests stand in line."""
    await until(lambda: server.server.serving.models.statistics()["gpt-5-mini"]["ready"] == count)


async def test_who_goes_in_the_middle_of_its_body_is_never_sent(tmp_path: Path) -> None:
    """On the gateway and on a route of the framework."""
    async with gateway(SILENT, tmp_path) as (server, upstream):
        for count, target in enumerate((CHAT, "/generate"), 1):
            async with wire(server.port) as line:
                await line.send(server.request("POST", target, HI)[:-5])
                await connected(server)
                line.leave()
            assert (await server.over.at_least(count))[-1].status == 499
    assert upstream.asked.all == []


async def connected(server: Served) -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_client_that_only_closes_its_sending_side_counts_as_gone(tmp_path: Path) -> None:
    """uvicorn closes then; what matters is that the provider is let go."""
    async with gateway(SILENT, tmp_path) as (server, upstream), wire(server.port) as line:
        await line.send(server.request("POST", CHAT, HI))
        await upstream.asked.at_least(1)
        line.writer.write_eof()
        await upstream.left.at_least(1)


async def test_a_client_that_stays_is_not_taken_for_gone(tmp_path: Path) -> None:
    """Watched for longer than it takes to begin watching, with a further request already on its way."""
    let_go = asyncio.Event()

    async def respond(_: Asked, peer: Peer) -> None:
        await let_go.wait()
        await peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async with gateway(respond, tmp_path) as (server, upstream), wire(server.port) as line:
        await line.send(server.request("POST", CHAT, HI))
        await upstream.asked.at_least(1)
        await line.send(server.request("GET", "/v1/models"))
        watching = asyncio.get_running_loop().time() + 0.1
        # What listens begins to listen after 50 ms.
        await until(lambda: asyncio.get_running_loop().time() >= watching)
        let_go.set()
        assert [(await line.answer()).status for _ in range(2)] == [400, 200]
    assert [exchange.status for exchange in server.over.all] == [400, 200]


async def test_a_client_that_reads_nothing_holds_back_the_provider_and_is_let_go_when_it_leaves(tmp_path: Path) -> None:
    """No more is taken from the provider than the buffers on the way hold; its going frees everything."""
    pushed = 0
    piece = event(chunk({"content": "x" * 60_000}))

    async def respond(asked: Asked, peer: Peer) -> None:
        nonlocal pushed
        await peer.send(STREAM_HEAD + ROLE)
        while pushed < 4_000:
            await peer.send(piece)
            pushed += 1
        raise AssertionError("240 MB were taken for a client that reads nothing")

    async with gateway(respond, tmp_path) as (server, upstream):
        async with wire(server.port) as line:
            line.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await line.send(server.request("POST", CHAT, STREAMED))
            await standstill(upstream, lambda: pushed)
            line.leave()
            await upstream.left.at_least(1)
        assert (await server.over.at_least(1))[0].status == 499
        await free(server)


async def standstill(upstream: Provider, count: Any) -> None:
    """Wait until nothing more is taken from the provider."""
    await upstream.asked.at_least(1)
    before, since = -1, time.monotonic()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while time.monotonic() - since < 0.2:
            await asyncio.sleep(0)
            if count() != before:
                before, since = count(), time.monotonic()
