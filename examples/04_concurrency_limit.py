"""The account allows 2,400 requests a minute. Tell Penstock so, or let it read the headers: no figure has to be guessed."""

from __future__ import annotations

import asyncio
import time

from offline import provider

from penstock import Client, Limits

PROMPTS = [f"Tell me a fact about the number {number}." for number in range(100)]
ALLOWED = 2_400


async def ask_all(name: str, **options: object) -> None:
    limited = {"requests_per_minute": ALLOWED, "burst_seconds": 1.0, "latency": 0.05}
    async with provider(**limited) as there, Client(**there.options, **options) as client:
        began = time.perf_counter()
        results = await client.gather(PROMPTS)
        took = time.perf_counter() - began
        print(f"{name}: {sum(result.ok for result in results)} answers in {took:.1f} s")
        print(f"  {there.account()}")


async def main() -> None:
    await ask_all("told", limits=Limits(requests_per_minute=ALLOWED))
    await ask_all("told, and five at once", limits=Limits(requests_per_minute=ALLOWED), max_concurrency=5)


asyncio.run(main())
