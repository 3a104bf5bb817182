"""A hundred facts, ten at a time: whenever one is there the next is sent, and nobody waits for the slowest of his group."""

from __future__ import annotations

import asyncio
import time

from offline import provider

from penstock import Client
from penstock.simulator.settings import Spread

NUMBERS = [{"id": f"fact-{number}", "number": number} for number in range(100)]


async def main() -> None:
    slow_now_and_then = Spread(median=0.05, sigma=1.0)
    async with provider(latency=slow_now_and_then) as there, Client(**there.options, max_concurrency=10) as client:
        began = time.perf_counter()
        waits, answered = 0.0, 0
        async for result in client.map(NUMBERS, prompt="Tell me a fact about the number {number}."):
            waits += result.latency_s
            answered += result.ok
        wall = time.perf_counter() - began
    print(f"{answered} facts in {wall:.2f} s; ten lines without a gap would take {waits / 10:.2f} s")


asyncio.run(main())
