"""Many answers read as they come: one reader, chunks and results in turn, nothing ahead of the reader, nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from penstock.engine.streamed_rows import HandOver, interleaved
from penstock.errors import RunStopped
from penstock.records import Chunk, Result, RowChunk
from penstock.simulator.behaviour import Settings, expected_text
from penstock.simulator.clock import run
from penstock.testing import MemoryLedger
from tests.kit.rows import VirtualClient, prompts, tasks_left

WORLD = Settings(latency=0.5, token_latency=0.05, output_tokens=20)


def on_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    run(main, seed=1)


async def items_of(client: VirtualClient, rows: Any, **options: Any) -> list[RowChunk | Result]:
    return [item async for item in client.stream_many(rows, **options)]


def texts_of(items: list[RowChunk | Result]) -> dict[int, str]:
    """The text of each row, put together from its chunks."""
    texts: dict[int, str] = {}
    for item in items:
        if isinstance(item, RowChunk):
            before = "" if item.chunk.restarted else texts.get(item.index, "")
            texts[item.index] = before + item.chunk.text
    return texts


def results_in(items: list[RowChunk | Result]) -> dict[int, Result]:
    return {item.index: item for item in items if isinstance(item, Result)}


def test_the_chunks_of_each_row_are_its_answer_and_come_between_those_of_the_others() -> None:
    async def main() -> None:
        async with VirtualClient(WORLD, max_concurrency=8) as client:
            items = await items_of(client, prompts(8))
            texts, results = texts_of(items), results_in(items)
            assert texts == {index: expected_text(prompt, 20) for index, prompt in enumerate(prompts(8))}
            assert {index: result.text for index, result in results.items()} == texts
            order = [item.index for item in items if isinstance(item, RowChunk)]
            assert sum(a != b for a, b in pairwise(order)) > 50
            first_token_s = [result.first_token_s for result in results.values()]
            assert all(seconds is not None and 0.5 <= seconds < 0.7 for seconds in first_token_s)

    on_virtual_time(main())


def test_a_row_s_result_comes_after_its_last_chunk_and_once() -> None:
    async def main() -> None:
        async with VirtualClient(WORLD, max_concurrency=3) as client:
            over: set[int] = set()
            async for item in client.stream_many(prompts(10)):
                assert item.index not in over
                if isinstance(item, Result):
                    over.add(item.index)
            assert over == set(range(10))

    on_virtual_time(main())


def test_a_result_is_recorded_before_it_is_shown_and_a_second_pass_sends_nothing() -> None:
    async def main() -> None:
        ledger = MemoryLedger()
        async with VirtualClient(WORLD, max_concurrency=4) as client:
            async for item in client.stream_many(prompts(6), ledger=ledger):
                assert isinstance(item, RowChunk) or item.index in ledger.entries
            again = await items_of(client, prompts(6), ledger=ledger)
            assert all(isinstance(item, Result) and item.reused for item in again)
            assert [item.text for item in sorted(again, key=lambda item: item.index)] == [
                expected_text(prompt, 20) for prompt in prompts(6)
            ]
            assert client.stats.arrived == 6
            assert not ledger.marked

    on_virtual_time(main())


def test_what_map_has_recorded_is_known_to_streams_and_the_other_way_round() -> None:
    async def main() -> None:
        ledger = MemoryLedger()
        async with VirtualClient(WORLD) as client:
            await items_of(client, prompts(3), ledger=ledger)
            results = await client.gather(prompts(5), ledger=ledger)
            assert [result.reused for result in results] == [True] * 3 + [False] * 2
            assert results_in(await items_of(client, prompts(5), ledger=ledger))[4].reused

    on_virtual_time(main())


def test_a_row_that_fails_is_a_result_and_all_others_go_on() -> None:
    async def main() -> None:
        rows = ["Tell me", "[[simulate:truncate]] and then", "[[simulate:400]] no", 7, "[[simulate:503*2]] late"]
        async with VirtualClient(WORLD) as client:
            results = results_in(await items_of(client, rows))
            kinds = {index: result.error.kind for index, result in results.items() if result.error is not None}
            assert kinds == {1: "truncated", 2: "invalid_request", 3: "input"}
            assert results[4].text == expected_text(rows[4], 20)
            assert results[1].ambiguous == 1

    on_virtual_time(main())


def test_a_row_begins_anew_where_that_is_asked_for() -> None:
    async def main() -> None:
        rows = [f"[[simulate:truncate*1]] number {index}" for index in range(4)]
        async with VirtualClient(WORLD) as client:
            items = await items_of(client, rows, on_break="restart")
            assert texts_of(items) == {index: expected_text(row, 20) for index, row in enumerate(rows)}
            assert sum(isinstance(item, RowChunk) and item.chunk.restarted for item in items) == 4

    on_virtual_time(main())


def test_rows_of_equal_content_are_sent_once_where_asked_for() -> None:
    async def main() -> None:
        async with VirtualClient(WORLD) as client:
            items = await items_of(client, ["Tell me"] * 5, dedupe=True)
            assert client.stats.arrived == 1
            assert len(texts_of(items)) == 1
            assert {result.text for result in results_in(items).values()} == {expected_text("Tell me", 20)}

    on_virtual_time(main())


def test_while_nothing_is_taken_nothing_is_read_or_drawn() -> None:
    """A reader that stops holds every row where it is: the provider's side of each stays open, no further row is drawn."""

    async def main() -> None:
        drawn = 0

        def rows() -> Any:
            nonlocal drawn
            for prompt in prompts(1_000):
                drawn += 1
                yield prompt

        async with VirtualClient(WORLD, max_concurrency=4) as client:
            items = client.stream_many(rows())
            await anext(items)
            await client.clock.sleep(1_000)
            assert client.stats.in_flight == 4
            assert client.stats.answered == 0
            assert drawn <= 6
            await items.aclose()

    on_virtual_time(main())


@pytest.mark.parametrize("taken", [0, 1, 37, 200])
def test_who_leaves_early_leaves_nothing_behind(taken: int) -> None:
    async def main() -> None:
        async with VirtualClient(WORLD, max_concurrency=5) as client:
            items = client.stream_many(prompts(50))
            for _ in range(taken):
                await anext(items)
            await items.aclose()
            assert client.stats.in_flight == 0
            assert client.statistics()["in_flight"] == 0
            assert not tasks_left()

    on_virtual_time(main())


def test_cancelling_the_reader_closes_the_provider_s_side_and_keeps_what_is_recorded() -> None:
    async def main() -> None:
        ledger = MemoryLedger()
        async with VirtualClient(WORLD, max_concurrency=5) as client:
            reading = asyncio.create_task(items_of(client, prompts(50), ledger=ledger))
            await client.clock.sleep(4.0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            assert reading.cancelled()
            assert client.stats.in_flight == 0
            assert not tasks_left()
            recorded = len(ledger.entries)
            assert 0 < recorded < 50
            items = await items_of(client, prompts(50), ledger=ledger)
            assert sum(result.reused for result in results_in(items).values()) == recorded

    on_virtual_time(main())


def test_what_dooms_all_rows_is_raised_after_what_came_was_shown() -> None:
    async def main() -> None:
        world = Settings(latency=0.5, token_latency=0.05, output_tokens=20, credit_gone_after=5)
        async with VirtualClient(world, max_concurrency=2) as client:
            shown: list[RowChunk | Result] = []

            async def read() -> None:
                async for item in client.stream_many(prompts(40)):
                    shown.append(item)  # noqa: PERF401  a comprehension would lose them

            with pytest.raises(RunStopped) as stopped:
                await read()
            assert stopped.value.reason == "billing"
            assert len(results_in(shown)) == 5
            assert not tasks_left()

    on_virtual_time(main())


def test_streams_of_a_run_keep_to_the_limits() -> None:
    async def main() -> None:
        world = Settings(requests_per_minute=600, burst_seconds=1, latency=0.2, headers="none")
        async with VirtualClient(world) as client:
            assert len(results_in(await items_of(client, prompts(60)))) == 60
            assert client.stats.answered == 60

    on_virtual_time(main())


# -- the hand-over


async def test_what_a_giver_gives_up_is_not_taken() -> None:
    hand = HandOver[str]()
    first, second = asyncio.create_task(hand.give(["first"])), asyncio.create_task(hand.give(["second"]))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert await hand.take() == ["second"]
    await second
    hand.close()
    assert await hand.take() is None


async def test_a_reader_that_leaves_while_a_result_waits_closes_the_run() -> None:
    closed = []

    async def results() -> AsyncGenerator[Result, None]:
        try:
            yield Result(0, 0)
        finally:
            closed.append(True)

    hand, run_results = HandOver[RowChunk | Result](), results()
    giving = asyncio.create_task(hand.give([RowChunk(0, 0, Chunk("Tea"))]))
    await asyncio.sleep(0)
    items = interleaved(hand, run_results)
    assert isinstance(await anext(items), RowChunk)
    await giving
    await items.aclose()
    assert closed
