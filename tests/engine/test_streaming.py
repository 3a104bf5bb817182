"""An answer read as it comes: whole at the end, tried again until its first piece, told where it breaks, gone when given up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from penstock.errors import RequestError, UsageError
from penstock.records import Chunk
from penstock.simulator.behaviour import Settings, expected_text
from penstock.simulator.clock import run
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
