"""Thousands of cancellations at drawn moments of a busy client: nothing adds up over them."""

from __future__ import annotations

import asyncio
import os
from random import Random

import pytest

from penstock.options import Limits
from penstock.simulator.behaviour import Faults, Settings, expected_text
from penstock.simulator.clock import run
from penstock.testing import MemoryLedger
from tests.kit.journey import SEED
from tests.kit.rows import VirtualClient, collect, prompts, tasks_left

CANCELS = int(os.environ.get("PENSTOCK_CANCELS", "5000"))
ROUNDS = 5
AT_ONCE = 25
NEXT_REQUESTS = 200
WORLD = Settings(latency=0.4, faults=Faults(error_500=0.1, reset=0.05, stall=0.02, throttle=0.02, truncate=0.03))


async def busy_work(client: VirtualClient, chance: Random, name: str) -> object:
    """One of the things that a user does with a client."""
    kind = chance.randrange(6)
    if kind == 0:
        return await client.generate(f"{name} alone")
    if kind == 1:
        return await client.gather(prompts(6, name), dedupe=True)
    if kind == 2:
        return await client.gather(prompts(6, name), ledger=MemoryLedger())
    if kind == 3:
        return [chunk async for chunk in client.stream(f"{name} alone", on_break="restart")]
    if kind == 4:
        return [item async for item in client.stream_many(prompts(6, name), ledger=MemoryLedger())]
    return await collect(client, prompts(6, name))


async def cancel_many(client: VirtualClient, chance: Random, cancels: int) -> int:
    """Start work, cancel it at a drawn moment, again and again; returns how often there was something to cancel."""
    done = 0
    while done < cancels:
        works = [asyncio.ensure_future(busy_work(client, chance, f" {done}.{place}")) for place in range(AT_ONCE)]
        for work in chance.sample(works, AT_ONCE):
            await client.clock.sleep(chance.expovariate(8))
            done += work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        assert not tasks_left()
        assert client.statistics()["in_flight"] == client.stats.in_flight == 0
    return done


@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_thousands_of_cancellations_leave_nothing(round_number: int) -> None:
    """No slot, task or request under way is left after any of them; the next request is answered within a second."""

    async def main() -> None:
        chance = Random(SEED + round_number)
        limits = Limits(requests_per_minute=6_000) if round_number % 2 else None
        async with VirtualClient(WORLD, max_concurrency=10, limits=limits, timeout=5.0) as client:
            assert await cancel_many(client, chance, CANCELS // ROUNDS) >= CANCELS // ROUNDS
            client.local.simulator.settings = Settings(latency=0.4)
            await client.clock.sleep(120)  # what the provider's throttles and failures ask for is over
            began = client.clock.now()
            assert (await client.generate("the next")).text == expected_text("the next")
            assert client.clock.now() - began <= 1.0

    run(main(), seed=SEED + round_number)


@pytest.mark.parametrize("limits", [None, Limits(requests_per_minute=6_000)], ids=["unlimited", "limited"])
def test_the_next_request_after_a_cancellation_is_answered_within_a_second(limits: Limits | None) -> None:
    """Nobody asked us to wait: what was cancelled holds no slot, no budget and no place in a queue, hundreds of times."""

    async def main() -> None:
        chance = Random(SEED)
        async with VirtualClient(Settings(latency=0.4), max_concurrency=10, limits=limits) as client:
            for number in range(NEXT_REQUESTS):
                works = [asyncio.ensure_future(busy_work(client, chance, f" {number}.{n}")) for n in range(AT_ONCE)]
                await client.clock.sleep(chance.uniform(0, 0.8))
                for work in works:
                    work.cancel()
                began = client.clock.now()
                assert (await client.generate(f"next {number}")).text == expected_text(f"next {number}")
                assert client.clock.now() - began <= 1.0
                await asyncio.gather(*works, return_exceptions=True)

    run(main(), seed=SEED)
