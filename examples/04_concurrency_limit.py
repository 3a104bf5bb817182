"""The account allows 1,200 requests a minute. Tell Penstock so, or let it read the headers: no figure has to be guessed."""

from __future__ import annotations

import asyncio
import time

from offline import provider

from penstock import Client, Limits

PROMPTS = [f"Tell me a fact about the number {number}." for number in range(60)]
ALLOWED = 1_200


async def ask_all(name: str, limits: Limits | None) -> None:
    async with (
        provider(requests_per_minute=ALLOWED, burst_seconds=1.0, latency=0.05) as there,
        Client(**there.options, limits=limits) as client,
    ):
        began = time.perf_counter()
        results = await client.gather(PROMPTS)
        answers, took = sum(result.ok for result in results), time.perf_counter() - began
        print(f"{name}: {answers} answers in {took:.1f} s; {there.account()}")


async def main() -> None:
    await ask_all("limit told", Limits(requests_per_minute=ALLOWED))
    await ask_all("nothing told", None)


asyncio.run(main())
