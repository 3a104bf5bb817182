"""Three greetings take as long as one, and a hundred articles hardly longer; yet not everything is started at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from offline import provider

from penstock import Client

GREETINGS = ["Say hello in English.", "Say hello in Korean.", "Say hello in Swahili."]
ARTICLES = 100

drawn = 0


def articles() -> Iterator[str]:
    """They could come from a database: each is fetched when there is room for it, not before."""
    global drawn
    for number in range(1, ARTICLES + 1):
        drawn += 1
        yield f"Summarise article {number} in one sentence."


async def main() -> None:
    async with provider(latency=0.2) as there, Client(**there.options, max_concurrency=20) as client:
        began = time.perf_counter()
        for greeting in GREETINGS:
            await client.generate(greeting)
        print(f"one after the other: {time.perf_counter() - began:.1f} s")

        began = time.perf_counter()
        await client.gather(GREETINGS)
        print(f"together: {time.perf_counter() - began:.1f} s")

        began, summaries = time.perf_counter(), 0
        async for _ in client.map(articles()):
            summaries += 1
            if summaries == 1:
                print(f"at the first summary, were all {ARTICLES} articles drawn? {drawn == ARTICLES}")
        print(f"{summaries} summaries, 20 at once: {time.perf_counter() - began:.1f} s")


asyncio.run(main())
