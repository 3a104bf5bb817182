"""A story as it is written, three stories side by side, and a stream that breaks off: it never passes for a whole one."""

from __future__ import annotations

import asyncio

from offline import provider

from penstock import Client, RequestError, RowChunk

STORY = "A whale learned to knit. Her first scarf was a mile long. The herring wore it all winter."
TOPICS = ["whales", "lighthouses", "tides"]


async def main() -> None:
    async with (
        provider(text=lambda *_: STORY, latency=0.1, token_latency=0.01) as there,
        Client(**there.options) as client,
    ):
        async with client.stream("Write a short story about a whale.") as stream:
            async for chunk in stream:
                print(chunk.text, end="", flush=True)
        print(f"\n-- {stream.response.finish_reason}, first token after {stream.first_token_s:.2f} s")

        pieces = dict.fromkeys(TOPICS, 0)
        rows = [{"topic": topic} for topic in TOPICS]
        async for item in client.stream_many(rows, prompt="Write a short story about {topic}."):
            if isinstance(item, RowChunk):
                pieces[TOPICS[item.index]] += 1
        print("-- came in several pieces:", [topic for topic, count in pieces.items() if count > 1])

        broken = client.stream("[[simulate:truncate]] Write a short story about a storm.")
        try:
            async for _ in broken:
                pass
        except RequestError as error:
            print(f"-- broke off, {error.kind}; what came is kept: {len(broken.text) > 0}")


asyncio.run(main())
