"""An answer read as it comes: whole at the end, tried again until its first piece, told where it breaks, gone when given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import pytest

from penstock.client import Client
from penstock.engine.stream import Streaming
from penstock.errors import RequestError, UsageError
from penstock.records import Chunk, HttpAnswer, Request, Result
from penstock.rules.tally import Tally
from penstock.simulator.behaviour import Settings, expected_text
from penstock.simulator.clock import run
from penstock.testing import MemoryLedger, ScriptedTransport, completion
from tests.kit.rows import VirtualClient, tasks_left

WORLD = Settings(latency=0.5, token_latency=0.05, output_tokens=20)


async def chunks_of(stream: Any) -> list[Chunk]:
    return [chunk async for chunk in stream]


def on_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    run(main, seed=1)


def test_the_chunks_joined_are_the_answer_and_come_one_after_the_other() -> None:
    async def main() -> None:
        async with VirtualClient(WORLD) as client:
            async with client.stream("Tell me more") as stream:
                times = [client.clock.now() async for _ in stream]
            response = stream.response
            assert response.text == stream.text == expected_text("Tell me more", 20)
            assert response.finish_reason == "stop"
            assert response.usage is not None
            assert times == sorted(times)
            assert times[0] == pytest.approx(stream.first_token_s, abs=0.001)
            assert times[-1] - times[0] > 0.5
            assert response.text == (await client.generate("Tell me more")).text

    on_virtual_time(main())


@pytest.mark.parametrize("fault", ["503*2", "reset*2", "throttle*2", "truncate*0"])
def test_what_breaks_before_the_first_piece_is_tried_again(fault: str) -> None:
    async def main() -> None:
        prompt = f"[[simulate:{fault}]] and then"
        async with VirtualClient(WORLD) as client:
            stream = client.stream(prompt)
            await chunks_of(stream)
            assert stream.text == expected_text(prompt, 20)

    on_virtual_time(main())


def test_a_break_after_the_first_piece_is_told_with_what_came_and_is_never_an_answer() -> None:
    async def main() -> None:
        prompt = "[[simulate:truncate]] and then"
        async with VirtualClient(WORLD) as client:
            stream = client.stream(prompt)
            with pytest.raises(RequestError, match="cut off") as broken:
                await chunks_of(stream)
            assert broken.value.maybe_billed
            assert stream.text
            assert expected_text(prompt, 20).startswith(stream.text)
            assert stream.text != expected_text(prompt, 20)
            with pytest.raises(RequestError):
                _ = stream.response
            assert client.stats.arrived == 1

    on_virtual_time(main())


def test_an_answer_begins_anew_where_that_is_asked_for() -> None:
    async def main() -> None:
        prompt = "[[simulate:truncate*1]] and then"
        async with VirtualClient(WORLD) as client:
            stream = client.stream(prompt, on_break="restart")
            chunks = await chunks_of(stream)
            assert [chunk.restarted for chunk in chunks].count(True) == 1
            assert stream.text == stream.response.text == expected_text(prompt, 20)
            assert client.stats.arrived == 2

    on_virtual_time(main())


def test_the_waits_between_chunks_are_told_without_what_the_reader_takes_for_himself() -> None:
    async def main() -> None:
        async with VirtualClient(WORLD) as client:
            waits = []
            for pause in (0.0, 0.03):
                stream = client.stream("Tell me more")
                assert stream.longest_gap_s is stream.time_per_output_chunk_s is stream.first_token_s is None
                times = []
                async for _ in stream:
                    times.append(client.clock.now())
                    await client.clock.sleep(pause)
                assert stream.time_per_output_chunk_s is not None
                waited = stream.time_per_output_chunk_s * (len(times) - 1)
                waits.append((stream.longest_gap_s, waited))
                assert times[-1] - times[0] == pytest.approx(waited + pause * (len(times) - 1), abs=0.002)
            gaps = [b - a for a, b in pairwise(times)]
            assert waits[0] == pytest.approx(waits[1])
            assert waits[0][0] == pytest.approx(max(gaps) - 0.03, abs=0.002)

    on_virtual_time(main())


async def pieces_of(client: VirtualClient, prompt: str, **options: Any) -> tuple[Streaming, list[list[Chunk]]]:
    request = Request([{"role": "user", "content": prompt}])
    streaming = Streaming(await client.caller(), request, client.provider.encode(request, "m"), **options)
    return streaming, [chunks async for chunks in streaming.pieces()]


def test_to_relay_every_event_is_told_as_it_came_and_nothing_before_the_first_token() -> None:
    async def main() -> None:
        async with VirtualClient(WORLD) as client:
            streaming, pieces = await pieces_of(client, "Tell me more", relay=True)
            assert all(pieces)
            events = [json.loads(chunk.raw) for chunks in pieces for chunk in chunks]
            assert [event["object"] for event in events] == ["chat.completion.chunk"] * len(events)
            assert "role" in events[0]["choices"][0]["delta"]
            assert any(chunk.text for chunk in pieces[0])
            assert events[-1]["choices"] == []
            assert events[-1]["usage"]["completion_tokens"] == 20
            told = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
            assert streaming.outcome.response is not None
            assert told == streaming.outcome.response.text == expected_text("Tell me more", 20)
            assert streaming.outcome.headers

    on_virtual_time(main())


def test_a_stream_that_is_left_may_be_billed_and_counts_as_sent() -> None:
    async def main() -> None:
        async with VirtualClient(WORLD) as client:
            request = Request([{"role": "user", "content": "Tell me more"}])
            tally = Tally()
            caller = await client.caller(observer=tally)
            streaming = Streaming(caller, request, client.provider.encode(request, "m"))
            pieces = streaming.pieces()
            await anext(pieces)
            await pieces.aclose()
            assert (streaming.outcome.attempts, streaming.outcome.ambiguous) == (1, 1)
            assert tally.sent == 1

    on_virtual_time(main())


def test_what_came_whole_is_told_without_the_bytes_of_events() -> None:
    async def main() -> None:
        transport = ScriptedTransport([completion("Hello")])
        async with VirtualClient(transport=transport) as client:
            _, pieces = await pieces_of(client, "Hi", relay=True)
            assert [(chunk.text, chunk.raw) for chunks in pieces for chunk in chunks] == [("Hello", b"")]

    on_virtual_time(main())


def test_a_break_while_no_token_has_come_is_tried_again_although_the_stream_had_begun() -> None:
    """A role is no token: whoever relays has told nobody of it yet."""

    async def main() -> None:
        role = b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
        rest = (
            role
            + b'data: {"id":"1","choices":[{"delta":{"content":"Tea"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        )
        for relay in (False, True):
            transport = ScriptedTransport([HttpAnswer(200, [], role), HttpAnswer(200, [], rest)])
            async with VirtualClient(transport=transport) as client:
                streaming, pieces = await pieces_of(client, "Hi", relay=relay)
                assert [chunk.text for chunks in pieces for chunk in chunks] == (["", "Tea"] if relay else ["Tea"])
                assert (streaming.outcome.attempts, streaming.outcome.ambiguous) == (2, 1)

    on_virtual_time(main())


@pytest.mark.parametrize(
    ("stream_end", "stream", "whole"),
    [
        ("done", b'data: {"choices":[{"delta":{"content":"Tea"},"finish_reason":"stop"}]}\n\n', False),
        ("finish_reason", b'data: {"choices":[{"delta":{"content":"Tea"},"finish_reason":"stop"}]}\n\n', True),
        ("finish_reason", b'data: {"choices":[{"delta":{"content":"Tea"}}]}\n\n', False),
        ("close", b'data: {"choices":[{"delta":{"content":"Tea"}}]}\n\n', True),
    ],
)
def test_the_least_that_ends_a_stream_well_can_be_said(stream_end: str, stream: bytes, *, whole: bool) -> None:
    """For a server that leaves out `[DONE]`, or its finish reason too; what is recorded of it can be read again."""

    async def main() -> None:
        transport, ledger = ScriptedTransport([HttpAnswer(200, [], stream)]), MemoryLedger()
        async with VirtualClient(transport=transport, stream_end=stream_end, max_retries=0) as client:
            results = [item async for item in client.stream_many(["Hi"], ledger=ledger) if isinstance(item, Result)]
            assert [result.text for result in results] == (["Tea"] if whole else [None])
        async with VirtualClient(transport=ScriptedTransport([])) as client:
            if whole:
                assert (await client.gather(["Hi"], ledger=ledger))[0].text == "Tea"

    on_virtual_time(main())


def test_another_word_for_the_end_of_streams_is_refused() -> None:
    with pytest.raises(UsageError, match="stream_end must be one of done, finish_reason, close"):
        Client("vllm/m", stream_end="eof")


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_who_leaves_early_leaves_nothing_behind(taken: int) -> None:
    """The provider's side is closed at once, the slot is free, no task is left."""

    async def main() -> None:
        async with VirtualClient(WORLD) as client:
            async with client.stream("Tell me more") as stream:
                for _ in range(taken):
                    await anext(aiter(stream))
            assert client.stats.in_flight == 0
            assert client.stats.abandoned == (taken > 0)
            assert client.statistics()["in_flight"] == 0
            assert not tasks_left()

    on_virtual_time(main())


def test_cancelling_whoever_waits_for_a_chunk_closes_the_provider_s_side() -> None:
    async def main() -> None:
        async with VirtualClient(WORLD) as client:
            reading = asyncio.create_task(chunks_of(client.stream("Tell me more")))
            await client.clock.sleep(0.7)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            assert client.stats.in_flight == 0
            assert client.statistics()["in_flight"] == 0

    on_virtual_time(main())


def test_the_deadline_ends_a_stream_and_not_the_time_that_its_reader_takes() -> None:
    async def main() -> None:
        async with VirtualClient(WORLD, deadline=0.8) as client:
            with pytest.raises(RequestError) as late:
                await chunks_of(client.stream("Tell me more"))
            assert late.value.kind == "deadline"
            assert client.stats.in_flight == 0

    on_virtual_time(main())


def test_the_answer_is_not_there_before_the_end() -> None:
    async def main() -> None:
        async with VirtualClient(WORLD) as client:
            stream = client.stream("Tell me more")
            with pytest.raises(UsageError, match="to its end"):
                _ = stream.response
            await anext(aiter(stream))
            with pytest.raises(UsageError, match="to its end"):
                _ = stream.response
            await stream.aclose()

    on_virtual_time(main())


def test_streams_keep_to_the_limits_that_whole_answers_keep_to() -> None:
    async def main() -> None:
        world = Settings(requests_per_minute=600, burst_seconds=1, latency=0.2, headers="none")
        async with VirtualClient(world) as client:
            await asyncio.gather(*(chunks_of(client.stream(f"Tell me fact {k}")) for k in range(60)))
            assert client.stats.answered == 60

    on_virtual_time(main())
